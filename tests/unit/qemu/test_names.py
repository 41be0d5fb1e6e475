"""Aliases."""

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices import parse_device
from qvirt.qemu.names import assign_aliases
from tests.support.pure import context
from tests.unit.qemu.addresses.documents import guest

SCSI = "<controller type='scsi' model='{}'/>"


def aliases(devices: str, machine: str = "pc", *, kind: str) -> list[str | None]:
    domain = guest(devices, machine)
    assign_aliases(domain, context(domain))
    return [dev.alias.name for dev in getattr(domain.devices, kind)]


def disk(target: str, bus: str) -> str:
    return f"<disk type='file'><source file='/x'/><target dev='{target}' bus='{bus}'/></disk>"


@pytest.mark.parametrize(
    ("devices", "machine", "alias"),
    [
        (disk("vdb", "virtio"), "pc", "virtio-disk1"),
        (disk("hdd", "ide"), "pc", "ide0-1-1"),
        (disk("sdb", "sata"), "q35", "sata0-0-1"),
        (disk("sdc", "usb"), "pc", "usb-disk2"),
        (SCSI.format("lsilogic") + disk("sdb", "scsi"), "pc", "scsi0-0-1"),
        (SCSI.format("virtio-scsi") + disk("sdb", "scsi"), "pc", "scsi0-0-0-1"),
    ],
)
def test_disks_are_called_by_their_place(devices: str, machine: str, alias: str) -> None:
    assert aliases(devices, machine, kind="disks") == [alias]


def test_controllers_of_the_machine_have_qemus_names() -> None:
    devices = disk("hda", "ide") + "<controller type='usb' index='1' model='qemu-xhci'/>"
    assert sorted(map(str, aliases(devices, kind="controllers"))) == ["ide", "pci.0", "usb", "usb1"]
    found = aliases("", "q35", kind="controllers")
    assert "pcie.0" in found
    assert "pci.1" in found
    assert "ide" in found  # the SATA controller, whose buses QEMU calls ide.0 and so on


def test_a_users_alias_is_kept_and_counted_round() -> None:
    nics = "<interface type='user'>{}</interface>"
    devices = nics.format("<alias name='ua-left'/>") + nics.format("") + nics.format("<alias name='net7'/>")
    assert aliases(devices, kind="interfaces") == ["ua-left", "net0", "net1"]


def test_places_count_where_libvirt_counts_places() -> None:
    devices = "<sound model='ac97'><alias name='ua-a'/></sound><sound model='ich6'/>"
    assert aliases(devices, kind="sounds") == ["ua-a", "sound1"]


def test_what_comes_later_takes_the_next_number_of_all() -> None:
    port = "<channel type='pty'><target type='virtio' name='{}'/></channel>"
    domain = guest("".join(port.format(name) for name in "abc"))
    ctx = context(domain)
    assign_aliases(domain, ctx)
    domain.devices.remove(domain.devices.channels[0])
    domain.devices.add(parse_device(port.format("d")))
    assign_aliases(domain, ctx)
    assert [channel.alias.name for channel in domain.devices.channels] == ["channel1", "channel2", "channel3"]


def test_no_balloon_no_alias() -> None:
    assert aliases("<memballoon model='none'/>", kind="memballoons") == [None]
    assert aliases("", kind="memballoons") == ["balloon0"]


def test_an_alias_belongs_to_one_device() -> None:
    devices = "<sound model='ac97'><alias name='ua-a'/></sound>" * 2
    with pytest.raises(ConfigUnsupported, match="non unique alias detected: ua-a"):
        guest(devices)
