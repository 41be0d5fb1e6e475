"""A domain's memory: how much it may have, what the guest does with it."""

from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.errors import RpcError

_STATS_MAX: Final = 1024


@remote
def domain_get_max_memory(session: Session, dom: DomainHandle) -> int:
    """Give the most memory it may have, in KiB."""
    return find(session, dom).max_memory()


@remote
async def domain_memory_stats(
    session: Session,
    dom: DomainHandle,
    maxStats: int,
    flags: int,
) -> list[tuple[int, int]]:
    """Give (tag, value) pairs, sizes in KiB."""
    if maxStats > _STATS_MAX:
        raise RpcError("maxStats > REMOTE_DOMAIN_MEMORY_STATS_MAX")
    check_flags(flags, 0, "qemuDomainMemoryStats")
    return (await find(session, dom).memory_stats())[:maxStats]
