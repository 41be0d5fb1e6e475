"""Disk images on this machine: what format a file has, what is below it, and whether the chain is whole.

Headers are read, never trusted for the top image: there the document's format counts. Everything here that
touches a file blocks: callers run it in a worker with a deadline.
"""

import contextlib
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable
from functools import partial

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, QvirtError, SystemError_
from qvirt.host.asuser import as_user
from qvirt.host.config import QemuUser
from qvirt.model.devices.disk import Disk
from qvirt.model.storage_chain import BackingStore, ChainFormat, Image
from qvirt.model.storage_source import BACKING_FORMATS, SourceType, StorageSource
from qvirt.qemu.backing import parse_backing
from qvirt.record import Record, replace

#: bytes of a file that are looked at; a qcow2 backing name sits in the first cluster, which is at most 2 MiB
HEADER_SIZE = 64 * 1024
#: bytes of a name of an image below; QEMU's limit
_LONGEST_NAME = 1023
#: images in one chain; libvirt's limit
MAX_DEPTH = 200

#: what an image said was below it when its QEMU had changed that by itself
_DISTRUSTED = "trusted.qvirt.backing.distrusted"

_BACKING_GUIDE = "See https://libvirt.org/kbase/backing_chains.html for troubleshooting"


class ImageInfo(Record):
    """What an image's header says.

    capacity: bytes the guest sees; None when the format does not say (raw: the file's size).
    backing: the string that names the image below, as written. backing_format: None when it is not said.
    data_file: where a qcow2 image keeps its data, when it is another file.
    """

    format: str
    capacity: int | None = None
    backing: str | None = None
    backing_format: str | None = None
    encrypted: bool = False
    data_file: str | None = None


# ------------------------------------------------------------ headers


def identify(head: bytes) -> ImageInfo:
    """Tell the format of an image from its first bytes; raw when nothing is recognised."""
    for offset, magic, read in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            info = read(head)
            if info is not None:
                return info
    return ImageInfo("raw")


def parse_header(head: bytes, format: str) -> ImageInfo:
    """Read the header as the given format's; without its magic there is nothing to read."""
    info = identify(head)
    return info if info.format == format else ImageInfo(format)


def _qcow2(head: bytes) -> ImageInfo | None:
    if len(head) < 72:
        return None
    (version,) = struct.unpack_from(">I", head, 4)
    if version == 1:
        return _qcow1(head)
    offset, length, _bits, size, crypt = struct.unpack_from(">QIIQI", head, 8)
    start = 72
    incompatible = 0
    if version >= 3 and len(head) >= 104:
        (incompatible,) = struct.unpack_from(">Q", head, 72)
        (start,) = struct.unpack_from(">I", head, 100)
    backing = _name(head, offset, length)
    extensions = _qcow2_extensions(head, start, offset or len(head))
    return ImageInfo(
        "qcow2",
        capacity=size,
        backing=backing,
        backing_format=extensions.get(0xE2792ACA) if backing is not None else None,
        encrypted=crypt != 0,
        data_file=extensions.get(0x44415441) if incompatible & 4 else None,
    )


def _qcow2_extensions(head: bytes, offset: int, end: int) -> dict[int, str]:
    found: dict[int, str] = {}
    end = min(end, len(head))
    while offset + 8 <= end:
        kind, length = struct.unpack_from(">II", head, offset)
        offset += 8
        if kind == 0 or offset + length > end:
            break
        found[kind] = head[offset : offset + length].split(b"\0")[0].decode("utf-8", "replace")
        offset += (length + 7) & ~7
    return found


def _qcow1(head: bytes) -> ImageInfo:
    offset, length, _mtime, size = struct.unpack_from(">QIIQ", head, 8)
    (crypt,) = struct.unpack_from(">I", head, 36)
    return ImageInfo("qcow", capacity=size, backing=_name(head, offset, length), encrypted=crypt != 0)


def _qed(head: bytes) -> ImageInfo | None:
    if len(head) < 64:
        return None
    (features,) = struct.unpack_from("<Q", head, 16)
    (size,) = struct.unpack_from("<Q", head, 48)
    offset, length = struct.unpack_from("<II", head, 56)
    backing = _name(head, offset, length) if features & 1 else None
    # bit 2: the image below is not to be probed, so it is raw
    return ImageInfo(
        "qed", capacity=size, backing=backing, backing_format="raw" if backing and features & 4 else None
    )


def _vmdk(head: bytes) -> ImageInfo | None:
    if len(head) < 36:
        return None
    sectors, _grain, descriptor = struct.unpack_from("<QQQ", head, 12)
    text = head[descriptor * 512 : descriptor * 512 + 20 * 1024]
    return _vmdk_descriptor(text, sectors * 512)


def _vmdk_text(head: bytes) -> ImageInfo | None:
    return _vmdk_descriptor(head, None)


def _vmdk_descriptor(text: bytes, capacity: int | None) -> ImageInfo:
    parent = re.search(rb'^parentFileNameHint="([^"]*)"', text, re.MULTILINE)
    orphan = re.search(rb"^parentCID=ffffffff\s*$", text, re.MULTILINE | re.IGNORECASE)
    named = parent is not None and orphan is None and len(parent[1]) <= _LONGEST_NAME
    backing = _text(parent[1]) if named and parent is not None else None
    return ImageInfo("vmdk", capacity=capacity, backing=backing, backing_format="vmdk" if backing else None)


def _plain(
    format: str, size: tuple[str, int] | None = None, unit: int = 1
) -> Callable[[bytes], ImageInfo | None]:
    """Return the reader of a format of which only the capacity is of interest."""

    def read(head: bytes) -> ImageInfo | None:
        if size is None:
            return ImageInfo(format)
        layout, offset = size
        if len(head) < offset + struct.calcsize(layout):
            return None
        return ImageInfo(format, capacity=struct.unpack_from(layout, head, offset)[0] * unit)

    return read


def _luks(head: bytes) -> ImageInfo | None:
    return ImageInfo("raw", encrypted=True)


def _name(head: bytes, offset: int, length: int) -> str | None:
    if not offset or not length or length > _LONGEST_NAME or offset + length > len(head):
        return None
    return _text(head[offset : offset + length])


def _text(name: bytes) -> str | None:
    """Return a name as QEMU reads it: up to the first NUL; None for what is none."""
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape") or None


_MAGICS: tuple[tuple[int, bytes, Callable[[bytes], ImageInfo | None]], ...] = (
    (0, b"QFI\xfb", _qcow2),
    (0, b"QED\0", _qed),
    (0, b"KDMV", _vmdk),
    (0, b"# Disk DescriptorFile", _vmdk_text),
    (64, b"\x7f\x10\xda\xbe", _plain("vdi", ("<Q", 368))),
    (0, b"conectix", _plain("vpc", (">Q", 48))),
    (0, b"vhdxfile", _plain("vhd")),
    (0, b"WithoutFreeSpace", _plain("ploop", ("<Q", 36), 512)),
    (0, b"WithouFreSpacExt", _plain("ploop", ("<Q", 36), 512)),
    (0, b"Bochs Virtual HD Image", _plain("bochs")),
    (0, b"#!/bin/sh\n#V2.0 Format\n", _plain("cloop")),
    (0, b"OOOM", _plain("cow")),
    (0, b"LUKS\xba\xbe", _luks),
)


# ------------------------------------------------------------ files


def read_header(path: str) -> bytes:
    """Return the first bytes of a file or block device. Blocking; raises OSError."""
    # O_NONBLOCK: a FIFO put in the place of an image does not hold us
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.pread(fd, HEADER_SIZE, 0)
    finally:
        os.close(fd)


def read_info(path: str, format: str | None = None) -> ImageInfo:
    """Return what the header says, of the given format or of the one found. Blocking; raises OSError."""
    head = read_header(path)
    return identify(head) if format is None else parse_header(head, format)


def is_block(path: str) -> bool:
    """Tell whether the path is a block device. Blocking; raises OSError."""
    return stat.S_ISBLK(os.stat(path).st_mode)


# ------------------------------------------------------------ chains


def find_chain(
    type: str, source: StorageSource, format: str | None, *, user: tuple[int, int] | None = None
) -> BackingStore:
    """Return the images below a source, down to the end marker. Blocking.

    Images on servers are not opened; the chain ends there as far as this machine can tell, and QEMU finds out
    the rest. user: (uid, gid) named in messages.
    Raises SystemError_ for an image that cannot be read, ConfigUnsupported for one whose format nobody says,
    InternalError for a chain that comes back to itself.
    """
    end = BackingStore()
    path = source.local_path
    if type not in (SourceType.FILE, SourceType.BLOCK) or path is None or source.fdgroup is not None:
        return end
    if format not in BACKING_FORMATS:
        _must_exist(path)
        return end
    seen = {_identity(path, None, user)}
    below: list[BackingStore] = []
    info = _info(path, format, None, user)
    while info.backing is not None:
        _check_trust(path, info)
        if len(below) >= MAX_DEPTH:
            raise InternalError(f"backing chain of '{source.local_path}' has more than {MAX_DEPTH} images")
        kind, lower = parse_backing(info.backing, path)
        above, path = path, lower.local_path
        known = _format_below(info)
        if path is None:
            below.append(_store(kind, lower, known or "raw"))
            break
        identity = _identity(path, above, user)
        if identity in seen:
            raise InternalError(f"backing store for {source.local_path} ({path}) is self-referential")
        seen.add(identity)
        if is_block(path):
            kind, lower = SourceType.BLOCK, StorageSource(dev=path, slices=lower.slices)
        found = _info(path, known, above, user)
        if known is None and found.format != "raw":
            # trusting a probed format would let a guest point its raw disk's host at any file
            raise ConfigUnsupported(
                f"format of backing image '{path}' of image '{above}' was not specified in the image "
                f"metadata ({_BACKING_GUIDE})"
            )
        below.append(_store(kind, lower, found.format))
        info = found if found.format in BACKING_FORMATS else ImageInfo(found.format)
    for store in reversed(below):
        store.backing_store = end
        end = store
    return end


def _store(kind: SourceType, source: StorageSource, format: str) -> BackingStore:
    return BackingStore(type=kind, format=ChainFormat(type=format), source=source)


def _info(path: str, format: str | None, above: str | None, user: tuple[int, int] | None) -> ImageInfo:
    read = partial(read_info, path, format)
    try:
        try:
            return read()
        except PermissionError:
            if user is None:
                raise
            return as_user(QemuUser(*user, (user[1],)), read)  # root is nobody to some servers
    except OSError as error:
        raise _broken(path, above, error, user) from error


def _identity(path: str, above: str | None, user: tuple[int, int] | None) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _broken(path, above, error, user) from error
    return (found.st_dev, found.st_ino)


def _must_exist(path: str) -> None:
    try:
        os.stat(path)
    except OSError as error:
        raise SystemError_(
            f"Cannot access storage file '{path}'", error, domain=ErrorDomain.STORAGE
        ) from error


def _broken(path: str, above: str | None, error: OSError, user: tuple[int, int] | None) -> SystemError_:
    who = f" (as uid:{user[0]}, gid:{user[1]})" if user is not None else ""
    if above is None:
        return SystemError_(f"Cannot access storage file '{path}'{who}", error, domain=ErrorDomain.STORAGE)
    return SystemError_(
        f"Cannot access backing file '{path}' of storage file '{above}'{who}",
        error,
        domain=ErrorDomain.STORAGE,
    )


# ------------------------------------------------------------ trust


def distrust_changed(disks: Iterable[Disk]) -> list[str]:
    """Mark the images whose QEMU has ended and left another name below them than it was given. Blocking.

    A guest that took its QEMU over could have the host lend it any file in that way, at the next start: what
    is below an image is written into its header, by QEMU. One that was to be read only has its owner's rights
    all the same. Until the header says otherwise, `find_chain` refuses to follow it. Returns what was found,
    one sentence each.
    """
    found = []
    for disk in disks:
        if disk.transient is not None:
            continue
        chain = list(disk.images())  # empty for an empty drive
        for image, lower in zip(chain, [*chain[1:], None], strict=False):
            path = image.source.local_path
            if image.format not in BACKING_FORMATS or path is None:
                continue
            info = _unexpected(path, image.format, lower)
            if info is None:
                continue
            with contextlib.suppress(OSError):  # only root may, and not every file system keeps it
                os.setxattr(path, _DISTRUSTED, _said(info))
            found.append(
                f"image '{path}' names '{info.backing}' below it since its QEMU ran, "
                "which it was not told to do"
            )
    return found


def _unexpected(path: str, format: str | None, lower: Image | None) -> ImageInfo | None:
    """Return what a header says is below, where that is something of the host's QEMU was not given.

    An image that becomes one of another format does, too: what stands in it may name the next one then.
    """
    try:
        info = read_info(path, format)
        if info.backing is None:
            return None
        named = parse_backing(info.backing, path)[1]
        if lower is None or not _of_host(named) <= _of_host(lower.source):
            return info
    except (OSError, QvirtError):
        return None
    return info if _format_below(info) not in (None, lower.format) else None


def _of_host(source: StorageSource) -> set[str]:
    """Return the files and sockets of this machine that a source leads to."""
    paths = (source.local_path, *(host.socket for host in source.hosts))
    return {os.path.realpath(path) for path in paths if path}


def _check_trust(path: str, info: ImageInfo) -> None:
    try:
        distrusted = os.getxattr(path, _DISTRUSTED)
    except OSError:
        return
    if distrusted in (_said(info), _said(replace(info, backing_format=None))):
        raise ConfigUnsupported(
            f"image '{path}' names '{info.backing}' below it since a guest ran on it, which nobody asked "
            "for: put it right with 'qemu-img rebase -u', or name the image in the document's <backingStore>"
        )


def _said(info: ImageInfo) -> bytes:
    """Return what a mark says of a header: the name, and the format where it says one."""
    words = [info.backing or "", *([info.backing_format] if info.backing_format else [])]
    return "\0".join(words).encode("utf-8", "surrogateescape")


def _format_below(info: ImageInfo) -> str | None:
    """Return the format of the image below, as far as the header says it; LUKS is seen to by QEMU."""
    return "raw" if info.backing_format == "luks" else info.backing_format


class Found(Record):
    """The images found below the lowest one a document names."""

    lowest: Disk | BackingStore
    below: BackingStore


def look_below(disks: Iterable[Disk], *, user: tuple[int, int] | None = None) -> list[Found]:
    """Return what is below the images the documents name, where they leave it open. Blocking.

    Changes nothing. A disk that may be missing (startupPolicy) is passed over. Raises as ``find_chain``.
    """
    found: list[Found] = []
    for disk in disks:
        lowest: Disk | BackingStore = disk
        last = disk.top
        if last is None:
            continue
        for image in disk.images():
            if isinstance(image.node, BackingStore):
                lowest, last = image.node, image
        if lowest.backing_store is not None:
            continue
        try:
            below = find_chain(last.type, last.source, last.format, user=user)
        except (QvirtError, OSError):
            policy = disk.source.startup_policy if disk.source is not None else None
            if policy in ("optional", "requisite"):
                continue
            raise
        found.append(Found(lowest, below))
    return found


def fill_in(found: Iterable[Found]) -> None:
    """Write what was found into the documents."""
    for item in found:
        item.lowest.backing_store = item.below
