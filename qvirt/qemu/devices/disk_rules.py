"""What a ``<disk>`` may not say: combinations libvirt refuses, in its own sentences."""

import re
from functools import partial

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ArgumentUnsupported, ConfigUnsupported, InternalError, XmlError
from qvirt.model.devices.address import CcwAddress, DriveAddress, PciAddress, VirtioMmioAddress
from qvirt.model.devices.disk import Disk, DiskBus, DiskDevice
from qvirt.model.domain import Domain
from qvirt.model.storage_chain import Image
from qvirt.model.storage_source import Protocol, SourceType
from qvirt.qemu.addresses.drive import disk_index
from qvirt.qemu.context import Context

#: what libvirt's common code refuses, whatever the driver
_refused = partial(ConfigUnsupported, domain=ErrorDomain.DOMAIN)
#: the most a limit may be; above it the arithmetic inside QEMU overflows
MAX_LIMIT = 1_000_000_000_000_000
#: SCSI controllers that know ids alone, no logical units: a drive's unit is its id
NARROW_SCSI = frozenset({"lsilogic", "ncr53c90", "dc390", "am53c974"})
#: the address types each bus can have, where it is libvirt's common code that knows
_BUS_ADDRESS = {
    DiskBus.IDE: "drive",
    DiskBus.FDC: "drive",
    DiskBus.SCSI: "drive",
    DiskBus.SATA: "drive",
}


def validate(disk: Disk, ctx: Context) -> None:
    """Raise ConfigUnsupported, XmlError or InternalError for a disk that cannot run."""
    if disk.type == SourceType.VHOSTUSER:
        _check_vhostuser(disk, ctx)
    _check_lun(disk)
    _check_words(disk)
    _check_address(disk, ctx)
    _check_driver(disk, ctx)
    _check_guest(disk)
    _check_iotune(disk, ctx)
    for image in disk.images():
        _check_image(image, disk)


def _check_lun(disk: Disk) -> None:
    if disk.sgio == "unfiltered":
        raise _refused("unfiltered sgio is no longer supported")
    source = disk.source
    if disk.device != DiskDevice.LUN:
        if source is not None and source.reservations is not None:
            raise _refused("<reservations/> allowed only for lun devices")
        if disk.rawio is not None:
            raise _refused("rawio can be used only with device='lun'")
        if disk.sgio is not None:
            raise _refused("sgio can be used only with device='lun'")
        return
    if disk.target.bus not in (DiskBus.SCSI, DiskBus.VIRTIO):
        raise _refused(f"disk device='lun' is not supported for bus='{disk.target.bus}'")
    if disk.type == SourceType.NETWORK and source is not None and source.protocol != Protocol.ISCSI:
        raise _refused(f"disk device='lun' is not supported for protocol='{source.protocol}'")
    if disk.type not in (SourceType.BLOCK, SourceType.NETWORK, SourceType.VOLUME):
        raise _refused("disk device='lun' is only valid for block type disk source")
    if disk.driver.type not in (None, "raw"):
        raise _refused("disk device 'lun' must use 'raw' format")
    if source is not None and (source.encryption or disk.encryption):
        raise _refused("disk device 'lun' doesn't support encryption")
    if disk.wwn:
        raise _refused("Setting wwn is not supported for lun device")
    if disk.vendor or disk.product:
        raise _refused("Setting vendor or product is not supported for lun device")


def _check_words(disk: Disk) -> None:
    if disk.driver.name not in (None, "qemu"):
        raise _refused(f"unsupported driver name '{disk.driver.name}' for disk '{disk.name}'")
    if disk.driver.rerror_policy == "enospace":
        raise _refused("Invalid disk read error policy: 'enospace'")
    if disk.wwn and not re.fullmatch(r"(0x)?[0-9a-fA-F]{16}", disk.wwn):
        raise InternalError(f"Malformed wwn: {disk.wwn}")
    for name, value, most in (("vendor", disk.vendor, 8), ("product", disk.product, 16)):
        if not value:
            continue
        if len(value) > most:
            raise _refused(f"disk {name} is more than {most} characters")
        if not all(" " <= letter <= "~" for letter in value):
            raise XmlError(f"disk {name} is not printable string")
    if disk.serial and not re.fullmatch(r"[A-Za-z0-9 ._+-]*", disk.serial):
        raise InternalError(f"driver serial '{disk.serial}' contains unsafe characters")


def check_place(disk: Disk) -> None:
    """Refuse an address that is not of the bus's kind. Raises ConfigUnsupported."""
    where = disk.address
    if where is None:
        return
    bus = disk.target.bus
    wanted = _BUS_ADDRESS.get(bus) if bus is not None else None
    if wanted is not None and where.type != wanted:
        raise _refused(
            f"Invalid address type '{where.type}' for the disk '{disk.name}' with the bus type '{bus}'"
        )


def check_duplicates(domain: Domain) -> None:
    """Refuse two disks of one name or at one place of a controller. Raises XmlError, ConfigUnsupported."""
    names: dict[str | None, Disk] = {}
    for disk in domain.devices.disks:
        other = names.setdefault(disk.name, disk)
        if other is not disk:
            raise XmlError(
                f"target '{disk.name}' duplicated for disk sources '{_where(other)}' and '{_where(disk)}'"
            )
    places: dict[tuple[object, ...], Disk] = {}
    for disk in domain.devices.disks:
        place = drive_place(disk)
        if place is None:
            continue
        other = places.setdefault(place, disk)
        if other is not disk:
            raise ConfigUnsupported(
                f"Found duplicate drive address for disk with target name '{other.name}' "
                f"controller='{place[1]}' bus='{place[2]}' target='{place[3]}' unit='{place[4]}'"
            )


def drive_place(disk: Disk) -> tuple[DiskBus | None, int, int, int, int] | None:
    """Return the bus's kind and the place on a controller that a disk says; None where it says none."""
    where = disk.address
    if not isinstance(where, DriveAddress):
        return None
    return disk.target.bus, where.controller or 0, where.bus or 0, where.target or 0, where.unit or 0


def _where(disk: Disk) -> str:
    return (disk.source.local_path or disk.source.name if disk.source is not None else None) or "<null>"


def _check_address(disk: Disk, ctx: Context) -> None:
    where = disk.address
    bus = disk.target.bus
    if where is None:
        return
    if isinstance(where, DriveAddress):
        _check_drive(where, bus or DiskBus.NONE)
        if bus == DiskBus.SCSI:
            if where.bus:
                raise InternalError("SCSI controller only supports 1 bus")
            model = scsi_model(disk, ctx)
            if where.target and model in NARROW_SCSI:
                raise ConfigUnsupported(f"target must be 0 for controller model '{model}'")
    if bus == DiskBus.VIRTIO and not isinstance(where, (PciAddress, CcwAddress, VirtioMmioAddress)):
        raise ConfigUnsupported(f"virtio disk cannot have an address of type '{where.type}'")
    if bus == DiskBus.USB and where.type != "usb":
        raise InternalError("unexpected address type for usb disk")


def _check_drive(where: DriveAddress, bus: DiskBus) -> None:
    if bus == DiskBus.IDE and where.target:
        raise ConfigUnsupported("target must be 0 for ide controller")
    if bus == DiskBus.SATA:
        if where.bus:
            raise ConfigUnsupported("bus must be 0 for sata controller")
        if where.target:
            raise ConfigUnsupported("target must be 0 for sata controller")
    if bus == DiskBus.FDC:
        if where.controller:
            raise InternalError("Only 1 fdc controller is supported")
        if where.bus:
            raise InternalError("Only 1 fdc bus is supported")
        if where.target:
            raise InternalError("target must be 0 for controller fdc")


def _check_driver(disk: Disk, ctx: Context) -> None:
    driver = disk.driver
    bus = disk.target.bus
    if bus != DiskBus.VIRTIO:
        if disk.model is not None:
            raise _refused(f"disk model '{disk.model}' not supported for bus '{bus}'")
        if driver.queues:
            raise _refused("queues attribute in disk driver element is only supported by virtio-blk")
        if driver.ioeventfd is not None:
            raise _refused("disk ioeventfd mode supported only for virtio bus")
        if driver.event_idx is not None:
            raise _refused("disk event_idx mode supported only for virtio bus")
        for name in ("iommu", "ats", "packed"):
            if getattr(driver, name) is not None:
                raise _refused(f"{name} driver option is only supported for virtio devices")
        if driver.page_per_vq is not None:
            raise _refused("page_per_vq option is only supported for virtio devices")
        if driver.iothread is not None:
            raise ConfigUnsupported(f"IOThreads not available for bus {bus} target {disk.name}")
    elif driver.iothread is not None and driver.iothread not in _iothreads(ctx):
        raise ConfigUnsupported(f"Disk iothread '{driver.iothread}' not defined in iothreadid")
    if driver.io == "native" and driver.cache not in ("none", "directsync"):
        raise ConfigUnsupported("io='native' needs either no disk cache or directsync cache mode")
    if driver.copy_on_read:
        if disk.readonly:
            raise ConfigUnsupported(f"copy_on_read is not compatible with read-only disk '{disk.name}'")
        if disk.device == DiskDevice.CDROM or disk.device == DiskDevice.FLOPPY:
            raise ConfigUnsupported(f"copy_on_read is not supported with removable disk '{disk.name}'")
        if disk.target.bus == DiskBus.SD:
            raise ConfigUnsupported(f"copy_on_read is not supported for disk '{disk.name}' on bus 'sd'")
    if driver.metadata_cache is not None and driver.type != "qcow2":
        raise ConfigUnsupported("metadata cache max size control is supported only with qcow2 images")
    if disk.shareable and not disk.readonly and disk.source is not None and driver.type not in (None, "raw"):
        raise ConfigUnsupported(
            f"shared access for disk '{disk.name}' requires use of supported storage format"
        )


def _iothreads(ctx: Context) -> set[int]:
    known = {thread.id for thread in ctx.domain.iothreadids.iothreads}
    return known or set(range(1, (ctx.domain.iothreads or 0) + 1))


def _check_guest(disk: Disk) -> None:
    bus = disk.target.bus
    if disk.device == DiskDevice.FLOPPY:
        if bus != DiskBus.FDC:
            raise InternalError(f"Invalid bus type '{bus}' for floppy disk", domain=ErrorDomain.DOMAIN)
    elif bus == DiskBus.FDC:
        raise InternalError("Invalid bus type 'fdc' for disk", domain=ErrorDomain.DOMAIN)
    is_floppy = disk.name.startswith("fd")
    is_disk = disk.name.startswith(("hd", "sd", "vd", "xvd", "ubd"))
    if is_floppy != (disk.device == DiskDevice.FLOPPY) or (disk.device == DiskDevice.DISK and not is_disk):
        kind = "floppy" if disk.device == DiskDevice.FLOPPY else "harddisk"
        raise InternalError(f"Invalid {kind} device name: {disk.name}", domain=ErrorDomain.DOMAIN)
    if disk_index(disk.name) < 0:
        raise ConfigUnsupported(f"invalid disk target '{disk.name}'")
    if bus in (DiskBus.VIRTIO, DiskBus.SD) and disk.is_removable:
        raise ConfigUnsupported(f"disk type of '{disk.name}' does not support ejectable media")
    if disk.target.tray == "open" and not disk.is_removable:
        raise ConfigUnsupported("tray is only valid for cdrom and floppy")
    if disk.target.removable is not None and bus != DiskBus.USB:
        raise XmlError("removable is only valid for usb disks")
    if disk.target.rotation_rate:
        if disk.device not in (DiskDevice.DISK, DiskDevice.LUN):
            raise InternalError("rotation rate is only valid for disk device")
        if bus not in (DiskBus.SCSI, DiskBus.IDE, DiskBus.SATA):
            raise InternalError("rotation rate is only valid for SCSI/IDE/SATA bus")
    if disk.wwn and bus not in (DiskBus.IDE, DiskBus.SCSI):
        raise ConfigUnsupported("Only ide and scsi disk support wwn")
    if (disk.vendor or disk.product) and bus != DiskBus.SCSI:
        raise ConfigUnsupported("Only scsi disk supports vendor and product")
    if disk.geometry is not None:
        if disk.geometry.trans is not None and bus != DiskBus.IDE:
            raise ConfigUnsupported(f"CHS translation mode can only be set for 'ide' bus not '{bus}'")
        if bus in (DiskBus.USB, DiskBus.FDC, DiskBus.SD):
            raise ConfigUnsupported(f"CHS geometry can not be set for '{bus}' bus")
    if disk.readonly and disk.device == DiskDevice.DISK and bus in (DiskBus.IDE, DiskBus.SATA):
        raise ConfigUnsupported(f"readonly {bus} disks are not supported")
    policy = disk.source.startup_policy if disk.source is not None else None
    if policy not in (None, "default"):
        if disk.type in (SourceType.NETWORK, SourceType.NVME):
            raise XmlError(f"disk startupPolicy '{policy}' is not allowed for disk of '{disk.type}' type")
        if policy == "requisite" and not disk.is_removable:
            raise XmlError("disk startupPolicy 'requisite' is allowed only for cdrom or floppy")
    if disk.transient is not None:
        _check_transient(disk)


def _check_transient(disk: Disk) -> None:
    name = disk.name
    if disk.readonly:
        raise ConfigUnsupported(f"transient disk '{name}' must not be read-only")
    if disk.type != SourceType.FILE:
        raise ConfigUnsupported(f"transient disk supported only with 'file' type ({name})")
    if disk.device != DiskDevice.DISK:
        raise ConfigUnsupported(f"transient disk supported only with 'disk' device ({name})")


def _check_iotune(disk: Disk, ctx: Context) -> None:
    if not disk.says("iotune"):
        return
    tune = disk.iotune
    limits = tune.limits
    if tune.group_name and not limits:
        raise ConfigUnsupported("group_name can be configured only together with settings")
    for name, value in limits.items():
        if value > MAX_LIMIT and not name.endswith("_length"):
            raise ArgumentUnsupported(f"block I/O throttle limit must be no more than {MAX_LIMIT} using QEMU")
    if not tune.group_name:
        return
    for other in ctx.domain.devices.disks:
        if other is disk:
            break
        if other.iotune.group_name == tune.group_name and other.iotune.limits != limits:
            raise ConfigUnsupported(f"different iotunes for disks {other.name} and {disk.name}")


def _check_image(image: Image, disk: Disk) -> None:
    format = image.format
    if image.type == SourceType.DIR:
        if format != "fat":
            raise ConfigUnsupported("storage type 'dir' requires use of storage format 'fat'")
        if not image.readonly:
            raise ConfigUnsupported("virtual FAT storage can't be accessed in read-write mode")
    elif format == "fat" and image.type != SourceType.VOLUME:
        raise ConfigUnsupported("storage format 'fat' is supported only with 'dir' storage type")
    if format == "dir":
        raise ConfigUnsupported(
            "'directory' storage format is not directly supported by QEMU, use 'dir' disk type instead"
        )
    if format == "iso":
        raise ConfigUnsupported("storage format 'iso' is not directly supported by QEMU, use 'raw' instead")
    if format == "cow":
        raise ConfigUnsupported("'cow' storage format is not supported")
    source = image.source
    if image.type == SourceType.NETWORK and source.protocol in (Protocol.TFTP, Protocol.NONE):
        raise ConfigUnsupported(f"'{source.protocol}' protocol is not supported with this QEMU binary")
    auth = image.auth
    if auth is not None and image.type == SourceType.NETWORK and source.protocol is not None:
        if source.protocol not in (Protocol.RBD, Protocol.ISCSI, Protocol.SSH, Protocol.HTTP, Protocol.HTTPS):
            raise ConfigUnsupported(f"authentication is not supported for protocol '{source.protocol}'")
        auth.check_protocol(source.protocol)
    encryption = image.encryption
    if encryption is None:
        return
    if encryption.cipher is not None:
        raise ConfigUnsupported("supplying <cipher> for domain disk definition is unnecessary")
    if encryption.ivgen is not None:
        raise ConfigUnsupported("supplying <ivgen> for domain disk definition is unnecessary")
    if encryption.engine == "librbd":
        if source.protocol != Protocol.RBD:
            raise ConfigUnsupported("librbd encryption is supported only with RBD backed disks")
    elif encryption.format in ("default", "qcow"):
        raise ConfigUnsupported("old qcow/qcow2 encryption is not supported")
    elif format not in ("raw", "qcow2"):
        raise ConfigUnsupported("encryption is supported only with 'raw' and 'qcow2' image format")
    elif encryption.format == "luks2":
        raise ConfigUnsupported("luks2 is currently not supported by the qemu encryption engine")


def _check_vhostuser(disk: Disk, ctx: Context) -> None:
    if disk.target.bus != DiskBus.VIRTIO:
        raise ConfigUnsupported("vhostuser disk supports only virtio bus")
    if disk.snapshot not in (None, "no"):
        raise ConfigUnsupported("only snapshot=no is supported with vhostuser disk")
    for name in ("cache", "io", "error_policy", "rerror_policy", "discard", "detect_zeroes", "copy_on_read"):
        if disk.driver.says(name):
            raise ConfigUnsupported(f"{name} is not supported with vhostuser disk")
    if disk.driver.iothread is not None:
        raise ConfigUnsupported("iothread is not supported with vhostuser disk")
    if disk.iotune.limits:
        raise ConfigUnsupported("iotune is not supported with vhostuser disk")
    for said, what in (
        (disk.readonly, "readonly"),
        (disk.shareable, "shareable"),
        (disk.transient is not None, "transient"),
        (disk.serial, "serial"),
        (disk.wwn, "wwn"),
        (disk.vendor, "vendor"),
        (disk.product, "product"),
        (disk.encryption is not None, "encryption"),
        (disk.geometry is not None, "geometry"),
        (not disk.blockio.is_empty(), "blockio"),
    ):
        if said:
            raise ConfigUnsupported(f"{what} is not supported with vhostuser disk")
    if not shared_memory(ctx):
        raise ConfigUnsupported("'vhostuser' requires shared memory")


def scsi_model(disk: Disk, ctx: Context) -> str | None:
    """Return the model of the SCSI controller the disk is on."""
    where = disk.address
    index = where.controller or 0 if isinstance(where, DriveAddress) else 0
    for controller in ctx.domain.devices.controllers:
        if controller.type == "scsi" and (controller.index or 0) == index:
            return controller.model
    return None


def shared_memory(ctx: Context) -> bool:
    """Tell whether the guest's memory can be mapped by another process, as every vhost-user device needs."""
    access = ctx.domain.memory_backing.access
    if access is not None and access.mode == "shared":
        return True
    numa = ctx.domain.cpu.numa if ctx.domain.cpu is not None else None
    cells = numa.cells if numa is not None else []
    return bool(cells) and all(cell.mem_access == "shared" for cell in cells)
