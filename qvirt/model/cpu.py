"""``<cpu>``: the guest's processor, its topology and NUMA cells."""

from qvirt.errors import XmlError
from qvirt.model.memory import kib
from qvirt.xml.codecs import Codec, cpuset, format_cpuset, on_off, string, uint, ulong, words, yes_no
from qvirt.xml.fields import attr, child, children, content
from qvirt.xml.node import Node

#: how far a NUMA node is from itself, in ACPI's measure
LOCAL_DISTANCE = 10
CPU_MODES = ("custom", "host-model", "host-passthrough", "maximum")
FEATURE_POLICIES = ("force", "require", "optional", "disable", "forbid")
#: length of the vendor string CPUID can hold
VENDOR_ID_LENGTH = 12

positive: Codec[int] = Codec(uint.parse, str, "a positive integer")


class CpuModel(Node, tag="model"):
    fallback: str | None = attr(words("allow", "forbid"))
    vendor_id: str | None = attr(string)
    name: str | None = content(string)

    def check(self) -> None:
        if self.vendor_id is None:
            return
        if len(self.vendor_id) != VENDOR_ID_LENGTH:
            raise XmlError(f"vendor_id must be exactly {VENDOR_ID_LENGTH} characters long")
        if "," in self.vendor_id:
            raise XmlError("vendor id is invalid")


class Vendor(Node, tag="vendor"):
    name: str | None = content(string)


class Topology(Node, tag="topology"):
    sockets: int = attr(positive, required=True)
    dies: int = attr(positive, default=1)
    cores: int = attr(positive, required=True)
    threads: int = attr(positive, required=True)

    def check(self) -> None:
        if not (self.sockets and self.dies and self.cores and self.threads):
            raise XmlError("Invalid CPU topology")


class CpuCache(Node, tag="cache"):
    level: int | None = attr(uint)
    mode: str = attr(words("emulate", "passthrough", "disable"), required=True)

    def check(self) -> None:
        if self.level is not None and not 1 <= self.level <= 3:
            raise XmlError(f"invalid CPU cache level, must be in range [1,3]: {self.level}")


class MaxPhysAddr(Node, tag="maxphysaddr"):
    mode: str = attr(words("emulate", "passthrough"), required=True)
    bits: int | None = attr(uint)


class CpuFeature(Node, tag="feature"):
    policy: str | None = attr(words(*FEATURE_POLICIES))
    name: str = attr(string, required=True)


class Sibling(Node, tag="sibling"):
    id: int = attr(uint, required=True)
    value: int = attr(uint, required=True)


class Distances(Node, tag="distances"):
    siblings: list[Sibling] = children(Sibling)


class CacheSize(Node):
    """``<size>`` and ``<line>`` of a NUMA cell's cache."""

    value: int = attr(ulong, required=True)
    unit: str | None = attr(string)


class NumaCache(Node, tag="cache"):
    level: int = attr(uint, required=True)
    associativity: str = attr(words("none", "direct", "full"), required=True)
    policy: str = attr(words("none", "writeback", "writethrough"), required=True)
    size: CacheSize | None = child(CacheSize, "size")
    cache_line: CacheSize | None = child(CacheSize, "line")

    def check(self) -> None:
        # kept in KiB and bytes, as libvirt writes them
        if self.size is not None:
            self.size.value = kib(self.size.value, self.size.unit, 1)
            self.size.unit = "KiB"
        if self.cache_line is not None:
            self.cache_line.value = _bytes(self.cache_line.value, self.cache_line.unit)
            self.cache_line.unit = "B"


def _bytes(value: int, unit: str | None) -> int:
    return kib(value * 1024, unit, 1)


class Cell(Node, tag="cell"):
    """A NUMA node of the guest; memory in KiB once read."""

    id: int | None = attr(uint)
    cpus: frozenset[int] | None = attr(cpuset)
    memory: int = attr(ulong, required=True)
    unit: str | None = attr(string)
    mem_access: str | None = attr(words("shared", "private"), "memAccess")
    discard: bool | None = attr(yes_no)
    distances: Distances | None = child(Distances)
    caches: list[NumaCache] = children(NumaCache)

    def check(self) -> None:
        self.memory = kib(self.memory, self.unit)
        self.unit = "KiB"


class Latency(Node, tag="latency"):
    """Nanoseconds from an initiator to a target."""

    initiator: int = attr(uint, required=True)
    target: int = attr(uint, required=True)
    cache: int | None = attr(uint)
    type: str = attr(words("access", "read", "write"), required=True)
    value: int = attr(ulong, required=True)


class Bandwidth(Node, tag="bandwidth"):
    """KiB per second between an initiator and a target, once read."""

    initiator: int = attr(uint, required=True)
    target: int = attr(uint, required=True)
    cache: int | None = attr(uint)
    type: str = attr(words("access", "read", "write"), required=True)
    value: int = attr(ulong, required=True)
    unit: str | None = attr(string)

    def check(self) -> None:
        self.value = kib(self.value, self.unit, 1)
        self.unit = "KiB"


class Interconnects(Node, tag="interconnects"):
    latencies: list[Latency] = children(Latency)
    bandwidths: list[Bandwidth] = children(Bandwidth)


class Numa(Node, tag="numa"):
    """``<numa>`` in ``<cpu>``: the NUMA nodes the guest sees."""

    cells: list[Cell] = children(Cell)
    interconnects: Interconnects | None = child(Interconnects)

    def check(self) -> None:
        """Number the cells, put them in order of their ids, refuse what libvirt refuses."""
        cells = self.cells
        explicit = [cell.id for cell in cells if cell.id is not None]
        if explicit and len(explicit) != len(cells):
            # libvirt: a missing id is the cell's position
            for i, cell in enumerate(cells):
                cell.id = i if cell.id is None else cell.id
        for i, cell in enumerate(cells):
            if cell.id is None:
                cell.id = i
        for cell in cells:
            if (cell.id or 0) >= len(cells):
                raise XmlError(
                    "Exactly one 'cell' element per guest NUMA cell allowed, non-contiguous ranges or ranges "
                    "not starting from 0 are not allowed"
                )
        ids = [cell.id for cell in cells]
        for i, id_ in enumerate(ids):
            if id_ in ids[:i]:
                raise XmlError(f"Duplicate NUMA cell info for cell id '{id_}'")
        if len(cells) > 1 and ids != sorted(i for i in ids if i is not None):
            self.cells = sorted(cells, key=lambda cell: cell.id or 0)
        self._check_cpus()
        self._complete_distances()
        self._check_interconnects()

    def _complete_distances(self) -> None:
        """Give a distance that is said one way to the other way, in order of the nodes."""
        said: dict[int, dict[int, int]] = {}
        for cell in self.cells:
            for sibling in cell.distances.siblings if cell.distances is not None else ():
                if sibling.id >= len(self.cells):
                    raise XmlError(f"'sibling id={sibling.id}' refers to a NUMA cell that is not there")
                if not 10 <= sibling.value <= 255:
                    raise XmlError(f"'value {sibling.value}' is invalid for 'sibling id={sibling.id}'")
                said.setdefault(cell.id or 0, {})[sibling.id] = sibling.value
        for src, distances in list(said.items()):
            for dst, value in list(distances.items()):
                said.setdefault(dst, {}).setdefault(src, value)
        for src, distances in said.items():
            distances.setdefault(src, LOCAL_DISTANCE)
        for cell in self.cells:
            known = said.get(cell.id or 0)
            if known:
                cell.distances = Distances(
                    siblings=[Sibling(id=dst, value=known[dst]) for dst in sorted(known)]
                )

    def _check_interconnects(self) -> None:
        if self.interconnects is None:
            return
        for said in (*self.interconnects.latencies, *self.interconnects.bandwidths):
            for name in ("initiator", "target"):
                if getattr(said, name) >= len(self.cells):
                    raise XmlError(f"'{name}' refers to a non-existent NUMA node")
            levels = {cache.level for cache in self.cells[said.target].caches}
            if said.cache and said.cache not in levels:
                raise XmlError("'cache' refers to a non-existent NUMA node cache")

    def _check_cpus(self) -> None:
        seen: frozenset[int] = frozenset()
        for cell in self.cells:
            if cell.cpus is None:
                continue
            if not cell.cpus:
                raise XmlError(f"NUMA cell {cell.id} has no vCPUs assigned")
            if seen & cell.cpus:
                raise XmlError("NUMA cells must not share vCPUs: " + _overlap(self.cells, cell))
            seen |= cell.cpus

    def nodes_distances(self) -> bool:
        """Tell whether any cell states distances."""
        return any(cell.distances is not None and cell.distances.siblings for cell in self.cells)


def _overlap(cells: list[Cell], cell: Cell) -> str:
    for other in cells:
        if other.cpus and cell.cpus and other is not cell and other.cpus & cell.cpus:
            return f"cells {other.id} and {cell.id} both have {format_cpuset(other.cpus & cell.cpus)}"
    return ""


class Cpu(Node, tag="cpu"):
    """A guest CPU."""

    mode: str | None = attr(words(*CPU_MODES))
    match: str | None = attr(words("minimum", "exact", "strict"))
    check_level: str | None = attr(words("none", "partial", "full"), "check")
    migratable: bool | None = attr(on_off)
    model: CpuModel | None = child(CpuModel)
    vendor: Vendor | None = child(Vendor)
    topology: Topology | None = child(Topology)
    cache: CpuCache | None = child(CpuCache)
    maxphysaddr: MaxPhysAddr | None = child(MaxPhysAddr)
    features: list[CpuFeature] = children(CpuFeature)
    numa: Numa | None = child(Numa)

    def check(self) -> None:
        mode = self.mode or "custom"
        if self.migratable is not None and mode not in ("host-passthrough", "maximum"):
            raise XmlError(
                "Attribute migratable is only allowed for 'host-passthrough' / 'maximum' CPU mode"
                f", not for '{mode}'"
            )
        if mode == "custom" and (self.model is None or not self.model.name):
            if self.features:
                raise XmlError("Non-empty feature list specified without CPU model")
            if self.vendor is not None:
                raise XmlError("CPU vendor specified without CPU model")
        seen: set[str] = set()
        for feature in self.features:
            if feature.name in seen:
                raise XmlError(f"CPU feature '{feature.name}' specified more than once")
            seen.add(feature.name)
