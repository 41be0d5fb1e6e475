"""The host: its processors, memory, names, and what its emulators can do."""

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from qvirt.errors import ConfigUnsupported, NoSupport

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor

HOSTNAME_DEADLINE: Final = 5.0
"""Seconds a name server may take; after that the short name does."""


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
