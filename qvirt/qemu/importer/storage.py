"""Disks: the device a drive is plugged into, as the bus and the address of a ``<disk>``."""

from qvirt.model.devices.address import (
    DriveAddress,
)
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk, DiskBus, DiskDevice, DiskTarget
from qvirt.model.storage_source import SourceType, StorageSource
from qvirt.qemu.devices.disk import FRONTEND, VIRTIO_BLK
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS
from qvirt.qemu.importer.buses import Bus
from qvirt.qemu.importer.disks import take_image
from qvirt.qemu.importer.parts import Unfit, without
from qvirt.qemu.importer.reader import Reading, iothread

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def disk_name(prefix: str, number: int) -> str:
    """Return a drive's name: ``sda`` for 0, ``sdaa`` for 26."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = _LETTERS[digit] + text
    return prefix + text


def _target(r: Reading, disk: Disk, bus: DiskBus, prefix: str, number: int | None = None) -> None:
    """Name the drive: the number given, or the next that is free."""
    if number is None or not r.buses.take(f"name:{prefix}", number):
        number = r.buses.take_first(f"name:{prefix}")
    disk.target = DiskTarget(dev=disk_name(prefix, number), bus=bus)


def _disk(r: Reading, device: DiskDevice = DiskDevice.DISK) -> Disk:
    disk = Disk(device=device)
    r.used += take_image(r.line, r.part, disk)
    if disk.device == DiskDevice.CDROM:
        disk.readonly = True
    FRONTEND.read(disk, dict(r.part.props))
    for key, field in (("werror", "error_policy"), ("rerror", "rerror_policy")):
        value = r.part.text(key)
        if value is not None and value != "auto":
            setattr(disk.driver, field, {"enospc": "enospace"}.get(value, value))
    if r.part.flag("write-cache") is False and disk.driver.cache is None:
        disk.driver.cache = "writethrough"
    r.common(disk)
    return disk


def read_ide(r: Reading) -> Device:
    device = DiskDevice.CDROM if r.part.driver == "ide-cd" else DiskDevice.DISK
    if r.part.driver == "ide-drive":
        drive = r.line.parts.find("drive", r.part.props.get("drive"))
        device = DiskDevice.CDROM if drive is not None and drive.props.get("media") == "cdrom" else device
    bus, name = _ide_bus(r)
    disk = _disk(r, device)
    if disk.type == SourceType.DIR:
        raise Unfit("a folder cannot be written to, which an IDE disk has to be")
    if bus.kind == "sata":
        disk.address = DriveAddress(controller=bus.controller, bus=0, target=0, unit=bus.number)
        _target(r, disk, DiskBus.SATA, "sd", bus.number if not bus.controller else None)
        return disk
    unit = r.part.number("unit")
    if unit is None:
        unit = 0 if r.buses.take(name, 0) else 1
    r.buses.take(name, unit)
    disk.address = DriveAddress(controller=0, bus=bus.number, target=0, unit=unit)
    _target(r, disk, DiskBus.IDE, "hd", bus.number * 2 + unit)
    return disk


def _ide_bus(r: Reading) -> tuple[Bus, str]:
    said = r.part.text("bus")
    if r.buses.has_pci and not any(bus.kind in ("ide", "sata") for bus in r.buses.others.values()):
        _add_ahci(r)
        said = said if said in r.buses.others else "ide.0"
    if said is not None:
        bus = r.buses.named(said)
        if bus is None or bus.kind not in ("ide", "sata"):
            raise Unfit(f"its bus '{said}' is not in the XML")
        if bus.kind == "ide" or r.buses.take(said, 0):
            return bus, said
    for name, bus in reversed(r.buses.others.items()):
        if bus.kind == "sata" and r.buses.take(name, 0):
            return bus, name
        if bus.kind == "ide" and len(r.buses.taken.get(name, ())) < 2:
            return bus, name
    raise Unfit("there is no room on an IDE bus")


def _add_ahci(r: Reading) -> None:
    """Give a machine without any IDE a controller for the drives that were to be on it."""
    index = r.buses.next("sata")
    r.line.domain.devices.controllers.append(Controller(type=ControllerType.SATA, index=index))
    for number in range(6):
        r.buses.others[f"ide.{number}"] = Bus("sata", index, number)
    r.line.note("this machine has no IDE: the drive is on a SATA controller that is added", r.part.given)


def read_scsi_disk(r: Reading) -> Device:
    bus = r.buses.find(r.part, "scsi")
    device = {"scsi-cd": DiskDevice.CDROM, "scsi-block": DiskDevice.LUN}.get(r.part.driver, DiskDevice.DISK)
    disk = _disk(r, device)
    name = f"scsi{bus.controller}"
    channel, lun = r.part.number("channel") or 0, r.part.number("lun") or 0
    target = r.part.number("scsi-id")
    if target is None:
        target = 0
        while not r.buses.take(name, (channel, target, lun)):
            target += 1
    else:
        r.buses.take(name, (channel, target, lun))
    disk.address = (
        DriveAddress(controller=bus.controller, bus=0, target=0, unit=target)
        if bus.number
        else DriveAddress(controller=bus.controller, bus=channel, target=target, unit=lun)
    )
    _target(r, disk, DiskBus.SCSI, "sd")
    return disk


def read_virtio_disk(r: Reading) -> Device:
    disk = _disk(r)
    disk.model = model_unless_plain(r)
    VIRTIO_BLK.read(disk, without(r.part.props, ("iothread",)))
    disk.driver.iothread = iothread(r, r.part.text("iothread"))
    VIRTIO_OPTIONS.read(disk.driver, dict(r.part.props))
    r.place(disk)
    _target(r, disk, DiskBus.VIRTIO, "vd")
    return disk


def model_unless_plain(r: Reading) -> str | None:
    model = r.virtio_model()
    return model if model != "virtio" else None


def read_usb_disk(r: Reading) -> Device:
    disk = _disk(r)
    drive = r.line.parts.find("drive", r.part.props.get("drive"))
    if drive is not None and drive.props.get("media") == "cdrom":
        disk.device = DiskDevice.CDROM
    r.usb_address(disk)
    if r.part.flag("removable") is not None:
        disk.target.removable = r.part.flag("removable")
    removable = disk.target.removable
    _target(r, disk, DiskBus.USB, "sd")
    disk.target.removable = removable
    return disk


def read_floppy(r: Reading) -> Device:
    unit = r.part.number("unit")
    if unit is None:
        unit = 0 if r.buses.take("fdc", 0) else 1
    r.buses.take("fdc", unit)
    disk = _disk(r, DiskDevice.FLOPPY)
    disk.address = DriveAddress(controller=0, bus=0, target=0, unit=unit)
    _target(r, disk, DiskBus.FDC, "fd", unit)
    return disk


def read_vhost_user_disk(r: Reading) -> Device:
    disk = Disk(type=SourceType.VHOSTUSER)
    chardev = r.line.parts.find("chardev", r.part.props.get("chardev"))
    if chardev is None or chardev.text("path") is None or chardev.flag("server"):
        raise Unfit("its chardev is no socket to connect to")
    disk.source = StorageSource(type="unix", path=chardev.text("path"))
    again = chardev.number("reconnect")
    if again:
        from qvirt.model.storage_source import Reconnect

        disk.source.reconnect = Reconnect(enabled=True, timeout=again)
    disk.driver.type = "raw"
    VIRTIO_BLK.read(disk, without(r.part.props, ("iothread",)))
    VIRTIO_OPTIONS.read(disk.driver, dict(r.part.props))
    r.common(disk)
    r.place(disk)
    _target(r, disk, DiskBus.VIRTIO, "vd")
    r.used.append(chardev)
    return disk
