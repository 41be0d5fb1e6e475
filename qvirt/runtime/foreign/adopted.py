"""The machine a running QEMU is now: what its monitor answers beside what its command line says; pure.

A machine is brought into words first (``since``: the command line without what was unplugged and with what
was plugged in), which the importer reads; then each element gets what the monitor knows better (``correct``).
"""

import json
import os.path
import re
from collections.abc import Iterator, Sequence
from typing import cast

from qvirt.errors import ConfigUnsupported, OperationUnsupported
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.chardev import CharDevice
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.interface import Interface
from qvirt.model.domain import Domain
from qvirt.model.storage_source import SourceType, StorageSource
from qvirt.qemu.backing import parse_backing
from qvirt.qemu.devices.blockdev import format_node, storage_node
from qvirt.qemu.importer.line import words_of
from qvirt.qemu.importer.options import read_arguments
from qvirt.qemu.importer.parts import Part, Props
from qvirt.qmp.wire import JsonObject
from qvirt.record import Record, field
from qvirt.runtime.foreign.renaming import Kind, Name

#: what is asked of every device that has it
ASKED = (
    "hotplugged", "parent_bus", "addr", "drive", "netdev", "chardev", "iothread", "memdev", "rng", "mac",
    "serial", "bootindex", "share-rw", "nr", "name", "port", "scsi-id", "lun", "channel", "unit", "removable",
    "wwn", "index", "node", "slot",
)  # fmt: skip
#: what a device that was plugged in is described by, beside its bus and address; and what says nothing
_TOLD: Props = {
    "drive": "", "netdev": "", "chardev": "", "iothread": "", "memdev": "", "rng": "", "mac": "",
    "serial": "", "bootindex": -1, "share-rw": False, "nr": 4294967295, "name": "", "port": "", "scsi-id": -1,
    "lun": -1, "unit": -1, "removable": False, "wwn": 0, "node": 0, "slot": -1,
}  # fmt: skip
#: what tells devices of one type from each other
_TELLING = ("unit", "nr", "mac", "scsi-id", "lun", "index")
#: types QEMU has another name for than command lines
_TYPES = {
    "serial-port": "isa-serial", "parallel-port": "isa-parallel", "ahci": "ich9-ahci", "lsi": "lsi53c895a",
    "ac97": "AC97", "es1370": "ES1370", "e1000-82540em": "e1000",
}  # fmt: skip
FORMATS = frozenset(
    {"raw", "qcow", "qcow2", "qed", "vmdk", "vdi", "vpc", "vhdx", "bochs", "cloop", "dmg", "parallels",
     "luks"}
)  # fmt: skip
_FILTERS = frozenset({"throttle", "copy-on-read", "blkdebug", "preallocate", "compress"})
_XML_FORMATS = {"vhdx": "vhd", "parallels": "ploop"}


class Found(Record, eq=False):
    """A device of the running machine. path: its QOM path; props: of ASKED, those it has."""

    path: str
    type: str
    props: Props

    @property
    def id(self) -> str | None:
        """Its id, None where it has none."""
        folder, _, name = self.path.rpartition("/")
        return name if folder == "/machine/peripheral" else None

    @property
    def hotplugged(self) -> bool:
        """Tell whether it was plugged into the running machine."""
        return self.props.get("hotplugged") is True

    @property
    def bus(self) -> str:
        """The name of the bus it sits on."""
        return str(self.props.get("parent_bus") or "").rpartition("/")[2]


class Machine(Record):
    """What a QEMU answers. folder: where its relative paths begin. networks: ``info network``.

    buses: the buses of each device, by its path. objects: type and properties of the objects asked for.
    """

    folder: str
    devices: list[Found]
    blocks: list[JsonObject]
    nodes: list[JsonObject]
    chardevs: list[JsonObject]
    networks: str = ""
    buses: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, Props] = field(default_factory=dict)

    def block_of(self, path: str) -> JsonObject | None:
        """Return the entry of query-block for a device."""
        for entry in self.blocks:
            qdev = str(entry.get("qdev") or "")
            if qdev == path or qdev.startswith(f"{path}/"):
                return entry
            if "/" not in qdev and qdev and path == f"/machine/peripheral/{qdev}":
                return entry
        return None


# ------------------------------------------------------------------------ who is who


def match(
    parts: Sequence[Part], devices: Sequence[Found], fresh: Sequence[Found] = ()
) -> tuple[list[Found | None], list[Found]]:
    """Return the running device for each of a command line's, and those plugged in that it does not have.

    fresh: those plugged in that the command line has meanwhile. Raises OperationUnsupported where it cannot
    be told which of several devices without id is gone.
    """
    left = [found for found in devices if not found.hotplugged or found in fresh]
    matched: list[Found | None] = [None] * len(parts)
    for sure in (True, False):
        for place, part in enumerate(parts):
            if matched[place] is not None:
                continue
            found = _find(part, left, sure=sure)
            if found is not None:
                matched[place] = found
                left.remove(found)
    gone = {
        part.driver for part, found in zip(parts, matched, strict=True) if found is None and part.id is None
    }
    for part, found in zip(parts, matched, strict=True):
        if (
            found is not None
            and part.id is None
            and part.driver in gone
            and not _agrees(part, found, sure=True)
        ):
            raise OperationUnsupported(
                f"a device '{part.driver}' without id was unplugged, and it cannot be told which: "
                "give devices ids (-device …,id=NAME), then unplugged ones are known"
            )
    known = {id(found) for found in matched if found is not None}
    return matched, [found for found in devices if id(found) not in known and found.hotplugged]


def _find(part: Part, left: Sequence[Found], *, sure: bool) -> Found | None:
    type = _TYPES.get(part.driver, part.driver)
    if part.id is not None:
        named = next((found for found in left if found.id == part.id), None)
        if named is not None or (part.given and part.given[0].name == "device"):
            return named
    nameless = (found for found in left if found.id is None and found.type == type)
    return next((found for found in nameless if _agrees(part, found, sure=sure)), None)


def _agrees(part: Part, found: Found, *, sure: bool) -> bool:
    """Tell whether a device may be the one; sure: whether something says that it is."""
    told = 0
    bus = part.text("bus")
    if bus is not None and "/" not in bus and found.bus and bus != found.bus:
        return False
    for key in _TELLING:
        said, has = part.props.get(key), found.props.get(key)
        if said is None or has is None:
            continue
        if str(said).lower() != str(has).lower():
            return False
        told += 1
    addr, has = part.text("addr"), found.props.get("addr")
    if addr is not None and isinstance(has, int):
        if _devfn(addr) != has:
            return False
        told += 1
    return not sure or told > 0


def _devfn(text: str) -> int | None:
    found = re.fullmatch(r"(?:0x)?([0-9a-fA-F]+)(?:\.(?:0x)?([0-7]))?", text)
    return None if found is None else int(found[1], 16) << 3 | int(found[2] or "0")


# -------------------------------------------------------------------- what came and went


def since(
    words: Sequence[str],
    parts: Sequence[Part],
    matched: Sequence[Found | None],
    fresh: Sequence[Found],
    now: Machine,
) -> tuple[list[str], list[str]]:
    """Return the command line's words as they would be now, and a sentence for each difference.

    words: without the emulator.
    """
    notes: list[str] = []
    gone: set[int] = set()
    for part, found in zip(parts, matched, strict=True):
        if found is None and len(part.given) == 1 and part.given[0].name == "device":
            gone.add(part.given[0].number)
            notes.append(f"{part.driver} '{part.id or ''}' was unplugged")
    told = [
        word for argument in read_arguments(words) if argument.number not in gone for word in argument.words
    ]
    said: set[str] = set()
    for found in fresh:
        notes.append(f"{found.type} '{found.id or found.path}' was plugged in")
        for part in _parts(found, now):
            listed = words_of(part)
            if part.kind == "device" or (listed[1] not in said and not _is_there(part, words)):
                told += listed
            said.add(listed[1])
    return told, notes


def _is_there(part: Part, words: Sequence[str]) -> bool:
    """Tell whether the command line makes a backend already."""
    if part.id is None:
        return False
    kinds = ("blockdev", "drive") if part.kind == "blockdev" else (part.kind,)
    named = re.compile(rf"\b(?:id|node-name)\"?[=:] ?\"?{re.escape(part.id)}(?:[,\"]|$)")
    return any(
        argument.name in kinds and named.search(argument.value or "") for argument in read_arguments(words)
    )


def _parts(found: Found, now: Machine) -> Iterator[Part]:
    """Yield what a device that was plugged in rests on, then the device."""
    props: Props = {"driver": found.type}
    if found.id is not None:
        props["id"] = found.id
    if found.bus:
        props["bus"] = found.bus
    devfn = found.props.get("addr")
    if isinstance(devfn, int) and devfn >= 0:
        props["addr"] = f"{devfn >> 3:#x}" + (f".{devfn & 7}" if devfn & 7 else "")
    for key, nothing in _TOLD.items():
        value = found.props.get(key, nothing)
        if value is None or value == nothing:
            continue
        if key in ("iothread", "memdev", "rng") and isinstance(value, str):
            value = value.rpartition("/")[2]
            if key != "iothread" and value in now.objects:
                yield Part("object", now.objects[value])
        elif key == "drive":
            entry = now.block_of(found.path)
            node = _blockdev(str(value), entry)
            if node is not None:
                yield node
        elif key == "netdev":
            yield Part("netdev", _netdev(str(value), now.networks))
        elif key == "chardev":
            yield Part("chardev", _chardev(str(value), now.chardevs))
        props[key] = "on" if value is True else value
    yield Part("device", props)


def _blockdev(name: str, entry: JsonObject | None) -> Part | None:
    inserted = entry.get("inserted") if entry is not None else None
    if not isinstance(inserted, dict):
        return None
    file = str(inserted.get("file") or "")
    format = str(inserted.get("drv") or "raw")
    storage: Props = {"driver": "host_device" if file.startswith("/dev/") else "file", "filename": file}
    if file.startswith("json:"):
        storage = cast("Props", json.loads(file[5:]))
        if storage.get("driver") in FORMATS and isinstance(inner := storage.get("file"), dict):
            storage = inner
    props: Props = {"driver": format, "node-name": name, "file": storage}
    cache = inserted.get("cache")
    if isinstance(cache, dict) and (cache.get("direct") or cache.get("no-flush")):
        props["cache"] = {key: cache.get(key) is True for key in ("direct", "no-flush")}
    if inserted.get("ro") is True:
        props["read-only"] = True
    return Part("blockdev", props, json=True)


def _netdev(name: str, listed: str) -> Props:
    """Return a backend by what ``info network`` shows of it. Raises OperationUnsupported."""
    found = re.search(rf"^\s*\\? ?{re.escape(name)}: index=\d+,type=([a-z-]+),?(.*)$", listed, re.M)
    kind = found[1] if found is not None else "?"
    pairs = (pair.partition("=") for pair in (found[2] if found is not None else "").split(","))
    shown = {key: value for key, _, value in pairs}
    if kind == "user":
        return {"type": "user", "id": name}
    if kind == "tap" and shown.get("ifname"):
        return {
            "type": "tap",
            "id": name,
            "ifname": shown["ifname"].strip(),
            "script": "no",
            "downscript": "no",
        }
    raise OperationUnsupported(
        f"an interface was plugged in whose backend '{name}' (type {kind}) QEMU does not describe: "
        "unplug it, adopt the machine, and plug it in again"
    )


def _chardev(name: str, listed: Sequence[JsonObject]) -> Props:
    """Return a character device by what query-chardev shows of it. Raises OperationUnsupported."""
    shown = next((str(entry.get("filename")) for entry in listed if entry.get("label") == name), "")
    kind, _, rest = shown.removeprefix("disconnected:").partition(":")
    match kind:
        case "pty":
            return {"backend": "pty", "id": name}
        case "unix":
            path, _, options = rest.partition(",")
            is_server = "server" in options and "server=off" not in options
            server: Props = {"server": "on", "wait": "off"} if is_server else {}
            return {"backend": "socket", "id": name, "path": path, **server}
        case "null":
            return {"backend": "null", "id": name}
    raise OperationUnsupported(
        f"a device was plugged in whose line '{name}' ({shown or 'unknown'}) QEMU does not describe: "
        "unplug it, adopt the machine, and plug it in again"
    )


# ------------------------------------------------------------------------ corrections


def correct(domain: Domain, pairs: Sequence[tuple[Device | None, Found | None]], now: Machine) -> list[str]:
    """Bring what the monitor knows better into an imported domain; returns a sentence for each change."""
    notes: list[str] = []
    for device, found in pairs:
        if device is None or found is None:
            continue
        if isinstance(device, Disk):
            notes += _medium(device, found, now)
        devfn = found.props.get("addr")
        if isinstance(devfn, int) and devfn >= 0 and isinstance(device.address, (PciAddress, type(None))):
            _place(device, found, devfn)
    _absolute(domain, now.folder)
    return notes


def _place(device: Device, found: Found, devfn: int) -> None:
    where = device.address
    if where is None:
        if found.bus not in ("pci.0", "pcie.0"):
            return
        device.address = PciAddress(domain=0, bus=0, slot=devfn >> 3, function=devfn & 7)
    elif isinstance(where, PciAddress):
        where.slot, where.function = devfn >> 3, devfn & 7


def _medium(disk: Disk, found: Found, now: Machine) -> list[str]:
    """Say what is in a drive now."""
    if disk.transient is not None:
        return []  # the file it shows is the overlay
    entry = now.block_of(found.path)
    inserted = entry.get("inserted") if entry is not None else None
    had = disk.source.local_path if disk.source is not None else None
    if not isinstance(inserted, dict):
        if disk.is_removable and disk.source is not None:
            disk.source = disk.backing_store = None
            disk.driver.type = None
            return [f"the drive {disk.name} is empty; it had {had}"]
        return []
    file = _storage(inserted.get("file"))
    format = str(inserted.get("drv") or "raw")
    path = os.path.join(now.folder, file)
    if had is not None and os.path.join(now.folder, had) == path:
        return []
    if disk.source is not None and had is None:
        return []  # reached by the network; its name is written in more than one way
    try:
        kind, source = parse_backing(file if ":" in file else path, None)
    except ConfigUnsupported:
        return [f"the drive {disk.name} has '{file}', which XML cannot say"]
    if kind == SourceType.FILE and path.startswith("/dev/"):
        kind, source = SourceType.BLOCK, StorageSource(dev=path)
    disk.type, disk.source, disk.backing_store = kind, source, None
    if format in FORMATS:
        disk.driver.type = _XML_FORMATS.get(format, format)
    return [f"the drive {disk.name} has {path}, no longer {had or 'nothing'}"]


def _storage(said: object) -> str:
    """Return the file at the bottom of what QEMU calls a node's; it writes filters as JSON."""
    file = str(said or "")
    while file.startswith("json:"):
        node: object = json.loads(file[5:])
        while isinstance(node, dict) and isinstance(node.get("file"), dict):
            node = node["file"]
        if not isinstance(node, dict) or not isinstance(node.get("filename"), str):
            return file
        file = node["filename"]
    return file


def _absolute(domain: Domain, folder: str) -> None:
    """Write relative paths whole: they begin where that QEMU was started, not where the next one is."""

    def whole(path: str | None) -> str | None:
        return os.path.join(folder, path) if path else path

    os_ = domain.os
    for name in ("kernel", "initrd", "dtb"):
        value = getattr(os_, name)
        if value:
            setattr(os_, name, whole(value))
    for disk in domain.devices.disks:
        if disk.source is not None:
            disk.source.file = whole(disk.source.file)
            disk.source.dir = whole(disk.source.dir)
    for device in domain.devices.all():
        if isinstance(device, CharDevice) and device.type in ("unix", "file", "pipe"):
            for source in device.sources:
                source.path = whole(source.path)


# ------------------------------------------------------------------------------ names


def give_aliases(domain: Domain, pairs: Sequence[tuple[Device | None, Found | None]]) -> None:
    """Call the devices of a live definition by their ids in QEMU."""
    for device, found in pairs:
        if device is None:
            continue
        renamed = device.alias.name
        device.alias.name = found.id if found is not None else None
        if domain.qemu_override is not None and renamed is not None and device.alias.name is not None:
            for override in domain.qemu_override.devices:
                if override.alias == renamed:
                    override.alias = device.alias.name


def untangle(domain: Domain) -> None:
    """Give a device another alias where the one of its place is the id of a device before it."""
    seen: set[str] = set()
    for device in domain.devices.all():
        name = device.alias.name
        if name is None:
            continue
        base, number = name, 1
        while name in seen:
            name, number = f"{base}-{number}", number + 1
        device.alias.name = name
        seen.add(name)


def names(pairs: Sequence[tuple[Part, Device | None, Found | None]], now: Machine) -> Iterator[Name]:
    """Yield what QEMU calls the things of a live definition, which has its aliases and images."""
    for part, device, found in pairs:
        if device is None or found is None or device.alias.name is None:
            continue
        alias = device.alias.name
        thread = part.text("iothread")
        number = getattr(getattr(device, "driver", None), "iothread", None)
        if thread is not None and number is not None:
            yield Name(Kind.OBJECT, f"iothread{number}", thread)
        if found.id is None:
            yield Name(Kind.DEVICE, alias, found.path)
        if isinstance(device, Disk):
            yield from _block_names(device, found, now)
        elif isinstance(device, Interface):
            netdev = found.props.get("netdev")
            if isinstance(netdev, str) and netdev:
                yield Name(Kind.NETDEV, f"host{alias}", netdev)
                if found.id is None:
                    yield Name(Kind.LINK, alias, netdev)
        elif isinstance(device, Controller):
            bus = alias if device.type is ControllerType.PCI else f"{alias}.0"
            theirs = now.buses.get(found.path, [])
            if theirs:
                yield Name(Kind.BUS, bus, theirs[0])
        chardev = found.props.get("chardev")
        if isinstance(chardev, str) and chardev:
            yield Name(Kind.CHARDEV, f"char{alias}", chardev)


def take_indexes(domain: Domain, pairs: Sequence[tuple[Device | None, Found | None]], now: Machine) -> None:
    """Number the images whose nodes have a name of our scheme as that name says; others come after them."""
    highest = 0
    for node in now.nodes:
        said = re.fullmatch(r"libvirt-(\d+)-(?:format|storage)", str(node.get("node-name")))
        highest = max(highest, int(said[1]) if said is not None else 0)
    for disk in domain.devices.disks:
        for image in disk.images():
            image.index = None
    for device, _ in pairs:
        if not isinstance(device, Disk):
            continue
        for image in device.images():
            name = _node(_path(image.source.local_path, now), now, formats=True)
            said = re.fullmatch(r"libvirt-(\d+)-format", name or "")
            if said is not None:
                image.index = int(said[1])
            else:
                highest += 1
                image.index = highest


def _path(path: str | None, now: Machine) -> str:
    return os.path.join(now.folder, path) if path else ""


def _node(path: str, now: Machine, *, formats: bool) -> str | None:
    """Return the node that has an image: of its format or of its storage."""
    for node in now.nodes:
        driver = str(node.get("drv"))
        if driver in _FILTERS or (driver in FORMATS) is not formats:
            continue
        if path and _path(_storage(node.get("file")), now) == path:
            return str(node.get("node-name"))
    return None


def _block_names(disk: Disk, found: Found, now: Machine) -> Iterator[Name]:
    entry = now.block_of(found.path)
    if entry is None:
        return
    inserted = entry.get("inserted")
    top = str(inserted.get("node-name")) if isinstance(inserted, dict) else None
    implicit = bool(entry.get("device"))
    for image in disk.images():
        path = _path(image.source.local_path, now)
        theirs = top if image.depth == 0 and top is not None else _node(path, now, formats=True)
        if theirs is not None:
            yield Name(Kind.BLOCK, format_node(image), theirs, implicit or theirs.startswith("#"))
        below = _node(path, now, formats=False)
        if below is not None:
            yield Name(Kind.BLOCK, storage_node(image), below, implicit or below.startswith("#"))
