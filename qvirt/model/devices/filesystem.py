"""``<filesystem>``: a host directory given to the guest, by 9p or virtiofs."""

from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.model.memory import Size
from qvirt.xml.codecs import Codec, on_off, string, uint, ulong, words
from qvirt.xml.fields import attr, child, children, flag, part
from qvirt.xml.node import Node


def _parse_mode(text: str) -> int:
    value = int(text, 8)
    if not 0 <= value <= 0o777:
        raise ValueError(text)
    return value


#: permission bits, octal
_mode: Codec[int] = Codec(_parse_mode, "{:04o}".format, "an octal number from 0 to 777")


class FilesystemDriver(VirtioDriver, tag="driver"):
    type: str | None = attr(words("path", "handle", "loop", "nbd", "ploop", "virtiofs"))
    format: str | None = attr(string)
    wrpolicy: str | None = attr(words("immediate"))
    queue: int | None = attr(ulong)

    def check(self) -> None:
        if self.type is None:  # libvirt keeps none of this without
            self.format = self.wrpolicy = self.queue = None


class VirtiofsCache(Node, tag="cache"):
    mode: str | None = attr(words("none", "always"))


class VirtiofsSandbox(Node, tag="sandbox"):
    mode: str | None = attr(string)


class VirtiofsLock(Node, tag="lock"):
    posix: bool | None = attr(on_off)
    flock: bool | None = attr(on_off)


class ThreadPool(Node, tag="thread_pool"):
    size: int | None = attr(uint)


class VirtiofsBinary(Node, tag="binary"):
    """``<binary>``: which virtiofsd, and its options."""

    path: str | None = attr(string)
    xattr: bool | None = attr(on_off)
    cache: VirtiofsCache = part(VirtiofsCache)
    sandbox: VirtiofsSandbox = part(VirtiofsSandbox)
    lock: VirtiofsLock = part(VirtiofsLock)
    thread_pool: ThreadPool = part(ThreadPool)


class FilesystemSource(Node, tag="source"):
    dir: str | None = attr(string)
    socket: str | None = attr(string)
    file: str | None = attr(string)
    dev: str | None = attr(string)
    name: str | None = attr(string)
    pool: str | None = attr(string)
    volume: str | None = attr(string)
    usage: int | None = attr(ulong)
    units: str | None = attr(string)

    def keep(self, kind: str) -> None:
        """Drop what a source of this type does not have; a server's socket stands for the folder."""
        wanted = ("socket",) if self.socket is not None else _OF_TYPES[kind]
        for known in self.fields:
            if known.name not in wanted:
                self.__dict__.pop(known.name, None)


#: what a source says, by type
_OF_TYPES = {
    "mount": ("dir",),
    "bind": ("dir",),
    "block": ("dev",),
    "file": ("file",),
    "template": ("name",),
    "ram": ("usage", "units"),
    "volume": ("pool", "volume"),
}


class FilesystemTarget(Node, tag="target"):
    dir: str | None = attr(string)


class IdRange(Node):
    start: int = attr(uint, required=True)
    target: int = attr(uint, required=True)
    count: int = attr(uint, required=True)


class IdMap(Node, tag="idmap"):
    uids: list[IdRange] = children(IdRange, "uid")
    gids: list[IdRange] = children(IdRange, "gid")


class Filesystem(Device, tag="filesystem"):
    """``<filesystem>``."""

    type: str = attr(words("mount", "block", "file", "template", "ram", "bind", "volume"), default="mount")
    accessmode: str | None = attr(words("passthrough", "mapped", "squash"))
    fmode: int | None = attr(_mode)
    dmode: int | None = attr(_mode)
    model: str | None = attr(words("virtio", "virtio-transitional", "virtio-non-transitional"))
    multidevs: str | None = attr(words("default", "remap", "forbid", "warn"), omit="default")
    driver: FilesystemDriver = part(FilesystemDriver)
    binary: VirtiofsBinary = part(VirtiofsBinary)
    source: FilesystemSource | None = child(FilesystemSource)
    target: FilesystemTarget | None = child(FilesystemTarget)
    readonly: bool = flag()
    idmap: IdMap = part(IdMap)
    space_hard_limit: Size | None = child(Size, "space_hard_limit")
    space_soft_limit: Size | None = child(Size, "space_soft_limit")

    def check(self) -> None:
        if self.source is not None:
            self.source.keep(self.type)
