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
    ("target.tray", "tray"),
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


#: what a new description of a drive says of its medium; the rest of it is the drive's and stays
_MEDIUM = ("line", "type", "source", "backing_store", "driver", "auth", "encryption")
#: what concerns no guest, and changes where it is said
_OURS = ("snapshot",)


def keep(old: Disk, new: Disk) -> None:
    """Make the new description the old drive with another medium. Raises what cannot change.

    Where both documents name the same medium it stays in the drive.
    """
    if _medium(old) == _medium(new):
        if old.source is not None and new.source is not None:
            old.source.startup_policy = new.source.startup_policy
        new.source, new.backing_store, new.driver.type = old.source, old.backing_store, old.driver.type
    check_update(old, new)
    said = {name: value for name, value in new.__dict__.items() if name in (*_MEDIUM, *_OURS)}
    new.__dict__.clear()
    new.__dict__.update(old.copy().__dict__)
    for name in _MEDIUM:
        new.__dict__.pop(name, None)
    new.__dict__.update(said)
    driver = old.driver.copy()
    driver.type, driver.metadata_cache = new.driver.type, new.driver.metadata_cache
    new.driver = driver


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


def has_tray(disk: Disk) -> bool:
    """Tell whether a drive has a tray that opens and closes; what is on USB has one where it is removable."""
    return disk.device == DiskDevice.CDROM and (disk.target.bus != DiskBus.USB or bool(disk.target.removable))


def change_medium(
    drive: Disk, id: str, old: Medium, new: Medium, settings: list[Step], *, force: bool
) -> Iterator[Step]:
    """Yield the commands that take one medium out of a drive and put another in.

    id: what QEMU calls the drive. settings: what is set once the new medium is in. force: even when the guest
    has locked the tray; else it is asked to open it, which it may do at once, later or never.
    """
    where: dict[str, JsonValue] = {"id": id}
    open_tray: tuple[str, dict[str, JsonValue]] = ("blockdev-open-tray", {**where, "force": True})
    close_tray: tuple[str, dict[str, JsonValue]] = ("blockdev-close-tray", {**where})
    yield from new.nodes
    reopen: tuple[str, dict[str, JsonValue]] | None = None
    if has_tray(drive):
        reopen = "blockdev-open-tray", {**where, "force": force}
        if drive.target.tray != "open":
            yield Step(*reopen, close_tray, tray=drive.alias.name)
    if old.top is not None:
        back: tuple[str, dict[str, JsonValue]] = ("blockdev-insert-medium", {**where, "node-name": old.top})
        yield Step("blockdev-remove-medium", {**where}, back, reopen=reopen)
    if new.top is not None:
        there: tuple[str, dict[str, JsonValue]] = ("blockdev-remove-medium", {**where})
        yield Step("blockdev-insert-medium", {**where, "node-name": new.top}, there, reopen=reopen)
        yield from settings
    if has_tray(drive):
        yield Step(*close_tray, undo=open_tray)
    for step in reversed(old.nodes):
        if step.undo is not None:
            yield Step(*step.undo, undo=(step.command, step.arguments))
