"""Records as steps of a running QEMU: what adds them, and what takes them away again."""

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.qemu.switches import Audiodev, Blockdev, Chardev, Device, KeyValue, Netdev, Object, Option, Step


@pytest.mark.parametrize(
    ("record", "command", "undo"),
    [
        (Device({"driver": "virtio-blk-pci", "id": "d"}), "device_add", ("device_del", {"id": "d"})),
        (
            Blockdev({"driver": "file", "node-name": "n", "filename": "/a"}),
            "blockdev-add",
            ("blockdev-del", {"node-name": "n"}),
        ),
        (Netdev({"type": "user", "id": "n"}), "netdev_add", ("netdev_del", {"id": "n"})),
        (Object({"qom-type": "secret", "id": "o"}), "object-add", ("object-del", {"id": "o"})),
        (Chardev("pty", {"id": "c"}), "chardev-add", ("chardev-remove", {"id": "c"})),
        (Audiodev({"driver": "none", "id": "a"}), "audiodev-add", None),
    ],
)
def test_what_is_added_can_be_taken_away(record: Device, command: str, undo: object) -> None:
    step = record.to_step()
    assert step.command == command
    assert step.undo == undo
    assert step.device == ("d" if command == "device_add" else None)
    assert step.is_backend == (command != "device_add")


def test_null_is_said() -> None:
    props = {"driver": "qcow2", "node-name": "n", "file": "s"}
    step = Blockdev(props, explicit_null=frozenset({"backing"})).to_step()
    assert step.arguments == {**props, "backing": None}


@pytest.mark.parametrize("switch", [Option("S"), KeyValue("smp", {"cpus": 1})])
def test_a_plain_switch_is_for_a_start(switch: Option) -> None:
    with pytest.raises(ConfigUnsupported, match="cannot be brought into a guest that runs"):
        switch.to_step()


def test_what_is_set_leaves_nothing() -> None:
    step = Step("set_link", {"name": "net0", "up": False})
    assert (step.undo, step.device, step.is_backend) == (None, None, False)
