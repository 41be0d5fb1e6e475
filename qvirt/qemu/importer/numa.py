"""``-numa`` and the memory backends its nodes are made of; memory for the whole machine, too."""

from collections.abc import Sequence

from qvirt.errors import InvalidArg
from qvirt.model.cpu import Cell, Cpu, Distances, Interconnects, Numa, Sibling
from qvirt.model.memory import Hugepages, MemoryAccess, MemorySource
from qvirt.model.numa import MemNode, NumaMemory
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.numa_links import add_cache, add_link, cpus_at
from qvirt.qemu.importer.options import Argument, split_opts
from qvirt.qemu.importer.parts import MOST_CPUS, Part, Unfit, integer, size, switch
from qvirt.qemu.keyval import format_pairs

#: what a backend may say and XML can repeat
_BACKEND = frozenset(
    {"id", "qom-type", "size", "share", "mem-path", "prealloc", "host-nodes", "policy", "hugetlb",
     "hugetlbsize", "seal", "merge", "dump", "prealloc-threads", "discard-data",
     "x-use-canonical-path-for-ramblock-id"}
)  # fmt: skip


def read_numa(line: Line) -> None:
    """Make the cells of ``<numa>``; nodes XML cannot describe are handed to QEMU as they are."""
    given = line.given("numa")
    _mem_path(line)
    whole = line.machine.get("memory-backend")
    backend = line.parts.find("object", whole)
    if backend is not None and not given:
        _whole(line, backend)
    if not given:
        return
    try:
        problem = _cells(line, given)
    except Unfit as unfit:
        problem = str(unfit)
    if problem is None:
        return
    for part in line.parts.of("object"):
        if part.settled == "numa":
            part.settled = ""
    for argument in given:
        pairs = split_opts(argument.value or "", "type")
        backend = line.parts.find("object", dict(pairs).get("memdev"))
        if backend is not None:
            line.pass_part(backend, "for the node")
            pairs = [(key, line.name_of(backend) if key == "memdev" else value) for key, value in pairs]
        line.pass_on([argument], ["-numa", format_pairs([*pairs], "type")], problem)
    if line.domain.cpu is not None:
        line.domain.cpu.numa = None


def _cells(line: Line, given: list[Argument]) -> str | None:
    """Fill in the cells; return why it cannot be done."""
    cells: dict[int, Cell] = {}
    links = Interconnects()
    topology = line.domain.cpu.topology if line.domain.cpu is not None else None
    distances: list[tuple[int, int, int]] = []
    used: list[tuple[int, Part]] = []
    for argument in given:
        pairs = split_opts(argument.value or "", "type")
        props = dict(pairs)
        kind = props.get("type")
        if kind == "dist" and {"src", "dst", "val"} <= props.keys():
            source, target, value = (
                integer(props[key], f"-numa dist,{key}") for key in ("src", "dst", "val")
            )
            distances.append((source, target, value))
            continue
        if kind == "hmat-lb":
            add_link(links, props)
            continue
        if kind == "hmat-cache":
            add_cache(cells, props)
            continue
        if kind == "cpu" and integer(props.get("node-id"), "node-id") in cells:
            cell = cells[integer(props["node-id"], "node-id")]
            cell.cpus = (cell.cpus or frozenset()) | frozenset(cpus_at(props, topology))
            continue
        if kind != "node":
            return f"-numa {argument.value} has no XML"
        if set(props) - {"type", "nodeid", "cpus", "mem", "memdev", "initiator"}:
            return "this node says what XML cannot"
        number = integer(props.get("nodeid", str(len(cells))), "nodeid")
        cell = cells[number] = Cell(id=number, memory=0, unit="KiB")
        cell.cpus = frozenset(cpu for key, value in pairs if key == "cpus" for cpu in _range(value)) or None
        if "memdev" in props:
            part = line.parts.find("object", props["memdev"])
            if part is None:
                return f"memory backend '{props['memdev']}' is nowhere defined"
            if set(part.props) - _BACKEND:
                return "its memory backend says what XML cannot"
            cell.memory = size(part.text("size") or "0", "size", "b") >> 10
            if part.flag("share") is not None:
                cell.mem_access = "shared" if part.flag("share") else "private"
            used.append((number, part))
        elif "mem" in props:
            cell.memory = size(props["mem"], "mem") >> 10
    if sorted(cells) != list(range(len(cells))):
        return "the nodes are not numbered from 0"
    total = line.domain.memory.value if line.domain.memory is not None else 0
    unsaid = [cell for cell in cells.values() if not cell.memory]
    if len(unsaid) == len(cells) and cells:
        for cell in cells.values():
            cell.memory = total // len(cells)
    if sum(cell.memory for cell in cells.values()) != total:
        return "the nodes' memory is not the machine's"
    for src, dst, value in distances:
        if src not in cells or dst not in cells:
            return "a distance names a node that is not there"
        cell = cells[src]
        cell.distances = cell.distances or Distances()
        cell.distances.siblings.append(Sibling(id=dst, value=value))
    if line.domain.vcpu is not None:
        left = set(range(line.domain.vcpu.value)) - {
            cpu for cell in cells.values() for cpu in cell.cpus or ()
        }
        if left:
            if all(cell.cpus is None for cell in cells.values()):
                for cpu in sorted(left):
                    cell = cells[cpu // _package(line) % len(cells)]
                    cell.cpus = (cell.cpus or frozenset()) | {cpu}
            else:
                cells[0].cpus = (cells[0].cpus or frozenset()) | left
    model = line.domain.cpu = line.domain.cpu or Cpu()
    model.numa = Numa(cells=[cells[number] for number in sorted(cells)])
    if links.latencies or links.bandwidths:
        model.numa.interconnects = links
    for number, part in used:
        _host_side(line, part, number)
    line.to_xml(given, "<numa>")
    return None


def _package(line: Line) -> int:
    """Return how many CPUs share a socket: QEMU spreads sockets over nodes that name no CPUs."""
    topology = line.domain.cpu.topology if line.domain.cpu is not None else None
    return topology.dies * topology.cores * topology.threads if topology is not None else 1


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    begin, end = integer(first, "cpus"), integer(last or first, "cpus")
    if not 0 <= begin <= end < MOST_CPUS:
        raise InvalidArg(f"-numa node,cpus={text}: no machine has such CPUs")
    return range(begin, end + 1)


def _host_side(line: Line, part: Part, cell: int | None) -> None:
    """Read where on the host a node's memory comes from."""
    backing = line.domain.memory_backing
    kind = part.text("qom-type")
    path = part.text("mem-path")
    if kind == "memory-backend-memfd":
        backing.source = MemorySource(type="memfd")
        if part.flag("hugetlb"):
            backing.hugepages = Hugepages()
    elif kind == "memory-backend-file" and path is not None:
        _in_files(line, path, part.given)
    if part.flag("share") and cell is None:
        backing.access = MemoryAccess(mode="shared")
    nodes = part.props.get("host-nodes")
    if nodes is not None and switch(nodes) is None:
        bound = frozenset(
            node for text in (nodes if isinstance(nodes, list) else [nodes]) for node in _range(str(text))
        )
        mode = {"bind": "strict", "preferred": "preferred", "interleave": "interleave"}.get(
            part.text("policy") or "", ""
        )
        if mode and cell is not None:
            line.domain.numatune.memnodes.append(MemNode(cellid=cell, mode=mode, nodeset=bound))
        elif mode:
            line.domain.numatune.memory = NumaMemory(mode=mode, nodeset=bound)
    part.settled = "numa"
    line.to_xml(part.given, "<numa>" if cell is not None else "<memoryBacking>")


def _in_files(line: Line, path: str, given: Sequence[Argument]) -> None:
    """Have the memory in files: in huge pages where their mount is named, else the daemon's own."""
    backing = line.domain.memory_backing
    if "huge" in path and line.hugepages:
        backing.hugepages = Hugepages()
        return
    backing.source = MemorySource(type="file")
    if "huge" in path:
        line.note("no huge pages are mounted here: <hugepages/> is left out", given)
    else:
        line.note(f"the memory's file lies where the daemon keeps such files, not at {path}", given)


def _mem_path(line: Line) -> None:
    """Read ``-mem-path``, which QEMU refuses beside the backend that a start makes."""
    given = line.given("mem-path")
    if given:
        _in_files(line, given[-1].value or "", given)
        line.to_xml(given, "<memoryBacking>")


def _whole(line: Line, part: Part) -> None:
    """Read the backend of all of the machine's memory."""
    if set(part.props) - _BACKEND:
        return
    line.machine.pop("memory-backend", None)
    _host_side(line, part, None)
