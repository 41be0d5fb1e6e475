"""Images: ``-drive`` and trees of ``-blockdev`` as the source of a ``<disk>``."""

import re
from urllib.parse import unquote, urlsplit

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.disk import Disk, DiskBus, DiskDevice, Transient
from qvirt.model.storage_chain import BackingStore, ChainFormat
from qvirt.model.storage_source import Auth, ConfigFile, Host, Protocol, SecretUse, SourceType, StorageSource
from qvirt.qemu.backing import parse_backing
from qvirt.qemu.devices.blockdev import CACHE_MODES
from qvirt.qemu.devices.disk import THROTTLE
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.parts import Part, Props, Unfit, integer, switch, without
from qvirt.qemu.keyval import JsonValue

#: formats XML can name, by QEMU's names
_FORMATS = frozenset(
    {"raw", "qcow", "qcow2", "qed", "vmdk", "vdi", "vpc", "vhdx", "bochs", "cloop", "dmg", "parallels"}
)
_XML_FORMATS = {"vhdx": "vhd", "parallels": "ploop"}
#: sheepdog:HOST:PORT:NAME, the host left out or not
_SHEEPDOG = re.compile(r"sheepdog:(?:([^:/]+):([0-9]+):)?([^/].*)")
_CACHE = {"off": "none"}
#: what a file's name says of its format, where nothing else does
_SUFFIXES = {
    "qcow2": "qcow2", "qcow": "qcow2", "qed": "qed", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx",
    "vpc": "vpc", "vhd": "vpc",
}  # fmt: skip
_DRIVE_KEYS = frozenset(
    [
        "file",
        "format",
        "driver",
        "if",
        "index",
        "bus",
        "unit",
        "media",
        "id",
        "cache",
        "aio",
        "discard",
        "detect-zeroes",
        "readonly",
        "read-only",
        "snapshot",
        "werror",
        "rerror",
        "copy-on-read",
        "cache.direct",
        "cache.writeback",
        "cache.no-flush",
        "boot",
        "auto-read-only",
        "node-name",
        "cyls",
        "heads",
        "secs",
        "trans",
        "file.driver",
        "file.filename",
        "file.locking",
        "file.aio",
    ]
)
_THROTTLE = {f"throttling.{name}": libvirt for libvirt, name in THROTTLE.items()}
_OLD_THROTTLE = {
    "bps": "total_bytes_sec", "bps_rd": "read_bytes_sec", "bps_wr": "write_bytes_sec",
    "iops": "total_iops_sec", "iops_rd": "read_iops_sec", "iops_wr": "write_iops_sec",
    "bps_max": "total_bytes_sec_max", "bps_rd_max": "read_bytes_sec_max", "bps_wr_max": "write_bytes_sec_max",
    "iops_max": "total_iops_sec_max", "iops_rd_max": "read_iops_sec_max", "iops_wr_max": "write_iops_sec_max",
    "iops_size": "size_iops_sec",
}  # fmt: skip
_KNOWN_KEYS = _DRIVE_KEYS | _THROTTLE.keys() | _OLD_THROTTLE.keys() | {"throttling.group"}
_NODE_KEYS = frozenset(
    {"driver", "node-name", "file", "read-only", "auto-read-only", "cache", "discard", "detect-zeroes",
     "filename", "aio", "backing", "locking", "size", "offset"}
)  # fmt: skip


def take_image(line: Line, part: Part, disk: Disk) -> list[Part]:
    """Give the disk the image its part names; return the parts used. Raises Unfit."""
    name = part.props.get("drive")
    if name is None:
        if disk.device == DiskDevice.DISK:
            raise Unfit("it has no drive")
        return []
    drive = line.parts.find("drive", name)
    if drive is not None:
        _free(drive)
        read_drive(line, drive, disk)
        return [drive]
    node = line.parts.find("blockdev", name)
    if node is None:
        raise Unfit(f"its drive '{name}' is nowhere defined")
    used: list[Part] = []
    _tree(line, node, disk, used)
    return used


def _free(part: Part) -> None:
    if part.settled:
        raise Unfit(f"its drive '{part.id}' belongs to another device already")


# ------------------------------------------------------------ -drive


def read_drive(line: Line, drive: Part, disk: Disk) -> None:
    """Say a ``-drive`` in the document's words. Raises Unfit."""
    strange = [key for key in drive.props if key not in _KNOWN_KEYS]
    if strange:
        raise Unfit(f"its drive says {', '.join(strange)}, which has no XML")
    driver = disk.driver
    path = drive.text("file") or drive.text("file.filename") or ""
    if drive.text("file.driver") not in (None, "file", "host_device"):
        raise Unfit(f"images reached by '{drive.text('file.driver')}' in pieces")
    format = drive.text("format") or drive.text("driver")
    if format in ("host_device", "file", "host_cdrom"):
        format = "raw"
    if format is not None and format not in _FORMATS:
        raise Unfit(f"image format '{format}' has no XML")
    locate(line, disk, path)
    if disk.has_medium and disk.type != SourceType.DIR:
        if format is None:
            format = _probe(line, path, drive)
        driver.type = _XML_FORMATS.get(format, format) if format is not None else None
        _may_be_missing(line, disk, drive)
    if drive.text("file.locking") is not None:
        line.note("locking of the image is the daemon's", drive.given)
    driver.cache = _cache(drive.props)
    aio = drive.text("aio") or drive.text("file.aio")
    if aio in ("native", "threads", "io_uring"):
        driver.io = aio
    discard = drive.text("discard")
    if discard is not None:
        driver.discard = "unmap" if discard in ("unmap", "on") else "ignore"
    zeroes = drive.text("detect-zeroes")
    if zeroes in ("on", "off", "unmap"):
        driver.detect_zeroes = zeroes
    if drive.flag("readonly") or drive.flag("read-only"):
        disk.readonly = True
    if drive.flag("copy-on-read"):
        driver.copy_on_read = True
    if drive.props.get("media") == "cdrom":
        disk.readonly = True
    for_all = bool(line.given("snapshot")) and disk.device == DiskDevice.DISK and not disk.readonly
    snapshot = drive.flag("snapshot")
    if disk.has_medium and (for_all if snapshot is None else snapshot):
        disk.transient = Transient()
    _policy(disk, drive)
    for key, value in drive.props.items():
        name = _THROTTLE.get(key) or _OLD_THROTTLE.get(key)
        if name is not None:
            setattr(disk.iotune, name, integer(value, key))
    if drive.text("throttling.group") is not None:
        disk.iotune.group_name = drive.text("throttling.group")


def _policy(disk: Disk, part: Part) -> None:
    write, read = part.text("werror"), part.text("rerror")
    words = {"enospc": "enospace"}
    if write is not None and write != "auto":
        disk.driver.error_policy = words.get(write, write)
    if read is not None and read != "auto":
        disk.driver.rerror_policy = words.get(read, read)


def locate(line: Line, disk: Disk, path: str) -> None:
    """Say where an image is; an empty path is an empty drive. Raises Unfit."""
    if not path:
        return
    scheme, _, rest = path.partition(":")
    if scheme == "fat":
        _folder(disk, rest)
        return
    if scheme in ("json", "blkdebug", "blkverify", "null-co", "null-aio", "nvme", "vvfat", "quorum"):
        raise Unfit(f"images of the kind '{scheme}:' have no XML")
    old = _SHEEPDOG.fullmatch(path)
    if old is not None:
        disk.type = SourceType.NETWORK
        disk.source = StorageSource(protocol=Protocol.SHEEPDOG, name=old[3])
        disk.source.hosts = [Host(name=old[1], port=old[2])] if old[1] is not None else []
        return
    try:
        kind, source = parse_backing(path, None)
    except ConfigUnsupported as error:
        raise Unfit(str(error)) from None
    _credentials(line, source, path)
    if source.protocol == Protocol.RBD and not source.hosts:
        source.hosts = _monitors(line.env.get("CEPH_ARGS", ""))
    disk.type = kind
    if kind == SourceType.FILE and source.file is not None:
        found = line.kind(source.file)
        if found == "block" or (found != "file" and source.file.startswith("/dev/")):
            disk.type, source = SourceType.BLOCK, StorageSource(dev=source.file)
    disk.source = source


def _folder(disk: Disk, text: str) -> None:
    """Read ``fat:``, a folder shown as a disk that cannot be written to. Raises Unfit for any other."""
    is_floppy = text.startswith("floppy:")
    path = text.removeprefix("floppy:")
    if re.match(r"(?:rw|12|16|32|floppy):", path) or is_floppy != (disk.device == DiskDevice.FLOPPY):
        raise Unfit(f"a folder of the kind 'fat:{text}' has no XML")
    disk.type, disk.source, disk.readonly = SourceType.DIR, StorageSource(dir=path), True
    disk.driver.type = "fat"


#: what of a Ceph image's options the document says in another way
_RBD_OPTIONS = frozenset({"id", "key", "conf", "mon_host", "auth_supported"})
_SECRETS = {Protocol.RBD: "ceph", Protocol.ISCSI: "iscsi"}


def _credentials(line: Line, source: StorageSource, path: str) -> None:
    """Read who QEMU is to a server, and what else the way to an image says. Raises Unfit for the rest."""
    user: str | None = None
    password: str | None = None
    if source.protocol == Protocol.RBD:
        words = path.replace("\\:", "\0").split(":")[2:]
        said = {key: value.replace("\0", ":") for key, _, value in (word.partition("=") for word in words)}
        user, password = said.get("id"), said.get("key")
        strange = said.keys() - _RBD_OPTIONS
        if strange or (user is None) != (password is None):
            raise Unfit(f"its image says {', '.join(sorted(strange or {'id'}))}, which has no XML")
        if "conf" in said:
            source.config = ConfigFile(file=said["conf"])
    elif "://" in path and source.protocol is not None:
        uri = urlsplit(path)
        user, password = uri.username, uri.password
        if source.protocol == Protocol.ISCSI and user is not None and password is None:
            user, _, password = unquote(user).partition("%")
        if user is not None and source.protocol != Protocol.ISCSI:
            raise Unfit(f"its image is reached as {user}, which has no XML")
    if user is None or source.protocol is None:
        return
    kind = _SECRETS[source.protocol]
    usage = f"{kind} of {user}"
    source.auth = Auth(username=user, secret=SecretUse(type=kind, usage=usage))
    line.note(f"the password of {user} is a <secret> to be defined: of type {kind}, with usage '{usage}'")


def _may_be_missing(line: Line, disk: Disk, part: Part) -> None:
    """Let the guest start without a disc or floppy that is not there now."""
    is_removable = part.props.get("media") == "cdrom" or part.props.get("if") == "floppy"
    path = disk.source.local_path if disk.source is not None else None
    if path is None or disk.source is None or not is_removable or line.kind(path) != "missing":
        return
    disk.source.startup_policy = "optional"
    line.note(f"{path} is not there: startupPolicy='optional' starts the guest without it", part.given)


def _monitors(text: str) -> list[Host]:
    """Return the servers that CEPH_ARGS names with ``-m``."""
    found = re.search(r"(?:^|\s)-m\s*(\S+)", text)
    hosts: list[Host] = []
    for word in found[1].split(",") if found is not None else ():
        name, _, port = word.partition(":")
        hosts.append(Host(name=name, port=port or None))
    return hosts


def _probe(line: Line, path: str, part: Part) -> str | None:
    found = line.probe(path.removeprefix("file:"))
    if found is None:
        guess = _SUFFIXES.get(path.rpartition(".")[2].lower())
        line.note(
            f"the format of {path} is not said and the file cannot be looked at: {guess or 'raw'} is assumed",
            part.given,
        )
        return guess
    line.note(f"the format of {path} is not said; the file is {found}", part.given)
    return found


def _cache(props: Props) -> str | None:
    said = props.get("cache")
    if isinstance(said, str):
        said = _CACHE.get(said, said)
        if said not in CACHE_MODES:
            raise Unfit(f"cache mode '{said}' has no XML")
        return said
    write_back = switch(props.get("cache.writeback"))
    tree: dict[str, JsonValue] = said if isinstance(said, dict) else {
        key: props.get(f"cache.{key}") for key in ("direct", "no-flush")
    }  # fmt: skip
    direct, no_flush = switch(tree.get("direct")), switch(tree.get("no-flush"))
    if direct is None and no_flush is None and write_back is None:
        return None
    wanted = (write_back is not False, bool(direct), bool(no_flush))
    for name, mode in CACHE_MODES.items():
        if (mode.write_back, mode.direct, mode.no_flush) == wanted:
            return name
    raise Unfit("its cache settings are no mode of XML")


# ------------------------------------------------------------ -blockdev


def _tree(line: Line, node: Part, disk: Disk, used: list[Part]) -> None:
    """Read a tree of block nodes into a disk. Raises Unfit."""
    top = _child(line, node.props, used, node)
    props = top
    while props.get("driver") in ("throttle", "copy-on-read"):
        if props["driver"] == "copy-on-read":
            disk.driver.copy_on_read = True
            if set(props) - _NODE_KEYS:
                raise Unfit("its filter says what XML cannot")
        else:
            _throttle(line, props, disk, used)
        props = _child(line, props.get("file"), used)
    format, storage, said = _format(line, props, used)
    disk.driver.type = _XML_FORMATS.get(format, format)
    _storage(line, disk, storage)
    for name in ("discard", "detect-zeroes"):
        value = said.get(name)
        if value is not None:
            word = str(value) if not isinstance(value, bool) else ("on" if value else "off")
            if name == "discard":
                disk.driver.discard = "unmap" if word in ("unmap", "on") else "ignore"
            else:
                disk.driver.detect_zeroes = word
    disk.driver.cache = _cache(said) or _cache(storage)
    aio = storage.get("aio")
    if aio in ("native", "threads", "io_uring"):
        disk.driver.io = str(aio)
    if switch(said.get("read-only")) or switch(top.get("read-only")):
        disk.readonly = True
    backing = said.get("backing")
    if "backing" in said:
        disk.backing_store = _below(line, backing, used)


def _child(line: Line, value: JsonValue, used: list[Part], part: Part | None = None) -> Props:
    """Return a node's properties: written in place, or a node of its own that is named."""
    if isinstance(value, dict):
        if part is not None:
            _claim(part, used)
        return value
    named = line.parts.find("blockdev", value)
    if named is None:
        raise Unfit(f"its block node '{value}' is nowhere defined")
    _claim(named, used)
    return named.props


def _claim(part: Part, used: list[Part]) -> None:
    if part.settled:
        raise Unfit(f"its block node '{part.id}' belongs to another device already")
    used.append(part)


def _format(line: Line, props: Props, used: list[Part]) -> tuple[str, Props, Props]:
    """Return the format, the storage node below and the format node's own properties. Raises Unfit."""
    format = str(props.get("driver"))
    if format not in _FORMATS:
        raise Unfit(f"its drive is a bare '{format}' node; XML has a format above it")
    strange = set(props) - _NODE_KEYS
    if strange or "offset" in props:
        raise Unfit(f"its format node says {', '.join(sorted(strange)) or 'offset'}, which has no XML")
    if "size" in props and format != "raw":
        raise Unfit("its format node says size, which has no XML")
    if "size" in props:
        raise Unfit("its image is a part of a file, cut at a size")
    return format, _child(line, props.get("file"), used), props


def _storage(line: Line, disk: Disk, storage: Props) -> None:
    driver = storage.get("driver")
    if driver in ("file", "host_device") and isinstance(storage.get("filename"), str):
        strange = set(storage) - _NODE_KEYS
        if strange:
            raise Unfit(f"its storage node says {', '.join(sorted(strange))}, which has no XML")
        path = str(storage["filename"])
        if driver == "host_device":
            disk.type, disk.source = SourceType.BLOCK, StorageSource(dev=path)
        else:
            locate(line, disk, path)
        return
    raise Unfit(f"its image is reached by '{driver}'")


def _throttle(line: Line, props: Props, disk: Disk, used: list[Part]) -> None:
    group = line.parts.find("object", props.get("throttle-group"))
    if group is None:
        raise Unfit("its throttle group is nowhere defined")
    limits = group.props.get("limits")
    said = {
        key.removeprefix("x-"): value
        for key, value in group.props.items()
        if key not in ("id", "qom-type", "limits")
    }
    if isinstance(limits, dict):
        said |= limits
    words = {qemu.replace("_", "-"): libvirt for libvirt, qemu in THROTTLE.items()}
    names = {
        "bps-total": "bps", "bps-read": "bps-rd", "bps-write": "bps-wr",
        "iops-total": "iops", "iops-read": "iops-rd", "iops-write": "iops-wr",
    }  # fmt: skip
    for key, value in said.items():
        base = next(
            (key.replace(long, short, 1) for long, short in names.items() if key.startswith(long)), key
        )
        word = words.get(base)
        if word is None:
            raise Unfit(f"its throttle group says {key}, which has no XML")
        setattr(disk.iotune, word, integer(value, key))
    if said:
        disk.iotune.group_name = group.id
    if group not in used:
        used.append(group)


def _below(line: Line, value: JsonValue, used: list[Part]) -> BackingStore:
    if value is None or value == "":
        return BackingStore()
    format, storage, said = _format(line, _child(line, value, used), used)
    probe = Disk()
    _storage(line, probe, storage)
    store = BackingStore(type=str(probe.type), format=ChainFormat(type=format), source=probe.source)
    if "backing" in said:
        store.backing_store = _below(line, said["backing"], used)
    return store


def bus_of(name: str) -> DiskBus:
    """Return the bus by libvirt's name."""
    return DiskBus(name)


__all__ = ["bus_of", "locate", "read_drive", "take_image", "without"]
