"""PCI functions: what may be given to a guest, and the way to vfio-pci and back."""

from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, OperationInvalid, QvirtError, SystemError_
from qvirt.host.pci import VFIO, check
from tests.support.pci import FakeBus

CARD, PAIR, PORT, VIDEO, LOOSE = (
    f"0000:{x}" for x in ("01:00.0", "01:00.1", "00:1c.0", "02:00.0", "03:00.0")
)


@pytest.fixture
def bus(tmp_path: Path) -> FakeBus:
    it = FakeBus(tmp_path)
    it.add(CARD, "e1000e", "7")
    it.add(PAIR, "snd", "7")
    it.add(PORT, "pcieport", "7", bridge=True)
    it.add(VIDEO, "", "8")
    it.add(LOOSE, "nvme")
    return it


def looked(bus: FakeBus, *names: str, managed: bool = True) -> None:
    check(
        bus, dict.fromkeys(names, managed), vfio_named=False, about={name: f" (line {i})" for i, name in
                                                                   enumerate(names, 4)},
    )  # fmt: skip


def test_look(bus: FakeBus) -> None:
    one = bus.look(CARD)
    assert (one.driver, one.override, one.group, one.at_vfio, one.is_bridge) == (
        "e1000e", "", "7", False, False,
    )  # fmt: skip
    assert bus.look(PORT).is_bridge
    assert bus.group_of(LOOSE) is None
    assert bus.group_of("0000:99:00.0") is None
    assert not bus.is_conventional(CARD)
    (bus.path(CARD) / "config").write_bytes(bytes(256))
    assert bus.is_conventional(CARD)
    assert not bus.is_conventional("0000:99:00.0")


def test_a_whole_group_may_go_and_loads_the_driver(bus: FakeBus) -> None:
    looked(bus, CARD, PAIR)
    assert (bus.root / "sys/bus/pci/drivers" / VFIO).is_dir()
    assert bus.written == []


@pytest.mark.parametrize(
    ("names", "managed", "error", "sentence"),
    [
        (["0000:99:00.0"], True, SystemError_, r"Device 0000:99:00\.0 not found: .*/config: No such"),
        ([PORT], True, ConfigUnsupported, rf"Non-endpoint PCI devices .*: {PORT} \(line 4\) is a"),
        ([LOOSE], True, ConfigUnsupported, rf"passthrough of host PCI .*{LOOSE} is behind no IOMMU"),
        ([VIDEO], False, OperationInvalid, rf"Unmanaged PCI device {VIDEO} must be .* no driver"),
        ([PAIR], False, OperationInvalid, rf"Unmanaged PCI device {PAIR} must be .*driver snd has it"),
        ([CARD], True, OperationInvalid, rf"group 7 is not viable: the host uses {PAIR} \(driver snd\)"),
    ],
)  # fmt: skip
def test_refused(
    bus: FakeBus, names: list[str], managed: bool, error: type[QvirtError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        looked(bus, *names, managed=managed)
    assert bus.written == []
    assert not (bus.root / "sys/bus/pci/drivers" / VFIO).exists()


def test_a_machine_without_iommu(tmp_path: Path) -> None:
    bus = FakeBus(tmp_path)
    bus.add(LOOSE, "nvme")
    with pytest.raises(ConfigUnsupported, match=r"passthrough of host PCI devices: .*intel_iommu=on"):
        looked(bus, LOOSE)
    with pytest.raises(ConfigUnsupported, match="host doesn't support VFIO PCI passthrough: "):
        check(bus, {LOOSE: True}, vfio_named=True, about={LOOSE: ""})


def test_a_module_that_is_not_there(bus: FakeBus) -> None:
    bus.modules.clear()
    with pytest.raises(InternalError, match="Failed to load PCI stub module vfio-pci: modprobe: FATAL"):
        looked(bus, VIDEO)


@pytest.mark.parametrize("before", ["", "e1000e"])
def test_there_and_back(bus: FakeBus, before: str) -> None:
    bus.load_driver()
    name = CARD if before else VIDEO
    bus.take(name)
    assert bus.look(name).at_vfio
    bus.take(name)
    for _ in range(2):
        assert bus.give_back(name, before) == []
        after = bus.look(name)
        assert (after.driver, after.override) == (before, "")


def test_an_override_of_the_users_comes_back(bus: FakeBus) -> None:
    bus.load_driver()
    bus.take(CARD)
    assert bus.give_back(CARD, "e1000e", VFIO) == []
    assert (bus.look(CARD).driver, bus.look(CARD).override) == ("e1000e", VFIO)


def test_what_was_at_vfio_stays_there(bus: FakeBus) -> None:
    bus.load_driver()
    bus.take(VIDEO)
    looked(bus, VIDEO, managed=False)
    before = list(bus.written)
    bus.take(VIDEO)
    assert bus.give_back(VIDEO, VFIO) == []
    assert bus.written == before
    looked(bus, CARD, PAIR)


def test_a_function_that_vfio_does_not_take_is_given_back(bus: FakeBus) -> None:
    bus.load_driver()
    bus.stubborn.add(CARD)
    with pytest.raises(
        SystemError_, match=f"Failed to bind PCI device '{CARD}' to vfio-pci: Invalid argument"
    ):
        bus.take(CARD)
    assert (bus.look(CARD).driver, bus.look(CARD).override) == ("e1000e", "")


def test_a_driver_that_does_not_come_by_itself_is_bound_by_name(bus: FakeBus) -> None:
    bus.load_driver()
    bus.take(CARD)
    bus._natural[CARD] = ""
    assert bus.give_back(CARD, "e1000e") == []
    assert bus.driver_of(CARD) == "e1000e"
    bus.take(CARD)
    assert "cannot give PCI device 0000:01:00.0 back to gone: No such" in bus.give_back(CARD, "gone")[0]
    assert bus.give_back("0000:99:00.0", "e1000e") == []
