"""The images of a disk, one below the other: ``<backingStore>``, ``<mirror>``, and how a chain is walked."""

from collections.abc import Iterator

from qvirt.errors import XmlError
from qvirt.model.storage_source import (
    FORMATS,
    TYPE_FIELDS,
    Auth,
    Encryption,
    MetadataCache,
    SourceType,
    StorageSource,
)
from qvirt.xml.codecs import one_of, string, uint
from qvirt.xml.fields import attr, child
from qvirt.xml.node import Node, complain


class ChainFormat(Node, tag="format"):
    """The format of an image that is not a disk's top image."""

    complaints = complain({"!type": (XmlError, "missing disk backing store format")})
    type: str = attr(string, required=True)
    metadata_cache: MetadataCache | None = child(MetadataCache)


class BackingStore(Node, tag="backingStore"):
    """The image below. Without a type it is the end of the chain, said on purpose."""

    type: str | None = attr(string)
    index: int | None = attr(uint)
    format: ChainFormat | None = child(ChainFormat)
    source: StorageSource | None = child(StorageSource)
    backing_store: "BackingStore | None" = child(lambda: BackingStore, "backingStore")

    def check(self) -> None:
        if self.type is None:
            self.__dict__ = {"line": self.line}
            return
        if self.type not in TYPE_FIELDS:
            raise XmlError(f"unknown storage source type '{self.type}'")
        if self.format is None or not self.format.type:
            raise XmlError("missing disk backing store format")
        check_backing_format(self.format.type)
        if self.source is None:
            raise XmlError("missing disk backing store source")
        self.source.keep(self.type)
        self.source.startup_policy = None

    @property
    def is_end(self) -> bool:
        """Tell whether this only says that nothing is below."""
        return self.type is None


def check_backing_format(name: str) -> None:
    """Refuse an unknown format of a lower image. Raises XmlError."""
    if name not in FORMATS or name == "none":
        raise XmlError(f"unknown storage source format '{name}'")


class Mirror(Node, tag="mirror"):
    """The copy a running block job writes; only in the XML of a running domain."""

    type: SourceType | None = attr(one_of(SourceType))
    file: str | None = attr(string)
    format_name: str | None = attr(string, "format")
    job: str | None = attr(string)
    ready: str | None = attr(string)
    format: ChainFormat | None = child(ChainFormat)
    source: StorageSource | None = child(StorageSource)
    backing_store: BackingStore | None = child(BackingStore)


class Image:
    """One image of a chain, wherever it stands in the document: what building and labelling need of it.

    format: None while nobody has looked. readonly: the guest's writes never reach it.
    depth: 0 is what the guest sees.
    """

    __slots__ = (
        "auth",
        "below",
        "cache_size",
        "depth",
        "encryption",
        "format",
        "node",
        "readonly",
        "source",
        "type",
    )

    def __init__(
        self,
        node: Node,
        type: str,
        source: StorageSource,
        format: str | None,
        *,
        below: BackingStore | None,
        readonly: bool,
        depth: int,
        auth: Auth | None = None,
        encryption: Encryption | None = None,
        cache_size: int | None = None,
    ) -> None:
        self.node = node
        self.type = type
        self.source = source
        self.format = format
        self.below = below
        self.readonly = readonly
        self.depth = depth
        self.auth = auth or source.auth
        self.encryption = encryption or source.encryption
        self.cache_size = cache_size

    @property
    def index(self) -> int | None:
        """The number in the node names, which the live document shows."""
        return self.node.index if isinstance(self.node, BackingStore) else self.source.index

    @index.setter
    def index(self, value: int | None) -> None:
        if isinstance(self.node, BackingStore):
            self.node.index = value
        else:
            self.source.index = value


def images_below(store: BackingStore | None, depth: int = 1) -> Iterator[Image]:
    """Yield the images of a chain from ``store`` down; the end marker is not one."""
    while store is not None and store.type is not None and store.source is not None:
        cache = store.format.metadata_cache if store.format is not None else None
        yield Image(
            store,
            store.type,
            store.source,
            store.format.type if store.format is not None else None,
            below=store.backing_store,
            readonly=True,
            depth=depth,
            cache_size=cache.bytes if cache is not None else None,
        )
        store = store.backing_store
        depth += 1
