"""The NUMA nodes of this machine: memory, huge pages, distances, and the CPUs of each."""

from collections.abc import Mapping
from pathlib import Path

from qvirt.host.cpu import Place, online_cpus, place_of
from qvirt.host.memory import meminfo, page_size
from qvirt.host.sysfs import numbered, parse_list, read_int, read_text
from qvirt.record import Record

ROOT = Path("/")
_NODES = "sys/devices/system/node"


class Cell(Record):
    """One node. memory in KiB; pages: total of each page size (KiB); cpus: those online."""

    id: int
    memory: int
    pages: Mapping[int, int]
    distances: Mapping[int, int]
    cpus: Mapping[int, Place]


def node_ids(root: Path = ROOT) -> list[int]:
    """List the nodes; a machine without NUMA has node 0."""
    return list(numbered(root / _NODES, "node")) or [0]


def node_cpus(root: Path = ROOT) -> dict[int, list[int]]:
    """Map each node to its online CPUs."""
    online = online_cpus(root)
    nodes = numbered(root / _NODES, "node")
    if not nodes:
        return {0: online}
    return {
        n: [cpu for cpu in parse_list(read_text(path / "cpulist")) if cpu in set(online)]
        for n, path in nodes.items()
    }


def read_cells(root: Path = ROOT) -> list[Cell]:
    """Read all nodes."""
    ids = node_ids(root)
    cells = []
    for id, cpus in node_cpus(root).items():
        memory, _ = node_memory(id, root)
        huge = {size: total for size, (total, _) in huge_pages(id, root).items()}
        base = page_size()
        small = (memory - sum(size * total for size, total in huge.items())) // base
        distances = (read_text(root / _NODES / f"node{id}/distance") or "").split()
        cells.append(
            Cell(
                id,
                memory,
                {base: small, **huge},
                {n: int(d) for n, d in zip(ids, distances, strict=False)},
                {cpu: place_of(cpu, root) for cpu in cpus},
            )
        )
    return cells


def node_memory(node: int, root: Path = ROOT) -> tuple[int, int]:
    """Return the total and the free memory of a node in KiB."""
    text = read_text(root / _NODES / f"node{node}/meminfo")
    facts = meminfo(root) if text is None else {}
    for line in (text or "").splitlines():
        # Node 0 MemTotal:        4548820 kB
        words = line.split()
        if len(words) >= 4 and words[2].endswith(":"):
            facts[words[2][:-1]] = int(words[3])
    return facts.get("MemTotal", 0), facts.get("MemFree", 0)


def huge_pages(node: int, root: Path = ROOT) -> dict[int, tuple[int, int]]:
    """Map each huge page size (KiB) to the total and the free pages of a node."""
    directory = root / _NODES / f"node{node}/hugepages"
    if not directory.is_dir():
        directory = root / "sys/kernel/mm/hugepages"
    sizes = sorted(int(d.name[10:-2]) for d in directory.glob("hugepages-*kB"))
    return {
        size: (
            read_int(directory / f"hugepages-{size}kB/nr_hugepages") or 0,
            read_int(directory / f"hugepages-{size}kB/free_hugepages") or 0,
        )
        for size in sizes
    }


def huge_page_sizes(root: Path = ROOT) -> list[int]:
    """List the huge page sizes this kernel has, in KiB."""
    return sorted(int(d.name[10:-2]) for d in (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB"))


def free_pages(size: int, node: int, root: Path = ROOT) -> int | None:
    """Return the free pages of a size (KiB) on a node; None when it has no such pages."""
    if size == page_size():
        return node_memory(node, root)[1] // size
    huge = huge_pages(node, root).get(size)
    return huge[1] if huge else None
