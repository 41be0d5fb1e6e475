"""The files transient disks write to: an empty qcow2 image over the disk's own, gone when the guest is."""

import os
import struct
from collections.abc import Iterable

from qvirt.errors import OperationUnsupported, SystemError_
from qvirt.host.images import read_info
from qvirt.model.devices.disk import Disk
from qvirt.model.storage_chain import BackingStore, ChainFormat
from qvirt.model.storage_source import SourceType, StorageSource
from qvirt.record import Record

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
#: bytes of the guest's disk one entry of the first-level table stands for
_PER_ENTRY = _CLUSTER * (_CLUSTER // 8)
_REFCOUNT_ORDER = 4
_HEADER_LENGTH = 104
_BACKING_FORMAT = 0xE2792ACA


#: what follows the image's name, before the domain's
_MARK = ".TRANSIENT-"


class Overlay(Record):
    """An overlay to be made. size: bytes the guest sees; below, below_format: the disk's own image."""

    disk: Disk
    path: str
    size: int
    below: str
    below_format: str


def is_overlay(path: str) -> bool:
    """Tell whether a file is an overlay of one run, by its name."""
    return _MARK in os.path.basename(path)


def plan_overlays(disks: Iterable[Disk], domain: str) -> list[Overlay]:
    """Return the overlays that a domain's transient disks need. Blocking; changes nothing.

    Raises OperationUnsupported for one that is there already, SystemError_ for an image that cannot be read.
    """
    found: list[Overlay] = []
    for disk in disks:
        below = disk.source.local_path if disk.source is not None else None
        if disk.transient is None or below is None:
            continue
        path = f"{below}{_MARK}{domain}"
        if os.path.lexists(path):
            raise OperationUnsupported(
                f"Overlay file '{path}' for transient disk '{disk.name}' already exists; remove it if no "
                "other domain writes to it"
            )
        format = disk.driver.type or "raw"
        try:
            size = read_info(below, format).capacity or os.path.getsize(below)
        except OSError as error:
            raise SystemError_(f"Cannot access storage file '{below}'", error) from error
        found.append(Overlay(disk, path, size, below, format))
    return found


def cover(disks: Iterable[Disk], domain: str) -> list[Overlay]:
    """Put a file of one run on top of each transient disk; returns those that have to be made. Blocking.

    Raises as `plan_overlays`, and then changes nothing.
    """
    made = plan_overlays(disks, domain)
    for overlay in made:
        put_on_top(overlay)
    return made


def put_on_top(overlay: Overlay) -> None:
    """Make the overlay the image its disk uses, over the one it has had."""
    disk = overlay.disk
    disk.backing_store = BackingStore(
        type=disk.type,
        format=ChainFormat(type=overlay.below_format),
        source=disk.source,
        backing_store=disk.backing_store,
    )
    disk.type = SourceType.FILE
    disk.source = StorageSource(file=overlay.path)
    disk.driver.name, disk.driver.type = "qemu", "qcow2"


def write_overlay(overlay: Overlay) -> None:
    """Write the file, 0600. Blocking. Raises SystemError_, also where the file is there already."""
    try:
        fd = os.open(overlay.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, empty_qcow2(overlay.size, overlay.below, overlay.below_format))
        finally:
            os.close(fd)
    except OSError as error:
        raise SystemError_(f"Failed to create file '{overlay.path}'", error) from error


def empty_qcow2(size: int, below: str, below_format: str) -> bytes:
    """Return a qcow2 image (version 3) of ``size`` bytes that shows what is below.

    Its clusters: the header, the refcount table, its one block, the first-level table.
    """
    entries = -(-size // _PER_ENTRY)
    table_clusters = -(-entries * 8 // _CLUSTER)
    format = below_format.encode()
    extension = struct.pack(">II", _BACKING_FORMAT, len(format)) + format.ljust(
        -(-len(format) // 8) * 8, b"\0"
    )
    extensions = extension + struct.pack(">II", 0, 0)
    name = os.fsencode(below)
    header = b"QFI\xfb" + struct.pack(
        ">IQIIQIIQQIIQQQQII",
        3, _HEADER_LENGTH + len(extensions), len(name), _CLUSTER_BITS, size,
        0, entries, 3 * _CLUSTER,  # not encrypted; the first-level table
        _CLUSTER, 1,               # the refcount table
        0, 0,                      # no snapshots
        0, 0, 0, _REFCOUNT_ORDER, _HEADER_LENGTH,
    )  # fmt: skip
    counts = struct.pack(">H", 1) * (3 + table_clusters)
    clusters = (header + extensions + name, struct.pack(">Q", 2 * _CLUSTER), counts)
    return b"".join(part.ljust(_CLUSTER, b"\0") for part in clusters) + bytes(table_clusters * _CLUSTER)
