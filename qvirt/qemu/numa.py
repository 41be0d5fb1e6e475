"""NUMA: the guest's nodes (``-numa``), and where on the host their memory is looked for."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.cpu import Bandwidth, Cell, Latency, Numa
from qvirt.model.domain import Domain
from qvirt.model.numa import NumaMemory, NumaTune
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.memory import BackendRequest, alignment, backend, cells, round_up
from qvirt.qemu.switches import KeyValue, Pairs, Switch
from qvirt.xml.codecs import format_cpuset

LOCAL_DISTANCE = 10
REMOTE_DISTANCE = 20

_ASSOCIATIVITY = {"none": "none", "direct": "direct", "full": "complex"}
_POLICY = {"none": "none", "writeback": "write-back", "writethrough": "write-through"}
_HIERARCHY = ("memory", "first-level", "second-level", "third-level")


def default_numa(ctx: Context) -> None:
    """Put CPUs of no node into the first one."""
    domain = ctx.domain
    known = cells(domain)
    if not known or not ctx.abi_update or domain.vcpu is None:
        return
    assigned: frozenset[int] = frozenset().union(*(cell.cpus or () for cell in known))
    if len(assigned) < domain.vcpu.value:
        rest = frozenset(range(domain.vcpu.value)) - assigned
        known[0].cpus = (known[0].cpus or frozenset()) | rest


def default_numatune(ctx: Context) -> None:
    """Fill in mode and placement of ``<numatune>``; CPUs placed automatically bring their memory along."""
    domain = ctx.domain
    is_static = domain.vcpu is None or domain.vcpu.placement != "auto"
    tune = domain.__dict__.get("numatune")
    if tune is None and is_static:
        return
    tune = domain.numatune
    _settle_memnodes(domain, tune)
    memory = tune.memory
    if memory is None:
        if not is_static:
            tune.memory = NumaMemory(mode="strict", placement="auto")
        return
    memory.mode = memory.mode or "strict"
    if memory.placement is None:
        memory.placement = "static" if memory.nodeset is not None or is_static else "auto"
    if memory.placement == "static" and memory.nodeset is None:
        raise ConfigUnsupported("nodeset for NUMA memory tuning must be set if 'placement' is 'static'")
    if memory.placement == "auto":
        memory.nodeset = None
    else:
        memory.placement = None


def _settle_memnodes(domain: Domain, tune: NumaTune) -> None:
    known = cells(domain)
    is_restrictive = tune.memory is not None and tune.memory.mode == "restrictive"
    seen: set[int] = set()
    for memnode in tune.memnodes:
        if not known:
            raise XmlError("Element 'memnode' is invalid without any guest NUMA cells")
        if memnode.cellid >= len(known):
            raise XmlError(
                "Argument 'cellid' in memnode element must correspond to existing guest's NUMA cell"
                f" (line {memnode.line}; there are {len(known)})"
            )
        if memnode.cellid in seen:
            raise XmlError(f"Multiple memnode elements with cellid {memnode.cellid}")
        seen.add(memnode.cellid)
        memnode.mode = memnode.mode or "strict"
        if is_restrictive != (memnode.mode == "restrictive"):
            where, other = ("memnode", "memory") if is_restrictive else ("memory", "memnode")
            raise XmlError(
                f"'restrictive' mode is required in {where} element when mode is 'restrictive' in {other} "
                "element"
            )
        if not memnode.nodeset:
            raise XmlError("Missing required nodeset attribute in memnode element")


def check_numa(domain: Domain, ctx: Context) -> None:
    """Raise XmlError or ConfigUnsupported for nodes that do not fit together."""
    numa = domain.cpu.numa if domain.cpu is not None else None
    if numa is None:
        return
    if numa.interconnects is None:
        return
    initiators = {x.initiator for x in numa.interconnects.latencies}
    initiators |= {x.initiator for x in numa.interconnects.bandwidths}
    for initiator in sorted(initiators):
        if initiator >= len(numa.cells) or not numa.cells[initiator].cpus:
            raise ConfigUnsupported(f"Initiator NUMA node must have vCPUs, node {initiator} has none")


def check_placement(domain: Domain, *, is_start: bool = False) -> None:
    """Refuse placement that numad would have to advise on. Raises InternalError.

    is_start: CPUs are placed as well, which a command line alone does not show.
    """
    tune = domain.__dict__.get("numatune")
    memory = tune.memory if tune is not None else None
    is_auto = memory is not None and memory.placement == "auto"
    if is_auto or (is_start and domain.vcpu is not None and domain.vcpu.placement == "auto"):
        raise InternalError("Advice from numad is needed in case of automatic numa placement")


def numa_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the nodes with their backends, their distances and their latencies and bandwidths."""
    known = cells(domain)
    numa = domain.cpu.numa if domain.cpu is not None else None
    if not known or numa is None:
        return
    align = alignment(domain)
    made = [
        backend(
            domain,
            ctx,
            BackendRequest(f"ram-node{cell.id}", round_up(cell.memory, align), node=cell.id, origin=cell),
        )
        for cell in known
    ]
    machine = ctx.caps.machine(domain.os.type.machine or "")
    use_backends = any(one.needed for one in made) or machine is None or not machine.numa_mem_supported
    has_hmat = numa.interconnects is not None or any(cell.caches for cell in known)
    for cell, one in zip(known, made, strict=True):
        use_backend = use_backends and cell.memory > 0  # QEMU has no backend of no size
        if use_backend:
            yield from one.switches
        pairs: list[tuple[str, JsonValue]] = [("nodeid", cell.id)]
        pairs += [("cpus", part) for part in format_cpuset(cell.cpus or frozenset()).split(",") if part]
        if has_hmat:
            pairs.append(("initiator", _initiator(numa, cell)))
        if use_backend:
            pairs.append(("memdev", f"ram-node{cell.id}"))
        elif not use_backends:
            pairs.append(("mem", round_up(cell.memory, align) // 1024))
        yield _numa("node", pairs, cell)
    if numa.nodes_distances():
        yield from _distances(known)
    yield from _latencies(numa)
    yield from _caches(known)


def _numa(kind: str, pairs: list[tuple[str, JsonValue]], origin: Cell | None) -> Switch:
    return Pairs("numa", [("kind", kind), *pairs], "kind", origin=origin)


def distance(known: list[Cell], src: int, dst: int) -> int:
    """Return how far a node is from another, libvirt's defaults where nothing is said."""
    for one, other in ((src, dst), (dst, src)):
        distances = known[one].distances
        for sibling in distances.siblings if distances is not None else ():
            if sibling.id == other:
                return sibling.value
    return LOCAL_DISTANCE if src == dst else REMOTE_DISTANCE


def _distances(known: list[Cell]) -> Iterator[Switch]:
    for src in range(len(known)):
        for dst in range(len(known)):
            value = distance(known, src, dst)
            yield _numa("dist", [("src", src), ("dst", dst), ("val", value)], known[src])


def _initiator(numa: Numa, cell: Cell) -> int | None:
    """Return the node with CPUs that reaches the cell's memory best."""
    if cell.cpus:
        return cell.id
    if numa.interconnects is not None:
        latencies = [x for x in numa.interconnects.latencies if x.target == cell.id]
        if latencies:
            return min(latencies, key=lambda x: x.value).initiator
        bandwidths = [x for x in numa.interconnects.bandwidths if x.target == cell.id]
        if bandwidths:
            return max(bandwidths, key=lambda x: x.value).initiator
    return next((other.id for other in numa.cells if other.cpus), None)


def _latencies(numa: Numa) -> Iterator[Switch]:
    if numa.interconnects is None:
        return
    for latency in numa.interconnects.latencies:
        yield _between(latency, "latency", latency.value)
    for bandwidth in numa.interconnects.bandwidths:
        yield _between(bandwidth, "bandwidth", f"{bandwidth.value}K")


def _between(said: Latency | Bandwidth, what: str, value: JsonValue) -> Switch:
    return KeyValue(
        "numa",
        {
            "kind": "hmat-lb",
            "initiator": said.initiator,
            "target": said.target,
            "hierarchy": _HIERARCHY[said.cache or 0],
            "data-type": f"{said.type}-{what}",
            what: value,
        },
        "kind",
        origin=said,
    )


def _caches(known: list[Cell]) -> Iterator[Switch]:
    for cell in known:
        for cache in cell.caches:
            yield KeyValue(
                "numa",
                {
                    "kind": "hmat-cache",
                    "node-id": cell.id,
                    "size": f"{cache.size.value}K" if cache.size is not None else None,
                    "level": cache.level,
                    "associativity": _ASSOCIATIVITY[cache.associativity or "none"],
                    "policy": _POLICY[cache.policy or "none"],
                    "line": cache.cache_line.value if cache.cache_line is not None else None,
                },
                "kind",
                origin=cache,
            )
