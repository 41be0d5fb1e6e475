"""Which guest has which PCI function, and what is left when one cannot be had."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from qvirt.constants.domain import DomainState
from qvirt.errors import OperationInvalid
from qvirt.host import pci as host_pci
from qvirt.model.devices import parse_device
from qvirt.model.devices.device import Device
from qvirt.runtime.plugging import pci
from qvirt.runtime.state import Footprint, PciMark, Status, VfMark, read_status
from tests.support.pci import FakeBus

T = TypeVar("T")
CARD, PAIR, OTHER = "0000:01:00.0", "0000:01:00.1", "0000:02:00.0"


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBus:
    it = FakeBus(tmp_path)
    it.add(CARD, "e1000e", "7")
    it.add(PAIR, "", "7")
    it.add(OTHER, "nvme", "8")
    monkeypatch.setattr(host_pci, "BUS", it)
    return it


class Host:
    """As much of a hypervisor as knows who has what."""

    def __init__(self) -> None:
        self.domains: list[Any] = []
        self.untaken: dict[str, Any] = {}
        self.steps: list[str] = []
        self.checkpoint = self.steps.append
        self.files = self

    async def run(self, what: str, work: Callable[[], T], deadline: float) -> T:
        await asyncio.sleep(0)
        return work()

    def guest(self, name: str) -> Any:
        one = SimpleNamespace(name=name, hypervisor=self, running=SimpleNamespace(footprint=Footprint()))
        self.domains.append(one)
        return one


def function(name: str, managed: str = "yes") -> Device:
    _, bus, rest = name.split(":")
    return parse_device(
        f"<hostdev mode='subsystem' type='pci' managed='{managed}'><source>"
        f"<address domain='0' bus='0x{bus}' slot='0' function='{rest[-1]}'/></source></hostdev>"
    )


async def reserve(guest: Any, *devices: Device) -> list[PciMark]:
    return await pci.reserve(guest, guest.running, devices)


def test_taken_and_given_back(bus: FakeBus) -> None:
    host = Host()
    one = host.guest("one")
    marks = asyncio.run(reserve(one, function(CARD), function(PAIR)))
    assert one.running.footprint.pci == marks == [
        PciMark(CARD, True, "e1000e", "", "7"),
        PciMark(PAIR, True, "", "", "7"),
    ]  # fmt: skip
    assert bus.written == []
    pci.take(host, marks)  # type: ignore[arg-type]
    assert [bus.driver_of(name) for name in (CARD, PAIR)] == ["vfio-pci", "vfio-pci"]
    assert pci.unused(one.running, [function(PAIR)]) == marks[:1]
    assert pci.give_back(host, marks) == []  # type: ignore[arg-type]
    assert [bus.driver_of(name) for name in (CARD, PAIR)] == ["e1000e", ""]
    assert host.steps == ["PCI device taken"] * 2 + ["PCI device given back"] * 2


def test_a_function_and_its_group_are_one_guests(bus: FakeBus) -> None:
    host = Host()
    one, other = host.guest("one"), host.guest("other")
    asyncio.run(reserve(one, function(CARD), function(PAIR)))
    with pytest.raises(OperationInvalid, match=rf"{CARD} is in use by driver QEMU, domain one \(line 1\)$"):
        asyncio.run(reserve(other, function(CARD)))
    pci.drop(one.running, one.running.footprint.pci[1:])
    with pytest.raises(
        OperationInvalid, match=rf"{CARD} is in use .*domain one \(its IOMMU group 7 is that of"
    ):
        asyncio.run(reserve(other, function(PAIR)))
    assert other.running.footprint.pci == []
    assert asyncio.run(reserve(other, function(OTHER)))
    # what it has already is not asked for again
    assert asyncio.run(reserve(other, function(OTHER))) == []


def test_of_two_starts_at_once_one_gets_it(bus: FakeBus) -> None:
    host = Host()
    guests = [host.guest("one"), host.guest("other")]

    async def both() -> list[Any]:
        return await asyncio.gather(
            *(reserve(guest, function(OTHER)) for guest in guests), return_exceptions=True
        )

    answers = asyncio.run(both())
    assert [type(answer) for answer in answers] == [list, OperationInvalid]


def test_what_is_refused_is_not_noted(bus: FakeBus) -> None:
    host = Host()
    one = host.guest("one")
    bus._bind(PAIR, "snd")
    with pytest.raises(OperationInvalid, match="is not viable"):
        asyncio.run(reserve(one, function(CARD)))
    assert one.running.footprint.pci == []


def test_functions_of_a_guest_that_is_left_to_libvirt(bus: FakeBus) -> None:
    host = Host()
    one = host.guest("one")
    text = f"<domain type='qemu'><name>theirs</name><memory>1</memory><os><type>hvm</type></os><devices>{function(OTHER).to_xml()}</devices></domain>"  # noqa: E501
    host.untaken["theirs"] = SimpleNamespace(xml=text)
    with pytest.raises(OperationInvalid, match=f"{OTHER} is in use by driver QEMU, domain theirs"):
        asyncio.run(reserve(one, function(OTHER)))


def test_the_status_file_remembers(bus: FakeBus) -> None:
    marks = [PciMark(CARD, True, "e1000e", "vfio-pci", "7"), PciMark(OTHER, group="8")]
    text = "<domain type='qemu' id='1'><name>one</name></domain>"
    vfs = [VfMark(OTHER, "up0", 7, "00:00:00:00:00:00", 42, 3)]
    mark = Footprint(pci=marks, vfs=vfs)
    status = Status("one", 1, DomainState.RUNNING, 1, "running", text, "/m", footprint=mark)
    again = read_status(status.to_text(""), "(test)").footprint
    assert (again.pci, again.vfs) == (marks, vfs)


def test_which_functions_a_process_has_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pci, "NODES", str(tmp_path))
    monkeypatch.setattr(pci, "_LET_GO_WAIT", 0.05)
    first, second, unmanaged, beside = (
        PciMark("0000:01:00.0", True, group="20"),
        PciMark("0000:01:00.1", True, group="21"),
        PciMark("0000:01:00.2", False, group="22"),
        PciMark("0000:01:00.3", True, group="20"),
    )
    marks = [first, second, unmanaged]
    running = cast(Any, SimpleNamespace(pid=os.getpid(), footprint=SimpleNamespace(pci=list(marks))))
    for name in ("20", "22"):
        (tmp_path / name).touch()
    with (tmp_path / "20").open(), (tmp_path / "22").open():
        assert pci.still_open(running, marks) == [first]
        running.footprint.pci.append(beside)  # which stays, in the same group
        assert pci.still_open(running, marks) == []
        running.footprint.pci.remove(beside)
    assert pci.still_open(running, marks) == []
