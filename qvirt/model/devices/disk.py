"""``<disk>``: what the XML says; what QEMU makes of it is in ``qemu/devices/disk.py``."""

import re
from collections.abc import Iterable, Iterator, MutableSequence
from enum import StrEnum

from lxml import etree

from qvirt.errors import ConfigUnsupported, NoSource, NoTarget, QvirtError, XmlError
from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.model.storage_chain import BackingStore, Image, Mirror, images_below
from qvirt.model.storage_source import (
    Auth,
    Encryption,
    MetadataCache,
    Named,
    Protocol,
    SourceType,
    StorageSource,
    check_format,
)
from qvirt.xml.codecs import on_off, one_of, positive, string, uint, ulong, words, yes_no
from qvirt.xml.fields import Attr, Texts, attr, child, flag, part, text
from qvirt.xml.node import Node, Reader


class DiskDevice(StrEnum):
    """What the guest sees."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"
    LUN = "lun"


class DiskBus(StrEnum):
    """How the guest reaches it."""

    NONE = "none"
    IDE = "ide"
    FDC = "fdc"
    SCSI = "scsi"
    VIRTIO = "virtio"
    XEN = "xen"
    USB = "usb"
    UML = "uml"
    SATA = "sata"
    SD = "sd"


class DiskDriver(VirtioDriver, tag="driver"):
    """How QEMU serves the disk: caching, errors, threads, queues."""

    name: str | None = attr(string)
    type: str | None = attr(string)
    cache: str | None = attr(
        words("default", "none", "writethrough", "writeback", "directsync", "unsafe"), omit="default"
    )
    error_policy: str | None = attr(words("default", "stop", "report", "ignore", "enospace"), omit="default")
    rerror_policy: str | None = attr(words("default", "stop", "report", "ignore", "enospace"), omit="default")
    io: str | None = attr(words("native", "threads", "io_uring"))
    ioeventfd: bool | None = attr(on_off)
    event_idx: bool | None = attr(on_off)
    copy_on_read: bool | None = attr(on_off)
    discard: str | None = attr(words("unmap", "ignore"))
    iothread: int | None = attr(positive)
    detect_zeroes: str | None = attr(words("off", "on", "unmap"))
    queues: int | None = attr(uint, omit=0)
    queue_size: int | None = attr(uint, omit=0)
    metadata_cache: MetadataCache | None = child(MetadataCache)


class Geometry(Node, tag="geometry"):
    """Cylinders, heads, sectors, and how the BIOS translates them."""

    cyls: int = attr(uint, default=0, omit=0)
    heads: int = attr(uint, default=0, omit=0)
    secs: int = attr(uint, default=0, omit=0)
    trans: str | None = attr(words("default", "none", "auto", "lba"), omit="default")

    @property
    def is_whole(self) -> bool:
        """Tell whether all three numbers are there; fewer mean nothing."""
        return bool(self.cyls and self.heads and self.secs)


class BlockIo(Node, tag="blockio"):
    """Block sizes the guest sees; bytes."""

    logical_block_size: int | None = attr(uint, omit=0)
    physical_block_size: int | None = attr(uint, omit=0)


class DiskTarget(Node, tag="target"):
    """The drive's name and bus; the name's letters are its number, nothing that a guest must follow."""

    dev: str | None = attr(string)
    bus: DiskBus | None = attr(one_of(DiskBus, but=DiskBus.NONE))
    tray: str | None = attr(words("closed", "open"), omit="closed")
    removable: bool | None = attr(on_off)
    rotation_rate: int | None = attr(uint, omit=0)


class IoTune(Node, tag="iotune"):
    """Limits on the disk's traffic: bytes or operations a second, bursts, and how long a burst may last."""

    total_bytes_sec: int | None = text(ulong, omit=0)
    read_bytes_sec: int | None = text(ulong, omit=0)
    write_bytes_sec: int | None = text(ulong, omit=0)
    total_iops_sec: int | None = text(ulong, omit=0)
    read_iops_sec: int | None = text(ulong, omit=0)
    write_iops_sec: int | None = text(ulong, omit=0)
    total_bytes_sec_max: int | None = text(ulong, omit=0)
    read_bytes_sec_max: int | None = text(ulong, omit=0)
    write_bytes_sec_max: int | None = text(ulong, omit=0)
    total_iops_sec_max: int | None = text(ulong, omit=0)
    read_iops_sec_max: int | None = text(ulong, omit=0)
    write_iops_sec_max: int | None = text(ulong, omit=0)
    size_iops_sec: int | None = text(ulong, omit=0)
    group_name: str | None = text(string, omit="")
    total_bytes_sec_max_length: int | None = text(ulong, omit=0)
    read_bytes_sec_max_length: int | None = text(ulong, omit=0)
    write_bytes_sec_max_length: int | None = text(ulong, omit=0)
    total_iops_sec_max_length: int | None = text(ulong, omit=0)
    read_iops_sec_max_length: int | None = text(ulong, omit=0)
    write_iops_sec_max_length: int | None = text(ulong, omit=0)

    def _bad_text(self, el: etree._Element, field: Attr | Texts, text: str, error: ValueError) -> QvirtError:
        return XmlError(f"disk iotune field '{field.wire}' must be an integer")

    def check(self) -> None:
        for what in ("bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max"):
            if getattr(self, f"total_{what}") and (
                getattr(self, f"read_{what}") or getattr(self, f"write_{what}")
            ):
                raise XmlError(f"total and read/write {what} cannot be set at the same time")

    @property
    def limits(self) -> dict[str, int]:
        """The limits that are set, by libvirt's names."""
        values = {
            field.name: getattr(self, field.name) for field in self.fields if field.name != "group_name"
        }
        return {name: value for name, value in values.items() if value}


class Transient(Node, tag="transient"):
    """What the guest writes is thrown away when it stops."""

    share_backing: bool | None = attr(yes_no, "shareBacking", omit=False)


class Disk(Device, tag="disk"):
    """``<disk>``: a hard disk, CD-ROM, floppy or passed-through LUN."""

    type: SourceType = attr(one_of(SourceType), default=SourceType.FILE)
    device: DiskDevice = attr(one_of(DiskDevice), default=DiskDevice.DISK)
    model: str | None = attr(words("virtio", "virtio-transitional", "virtio-non-transitional"))
    rawio: bool | None = attr(yes_no)
    sgio: str | None = attr(words("filtered", "unfiltered"))
    snapshot: str | None = attr(words("default", "no", "internal", "external", "manual"), omit="default")
    driver: DiskDriver = part(DiskDriver)
    auth: Auth | None = child(Auth)
    source: StorageSource | None = child(StorageSource)
    backing_store: BackingStore | None = child(BackingStore)
    backenddomain: Named | None = child(Named, "backenddomain")
    geometry: Geometry | None = child(Geometry)
    blockio: BlockIo = part(BlockIo)
    mirror: Mirror | None = child(Mirror)
    target: DiskTarget = part(DiskTarget)
    iotune: IoTune = part(IoTune)
    readonly: bool = flag()
    shareable: bool = flag()
    transient: Transient | None = child(Transient)
    serial: str | None = text(string, omit="")
    wwn: str | None = text(string, omit="")
    vendor: str | None = text(string, omit="")
    product: str | None = text(string, omit="")
    encryption: Encryption | None = child(Encryption)

    def _read(self, el: etree._Element, reader: Reader) -> None:
        super()._read(el, reader)
        if not self.has_medium and not self.is_removable and not reader.names_only:
            raise NoSource(self.name)

    def check(self) -> None:
        if self.driver.type == "aio":
            self.driver.type = "raw"  # how Xen called it
        check_format(self.driver.type)
        for name in ("serial", "wwn", "vendor", "product"):
            if getattr(self, name) == "":
                setattr(self, name, None)
        if self.geometry is not None and not self.geometry.is_whole:
            self.geometry = None
        if self.driver.metadata_cache is not None and self.driver.metadata_cache.max_size is None:
            self.driver.metadata_cache = None
        if self.source is not None:
            self.source.keep(self.type)
        self._check_target()
        if not self.has_medium:
            self.backing_store = None
            if self.source is None or self.type not in (SourceType.BLOCK, SourceType.VOLUME):
                self.type = SourceType.FILE
            if self.source is not None:
                self.source.keep(self.type)
                if self.source.is_empty():
                    self.source = None
        elif self.source is not None:
            if self.auth is not None and self.source.auth is not None:
                raise ConfigUnsupported("an <auth> definition already found for disk source")
            if self.encryption is not None and self.source.encryption is not None:
                raise ConfigUnsupported("an <encryption> definition already found for disk source")

    def _check_target(self) -> None:
        if self.target.dev is None:
            raise NoTarget(_described(self.source))

    # ------------------------------------------------------------ using

    @property
    def has_medium(self) -> bool:
        """Tell whether the source names something; an empty drive's does not."""
        source = self.source
        if source is None:
            return False
        if self.type in (SourceType.FILE, SourceType.BLOCK, SourceType.DIR):
            return source.local_path is not None or source.fdgroup is not None
        if self.type == SourceType.VOLUME:
            return source.pool is not None
        return self.type != SourceType.NETWORK or source.protocol != "none"

    @property
    def name(self) -> str:
        """The target name, by which people and calls know the disk."""
        return self.target.dev or ""

    @property
    def is_removable(self) -> bool:
        """Tell whether the medium can be changed while the guest runs."""
        return self.device in (DiskDevice.CDROM, DiskDevice.FLOPPY)

    @property
    def index(self) -> int:
        """The drive's number after its name: ``vdb`` is 1; -1 for a name that has none."""
        return drive_index(self.name)

    @property
    def top(self) -> Image | None:
        """The image the guest sees; None for an empty drive."""
        if self.source is None or not self.has_medium:
            return None
        cache = self.driver.metadata_cache
        return Image(
            self,
            self.type,
            self.source,
            self.driver.type,
            below=self.backing_store,
            readonly=self.readonly,
            depth=0,
            auth=self.auth,
            encryption=self.encryption,
            cache_size=cache.bytes if cache is not None else None,
        )

    def images(self) -> Iterator[Image]:
        """Yield the images of the chain, the one the guest sees first."""
        top = self.top
        if top is not None:
            yield top
            yield from images_below(self.backing_store)

    def unplug(self) -> None:
        """Drop what only the XML of a running domain says."""
        self.mirror = None
        if self.source is not None:
            self.source.index = None
        store = self.backing_store
        while store is not None:
            store.index = None
            store = store.backing_store


def _described(source: StorageSource | None) -> str | None:
    if source is None:
        return None
    if source.pool is not None:
        return f"pool = '{source.pool}', volume = '{source.volume}'"
    name = source.name or ""
    if source.protocol in (Protocol.RBD, Protocol.GLUSTER):
        name = name.partition("/")[2] or name
    return source.local_path or name or None


_NAME = re.compile(r"(?:fd|hd|vd|sd|xvd|ubd)([a-z]+)[0-9]*")


def drive_index(name: str) -> int:
    """Return the number of a drive name: ``sda`` 0, ``sdz`` 25, ``sdaa`` 26; -1 when it has none."""
    match = _NAME.fullmatch(name)
    if match is None:
        return -1
    number = 0
    for letter in match[1]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def sort_disks(disks: Iterable[Disk]) -> list[Disk]:
    """Return the disks as `insert_disk` would put them one after the other."""
    buses: dict[DiskBus | None, list[Disk]] = {}
    for disk in disks:
        buses.setdefault(disk.target.bus, []).append(disk)
    return [disk for kin in buses.values() for disk in sorted(kin, key=lambda one: one.index)]


def insert_disk(disks: MutableSequence[Disk], disk: Disk) -> None:
    """Put a disk where libvirt puts it: among the disks of its bus, by the number of its name."""
    at: int | None = None
    for position in range(len(disks) - 1, -1, -1):
        other = disks[position]
        if other.target.bus != disk.target.bus:
            continue
        if other.index > disk.index:
            at = position
        elif at is None:
            # the last one of this bus comes before the new one
            at = position + 1
    disks.insert(len(disks) if at is None else at, disk)
