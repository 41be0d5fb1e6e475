"""A ``<disk>`` of a running guest: what can be plugged, unplugged and changed, in libvirt's sentences."""

from collections.abc import Iterator

from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InternalError,
    InvalidArg,
    OperationUnsupported,
    QvirtError,
)
from qvirt.model.devices.disk import Disk, DiskBus, DiskDevice
from qvirt.qemu.addresses.pci_flags import said
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Step
from qvirt.record import Record

#: the buses that take a disk while the guest runs
_PLUGGABLE = (DiskBus.VIRTIO, DiskBus.SCSI, DiskBus.USB)

#: what no update of a running guest changes: where it is said, what libvirt calls it
_FIXED: tuple[tuple[str, str], ...] = (
    ("device", "device"),
    ("target.bus", "bus"),
    ("target.removable", "removable"),
    ("geometry", "geometry"),
    ("blockio.logical_block_size", "blockio logical_block_size"),
    ("blockio.physical_block_size", "blockio physical_block_size"),
    ("serial", "serial"),
    ("wwn", "wwn"),
    ("vendor", "vendor"),
    ("product", "product"),
    ("driver.cache", "cache"),
    ("driver.error_policy", "error_policy"),
    ("driver.rerror_policy", "rerror_policy"),
    ("driver.io", "io"),
    ("driver.ioeventfd", "ioeventfd"),
    ("driver.event_idx", "event_idx"),
    ("driver.copy_on_read", "copy_on_read"),
    ("driver.discard", "discard"),
    ("driver.detect_zeroes", "detect_zeroes"),
    ("driver.iothread", "iothread"),
    ("driver.queues", "queues"),
    ("shareable", "shared"),
    ("transient", "transient"),
    ("snapshot", "snapshot"),
    ("rawio", "rawio"),
    ("boot", "boot order"),
)


def check_plug(disk: Disk) -> None:
    """Raise OperationUnsupported for a disk that cannot be plugged into a running guest."""
    bus = disk.target.bus
    if disk.device == DiskDevice.FLOPPY:
        raise OperationUnsupported("floppy device hotplug isn't supported")
    if disk.device == DiskDevice.CDROM and bus == DiskBus.VIRTIO:
        raise OperationUnsupported("cdrom device with virtio bus isn't supported")
    if bus not in _PLUGGABLE:
        raise OperationUnsupported(f"disk bus '{bus}' cannot be hotplugged.")
    if disk.transient is not None:
        raise OperationUnsupported(f"transient disk '{disk.name}' cannot be plugged into a running guest")


def check_unplug(disk: Disk) -> None:
    """Raise OperationUnsupported for a disk that cannot leave a running guest."""
    removable = disk.is_removable and not (
        disk.device == DiskDevice.CDROM and disk.target.bus in (DiskBus.USB, DiskBus.SCSI)
    )
    if removable:
        raise OperationUnsupported(f"disk device type '{disk.device}' cannot be detached")
    if disk.target.bus not in _PLUGGABLE:
        raise OperationUnsupported("This type of disk cannot be hot unplugged")


def missing(disk: Disk, *, live: bool, update: bool) -> QvirtError:
    """Return libvirt's error for a target that no disk has."""
    if live:
        if update:
            return InternalError(f"disk '{disk.name}' not found")
        return DeviceMissing(f"disk {disk.name} not found")
    if update:
        return InvalidArg(f"target {disk.name} doesn't exist.")
    return DeviceMissing(f"no target device {disk.name}")


def check_update(old: Disk, new: Disk) -> None:
    """Raise OperationUnsupported for what cannot change; what the new document leaves out stays as it is."""
    for path, name in _FIXED:
        value, had = said(new, path), said(old, path)
        if value not in (None, False) and value != had:
            raise OperationUnsupported(f"cannot modify field '{name}' of the disk")
    if new.iotune.limits and new.iotune != old.iotune:
        raise OperationUnsupported("cannot modify field 'blkdeviotune' of the disk")
    if not old.is_removable:
        if new.readonly != old.readonly:
            raise OperationUnsupported("cannot modify field 'readonly' of the disk")
        if new.source is not old.source:
            raise ConfigUnsupported("disk source can be changed only in removable drives")


def keep(old: Disk, new: Disk) -> None:
    """Leave the medium in the drive where both documents name the same one."""
    if _medium(old) == _medium(new):
        new.source, new.backing_store, new.driver.type = old.source, old.backing_store, old.driver.type


def _medium(disk: Disk) -> tuple[object, ...]:
    if disk.source is None or not disk.has_medium:
        return ()
    source = disk.source.copy()
    source.index = source.startup_policy = None
    return (disk.type, source.to_xml(), disk.driver.type or "raw")


class Medium(Record):
    """What is in a drive: the node it is plugged in by, None for nothing, and what makes all its nodes."""

    top: str | None
    nodes: list[Step]


def change_medium(disk: Disk, old: Medium, new: Medium, *, force: bool) -> Iterator[Step]:
    """Yield the commands that take one medium out of a drive and put another in.

    force: even when the guest has locked the tray.
    """
    drive: dict[str, JsonValue] = {"id": disk.alias.name}
    yield from new.nodes
    yield Step("blockdev-open-tray", {**drive, "force": force}, ("blockdev-close-tray", {**drive}))
    if old.top is not None:
        back: tuple[str, dict[str, JsonValue]] = ("blockdev-insert-medium", {**drive, "node-name": old.top})
        yield Step("blockdev-remove-medium", {**drive}, back)
    if new.top is not None:
        there: tuple[str, dict[str, JsonValue]] = ("blockdev-remove-medium", {**drive})
        yield Step("blockdev-insert-medium", {**drive, "node-name": new.top}, there)
        yield Step("blockdev-close-tray", {**drive})
    for step in reversed(old.nodes):
        if step.undo is not None:
            yield Step(*step.undo, undo=(step.command, step.arguments))
