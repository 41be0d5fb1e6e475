"""The host: its processors, memory, names, and what its emulators can do."""

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from qvirt.api.domain_cpu import cpu_map
from qvirt.api.flags import PlainInvalidArg, check_flags
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import WireParam, decode, encode_counted
from qvirt.constants.common import TypedParameterFlags
from qvirt.constants.common import TypedParameterType as Type
from qvirt.constants.error import ErrorDomain
from qvirt.constants.host import ConnectBaselineCPUFlags, ConnectCompareCPUFlags
from qvirt.errors import (
    InternalError,
    OperationFailed,
    RpcError,
    SystemError_,
)
from qvirt.host import cpu, kvm, memory, numa, stat
from qvirt.host.firmware import FirmwareTable, firmware_dirs
from qvirt.host.queries import HostQueries
from qvirt.qemu.cpumodels import model_names
from qvirt.runtime.records import Param, ParamValue
from qvirt.security.dac import kvm_usable

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor

HOSTNAME_DEADLINE: Final = 5.0
"""Seconds a name server may take; after that the short name does."""


_SEV: Final = (
    ("pdh", Type.STRING, "pdh"),
    ("cert-chain", Type.STRING, "cert-chain"),
    ("cpu0-id", Type.STRING, "cpu0-id"),
    ("cbitpos", Type.UINT, "cbitpos"),
    ("reduced-phys-bits", Type.UINT, "reduced-phys-bits"),
    ("max-guests", Type.UINT, "max-guests"),
    ("max-es-guests", Type.UINT, "max-es-guests"),
)
"""What is told of SEV: name, type, QEMU's name."""

_STATS_MAX: Final = 16
_CELLS_MAX: Final = 1024
_PARAMETERS_MAX: Final = 64


class Node:
    """What the calls ask about this machine."""

    def __init__(
        self, hypervisor: "Hypervisor", *, uuid_source: str = "smbios", uuid: str | None = None
    ) -> None:
        """uuid_source, uuid: the host's uuid as the daemon is configured to tell it."""
        self._hypervisor = hypervisor
        paths = hypervisor.paths
        config_home = str(paths.etc.parent) if paths.kind == "session" else None
        self._queries = HostQueries(
            hypervisor.emulators,
            FirmwareTable(firmware_dirs(config_home)),
            security=lambda: hypervisor.security.secmodels(),
            is_kvm_offered=lambda: kvm_usable(hypervisor.user),
            uuid_source=uuid_source,
            uuid=uuid,
        )

    async def hostname(self) -> str:
        """Give the host's name, with its domain where that is known."""
        name = socket.gethostname()
        if "." in name or name.startswith("localhost"):
            return name
        try:
            async with asyncio.timeout(HOSTNAME_DEADLINE):
                found = await asyncio.get_running_loop().getaddrinfo(name, None, flags=socket.AI_CANONNAME)
        except (OSError, TimeoutError):
            return name
        full = found[0][3] if found else ""
        return name if not full or full.startswith("localhost") else full

    def info(self) -> tuple[bytes, int, int, int, int, int, int, int]:
        """Give architecture, memory in KiB, CPUs, MHz, NUMA nodes, sockets, cores, threads."""
        arch = cpu.host_arch()
        cells = numa.node_cpus()
        nodes, topology = cpu.topology_of(cells)
        total = sum(numa.node_memory(cell)[0] for cell in numa.node_ids())
        mhz = cpu.read_cpu(arch).mhz
        count = len(cpu.online_cpus())
        model = arch.encode()[:31]
        return model, total, count, mhz, nodes, topology.sockets, topology.cores, topology.threads

    def cpus(self) -> tuple[list[int], list[int]]:
        """Give the CPUs present and those online."""
        return cpu.present_cpus(), cpu.online_cpus()

    def cpu_stats(self, number: int) -> list[tuple[str, int]]:
        """Give the times of one CPU, of all with -1, in ns; raises InvalidArg when there is no such CPU."""
        times = stat.cpu_times(number) if number >= -1 else None
        if times is None:
            raise PlainInvalidArg("Invalid cpuNum in virHostCPUGetStatsLinux", domain=ErrorDomain.NONE)
        return times

    def memory_stats(self, cell: int) -> list[tuple[str, int]]:
        """Give the memory of one cell (-1: of all) in KiB; raises InvalidArg when there is no such cell."""
        if cell == -1:
            return memory.memory_stats()
        last = max(numa.node_ids())
        if not 0 <= cell <= last:
            raise PlainInvalidArg(
                f"cellNum in virHostMemGetStats must be less than or equal to {last}", domain=ErrorDomain.NONE
            )
        total, free = numa.node_memory(cell)
        return [("total", total), ("free", free)]

    def free_memory(self) -> int:
        """Give the free memory in bytes."""
        return sum(self.cells_free_memory().values())

    def cells_free_memory(self) -> dict[int, int]:
        """Give the free memory of each NUMA cell in bytes."""
        return {cell: numa.node_memory(cell)[1] * 1024 for cell in numa.node_ids()}

    def free_pages(self, sizes: list[int], start: int, count: int) -> list[int]:
        """Give the free pages of each size (KiB), cell by cell."""
        last = max(numa.node_ids())
        if not 0 <= start <= last:
            raise InternalError(f"start cell {start} out of range (0-{last})", domain=ErrorDomain.NONE)
        found: list[int] = []
        for cell in range(start, min(start + count, last + 1)):
            for size in sizes:
                free = numa.free_pages(size, cell)
                if free is None:
                    raise OperationFailed(
                        f"page size {size} is not available on node {cell}", domain=ErrorDomain.NONE
                    )
                found.append(free)
        return found

    def memory_parameters(self) -> list[Param]:
        """Give the settings and counters of same-page merging."""
        return [
            Param(name, Type.UINT if name in memory.KSM_WRITABLE else Type.ULLONG, value)
            for name, value in memory.ksm_parameters()
        ]

    async def set_memory_parameters(self, values: dict[str, ParamValue]) -> None:
        """Change settings of same-page merging; raises SystemError_."""
        for name, value in values.items():
            try:
                await asyncio.to_thread(memory.set_ksm_parameter, name, int(value))
            except OSError as error:
                raise SystemError_(f"failed to set {name}", error, domain=ErrorDomain.NONE) from error

    def security_model(self) -> tuple[str, str]:
        """Give the primary security driver and its DOI."""
        first = self._hypervisor.security.secmodels()[0]
        return first.model, first.doi

    async def emulator_version(self) -> int:
        """Give the version number of the host's own emulator."""
        return await self._queries.emulator_version()

    def kvm_max_vcpus(self) -> int:
        """Give how many vCPUs KVM takes; raises SystemError_ without KVM."""
        count = kvm.kvm_max_vcpus()
        if count is None:
            raise SystemError_("Unable to open /dev/kvm: KVM is not available", domain=ErrorDomain.NONE)
        return count

    async def capabilities(self) -> str:
        """Give the capabilities document."""
        return await self._queries.capabilities()

    async def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virttype: str | None
    ) -> str:
        """Give the domain capabilities document."""
        return await self._queries.domain_capabilities(emulator, arch, machine, virttype)

    async def sysinfo(self) -> str:
        """Give the SMBIOS document."""
        return await self._queries.sysinfo()

    async def sev_parameters(self) -> list[Param]:
        """Give what guests encrypted by AMD SEV need to know of the host; raises OperationUnsupported."""
        facts = await self._queries.sev()
        return [
            Param(name, kind, value)
            for name, kind, key in _SEV
            if isinstance(value := facts.get(key), (int, str)) and value != ""
        ]

    def cpu_model_names(self, arch: str) -> list[str]:
        """Give the CPU models known for an architecture."""
        return list(model_names(arch))

    async def compare_cpu(self, xml: str, flags: int) -> int:
        """Compare with the host's CPU."""
        strict = bool(flags & ConnectCompareCPUFlags.FAIL_INCOMPATIBLE)
        return await self._queries.compare_cpu(xml, fail_incompatible=strict)

    async def baseline_cpu(self, documents: list[str], flags: int) -> str:
        """Intersect host CPUs."""
        return await self._queries.baseline_cpu(
            documents,
            expand=bool(flags & ConnectBaselineCPUFlags.EXPAND_FEATURES),
            migratable=bool(flags & ConnectBaselineCPUFlags.MIGRATABLE),
        )

    async def compare_hypervisor_cpu(
        self,
        emulator: str | None,
        arch: str | None,
        machine: str | None,
        virttype: str | None,
        xml: str,
        flags: int,
    ) -> int:
        """Compare with what a guest can have."""
        strict = bool(flags & ConnectCompareCPUFlags.FAIL_INCOMPATIBLE)
        return await self._queries.compare_hypervisor_cpu(
            emulator, arch, machine, virttype, xml, fail_incompatible=strict
        )

    async def baseline_hypervisor_cpu(
        self,
        emulator: str | None,
        arch: str | None,
        machine: str | None,
        virttype: str | None,
        documents: list[str],
        flags: int,
    ) -> str:
        """Intersect CPUs with what a guest can have."""
        return await self._queries.baseline_hypervisor_cpu(
            emulator,
            arch,
            machine,
            virttype,
            documents,
            expand=bool(flags & ConnectBaselineCPUFlags.EXPAND_FEATURES),
            migratable=bool(flags & ConnectBaselineCPUFlags.MIGRATABLE),
        )


@remote
def node_get_info(session: Session) -> tuple[bytes, int, int, int, int, int, int, int]:
    """Give architecture, memory in KiB, CPUs, MHz, NUMA nodes, sockets, cores, threads."""
    return session.instance.node.info()


@remote
def node_get_cpu_map(session: Session, need_map: int, need_online: int, flags: int) -> tuple[bytes, int, int]:
    """Give which CPUs are online, how many, and how many there are."""
    check_flags(flags, 0, "virHostCPUGetMap", ErrorDomain.NONE)
    present, online = session.instance.node.cpus()
    count = max(present, default=-1) + 1
    return (
        cpu_map(online, (count + 7) // 8) if need_map else b"",
        len(online) if need_online else 0,
        count,
    )


@remote
def node_get_cpu_stats(
    session: Session,
    cpuNum: int,
    nparams: int,
    flags: int,
) -> tuple[list[tuple[str, int]], int]:
    """Give what one CPU (-1: all) spent its time on, in ns; nparams 0 asks how many values there are."""
    check_flags(flags, 0, "virHostCPUGetStats", ErrorDomain.NONE)
    node = session.instance.node
    # How many there are is told of a CPU that is not there, too; clients then fail at the second call.
    return _counted(node.cpu_stats(cpuNum if nparams else -1), nparams)


@remote
def node_get_memory_stats(
    session: Session,
    nparams: int,
    cellNum: int,
    flags: int,
) -> tuple[list[tuple[str, int]], int]:
    """Give a NUMA cell's memory (or with -1 the host's) in KiB; nparams 0 asks how many values there are."""
    check_flags(flags, 0, "virHostMemGetStats", ErrorDomain.NONE)
    return _counted(session.instance.node.memory_stats(cellNum), nparams)


def _counted(values: list[tuple[str, int]], nparams: int) -> tuple[list[tuple[str, int]], int]:
    if nparams < 0 or nparams > _STATS_MAX:
        raise RpcError("nparams too large")
    if nparams == 0:
        return [], len(values)
    if nparams != len(values):
        raise PlainInvalidArg(f"nparams must be equal to {len(values)}", domain=ErrorDomain.NONE)
    return values, len(values)


@remote
def node_get_free_memory(session: Session) -> int:
    """Give the free memory in bytes."""
    return session.instance.node.free_memory()


@remote
def node_get_cells_free_memory(
    session: Session,
    startCell: int,
    maxcells: int,
) -> list[int]:
    """Give the free memory of NUMA cells in bytes."""
    if maxcells > _CELLS_MAX:
        raise RpcError("maxCells > REMOTE_NODE_MAX_CELLS")
    free = session.instance.node.cells_free_memory()
    last = max(free, default=0)
    if startCell > last:
        raise InternalError(f"start cell {startCell} out of range (0-{last})", domain=ErrorDomain.NONE)
    return [free[cell] for cell in sorted(free) if cell >= startCell][: max(0, maxcells)]


@remote
def node_get_free_pages(
    session: Session,
    pages: list[int],
    startCell: int,
    cellCount: int,
    flags: int,
) -> list[int]:
    """Give how many pages of each size (KiB) are free in each NUMA cell."""
    check_flags(flags, 0, "qemuNodeGetFreePages")
    if len(pages) * cellCount > _CELLS_MAX:
        raise RpcError(f"the result array is too large: {len(pages) * cellCount}")
    return session.instance.node.free_pages(pages, startCell, cellCount)


@remote
def node_get_security_model(session: Session) -> tuple[bytes, bytes]:
    """Give the security driver that confines guests by default, and its domain of interpretation."""
    model, doi = session.instance.node.security_model()
    return model.encode() + b"\0", doi.encode() + b"\0"


@remote
def node_get_memory_parameters(session: Session, nparams: int, flags: int) -> tuple[list[WireParam], int]:
    """Give the settings and counters of same-page merging."""
    check_flags(flags, TypedParameterFlags.OKAY, "virHostMemGetParameters", ErrorDomain.NONE)
    return encode_counted(session.instance.node.memory_parameters(), nparams, flags, _PARAMETERS_MAX)


@remote
async def node_set_memory_parameters(session: Session, params: list[WireParam], flags: int) -> None:
    """Change settings of same-page merging."""
    check_flags(flags, 0, "qemuNodeSetMemoryParameters")
    known = {name: int(Type.UINT) for name in memory.KSM_WRITABLE}
    await session.instance.node.set_memory_parameters(decode(params, known))


@remote
async def node_get_sev_info(session: Session, nparams: int, flags: int) -> tuple[list[WireParam], int]:
    """Give what guests encrypted by AMD SEV need to know of the host."""
    check_flags(flags, TypedParameterFlags.OKAY, "qemuNodeGetSEVInfo")
    return encode_counted(await session.instance.node.sev_parameters(), nparams, flags, _PARAMETERS_MAX)
