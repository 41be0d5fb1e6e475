"""Disks as ``-drive``: one switch for image, format, cache and, without ``-device``, the place."""

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.devices.address import DriveAddress
from qvirt.model.devices.controller import Controller
from qvirt.model.devices.disk import Disk, DiskBus, DiskDevice
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.os import Loader, Nvram
from qvirt.model.storage_source import SourceType
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.blockdev import DRIVERS, detect_zeroes, effective_cache
from qvirt.qemu.devices.disk import THROTTLE, drive_alias, error_policy
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.dialect.machine import orders_by_index
from qvirt.qemu.dialect.sources import disk_source
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import has_builtin_fdc
from qvirt.qemu.switches import Blockdev, Device, KeyValue, Object, Option, Switch

Props = dict[str, JsonValue]

#: cache modes of emulators that only knew the host's cache on and off; what they lacked is made safe
_FIRST_CACHE = {"none": "off", "writethrough": "off", "writeback": "on", "directsync": "off", "unsafe": "on"}
#: properties of a frontend that -drive takes instead
_POLICIES: tuple[str, ...] = ("werror", "rerror")
_MOVED = ("serial", *_POLICIES, "cyls", "heads", "secs", "bios-chs-trans")


def rewrite(switches: Sequence[Switch], ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    """Yield the switches with every block node folded into the ``-drive`` of its disk."""
    if caps.says("-blockdev"):
        yield from switches
        return
    for switch in switches:
        origin = switch.origin
        if isinstance(switch, Blockdev):
            if isinstance(origin, (Loader, Nvram)) and str(switch.props["node-name"]).endswith("-format"):
                yield _flash(switch, ctx)
            elif isinstance(origin, Hostdev):
                yield _host_drive(switch, origin)
        elif isinstance(switch, Object) and _serves_a_node(switch):
            continue
        elif isinstance(switch, Device) and isinstance(origin, Disk) and "chardev" not in switch.props:
            yield from _disk(switch, origin, ctx, caps)
        elif isinstance(switch, Device) and isinstance(origin, Hostdev) and "drive" in switch.props:
            yield Device({**switch.props, "drive": f"drive-{origin.alias.name}"}, origin=origin)
        elif isinstance(switch, KeyValue) and switch.name == "drive" and not caps.says("-drive:format"):
            props = {key: value for key, value in switch.props.items() if key != "format"}
            yield KeyValue("drive", props, origin=origin)  # an SD card's
        elif isinstance(origin, Controller) and _is_floppy_boot(switch) and not caps.says("floppy"):
            continue  # said with the drives
        else:
            yield switch


def _serves_a_node(switch: Object) -> bool:
    id = str(switch.props.get("id"))
    return id.startswith("libvirt-") or id.startswith("objlibvirt-")


def _is_floppy_boot(switch: Switch) -> bool:
    if isinstance(switch, Device):
        return switch.props["driver"] == "isa-fdc"
    return isinstance(switch, KeyValue) and any(key.startswith("isa-fdc.bootindex") for key in switch.props)


def _flash(switch: Blockdev, ctx: BuildContext) -> Switch:
    """Return the ``-drive`` of a firmware image."""
    origin = switch.origin
    props: Props = {"if": "pflash", "format": "raw", "unit": 0}
    if isinstance(origin, Nvram):
        path = origin.file
        props["unit"] = 1
    elif isinstance(origin, Loader):
        path = origin.path
        if origin.readonly:
            props["readonly"] = True
    else:
        raise InternalError("an image in flash is of no firmware")
    return KeyValue("drive", {"file": path, **props}, origin=origin)


def _host_drive(switch: Blockdev, dev: Hostdev) -> Switch:
    """Return the ``-drive`` of a SCSI device at an iSCSI server."""
    said = switch.props
    place = f"iscsi://{said['portal']}/{quote(str(said['target']), safe='/.-_~')}/{said['lun']}"
    return KeyValue(
        "drive", {"file": place, "if": "none", "format": "raw", "id": f"drive-{dev.alias.name}"}, origin=dev
    )


def _disk(switch: Device, disk: Disk, ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    if not caps.says("-device"):
        yield from _bare_drive(disk, ctx, caps)
        return
    props = drive_props(disk, ctx, caps)
    is_plain = not caps.says("-drive")
    id = drive_alias(disk)
    if is_plain:
        yield from _letter(disk, ctx)
        return
    yield KeyValue("drive", {**props, "if": "none", "id": id}, origin=disk)
    if disk.target.bus == DiskBus.FDC and not caps.says("floppy"):
        yield from _floppy(disk, id, ctx, caps)
        return
    moved = _POLICIES if caps.says("@typed") else () if caps.says("@whole-frontends") else _MOVED
    kept = {key: value for key, value in switch.props.items() if key not in moved}
    if disk.device == DiskDevice.LUN:
        kept.pop("write-cache", None)
    yield Device({**kept, "drive": id, "driver": _frontend(disk, str(kept["driver"]), caps)}, origin=disk)


def _frontend(disk: Disk, driver: str, caps: DialectCaps) -> str:
    """Return the device of the time before disks and CD-ROMs had types of their own."""
    if driver in ("ide-hd", "ide-cd") and not caps.says("ide-cd"):
        return "ide-drive"
    if driver in ("scsi-hd", "scsi-cd") and not caps.says("scsi-cd"):
        return "scsi-disk"
    return driver


def _floppy(disk: Disk, id: str, ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    where = disk.address
    letter = "B" if isinstance(where, DriveAddress) and where.unit else "A"
    props: Props = {f"drive{letter}": id}
    if orders_by_index(caps):
        props[f"bootindex{letter}"] = boot_index(disk, ctx.domain)
    if not has_builtin_fdc(ctx.domain):
        yield Device({"driver": "isa-fdc", **props}, origin=disk)
        return
    for key, value in props.items():
        if value is not None:
            yield KeyValue("global", {f"isa-fdc.{key}": value}, origin=disk)


def drive_props(disk: Disk, ctx: BuildContext, caps: DialectCaps) -> Props:
    """Return what ``-drive`` says of image and cache. Raises ConfigUnsupported."""
    props: Props = {"file": None if disk.target.tray == "open" else disk_source(disk, ctx)}
    if props["file"] is not None and disk.type != SourceType.DIR and caps.says("-drive:format"):
        props["format"] = DRIVERS.get(disk.driver.type or "", disk.driver.type)
    if disk.device == DiskDevice.CDROM and not _tells_cdrom(disk, caps):
        props["media"] = "cdrom"
    if disk.readonly and caps.says("-drive:readonly"):
        props["readonly"] = True
    if disk.geometry is not None and not caps.says("@whole-frontends"):
        props |= {"cyls": disk.geometry.cyls, "heads": disk.geometry.heads, "secs": disk.geometry.secs}
        props["trans"] = disk.geometry.trans if disk.geometry.trans != "default" else None
    if caps.says("-drive:serial"):
        props["serial"] = disk.serial
    props["cache"] = _cache(disk, caps)
    for name, value in (
        ("aio", disk.driver.io),
        ("discard", disk.driver.discard),
        ("detect-zeroes", detect_zeroes(disk)),
        ("copy-on-read", disk.driver.copy_on_read),
    ):
        if caps.says(f"-drive:{name}"):
            props[name] = value
    if disk.transient is not None and caps.says("-drive:snapshot") and not _snaps_all(ctx):
        props["snapshot"] = True
    if caps.says("@typed"):
        props |= {key: value for key, value in error_policy(disk).items() if key in _said_policies(disk)}
    elif caps.says("-drive:werror") and not caps.says("@whole-frontends"):
        props |= error_policy(disk)
    return props | _throttle(disk, caps)


def _said_policies(disk: Disk) -> set[str]:
    """Return which errors the document has a word for; a start says of reads what is said of writes."""
    said = (("werror", disk.driver.error_policy), ("rerror", disk.driver.rerror_policy))
    return {key for key, value in said if value is not None}


def _snaps_all(ctx: BuildContext) -> bool:
    """Tell whether the document hands ``-snapshot`` on."""
    words = ctx.domain.qemu_commandline
    return words is not None and any(arg.value == "-snapshot" for arg in words.args)


def _tells_cdrom(disk: Disk, caps: DialectCaps) -> bool:
    """Tell whether the device's type says that it is a CD-ROM."""
    types = {DiskBus.IDE: "ide-cd", DiskBus.SATA: "ide-cd", DiskBus.SCSI: "scsi-cd"}
    type = types.get(disk.target.bus or DiskBus.NONE)
    return caps.says("-device") and type is not None and caps.says(type)


def _cache(disk: Disk, caps: DialectCaps) -> str | None:
    mode = effective_cache(disk)
    if mode is None:
        return None
    if not caps.says("-drive:cache=none"):
        return _FIRST_CACHE[mode]
    if mode in ("directsync", "unsafe") and not caps.says(f"-drive:cache={mode}"):
        raise ConfigUnsupported(f"disk cache mode '{mode}' is not supported by this QEMU")
    return mode


def _throttle(disk: Disk, caps: DialectCaps) -> Props:
    said = disk.iotune
    if said is None or said.is_empty():
        return {}
    props: Props = {}
    for name, qemu in THROTTLE.items():
        value = getattr(said, name)
        if value:
            key = _throttle_name(name) if caps.says("-drive:throttling") else qemu
            props[key] = value
    if caps.says("-drive:throttling.group"):
        props["throttling.group"] = said.group_name
    return props


def _throttle_name(name: str) -> str:
    """Return ``throttling.bps-total-max`` for libvirt's ``total_bytes_sec_max``."""
    if name == "size_iops_sec":
        return "throttling.iops-size"
    which, unit, _, *rest = name.split("_")
    return "-".join([f"throttling.{'bps' if unit == 'bytes' else 'iops'}", which, *rest])


# ------------------------------------------------------------ without -device


def _bare_drive(disk: Disk, ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    """Yield the switch that is the whole disk. Raises ConfigUnsupported."""
    if not caps.says("-drive"):
        yield from _letter(disk, ctx)
        return
    props = drive_props(disk, ctx, caps)
    bus = disk.target.bus or DiskBus.NONE
    interface = {DiskBus.FDC: "floppy"}.get(bus, str(bus))
    if bus in (DiskBus.USB, DiskBus.SATA):
        raise ConfigUnsupported(f"bus '{bus}' of disk '{disk.name}' needs an emulator with -device")
    place: Props = {"if": interface}
    where = disk.address
    if bus == DiskBus.FDC:
        place["unit"] = where.unit or 0 if isinstance(where, DriveAddress) else 0
    elif bus in (DiskBus.IDE, DiskBus.SCSI) and isinstance(where, DriveAddress):
        if not caps.says("@drive-units"):
            place["index"] = disk.index
        elif bus == DiskBus.IDE:
            place |= {"bus": where.bus or 0, "unit": where.unit or 0}
        else:
            place |= {"bus": where.controller or 0, "unit": where.unit or 0}
    elif bus not in (DiskBus.VIRTIO,):
        place["index"] = disk.index
    bootable = boot_index(disk, ctx.domain) is not None
    is_disk = disk.device in (DiskDevice.DISK, DiskDevice.LUN)
    if caps.says("-drive:boot") and bootable and is_disk and bus != DiskBus.IDE:
        props["boot"] = True
    yield KeyValue("drive", {**props, **place}, origin=disk)


def _letter(disk: Disk, ctx: BuildContext) -> Iterator[Switch]:
    """Yield ``-hda``, ``-fdb`` or ``-cdrom``: the switches before ``-drive``."""
    file = disk_source(disk, ctx)
    if disk.target.tray == "open" or file is None:
        return  # an open tray is an empty one
    if disk.device == DiskDevice.CDROM and disk.name == "hdc":
        name = "cdrom"
    elif disk.name in ("hda", "hdb", "hdc", "hdd", "fda", "fdb"):
        name = disk.name
    else:
        raise ConfigUnsupported(f"disk '{disk.name}' needs an emulator with -drive")
    yield Option(name, file, origin=disk)
