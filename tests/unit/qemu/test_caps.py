import json
from pathlib import Path
from typing import Any

import pytest

from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.caps_queries import FULL, KVM_ACCEL, MAIN_ACCEL, read_answers

DATA = Path(__file__).parents[2] / "data" / "caps"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads((DATA / "qemu-7.2-x86_64.json").read_bytes())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def caps(stored: dict[str, Any]) -> EmulatorCaps:
    return EmulatorCaps.from_json(stored)


def test_the_emulator(caps: EmulatorCaps) -> None:
    assert (caps.version[:2], caps.target, caps.arch) == ((7, 2), "x86_64", "x86_64")
    assert caps.version_number == 7_002_000 + caps.version[2]


def test_i386_is_i686() -> None:
    caps = EmulatorCaps.from_json(json.loads((DATA / "qemu-7.2-i386.json").read_bytes()))
    assert caps.arch == "i686"
    assert caps.default_machine is not None
    assert caps.default_machine.default_cpu_type == "qemu32-i386-cpu"


def test_machines(caps: EmulatorCaps) -> None:
    q35 = caps.machine("q35")
    assert q35 is not None
    assert (q35.name, q35.cpu_max, q35.hotpluggable_cpus, q35.default_ram_id) == (
        "pc-q35-7.2",
        288,
        True,
        "pc.ram",
    )
    assert caps.machine("pc-q35-7.2") is q35
    assert caps.machine("pc-q35-99") is None
    assert caps.machine("none") is None
    assert caps.default_machine is caps.machine("pc")
    assert caps.machine_has("pc-q35-7.2", "smm")
    assert not caps.machine_has("pc-q35-7.2", "gic-version")
    assert not caps.machine_has("microvm", "smm")


def test_a_default_that_qemu_does_not_have() -> None:
    caps = EmulatorCaps.from_json(json.loads((DATA / "qemu-7.2-aarch64.json").read_bytes()))
    assert not any(machine.is_default for machine in caps.machines)
    assert caps.default_machine is caps.machine("integratorcp")


def test_devices(caps: EmulatorCaps) -> None:
    assert caps.has_device("virtio-blk-pci")
    assert not caps.has_device("virtio-blk-ccw")
    assert caps.device_has("virtio-blk-pci", "iothread")
    assert not caps.device_has("virtio-blk-pci", "iothread-vq-mapping")
    assert not caps.device_has("virtio-blk-ccw", "iothread")
    assert caps.has_object("memory-backend-memfd")
    assert caps.device_has("memory-backend-file", "prealloc-threads")
    assert not any(name.endswith(("-machine", "-cpu")) for name in caps.types)


def test_properties_nobody_asked_for_are_no_silent_no(caps: EmulatorCaps) -> None:
    with pytest.raises(LookupError, match="PROBED_TYPES"):
        caps.device_has("tulip", "mac")


def test_options_commands_schema(caps: EmulatorCaps) -> None:
    assert caps.option_has("-sandbox", "elevateprivileges")
    assert caps.option_has("sandbox", "spawn")
    assert not caps.option_has("sandbox", "sugar")
    assert caps.has_option("-spice")
    assert not caps.has_option("fantasy")
    assert caps.has_command("query-status")
    assert not caps.has_command("query-weather")
    assert caps.schema_has("blockdev-add/arg-type/+nvme")
    assert not caps.schema_has("blockdev-add/arg-type/+floppy")


def test_cpus(caps: EmulatorCaps) -> None:
    model = caps.cpu_model("qemu64")
    assert model is not None
    assert model.usable is True
    assert model.alias_of == "qemu64-v1"
    best = caps.accel("qemu").best
    assert best is not None
    assert "sse2" in best.enabled()
    assert caps.cpu_model("abacus") is None
    assert not caps.accel("qemu").hyperv


def test_stored_form_is_complete(caps: EmulatorCaps) -> None:
    again = EmulatorCaps.from_json(json.loads(json.dumps(caps.to_json())))
    assert again == caps


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 0},
        {"machines": [{"nam": "x"}]},
        {"machines": None},
        {"version": [1]},
        {"accels": {"tcg": {}}},
        {"schema": "\x00"},
    ],
)
def test_damaged_form_is_refused(stored: dict[str, Any], damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"stored|base85|binary|unpack"):
        EmulatorCaps.from_json(stored | damage)


def test_missing_part_is_refused(stored: dict[str, Any]) -> None:
    for key in stored:
        with pytest.raises(ValueError, match=key):
            EmulatorCaps.from_json({k: v for k, v in stored.items() if k != key})


def test_an_emulator_that_knows_nothing() -> None:
    answers: list[Any] = [None] * len(FULL[MAIN_ACCEL])
    with pytest.raises(ValueError, match="unknown form"):
        read_answers("/usr/bin/qemu", answers, None)
    answers[1] = {"qemu": {"major": 9, "minor": 1, "micro": 0}, "package": ""}
    caps = read_answers("/usr/bin/qemu", answers, [None] * len(FULL[KVM_ACCEL]))
    assert caps.version == (9, 1, 0)
    assert not caps.kvm
    assert not caps.has_device("virtio-blk-pci")
    assert not caps.schema_has("blockdev-add")


def test_an_emulator_without_tcg() -> None:
    answers: list[Any] = [None] * len(FULL[MAIN_ACCEL])
    answers[0] = {"enabled": True, "present": True}
    answers[1] = {"qemu": {"major": 9, "minor": 1, "micro": 0}}
    assert set(read_answers("/usr/bin/qemu", answers, None).accels) == {"kvm"}
