"""The host: its processors, memory, names, and what its emulators can do."""

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from qvirt.api.domain_cpu import cpu_map
from qvirt.api.flags import PlainInvalidArg, check_flags
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.errors import ConfigUnsupported, InternalError, NoSupport, RpcError

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor

HOSTNAME_DEADLINE: Final = 5.0
"""Seconds a name server may take; after that the short name does."""


_STATS_MAX: Final = 16
_CELLS_MAX: Final = 1024


class Node:
    """What the calls ask about this machine."""

    def __init__(self, hypervisor: "Hypervisor") -> None:
        self._hypervisor = hypervisor

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

    async def info(self) -> tuple[bytes, int, int, int, int, int, int, int]:
        """Give architecture, memory in KiB, CPUs, MHz, NUMA nodes, sockets, cores, threads."""
        raise NoSupport("virNodeGetInfo")

    def cpus(self) -> tuple[frozenset[int], frozenset[int]]:
        """Give the CPUs present and those online."""
        raise NoSupport("virNodeGetCPUMap")

    def cpu_stats(self, cpu: int) -> list[tuple[str, int]]:
        """Give the times of one CPU, of all with -1, in ns."""
        raise NoSupport("virNodeGetCPUStats")

    def memory_stats(self, cell: int) -> list[tuple[str, int]]:
        """Give the memory of one cell, of all with -1, in KiB."""
        raise NoSupport("virNodeGetMemoryStats")

    def free_memory(self) -> int:
        """Give the free memory in bytes."""
        raise NoSupport("virNodeGetFreeMemory")

    def cells_free_memory(self) -> dict[int, int]:
        """Give the free memory of each NUMA cell in bytes."""
        raise NoSupport("virNodeGetCellsFreeMemory")

    def free_pages(self, sizes: list[int], start: int, count: int) -> list[int]:
        """Give the free pages of each size (KiB), cell by cell."""
        raise NoSupport("virNodeGetFreePages")

    def security_model(self) -> tuple[str, str]:
        """Give the primary security driver and its DOI."""
        return "none", "0"

    async def emulator_version(self) -> int:
        """Give the version number of the host's own emulator."""
        raise NoSupport("virConnectGetVersion")

    def kvm_max_vcpus(self) -> int:
        """Give how many vCPUs KVM takes."""
        raise NoSupport("virConnectGetMaxVcpus")

    async def capabilities(self) -> str:
        """Give the capabilities document."""
        raise NoSupport("virConnectGetCapabilities")

    async def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virttype: str | None
    ) -> str:
        """Give the domain capabilities document."""
        raise NoSupport("virConnectGetDomainCapabilities")

    async def sysinfo(self) -> str:
        """Give the SMBIOS document."""
        raise ConfigUnsupported("Host SMBIOS information is not available")

    def cpu_model_names(self, arch: str) -> list[str]:
        """Give the CPU models known for an architecture."""
        raise NoSupport("virConnectGetCPUModelNames")

    async def compare_cpu(self, xml: str, flags: int) -> int:
        """Compare with the host's CPU."""
        raise NoSupport("virConnectCompareCPU")

    async def baseline_cpu(self, documents: list[str], flags: int) -> str:
        """Intersect host CPUs."""
        raise NoSupport("virConnectBaselineCPU")

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
        raise NoSupport("virConnectCompareHypervisorCPU")

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
        raise NoSupport("virConnectBaselineHypervisorCPU")


@remote
async def node_get_info(session: Session) -> tuple[bytes, int, int, int, int, int, int, int]:
    """Give architecture, memory in KiB, CPUs, MHz, NUMA nodes, sockets, cores, threads."""
    return await session.instance.node.info()


@remote
def node_get_cpu_map(session: Session, need_map: int, need_online: int, flags: int) -> tuple[bytes, int, int]:
    """Give which CPUs are online, how many, and how many there are."""
    check_flags(flags, 0, "virHostCPUGetMap")
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
    check_flags(flags, 0, "virHostCPUGetStats")
    return _counted(session.instance.node.cpu_stats(cpuNum), nparams)


@remote
def node_get_memory_stats(
    session: Session,
    nparams: int,
    cellNum: int,
    flags: int,
) -> tuple[list[tuple[str, int]], int]:
    """Give a NUMA cell's memory (or with -1 the host's) in KiB; nparams 0 asks how many values there are."""
    check_flags(flags, 0, "virHostMemGetStats")
    return _counted(session.instance.node.memory_stats(cellNum), nparams)


def _counted(values: list[tuple[str, int]], nparams: int) -> tuple[list[tuple[str, int]], int]:
    if nparams < 0 or nparams > _STATS_MAX:
        raise RpcError("nparams too large")
    if nparams == 0:
        return [], len(values)
    if nparams != len(values):
        raise PlainInvalidArg(f"nparams must be equal to {len(values)}", domain=0)
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
        raise InternalError(f"start cell {startCell} out of range (0-{last})", domain=0)
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
