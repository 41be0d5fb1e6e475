"""``<disk>`` in QEMU's words: the frontend. The images behind it are in ``blockdev.py``."""

from collections.abc import Iterable, Iterator

from qvirt.errors import (
    ConfigUnsupported,
    InternalError,
    NoStoragePool,
    OperationInvalid,
    QvirtError,
)
from qvirt.model.devices.address import DriveAddress
from qvirt.model.devices.device import Rom
from qvirt.model.devices.disk import Disk, DiskBus, DiskDevice, IoTune
from qvirt.model.domain import Domain
from qvirt.model.storage_chain import Image
from qvirt.model.storage_source import Encryption, SourceType, StorageSource
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices import disk_live, disk_rules, vfio
from qvirt.qemu.devices.base import FileResource, Handler, Resource, line
from qvirt.qemu.devices.blockdev import (
    CACHE_MODES,
    chain_switches,
    effective_cache,
    top_node,
    uses_blockdev,
)
from qvirt.qemu.devices.disk_rules import drive_place
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, controller_alias, placement, virtio_type
from qvirt.qemu.devices.props import Conversion, Prop, PropTable, mapped
from qvirt.qemu.devices.sd_card import sd_drive
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Chardev, Device, Object, Step, Switch

#: QEMU's VIRTIO_QUEUE_MAX (include/hw/virtio/virtio.h)
_MOST_QUEUES = 1024

_WWN = Conversion(lambda text: int(text, 16), lambda number: f"{int(str(number), 0):016x}")
#: libvirt writes a space as backslash and space, so that is what guests have seen for years
_SERIAL = Conversion(lambda text: text.replace(" ", "\\ "), lambda text: text.replace("\\ ", " "))
_IOTHREAD = Conversion(lambda number: f"iothread{number}", lambda name: int(name.removeprefix("iothread")))

FRONTEND = PropTable(
    Disk,
    Prop("share-rw", "shareable"),
    Prop("logical_block_size", "blockio.logical_block_size"),
    Prop("physical_block_size", "blockio.physical_block_size"),
    Prop("wwn", "wwn", _WWN),
    Prop("rotation_rate", "target.rotation_rate"),
    Prop("vendor", "vendor"),
    Prop("product", "product"),
    Prop("cyls", "geometry.cyls"),
    Prop("heads", "geometry.heads"),
    Prop("secs", "geometry.secs"),
    Prop("bios-chs-trans", "geometry.trans", mapped({"none": "none", "auto": "auto", "lba": "lba"})),
    Prop("serial", "serial", _SERIAL),
)
VIRTIO_BLK = PropTable(
    Disk,
    Prop("iothread", "driver.iothread", _IOTHREAD),
    Prop("ioeventfd", "driver.ioeventfd"),
    Prop("event_idx", "driver.event_idx"),
    Prop("num-queues", "driver.queues"),
    Prop("queue-size", "driver.queue_size"),
)
#: libvirt's iotune names of the limits that block_set_io_throttle takes
THROTTLE: dict[str, str] = {
    "total_bytes_sec": "bps",
    "read_bytes_sec": "bps_rd",
    "write_bytes_sec": "bps_wr",
    "total_iops_sec": "iops",
    "read_iops_sec": "iops_rd",
    "write_iops_sec": "iops_wr",
    "total_bytes_sec_max": "bps_max",
    "read_bytes_sec_max": "bps_rd_max",
    "write_bytes_sec_max": "bps_wr_max",
    "total_iops_sec_max": "iops_max",
    "read_iops_sec_max": "iops_rd_max",
    "write_iops_sec_max": "iops_wr_max",
    "size_iops_sec": "iops_size",
    "total_bytes_sec_max_length": "bps_max_length",
    "read_bytes_sec_max_length": "bps_rd_max_length",
    "write_bytes_sec_max_length": "bps_wr_max_length",
    "total_iops_sec_max_length": "iops_max_length",
    "read_iops_sec_max_length": "iops_rd_max_length",
    "write_iops_sec_max_length": "iops_wr_max_length",
}

#: bus by the start of the drive's name
_BUS_BY_NAME = (
    ("hd", DiskBus.IDE),
    ("sd", DiskBus.SCSI),
    ("vd", DiskBus.VIRTIO),
    ("xvd", DiskBus.XEN),
    ("ubd", DiskBus.UML),
)


class DiskHandler(Handler[Disk], kind=Disk):
    """What QEMU makes of a ``<disk>``."""

    live = True
    config_update = live_update = True

    def defaults(self, dev: Disk, ctx: Context) -> None:
        dev.unplug()
        dev.rom = Rom()
        if dev.target.bus in (None, DiskBus.NONE):
            dev.target.bus = default_bus(dev)
        if dev.device == DiskDevice.CDROM:
            dev.readonly = True
        if dev.type == SourceType.VHOSTUSER and dev.snapshot is None:
            dev.snapshot = "no"
        elif dev.readonly and dev.snapshot == "no":
            # that is what a read-only disk does anyway
            dev.snapshot = None
        if dev.driver.name is None:
            dev.driver.name = "qemu"
        if dev.driver.type is None and dev.type != SourceType.VOLUME:
            dev.driver.type = "raw"
        disk_rules.check_place(dev)
        for encryption in _encryptions(dev):
            if encryption.engine is None:
                encryption.engine = "qemu"

    def validate(self, dev: Disk, ctx: Context) -> None:
        disk_rules.validate(dev, ctx)

    def prepare(self, dev: Disk, ctx: BuildContext) -> None:
        if dev.type == SourceType.VOLUME and dev.has_medium and not _may_be_missing(dev):
            raise _volume(dev)
        if (dev.driver.queues or 0) > _MOST_QUEUES:
            # QEMU ends at it, the guest that the disk is plugged into with it
            raise ConfigUnsupported(
                f"disk '{dev.name}' asks for {dev.driver.queues} queues, QEMU has at most {_MOST_QUEUES}"
                f"{line(dev)}"
            )
        dev.driver.cache = effective_cache(dev)
        if not dev.has_medium:
            dev.driver.type = None  # whatever comes into the drive will say

    def resources(self, dev: Disk, ctx: Context) -> Iterable[Resource]:
        for image in dev.images():
            yield from _image_resources(dev, image)
        yield from vfio.nodes(dev, ctx)

    def switches(self, dev: Disk, ctx: BuildContext) -> Iterator[Switch]:
        if dev.type == SourceType.VOLUME and dev.has_medium:
            if not _may_be_missing(dev):
                raise _volume(dev)
            if dev.device == DiskDevice.DISK:
                return
        if dev.target.bus == DiskBus.SD:
            yield sd_drive(dev, ctx)
            return
        if dev.transient is not None and dev.transient.share_backing and ctx.launch.id < 0:
            return  # libvirt plugs it in once the guest is there, and its command line has none
        yield from self.backend(dev, ctx)
        yield Device(device_props(dev, ctx), origin=dev)

    def settings(self, dev: Disk, ctx: Context) -> Iterator[Step]:
        limits = throttle(dev)
        if limits is not None:
            yield Step("block_set_io_throttle", limits)

    def clash(self, dev: Disk, ctx: Context, *, live: bool) -> QvirtError | None:
        if not live and any(known.name == dev.name for known in ctx.domain.devices.disks):
            return OperationInvalid(f"target {dev.name} already exists")
        if (place := drive_place(dev)) and place in map(drive_place, ctx.domain.devices.disks):
            return OperationInvalid("Domain already contains a disk with that address")
        return None

    def check_plug(self, dev: Disk, ctx: Context) -> None:
        disk_live.check_plug(dev)

    def check_unplug(self, dev: Disk, ctx: Context) -> None:
        disk_live.check_unplug(dev)

    def same(self, wanted: Disk, known: Disk, ctx: Context) -> bool:
        return wanted.name == known.name

    def missing(self, dev: Disk, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return disk_live.missing(dev, live=live, update=update)

    def keep(self, old: Disk, new: Disk) -> None:
        disk_live.keep(old, new)

    def update(self, old: Disk, new: Disk, ctx: BuildContext, *, force: bool) -> Iterator[Step]:
        if old.source is new.source:
            return
        before, after = (
            disk_live.Medium(top_node(disk), [switch.to_step() for switch in chain_switches(disk, ctx)])
            for disk in (old, new)
        )
        settings = list(self.settings(new, ctx))
        yield from disk_live.change_medium(old, qom_name(old), before, after, settings, force=force)

    def meanwhile(self, old: Disk, new: Disk) -> None:
        new.target.tray = old.target.tray

    def backend(self, dev: Disk, ctx: BuildContext) -> Iterator[Switch]:
        """Yield what the frontend is plugged into: the chain's nodes, or the socket of a vhost-user disk."""
        if dev is _first_managed(ctx.domain):
            path = reservations_socket(ctx)
            yield Object({"qom-type": "pr-manager-helper", "id": "pr-helper0", "path": path}, origin=dev)
        if not uses_blockdev(dev):
            source = dev.source or StorageSource()
            again = source.reconnect
            yield Chardev(
                "socket",
                {
                    "id": f"chr-vu-{dev.alias.name}",
                    "path": source.path,
                    "reconnect": again.timeout if again is not None and again.enabled else None,
                },
                origin=dev,
            )
        elif dev.type != SourceType.VOLUME:
            yield from chain_switches(dev, ctx)


def default_bus(disk: Disk) -> DiskBus:
    """Return the bus that the drive's kind and name stand for; IDE when the name says nothing."""
    if disk.device == DiskDevice.FLOPPY:
        return DiskBus.FDC
    return next((bus for start, bus in _BUS_BY_NAME if disk.name.startswith(start)), DiskBus.IDE)


def drive_alias(disk: Disk) -> str:
    """Return the name of the disk's backend, as events and statistics call it."""
    return f"drive-{disk.alias.name}"


def qom_name(disk: Disk) -> str:
    """Return what monitor commands call the device that holds the backend: an id or a QOM path.

    A virtio disk's is below the proxy that the alias names, a USB disk's below the bridge.
    """
    alias = disk.alias.name or ""
    if disk.target.bus == DiskBus.VIRTIO:
        return f"/machine/peripheral/{alias}/virtio-backend"
    if disk.target.bus == DiskBus.USB:
        return f"/machine/peripheral/{alias}/{alias}.0/legacy[0]"
    return alias


def device_props(disk: Disk, ctx: BuildContext) -> dict[str, JsonValue]:
    """Return the properties of the disk's device. Raises ConfigUnsupported, InternalError."""
    make = _FRONTENDS.get(disk.target.bus or DiskBus.NONE)
    if make is None:
        raise InternalError(f"unsupported disk bus '{disk.target.bus}' with device setup")
    props = make(disk, ctx)
    props |= placement(disk, ctx)
    if uses_blockdev(disk):
        props["drive"] = top_node(disk)
    else:
        props["chardev"] = f"chr-vu-{disk.alias.name}"
    props["id"] = disk.alias.name
    if disk.target.bus != DiskBus.FDC:
        # a floppy boots through its controller
        props["bootindex"] = boot_index(disk, ctx.domain)
    props |= FRONTEND.render(disk, ctx)
    if disk.target.bus == DiskBus.USB:
        props["removable"] = bool(disk.target.removable)
    cache = effective_cache(disk)
    if cache is not None and disk.device != DiskDevice.LUN and uses_blockdev(disk):
        props["write-cache"] = "on" if CACHE_MODES[cache].write_back else "off"
    props |= error_policy(disk)
    return props


def throttle(disk: Disk) -> dict[str, JsonValue] | None:
    """Return the arguments of block_set_io_throttle for the disk's limits; None when it has none.

    The limits belong to the frontend's backend, which exists only once QEMU runs.
    """
    said = disk.iotune
    if disk.target.bus == DiskBus.SD or not (said.limits or said.group_name):
        return None
    return throttle_arguments(disk, said)


def throttle_arguments(disk: Disk, tune: IoTune) -> dict[str, JsonValue]:
    """Return the arguments of block_set_io_throttle that give a disk these limits, and no others."""
    needed = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
    arguments: dict[str, JsonValue] = {"id": qom_name(disk), **dict.fromkeys(needed, 0)}
    arguments |= {THROTTLE[name]: value for name, value in tune.limits.items()}
    return {**arguments, "group": tune.group_name or drive_alias(disk)}


# ------------------------------------------------------------ frontends by bus


def _drive(disk: Disk) -> DriveAddress:
    if not isinstance(disk.address, DriveAddress):
        raise InternalError(f"disk '{disk.name}' on bus '{disk.target.bus}' has no drive address")
    return disk.address


def _ide(disk: Disk, ctx: BuildContext) -> dict[str, JsonValue]:
    where = _drive(disk)
    if where.target:
        raise ConfigUnsupported("target must be 0 for ide controller")
    controller = controller_alias("ide", where.controller or 0, ctx)
    return {
        "driver": "ide-cd" if disk.device == DiskDevice.CDROM else "ide-hd",
        "bus": f"{controller}.{where.bus or 0}",
        "unit": where.unit or 0,
    }


def _sata(disk: Disk, ctx: BuildContext) -> dict[str, JsonValue]:
    where = _drive(disk)
    if where.bus:
        raise ConfigUnsupported("bus must be 0 for ide controller")
    if where.target:
        raise ConfigUnsupported("target must be 0 for ide controller")
    controller = controller_alias("sata", where.controller or 0, ctx)
    return {
        "driver": "ide-cd" if disk.device == DiskDevice.CDROM else "ide-hd",
        "bus": f"{controller}.{where.unit or 0}",
    }


def _scsi(disk: Disk, ctx: BuildContext) -> dict[str, JsonValue]:
    where = _drive(disk)
    if disk.device == DiskDevice.LUN:
        driver = "scsi-block"
    else:
        driver = "scsi-cd" if disk.device == DiskDevice.CDROM else "scsi-hd"
    controller = controller_alias("scsi", where.controller or 0, ctx)
    props: dict[str, JsonValue] = {"driver": driver, "bus": f"{controller}.0"}
    model = disk_rules.scsi_model(disk, ctx)
    if model in disk_rules.NARROW_SCSI:
        if where.target:
            raise ConfigUnsupported(f"target must be 0 for controller model '{model}'")
        props |= {"bus": f"{controller}.{where.bus or 0}", "scsi-id": where.unit or 0}
    else:
        props |= {"channel": where.bus or 0, "scsi-id": where.target or 0, "lun": where.unit or 0}
    if disk.device != DiskDevice.LUN:
        # the guest names the disk by this; QEMU's own default changed when drives became block nodes
        props["device_id"] = disk.serial or drive_alias(disk)
    return props


def _virtio(disk: Disk, ctx: BuildContext) -> dict[str, JsonValue]:
    base = "virtio-blk" if uses_blockdev(disk) else "vhost-user-blk"
    props: dict[str, JsonValue] = {"driver": virtio_type(base, disk, disk.model)}
    if disk.device == DiskDevice.LUN:
        props["scsi"] = True
    return props | VIRTIO_BLK.render(disk, ctx) | VIRTIO_OPTIONS.render(disk.driver, ctx)


def _usb(disk: Disk, ctx: BuildContext) -> dict[str, JsonValue]:
    return {"driver": "usb-storage"}


def _floppy(disk: Disk, ctx: BuildContext) -> dict[str, JsonValue]:
    return {"driver": "floppy", "unit": _drive(disk).unit or 0}


_FRONTENDS = {
    DiskBus.IDE: _ide,
    DiskBus.SATA: _sata,
    DiskBus.SCSI: _scsi,
    DiskBus.VIRTIO: _virtio,
    DiskBus.USB: _usb,
    DiskBus.FDC: _floppy,
}


def error_policy(disk: Disk) -> dict[str, JsonValue]:
    """Return what becomes of the guest at an error of its disk, as the frontend's properties."""
    write = disk.driver.error_policy if disk.driver.error_policy != "default" else None
    read = disk.driver.rerror_policy if disk.driver.rerror_policy != "default" else None
    if write == "enospace":
        # means nothing for reads, so they keep QEMU's default
        write = "enospc"
    elif read is None:
        read = write
    return {"werror": write, "rerror": read}


# ------------------------------------------------------------ the rest


def _may_be_missing(disk: Disk) -> bool:
    """Tell whether the disk is left out, or its drive left empty, when its source is not there."""
    return disk.source is not None and disk.source.startup_policy == "optional"


def _volume(disk: Disk) -> QvirtError:
    """Return the refusal of a volume that nobody has looked up: there are no pools to look in."""
    pool = disk.source.pool if disk.source is not None else None
    return NoStoragePool(f"no storage pool with matching name '{pool}'")


def _encryptions(disk: Disk) -> Iterator[Encryption]:
    if disk.encryption is not None:
        yield disk.encryption
    if disk.source is not None and disk.source.encryption is not None:
        yield disk.source.encryption
    for image in disk.images():
        if image.depth and image.source.encryption is not None:
            yield image.source.encryption


def _first_managed(domain: Domain) -> Disk | None:
    return next((disk for disk in domain.devices.disks if has_managed_reservations(disk)), None)


def has_managed_reservations(disk: Disk) -> bool:
    """Tell whether a helper of the guest's own makes a disk's reservations."""
    return _is_managed(disk.source)


def reservations_socket(ctx: BuildContext) -> str:
    """Return where the guest's helper for reservations listens."""
    return f"{ctx.domain_dir}/pr-helper0.sock"


def _is_managed(source: StorageSource | None) -> bool:
    return source is not None and source.reservations is not None and bool(source.reservations.managed)


def _image_resources(disk: Disk, image: Image) -> Iterator[Resource]:
    source = image.source
    path = source.local_path
    if path is not None:
        yield FileResource(
            disk,
            path,
            writable=not image.readonly,
            shared=disk.shareable or image.depth > 0,
            seclabels=source.seclabels,
        )
    sockets = [source.path, *(host.socket for host in source.hosts)]
    said = source.reservations
    if said is not None and said.source is not None:
        sockets.append(said.source.path)
    for socket in sockets:
        if socket is not None:
            yield FileResource(disk, socket, shared=True, relabel=False)
