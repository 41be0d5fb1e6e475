"""Changing a domain's memory: the balloon, the maximum, how often the guest reports."""

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.domain import DomainMemoryModFlags as Mod
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg
from qvirt.runtime.tuning import memory as memories


def _check_size(kib: int, function: str) -> None:
    if kib == 0:
        raise InvalidArg(f"memory in {function} must not be zero", domain=ErrorDomain.NONE)


@remote
async def domain_set_memory(session: Session, dom: DomainHandle, memory: int) -> None:
    """Change the memory a running domain has, in KiB."""
    _check_size(memory, "virDomainSetMemory")
    await memories.set_memory(find(session, dom), memory, Mod.LIVE)


@remote
async def domain_set_max_memory(session: Session, dom: DomainHandle, memory: int) -> None:
    """Change the most memory it may have, in KiB."""
    _check_size(memory, "virDomainSetMaxMemory")
    await memories.set_memory(find(session, dom), memory, Mod.MAXIMUM)


@remote
async def domain_set_memory_flags(session: Session, dom: DomainHandle, memory: int, flags: int) -> None:
    """Change the memory it has or may have, now or configured, in KiB."""
    check_flags(flags, Mod.LIVE | Mod.CONFIG | Mod.MAXIMUM, "qemuDomainSetMemoryFlags")
    _check_size(memory, "virDomainSetMemoryFlags")
    await memories.set_memory(find(session, dom), memory, flags)


@remote
async def domain_set_memory_stats_period(
    session: Session, dom: DomainHandle, period: int, flags: int
) -> None:
    """Change how often the guest reports its memory's use, in seconds."""
    check_flags(flags, Impact.LIVE | Impact.CONFIG, "qemuDomainSetMemoryStatsPeriod")
    if period < 0:
        raise InvalidArg(
            "period in virDomainSetMemoryStatsPeriod must be zero or greater", domain=ErrorDomain.NONE
        )
    await memories.set_stats_period(find(session, dom), period, flags)
