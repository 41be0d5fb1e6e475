"""A running machine brought together with the command line it was started by."""

import pytest

from qvirt.errors import OperationUnsupported
from qvirt.qemu.importer.options import read_arguments
from qvirt.qemu.importer.parts import Part, Props
from qvirt.runtime.foreign.adopted import Found, Machine, match, since


def part(driver: str, **props: str) -> Part:
    words = ("-device", ",".join([driver, *(f"{key}={value}" for key, value in props.items())]))
    (argument,) = read_arguments(words)
    return Part("device", {"driver": driver, **props}, (argument,))


def found(path: str, type: str, **props: object) -> Found:
    said: Props = {**props}  # type: ignore[dict-item]
    return Found(f"/machine/{path}", type, said)


def machine(*devices: Found) -> Machine:
    return Machine(folder="/", devices=[*devices], blocks=[], nodes=[], chardevs=[])


def test_by_id_and_by_address() -> None:
    first = found("peripheral-anon/device[0]", "virtio-net-pci", addr=32)
    second = found("peripheral-anon/device[1]", "virtio-net-pci", addr=40)
    named = found("peripheral/n2", "virtio-net-pci", addr=48)
    parts = [part("virtio-net-pci", addr="0x5"), part("virtio-net-pci"), part("virtio-net-pci", id="n2")]
    matched, fresh = match(parts, [first, second, named])
    assert matched == [second, first, named]
    assert fresh == []


def test_what_was_plugged_in_and_out() -> None:
    new = found(
        "peripheral/hot", "virtio-rng-pci", hotplugged=True, addr=0x31, parent_bus="/machine/i440fx/pci.0"
    )
    old = part("virtio-balloon-pci", id="gone")
    matched, fresh = match([old], [new])
    assert (matched, fresh) == ([None], [new])
    words, notes = since(
        ["-device", "virtio-balloon-pci,id=gone", "-m", "64"], [old], matched, fresh, machine(new)
    )
    assert words == ["-m", "64", "-device", "virtio-rng-pci,id=hot,bus=pci.0,addr=0x6.1"]
    assert len(notes) == 2


def test_the_same_id_plugged_in_again_is_another_device() -> None:
    again = found("peripheral/d", "virtio-rng-pci", hotplugged=True)
    matched, fresh = match([part("virtio-rng-pci", id="d")], [again])
    assert (matched, fresh) == ([None], [again])


def test_which_of_two_is_gone_cannot_be_told() -> None:
    left = found("peripheral-anon/device[1]", "virtio-rng-pci", addr=40)
    with pytest.raises(OperationUnsupported, match="without id was unplugged"):
        match([part("virtio-rng-pci"), part("virtio-rng-pci")], [left])
    matched, _ = match([part("virtio-rng-pci", addr="4"), part("virtio-rng-pci", addr="5")], [left])
    assert matched == [None, left]


def test_names_that_stand_for_a_type_and_boards_of_the_machine() -> None:
    adapter = found("peripheral-anon/device[0]", "ich9-ahci", addr=16)
    board = found("unattached/device[9]", "isa-serial", index=0)
    strange = found("peripheral/from-a-config-file", "VGA")
    serial = Part("device", {"driver": "serial-port", "index": "0"})
    matched, fresh = match([part("ahci"), serial], [adapter, board, strange])
    assert matched == [adapter, board]
    assert fresh == []
