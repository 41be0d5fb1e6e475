"""Devices of the host beside USB: what they need of it, what QEMU is told, what is missing."""

import json
from pathlib import Path

import pytest

from qvirt.errors import DeviceMissing, InternalError
from qvirt.host.passed import mdev_groups, scsi_nodes
from qvirt.qemu.context import BuildContext, HostFacts
from qvirt.qemu.devices.base import FileResource, OpenResource, Resource, handler
from tests.unit.qemu.devices.guests import guest, words

UUID = "4b20d080-1b54-4048-85b3-a6a62d165c01"
HOST = HostFacts(scsi_nodes={"2:0:4:8": "/dev/sg3"}, mdev_groups={UUID: "17"})
SCSI = (
    "<controller type='scsi' index='0' model='virtio-scsi'><alias name='scsi0'/></controller>"
    "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host2'/>"
    "<address bus='0' target='4' unit='{unit}'/></source>{more}<alias name='it'/>"
    "<address type='drive' controller='0' bus='0' target='1' unit='2'/></hostdev>"
)
MDEV = (
    "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/></source>"
    "<alias name='it'/><address type='pci' domain='0' bus='0' slot='3' function='0'/></hostdev>"
)
VHOST = (
    "<controller type='pci' index='0' model='pci-root'><alias name='pci.0'/></controller>"
    "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.5123456789abcde0'/>"
    "<alias name='it'/><address type='pci' domain='0' bus='0' slot='3' function='0'/></hostdev>"
)


def needs(ctx: BuildContext) -> list[Resource]:
    (dev,) = ctx.domain.devices.hostdevs
    handler(dev).prepare(dev, ctx)
    return list(handler(dev).resources(dev, ctx))


def test_nodes_of_pci_functions() -> None:
    document = (
        "<hostdev mode='subsystem' type='pci'><source><address bus='1'/></source>"
        "<alias name='it'/><address type='pci' domain='0' bus='0' slot='3' function='0'/></hostdev>"
    )
    ctx = guest(document, host=HostFacts(iommu_group={"0000:01:00.0": "7"}.get))
    (dev,) = ctx.domain.devices.hostdevs
    found = [one for one in handler(dev).resources(dev, ctx) if isinstance(one, FileResource)]
    assert [(one.path, one.relabel, one.late) for one in found] == [
        ("/dev/vfio/vfio", False, False),
        ("/dev/vfio/7", True, True),
    ]
    handler(dev).prepare(dev, ctx)
    assert dev.driver.name == "vfio"
    dev.driver.name = "kvm"
    with pytest.raises(InternalError, match="invalid PCI passthrough type 'kvm'"):
        handler(dev).prepare(dev, ctx)


@pytest.mark.parametrize(
    ("more", "writable", "shared"),
    [("", True, False), ("<readonly/>", False, False), ("<shareable/>", True, True)],
)
def test_a_scsi_device(more: str, writable: bool, shared: bool) -> None:
    ctx = guest(SCSI.format(unit=8, more=more), host=HOST)
    (file,) = needs(ctx)
    assert isinstance(file, FileResource)
    assert (file.path, file.writable, file.shared, file.relabel) == ("/dev/sg3", writable, shared, True)
    made = words(ctx.domain.devices.hostdevs[0], ctx)
    node = json.loads(made[1])
    assert (node["driver"], node["filename"]) == ("host_device", "/dev/sg3")
    card = json.loads(made[3])
    assert card["drive"] == node["node-name"]
    assert (card["driver"], card["scsi-id"], card["lun"]) == ("scsi-generic", 1, 2)


def test_a_mediated_device_needs_its_group() -> None:
    found = needs(guest(MDEV.format(uuid=UUID), host=HOST))
    assert [(file.path, file.relabel) for file in found if isinstance(file, FileResource)] == [
        ("/dev/vfio/vfio", False),
        ("/dev/vfio/17", True),
    ]


def test_a_vhost_target_is_opened_for_qemu() -> None:
    ctx = guest(VHOST, host=HOST)
    (opened,) = [one for one in needs(ctx) if isinstance(one, OpenResource)]
    assert (opened.paths, opened.name, opened.readable) == (("/dev/vhost-scsi",), "vhostfd-it", True)
    assert json.loads(words(ctx.domain.devices.hostdevs[0], ctx)[1])["vhostfd"] == "3"


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (SCSI.format(unit=9, more=""), r"SCSI device '2:0:4:9' is not on this host.*\(line 1\)"),
        (MDEV.format(uuid=UUID.replace("4b", "5b")), r"mediated device '5b20d080-.*' not found \(line 1\)"),
    ],
)
def test_what_is_not_there_is_said(device: str, message: str) -> None:
    with pytest.raises(DeviceMissing, match=message):
        needs(guest(device, host=HOST))


def test_what_sysfs_says(tmp_path: Path) -> None:
    assert (scsi_nodes(tmp_path), mdev_groups(tmp_path)) == ({}, {})
    (tmp_path / "sys/bus/scsi/devices/2:0:4:8/scsi_generic/sg3").mkdir(parents=True)
    (tmp_path / "sys/bus/scsi/devices/host2").mkdir()
    device = tmp_path / f"sys/bus/mdev/devices/{UUID}"
    device.mkdir(parents=True)
    (device / "iommu_group").symlink_to("../../../kernel/iommu_groups/17")
    assert scsi_nodes(tmp_path) == {"2:0:4:8": "/dev/sg3"}
    assert mdev_groups(tmp_path) == {UUID: "17"}
