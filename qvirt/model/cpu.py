"""``<cpu>``: the guest's processor, its topology and NUMA cells."""

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.memory import bad_size, kib
from qvirt.xml.codecs import (
    Codec,
    cpuset,
    format_cpuset,
    on_off,
    positive,
    string,
    uint,
    ulong,
    words,
    yes_no,
)
from qvirt.xml.fields import attr, child, children, content
from qvirt.xml.node import Node, complain

#: how far a NUMA node is from itself, in ACPI's measure
LOCAL_DISTANCE = 10
CPU_MODES = ("custom", "host-model", "host-passthrough", "maximum")
FEATURE_POLICIES = ("force", "require", "optional", "disable", "forbid")
#: length of the vendor string CPUID can hold
VENDOR_ID_LENGTH = 12

_BITS: Codec[int] = Codec(uint.parse, str, "a positive integer", " Expected integer value")


class CpuModel(Node, tag="model"):
    complaints = complain({"fallback": (ConfigUnsupported, "Invalid fallback attribute")})
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


class CpuCache(Node, tag="cache"):
    level: int | None = attr(uint)
    mode: str = attr(words("emulate", "passthrough", "disable"), required=True)

    def check(self) -> None:
        if self.level is not None and not 1 <= self.level <= 3:
            raise XmlError(f"invalid CPU cache level, must be in range [1,3]: {self.level}")


class MaxPhysAddr(Node, tag="maxphysaddr"):
    mode: str = attr(words("emulate", "passthrough"), required=True)
    bits: int | None = attr(_BITS)


class CpuFeature(Node, tag="feature"):
    complaints = complain(
        {
            "policy": (ConfigUnsupported, "Invalid CPU feature policy"),
            "!name": (XmlError, "Invalid CPU feature name"),
        }
    )
    policy: str | None = attr(words(*FEATURE_POLICIES))
    name: str = attr(string, required=True)

    def check(self) -> None:
        if not self.name:
            raise XmlError("Invalid CPU feature name")


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
    associativity: str | None = attr(words("none", "direct", "full"), omit="none")
    policy: str | None = attr(words("none", "writeback", "writethrough"), omit="none")
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

    complaints = complain(
        {
            "memory": bad_size("./@memory"),
            "!memory": (XmlError, "missing element or attribute './@memory'"),
        }
    )
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
        if not self.cpus:
            self.cpus = None
        if self.distances is not None and not self.distances.siblings:
            raise XmlError("NUMA distances defined without siblings")


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
        if not cells:
            raise XmlError("NUMA topology defined without NUMA cells")
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
                    raise XmlError(
                        f"'sibling_id {sibling.id}' does not refer to a valid cell within NUMA "
                        f"'cell id {cell.id}'"
                    )
                is_self = sibling.id == cell.id
                if not LOCAL_DISTANCE <= sibling.value <= 255 or is_self != (sibling.value == LOCAL_DISTANCE):
                    raise XmlError(
                        f"'value {sibling.value}' is invalid for 'sibling id {sibling.id}' under NUMA "
                        f"'cell id {cell.id}'"
                    )
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
        links = [(x.initiator, x.target, x.cache) for x in self.interconnects.latencies]
        links += [(x.initiator, x.target, x.cache) for x in self.interconnects.bandwidths]
        for initiator, target, cache in links:
            for name, node in (("initiator", initiator), ("target", target)):
                if node >= len(self.cells):
                    raise XmlError(f"'{name}' refers to a non-existent NUMA node")
            if cache and cache not in {known.level for known in self.cells[target].caches}:
                raise XmlError("'cache' refers to a non-existent NUMA node cache")

    def _check_cpus(self) -> None:
        with_cpus = [cell for cell in self.cells if cell.cpus]
        taken: frozenset[int] = frozenset()
        for i, cell in enumerate(with_cpus):
            known, taken = taken, taken | (cell.cpus or frozenset())
            if not known & (cell.cpus or frozenset()):
                continue
            for other in with_cpus[:i]:
                if cell.cpus and other.cpus and cell.cpus & other.cpus:
                    raise ConfigUnsupported(
                        f"NUMA cells {cell.id} and {other.id} have overlapping vCPU ids"
                        f": {format_cpuset(cell.cpus & other.cpus)}"
                    )

    def nodes_distances(self) -> bool:
        """Tell whether any cell states distances."""
        return any(cell.distances is not None and cell.distances.siblings for cell in self.cells)


class Cpu(Node, tag="cpu"):
    """A guest CPU."""

    complaints = complain(
        {
            "mode": (ConfigUnsupported, "Invalid mode attribute '{}'"),
        }
    )
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
            raise ConfigUnsupported(
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
