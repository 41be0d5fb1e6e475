"""The guest's memory: its size, ``-m``, the backends behind it, ``-overcommit``.

Memory modules (``<memory>`` in ``<devices>``) are handled in devices/memory.py with the same `backend`.
"""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, InternalError, XmlDetail, XmlError
from qvirt.model.cpu import Cell
from qvirt.model.devices.memory import Memory
from qvirt.model.domain import Domain
from qvirt.model.memory import CurrentMemory, HugepageSize, TotalMemory
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machine import ram_backend_id
from qvirt.qemu.machines import is_pseries, is_x86
from qvirt.qemu.switches import KeyValue, Object, Option, Switch
from qvirt.record import Record
from qvirt.xml.node import Node

PAGE_SIZE = 4
"""KiB; a page of this size is no huge page."""

POLICIES = {"strict": "bind", "preferred": "preferred", "interleave": "interleave"}
"""QEMU's words for libvirt's modes; "restrictive" is left to control groups."""


def alignment(domain: Domain) -> int:
    """Return what the memory of the machine comes in multiples of, in KiB."""
    return 256 * 1024 if _is_ppc64(domain) else 1024


def module_alignment(dev: Memory, domain: Domain) -> int:
    """Return what a memory module comes in multiples of, in KiB."""
    if dev.model == "virtio-pmem":
        return 1024  # as large as its file
    if _is_ppc64(domain):
        return 256 * 1024
    return 2048 if is_x86(domain) else 1024


def _is_ppc64(domain: Domain) -> bool:
    return domain.os.type.arch in ("ppc64", "ppc64le")


def cells(domain: Domain) -> list[Cell]:
    """Return the NUMA nodes of the guest."""
    return domain.cpu.numa.cells if domain.cpu is not None and domain.cpu.numa is not None else []


def module_sizes(domain: Domain) -> int:
    """Return what memory modules hold together, in KiB."""
    return sum(dev.target.size.value for dev in domain.devices.memory)


def default_memory(ctx: Context) -> None:
    """Fill in total and current memory, from the NUMA nodes where there are some."""
    domain = ctx.domain
    if ctx.abi_update and _is_ppc64(domain):
        for dev in domain.devices.memory:
            dev.target.size.value = round_up(dev.target.size.value, module_alignment(dev, domain))
    numa = sum(cell.memory for cell in cells(domain))
    modules = module_sizes(domain)
    if numa:
        if domain.memory is None or not domain.memory.value or ctx.abi_update:
            domain.memory = domain.memory or TotalMemory(unit="KiB")
            domain.memory.value = numa + modules
    elif domain.memory is not None and modules > domain.memory.value:
        raise XmlError("Total size of memory devices exceeds the total memory size")
    memory = domain.memory
    if memory is None or memory.value - modules <= 0:
        raise XmlError("Memory size must be specified via <memory> or in the <numa> configuration")
    current = domain.current_memory
    if current is None or not current.value or current.value > memory.value:
        domain.current_memory = CurrentMemory(value=memory.value, unit="KiB")
    _default_hugepages(domain)
    if domain.max_memory is not None and domain.max_memory.value < memory.value:
        raise XmlError("maximum memory size must be equal or greater than the actual memory size")


def _default_hugepages(domain: Domain) -> None:
    """Settle which pages are for which guest node. Raises XmlDetail."""
    backing = domain.__dict__.get("memory_backing")
    if backing is None or backing.hugepages is None:
        return
    count = len(cells(domain))
    master: int | None = None
    seen: list[HugepageSize] = []
    for page in backing.hugepages.pages:
        if not count and page.nodeset is not None and min(page.nodeset, default=0) == 0:
            page.nodeset = None  # without NUMA, node 0 is all there is
        if page.nodeset is None:
            if master is not None:
                raise XmlDetail(f"two master hugepages detected: {page.size} and {master}")
            master = page.size
            continue
        for other in seen:
            if other.nodeset is not None and other.nodeset & page.nodeset:
                raise XmlDetail(
                    f"nodeset attribute of hugepages of sizes {page.size} and {other.size} intersect"
                )
        seen.append(page)
        for node in sorted(page.nodeset):
            if node >= count:
                raise XmlDetail(f"hugepages: node {node} not found")


def initial_memory(domain: Domain) -> int:
    """Return what the guest boots with beside memory modules, aligned, in KiB."""
    align = alignment(domain)
    numa = sum(round_up(cell.memory, align) for cell in cells(domain))
    if numa:
        return numa
    total = domain.memory.value if domain.memory is not None else 0
    return round_up(total - module_sizes(domain), align)


def round_up(value: int, step: int) -> int:
    """Return the next multiple of step."""
    return -(-value // step) * step


def align_memory(domain: Domain) -> None:
    """Round the sizes up to what the machine takes, as libvirt does with the definition it starts."""
    align = alignment(domain)
    initial = initial_memory(domain)
    for cell in cells(domain):
        cell.memory = round_up(cell.memory, align)
    modules = 0
    for dev in domain.devices.memory:
        dev.target.size.value = round_up(dev.target.size.value, module_alignment(dev, domain))
        modules += dev.target.size.value
    if domain.memory is None:
        return
    before = domain.memory.value
    domain.memory.value = initial + modules
    if domain.current_memory is not None and domain.current_memory.value == before:
        domain.current_memory.value = domain.memory.value
    if domain.max_memory is not None:
        domain.max_memory.value = round_up(domain.max_memory.value, align)


def check_memory(domain: Domain, ctx: Context) -> None:
    """Raise ConfigUnsupported for memory that cannot be had as described."""
    backing = domain.memory_backing
    if domain.max_memory is not None:
        if not cells(domain) and not is_pseries(domain):
            raise ConfigUnsupported(
                "At least one numa node has to be configured when enabling memory hotplug"
            )
        count = len([dev for dev in domain.devices.memory if dev.model in ("dimm", "nvdimm")])
        if count > (domain.max_memory.slots or 0):
            raise ConfigUnsupported(
                f"memory device count '{count}' exceeds slots count '{domain.max_memory.slots}'"
            )
    elif domain.devices.memory:
        raise ConfigUnsupported("cannot use/hotplug a memory device when domain 'maxMemory' is not defined")
    if domain.memtune.min_guarantee is not None:
        raise ConfigUnsupported("Parameter 'min_guarantee' not supported by QEMU.")
    if backing.hugepages is None:
        return
    if backing.allocation is not None and backing.allocation.mode == "ondemand":
        raise ConfigUnsupported("hugepages are not allowed with memory allocation ondemand")
    if backing.source is not None and backing.source.type == "anonymous":
        raise ConfigUnsupported("hugepages are not allowed with anonymous memory source")


def memory_switches(domain: Domain, ctx: BuildContext) -> Iterator[Switch]:
    """Yield ``-m`` and, where the guest has no NUMA nodes, the backend of its memory."""
    initial = initial_memory(domain)
    if domain.max_memory is not None:
        limit = round_up(domain.max_memory.value, alignment(domain))
        props: dict[str, JsonValue] = {
            "size": f"{initial}k",
            "slots": domain.max_memory.slots,
            "maxmem": f"{limit}k",
        }
        yield KeyValue("m", props, origin=domain.max_memory)
    else:
        yield Option("m", str(initial // 1024), origin=domain.memory)
    ram_id = ram_backend_id(domain, ctx)
    if cells(domain):
        return
    if ram_id is not None:
        made = backend(domain, ctx, BackendRequest(ram_id, initial, system=True, origin=domain.memory))
        yield from made.switches
    elif domain.memory_backing.hugepages is not None:
        size = _hugepage_size(domain, None, None) or ctx.host.default_hugepage
        yield Option("mem-path", hugepage_path(ctx, size), origin=domain.memory_backing)


def overcommit_switches(domain: Domain) -> Iterator[Switch]:
    """Yield whether QEMU locks its memory."""
    yield KeyValue("overcommit", {"mem-lock": domain.memory_backing.locked}, origin=domain.memory_backing)


class BackendRequest(Record):
    """What a piece of the guest's memory is to be.

    size in KiB; node: the guest NUMA node it belongs to; system: the machine's own memory, without nodes.
    file: what the file is called where memory is kept in files; the id if None.
    path: a file that holds an NVDIMM; pagesize in KiB, nodes, access, discard: what the module itself says.
    """

    id: str
    size: int
    node: int | None = None
    system: bool = False
    file: str | None = None
    path: str | None = None
    pmem: bool = False
    prealloc_path: bool = True
    alignsize: int | None = None
    pagesize: int | None = None
    nodes: frozenset[int] | None = None
    access: str | None = None
    discard: bool | None = None
    reserve: bool | None = None
    readonly: bool = False
    origin: Node | None = None


class Backend(Record):
    """A memory backend's records; needed: plain memory of that size would not do."""

    switches: tuple[Object, ...]
    needed: bool


def backend(domain: Domain, ctx: BuildContext, request: BackendRequest) -> Backend:
    """Return the records of one memory backend, a thread context before it where one is used."""
    backing = domain.memory_backing
    source = backing.source.type if backing.source is not None else None
    cell = _cell(domain, request.node)
    access = request.access or (cell.mem_access if cell is not None else None)
    access = access or (backing.access.mode if backing.access is not None else None)
    discard = request.discard if request.discard is not None else cell.discard if cell is not None else None
    if discard is None and backing.discard:
        discard = True
    pagesize = _hugepage_size(domain, request.node, request.pagesize)
    huge = pagesize is not None
    props: dict[str, JsonValue] = {}
    prealloc = False
    if request.path is None and source == "memfd":
        kind = "memory-backend-memfd"
        if huge:
            props |= {"hugetlb": True, "hugetlbsize": (pagesize or ctx.host.default_hugepage) << 10}
            prealloc = True
    elif huge or request.path is not None or access is not None or source == "file":
        kind = "memory-backend-file"
        if request.path is not None:
            props["mem-path"] = request.path
            prealloc = request.prealloc_path
        elif huge:
            props["mem-path"] = hugepage_path(ctx, pagesize or ctx.host.default_hugepage)
            prealloc = True
        else:
            props["mem-path"] = f"{backing_dir(ctx)}/{request.file or request.id}"
        if discard and request.path is None:
            props["discard-data"] = True
    else:
        kind = "memory-backend-ram"
    if access is not None:
        props["share"] = access == "shared"
    if request.alignsize:
        props["align"] = request.alignsize << 10
    if request.system and kind != "memory-backend-ram":
        # the id in the migration stream stays what it was without a backend
        props["x-use-canonical-path-for-ramblock-id"] = False
    if backing.allocation is not None and backing.allocation.mode == "immediate":
        prealloc = True
    if request.reserve is not None:
        props["reserve"] = request.reserve
        prealloc = False
    if prealloc:
        props["prealloc"] = True
    if backing.allocation is not None and backing.allocation.threads:
        props["prealloc-threads"] = backing.allocation.threads
    props["size"] = request.size << 10
    nodes, bound = _host_nodes(domain, ctx, request)
    switches = []
    if nodes:
        props |= {"host-nodes": list(nodes[1]), "policy": nodes[0]}
        if prealloc and ctx.caps.has_object("thread-context"):
            context = f"tc-{request.id}"
            props["prealloc-context"] = context
            affinity: JsonValue = list(nodes[1])
            switches.append(
                Object(
                    {"qom-type": "thread-context", "id": context, "node-affinity": affinity},
                    origin=request.origin,
                )
            )
    if request.pmem:
        props["pmem"] = True
    if request.readonly:
        props["readonly"] = True
    switches.append(Object({"qom-type": kind, "id": request.id, **props}, origin=request.origin))
    needed = (
        huge
        or request.nodes is not None
        or bound
        or request.path is not None
        or access is not None
        or source in ("file", "memfd")
        or prealloc
    )
    return Backend(tuple(switches), needed)


def _cell(domain: Domain, node: int | None) -> Cell | None:
    if node is None:
        return None
    known = cells(domain)
    if node >= len(known):
        raise ConfigUnsupported(
            f"can't add memory backend for guest node '{node}' as the guest has only '{len(known)}' NUMA "
            "nodes configured"
        )
    return known[node]


def _hugepage_size(domain: Domain, node: int | None, said: int | None) -> int | None:
    """Return the page size in KiB, 0 for the host's default huge page, None for ordinary pages."""
    if said is not None:
        return None if said == PAGE_SIZE else said
    hugepages = domain.memory_backing.hugepages
    if hugepages is None:
        return None
    if not hugepages.pages:
        return 0
    master: int | None = None
    for page in hugepages.pages:
        if page.nodeset is None:
            master = page.size
        elif node is not None and node in page.nodeset:
            return None if page.size == PAGE_SIZE else page.size
    return None if master == PAGE_SIZE else master


def hugepage_path(ctx: BuildContext, size: int) -> str:
    """Return the domain's folder on the hugetlbfs mount of a page size (KiB). Raises InternalError."""
    mounts = dict(ctx.host.hugepage_mounts)
    if not mounts:
        raise InternalError("hugetlbfs filesystem is not mounted or disabled by administrator config")
    if size not in mounts:
        raise InternalError(f"Unable to find any usable hugetlbfs mount for {size} KiB")
    return f"{mounts[size]}{_huge_folder(ctx)}"


def _huge_folder(ctx: BuildContext) -> str:
    return f"/libvirt/qemu/{ctx.folder_name.removeprefix('domain-')}"


def huge_folders(ctx: BuildContext) -> dict[str, str]:
    """Return the folders a domain may have on hugetlbfs, and the mount each is on."""
    return {f"{mount}{_huge_folder(ctx)}": mount for _, mount in ctx.host.hugepage_mounts}


def hugepage_folders(domain: Domain, ctx: BuildContext) -> list[str]:
    """Return the domain's folders on the mounts its memory comes from. Raises InternalError without them."""
    backing = domain.memory_backing
    if backing.hugepages is None or (backing.source is not None and backing.source.type == "memfd"):
        return []
    sizes = {page.size for page in backing.hugepages.pages} or {ctx.host.default_hugepage}
    return [hugepage_path(ctx, size) for size in sorted(sizes - {PAGE_SIZE})]


def module_folder(
    domain: Domain, ctx: BuildContext, node: int | None, said: int | None, access: str | None
) -> str | None:
    """Return the domain's folder for the file a module of memory is; None for memory without a file.

    node: the guest's; said, access: the module's own page size in KiB, and who else may have its memory.
    Raises InternalError where huge pages are not mounted.
    """
    backing = domain.memory_backing
    source = backing.source.type if backing.source is not None else None
    if source == "memfd":
        return None
    size = _hugepage_size(domain, node, said)
    if size is None:
        cell = _cell(domain, node)
        is_shared = access or (cell is not None and cell.mem_access) or backing.access is not None
        return backing_dir(ctx) if is_shared or source == "file" else None
    return hugepage_path(ctx, size or ctx.host.default_hugepage)


def backing_dir(ctx: BuildContext) -> str:
    """Return the domain's folder for memory kept in files."""
    return f"{ctx.settings.memory_backing_dir}/{ctx.folder_name.removeprefix('domain-')}"


def _host_nodes(
    domain: Domain, ctx: BuildContext, request: BackendRequest
) -> tuple[tuple[str, list[int]] | None, bool]:
    """Return policy and host nodes, and whether they are the document's word for this piece of memory."""
    tune = domain.numatune
    memnode = next((x for x in tune.memnodes if x.cellid == request.node), None)
    mode = "strict"
    if memnode is not None:
        mode = memnode.mode or "strict"
    elif tune.memory is not None:
        mode = tune.memory.mode or "strict"
    nodes = request.nodes
    if nodes is None and memnode is not None:
        nodes = memnode.nodeset
    if nodes is None and tune.memory is not None:
        nodes = tune.memory.nodeset if tune.memory.placement != "auto" else ctx.host.numa_nodes
    if nodes is None:
        return None, False
    for node in sorted(nodes - ctx.host.numa_nodes):
        raise ConfigUnsupported(f"NUMA node {node} is unavailable")
    if mode == "restrictive":
        return None, memnode is not None
    return (POLICIES[mode], sorted(nodes)), memnode is not None
