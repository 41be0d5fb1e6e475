"""Cards that are passed through: their physical function keeps the guest's address, then their own."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, QvirtError, SystemError_
from qvirt.host import netlink, vf
from qvirt.host import pci as host_pci
from qvirt.host.netlink import VfConfig
from qvirt.model.devices import parse_device
from qvirt.model.devices.interface import Interface
from qvirt.qemu.context import HostFacts
from qvirt.qemu.devices.base import handler
from qvirt.runtime.plugging import passing, pci
from qvirt.runtime.state import VfMark
from tests.support.pci import FakeBus
from tests.unit.qemu.devices.guests import guest, words
from tests.unit.runtime.test_pci import Host

PF, VF, OTHER = "0000:02:00.0", "0000:02:10.3", "0000:03:00.0"
OWN = VfConfig("00:00:00:00:00:00", 0)


class Card:
    """A physical function's driver. refuses: addresses that it does not take."""

    def __init__(self, root: Path) -> None:
        self.kept = {7: OWN}
        self.refuses: set[str] = set()
        self.flags = root / "sys/class/net/up0/flags"
        self.flags.parent.mkdir(parents=True)
        self.flags.write_text("0x1003\n")

    def read(self, name: str, number: int) -> VfConfig:
        assert name == "up0"
        return self.kept[number]

    def write(self, name: str, number: int, config: VfConfig) -> None:
        assert name == "up0"
        if config.mac in self.refuses:
            raise SystemError_("Cannot set interface MAC")
        self.kept[number] = config


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    bus = FakeBus(tmp_path)
    bus.add(PF, "ixgbe", "1")
    bus.add_netdev(PF, "up0")
    bus.add_vf(PF, 7, VF, "ixgbevf", "9")
    bus.add(OTHER, "e1000e", "2")
    it = Card(tmp_path)
    monkeypatch.setattr(host_pci, "BUS", bus)
    monkeypatch.setattr(netlink, "vf_config", it.read)
    monkeypatch.setattr(netlink, "set_vf", it.write)
    monkeypatch.setattr(vf, "_is_there", lambda card: True)
    return it


def interface(name: str, inside: str = "") -> Interface:
    _, bus, rest = name.split(":")
    dev = parse_device(
        "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:07'/><source>"
        f"<address type='pci' bus='0x{bus}' slot='0x{rest[:2]}' function='{rest[-1]}'/></source>{inside}"
        "</interface>"
    )
    assert isinstance(dev, Interface)
    return dev


async def there_and_back(one: Any, dev: Interface, card: Card) -> VfConfig:
    await passing.note(one, one.running, dev)
    assert one.running.footprint.vfs == [VfMark(VF, "up0", 7, OWN.mac)]
    assert card.kept[7] == OWN
    await passing.dress(one, one.running, dev)
    meanwhile = card.kept[7]
    await passing.undress(one, one.running, dev)
    assert one.running.footprint.vfs == []
    return meanwhile


@pytest.mark.parametrize(("inside", "vlan"), [("", 0), ("<vlan><tag id='42'/></vlan>", 42)])
def test_address_and_vlan(card: Card, inside: str, vlan: int) -> None:
    one = Host().guest("one")
    meanwhile = asyncio.run(there_and_back(one, interface(VF, inside), card))
    assert (meanwhile.mac, meanwhile.vlan) == ("52:54:00:00:00:07", vlan)
    assert card.kept[7] == OWN


def test_a_card_that_takes_no_zeros(card: Card) -> None:
    card.refuses.add(OWN.mac)
    asyncio.run(there_and_back(Host().guest("one"), interface(VF), card))
    assert card.kept[7].mac == "02:00:00:00:00:00"


@pytest.mark.parametrize(
    ("name", "flags", "error", "sentence"),
    [
        (
            OTHER,
            "0x1003",
            ConfigUnsupported,
            r"supported on SR-IOV Virtual Functions only: 0000:03:00\.0 is none",
        ),
        (VF, "0x1002", InternalError, "Unable to configure VF 7 of PF 'up0' because the PF is not online"),
    ],
)
def test_refused(card: Card, name: str, flags: str, error: type[QvirtError], sentence: str) -> None:
    card.flags.write_text(flags)
    one = Host().guest("one")
    with pytest.raises(error, match=sentence):
        asyncio.run(passing.note(one, one.running, interface(name)))
    assert one.running.footprint.vfs == []


def test_a_card_without_a_device(card: Card) -> None:
    bus = host_pci.BUS
    (bus.path(PF) / "net/up0").rmdir()
    with pytest.raises(InternalError, match=r"The PF device for VF .* has no network device name"):
        vf.find(bus, VF)


def test_what_qemu_is_told(card: Card) -> None:
    place = "<alias name='hostdev0'/><address type='pci' domain='0' bus='0' slot='3' function='0'/>"
    text = interface(VF).to_xml().replace("</interface>", f"{place}</interface>")
    root = "<controller type='pci' index='0' model='pci-root'><alias name='pci.0'/></controller>"
    ctx = guest(root + text, host=HostFacts(iommu_group=host_pci.BUS.group_of))
    (dev,) = ctx.domain.devices.interfaces
    handler(dev).prepare(dev, ctx)
    assert words(dev, ctx)[0] == "-device"
    assert '"driver":"vfio-pci","host":"0000:02:10.3","id":"hostdev0"' in words(dev, ctx)[1]
    assert [getattr(one, "path", "") for one in handler(dev).resources(dev, ctx)] == [
        "/dev/vfio/vfio",
        "/dev/vfio/9",
    ]


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        ("<vlan trunk='yes'><tag id='1'/><tag id='2'/></vlan>", "vlan trunking is not supported by SR-IOV"),
        (
            "<virtualport type='802.1Qbh'><parameters profileid='x'/></virtualport>",
            "virtualport type 802.1Qbh is currently not supported on interfaces of type hostdev",
        ),
    ],
)
def test_what_it_cannot_be_told(card: Card, inside: str, sentence: str) -> None:
    ctx = guest(interface(VF, inside).to_xml())
    (dev,) = ctx.domain.devices.interfaces
    with pytest.raises(ConfigUnsupported, match=sentence):
        handler(dev).prepare(dev, ctx)


def test_a_pool_knows_who_has_a_function(card: Card) -> None:
    host = Host()
    one = host.guest("one")
    assert not pci.has_owner(host, VF)  # type: ignore[arg-type]
    asyncio.run(pci.reserve(one, one.running, [interface(VF)]))
    assert pci.has_owner(host, VF)  # type: ignore[arg-type]
