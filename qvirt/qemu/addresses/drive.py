"""Drive addresses: controller, bus, target and unit of disks that sit on a controller."""

import re

from qvirt.errors import XmlError
from qvirt.model.devices.address import DriveAddress
from qvirt.model.devices.controller import ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.pci_flags import said

#: (units on a bus, buses of a controller) by disk bus
GEOMETRY: dict[str, tuple[int, int]] = {"ide": (2, 2), "scsi": (7, 1), "sata": (6, 1), "fdc": (2, 1)}

_NAME = re.compile(r"(fd|hd|vd|sd|xvd|ubd)([a-z]+)[0-9]*$")


def disk_index(name: str) -> int:
    """Return the position a target name stands for: 0 for ``vda``, 26 for ``vdaa``; -1 for other names."""
    match = _NAME.match(name)
    if match is None:
        return -1
    index = 0
    for letter in match[2]:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


def address_disk(domain: Domain, disk: Disk) -> None:
    """Give a disk the drive address its target name stands for, when its bus has such addresses.

    Raises XmlError for a name that stands for nothing, or for a place a host device has.
    """
    bus = said(disk, "target.bus")
    if disk.address is not None or bus is None:
        return
    geometry = GEOMETRY.get(bus or "")
    name = str(said(disk, "target.dev"))
    index = disk_index(name)
    if index < 0:
        raise XmlError(f"Unknown disk name '{name}' and no address specified")
    if geometry is None:
        return
    units, buses = geometry
    per_controller = units * buses
    place = DriveAddress(
        controller=index // per_controller,
        bus=index % per_controller // units,
        target=0,
        unit=index % units,
    )
    if bus == "scsi" and _spot(place) in _taken(domain, hostdevs=True, disks=False):
        raise XmlError(
            f"using disk target name '{name}' conflicts with SCSI host device address "
            f"controller='{place.controller}' bus='{place.bus}' target='{place.target}' unit='{place.unit}"
        )
    disk.address = place


def address_scsi_hostdev(domain: Domain, dev: Hostdev) -> None:
    """Give a SCSI host device the first free unit of the SCSI controllers there are, or of a further one."""
    if dev.address is not None:
        return
    taken = _taken(domain, hostdevs=True, disks=True)
    # libvirt counts the controllers, whatever their indexes are
    count = sum(c.type is ControllerType.SCSI for c in domain.devices.controllers)
    for number in range(count):
        for unit in range(GEOMETRY["scsi"][0]):
            if (number, 0, 0, unit) not in taken:
                dev.address = DriveAddress(controller=number, bus=0, target=0, unit=unit)
                return
    dev.address = DriveAddress(controller=count, bus=0, target=0, unit=0)


def _taken(domain: Domain, *, hostdevs: bool, disks: bool) -> set[tuple[int, int, int, int]]:
    found: list[Device] = []
    if hostdevs:
        found += [dev for dev in domain.devices.hostdevs if dev.is_subsystem("scsi")]
    if disks:
        found += [disk for disk in domain.devices.disks if said(disk, "target.bus") == "scsi"]
    return {_spot(dev.address) for dev in found if isinstance(dev.address, DriveAddress)}


def _spot(place: DriveAddress) -> tuple[int, int, int, int]:
    return (place.controller or 0, place.bus or 0, place.target or 0, place.unit or 0)
