"""``-numa cpu``, ``hmat-lb`` and ``hmat-cache``: which CPUs are on a node, and what lies between nodes."""

from collections.abc import Iterator, Mapping

from qvirt.model.cpu import Bandwidth, CacheSize, Cell, Interconnects, Latency, NumaCache, Topology
from qvirt.qemu.importer.parts import Unfit, integer, size

_LEVELS = {"memory": None, "first-level": 1, "second-level": 2, "third-level": 3}
_ASSOCIATIVITIES = {"none": "none", "direct": "direct", "complex": "full"}
_POLICIES = {"none": "none", "write-back": "writeback", "write-through": "writethrough"}

Props = Mapping[str, str]


def cpus_at(props: Props, topology: Topology | None) -> Iterator[int]:
    """Yield the CPUs that a place in the topology holds, by QEMU's numbers."""
    sizes = (1, 1, 1, 1)
    if topology is not None:
        sizes = (topology.sockets, topology.dies or 1, topology.cores, topology.threads)
    said = [props.get(key) for key in ("socket-id", "die-id", "core-id", "thread-id")]
    number = 0
    for socket in range(sizes[0]):
        for die in range(sizes[1]):
            for core in range(sizes[2]):
                for thread in range(sizes[3]):
                    place = (socket, die, core, thread)
                    if all(
                        text is None or integer(text, "id") == at
                        for text, at in zip(said, place, strict=True)
                    ):
                        yield number
                    number += 1


def add_link(links: Interconnects, props: Props) -> None:
    """Add what ``hmat-lb`` says. Raises Unfit."""
    kind, _, what = props.get("data-type", "").partition("-")
    level = props.get("hierarchy", "memory")
    if (
        kind not in ("access", "read", "write")
        or what not in ("latency", "bandwidth")
        or level not in _LEVELS
    ):
        raise Unfit("a link between nodes says what XML cannot")
    initiator, target = integer(props.get("initiator"), "initiator"), integer(props.get("target"), "target")
    if what == "latency":
        value = integer(props.get("latency"), "latency")
        links.latencies.append(
            Latency(initiator=initiator, target=target, cache=_LEVELS[level], type=kind, value=value)
        )
    else:
        value = size(props.get("bandwidth") or "", "bandwidth", "b") >> 10
        links.bandwidths.append(
            Bandwidth(
                initiator=initiator, target=target, cache=_LEVELS[level], type=kind, value=value, unit="KiB"
            )
        )


def add_cache(cells: Mapping[int, Cell], props: Props) -> None:
    """Add what ``hmat-cache`` says. Raises Unfit."""
    cell = cells.get(integer(props.get("node-id"), "node-id"))
    words = (
        _ASSOCIATIVITIES.get(props.get("associativity", "none")),
        _POLICIES.get(props.get("policy", "none")),
    )
    if cell is None or None in words:
        raise Unfit("a node's cache says what XML cannot")
    cell.caches.append(
        NumaCache(
            level=integer(props.get("level"), "level"),
            associativity=words[0],
            policy=words[1],
            size=CacheSize(value=size(props.get("size") or "", "size", "b") >> 10, unit="KiB"),
            cache_line=CacheSize(value=integer(props.get("line", "0"), "line"), unit="B"),
        )
    )
