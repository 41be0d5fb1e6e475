"""What a domain may use of the host: CPU time, memory, block I/O, memory nodes; now and configured."""

from typing import Final

from qvirt.api.flags import check_flags, check_one_impact
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import STRING_OKAY, WireParam, decode, encode, encode_counted
from qvirt.constants.common import TypedParameterType as Type
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.errors import RpcError
from qvirt.model.domain import PERF_EVENTS
from qvirt.runtime.tuning import disk_limits, perf, tunables

_IMPACT: Final = Impact.LIVE | Impact.CONFIG
_GET: Final = _IMPACT | STRING_OKAY
#: the protocol's limit for each of these calls
_MOST: Final = 16
_MOST_OF_DISK: Final = 32

_SCHEDULER: Final = {name: kind for name, (kind, _, _) in tunables.SCHEDULER.items()}
_MEMORY: Final = dict.fromkeys(tunables.MEMORY, Type.ULLONG)
_BLKIO: Final = {"weight": Type.UINT, **dict.fromkeys(tunables.BLKIO_DEVICE, Type.STRING)}
_PERF: Final[dict[str, int]] = dict.fromkeys(PERF_EVENTS, Type.BOOLEAN)
_NUMA: Final = {"numa_mode": Type.INT, "numa_nodeset": Type.STRING}


@remote
async def domain_get_scheduler_type(session: Session, dom: DomainHandle) -> tuple[str, int]:
    """Name the CPU scheduler and count its parameters."""
    return tunables.scheduler_type(find(session, dom))


@remote
async def domain_get_scheduler_parameters(
    session: Session, dom: DomainHandle, nparams: int
) -> list[WireParam]:
    """Give shares, periods and quotas of CPU time."""
    return await _scheduler(session, dom, nparams, 0)


@remote
async def domain_get_scheduler_parameters_flags(
    session: Session, dom: DomainHandle, nparams: int, flags: int
) -> list[WireParam]:
    """Give shares, periods and quotas of CPU time, now or configured."""
    check_flags(flags, _GET, "qemuDomainGetSchedulerParametersFlags")
    return await _scheduler(session, dom, nparams, flags)


async def _scheduler(session: Session, dom: DomainHandle, nparams: int, flags: int) -> list[WireParam]:
    if not 0 <= nparams <= _MOST:
        raise RpcError("nparams too large")
    return encode(await tunables.scheduler(find(session, dom), flags), STRING_OKAY)[:nparams]


@remote
async def domain_set_scheduler_parameters(
    session: Session, dom: DomainHandle, params: list[WireParam]
) -> None:
    """Change shares, periods and quotas of CPU time."""
    await tunables.set_scheduler(find(session, dom), decode(params, _SCHEDULER), 0)


@remote
async def domain_set_scheduler_parameters_flags(
    session: Session, dom: DomainHandle, params: list[WireParam], flags: int
) -> None:
    """Change shares, periods and quotas of CPU time, now or configured."""
    check_flags(flags, _IMPACT, "qemuDomainSetSchedulerParametersFlags")
    await tunables.set_scheduler(find(session, dom), decode(params, _SCHEDULER), flags)


@remote
async def domain_get_memory_parameters(
    session: Session, dom: DomainHandle, nparams: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give the limits on memory, in KiB."""
    check_flags(flags, _GET, "qemuDomainGetMemoryParameters")
    found = await tunables.memory(find(session, dom), flags)
    return encode_counted(found, nparams, flags, _MOST)


@remote
async def domain_set_memory_parameters(
    session: Session, dom: DomainHandle, params: list[WireParam], flags: int
) -> None:
    """Change the limits on memory, in KiB."""
    check_flags(flags, _IMPACT, "qemuDomainSetMemoryParameters")
    await tunables.set_memory(find(session, dom), decode(params, _MEMORY), flags)


@remote
async def domain_get_blkio_parameters(
    session: Session, dom: DomainHandle, nparams: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give weights and rates of block I/O."""
    check_flags(flags, _GET, "qemuDomainGetBlkioParameters")
    found = await tunables.blkio(find(session, dom), flags)
    return encode_counted(found, nparams, flags, _MOST)


@remote
async def domain_set_blkio_parameters(
    session: Session, dom: DomainHandle, params: list[WireParam], flags: int
) -> None:
    """Change weights and rates of block I/O."""
    check_flags(flags, _IMPACT, "qemuDomainSetBlkioParameters")
    await tunables.set_blkio(find(session, dom), decode(params, _BLKIO), flags)


@remote
async def domain_get_block_io_tune(
    session: Session, dom: DomainHandle, disk: str | None, nparams: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give the limits on a disk's traffic: bytes and operations a second, and bursts."""
    check_flags(flags, _GET, "qemuDomainGetBlockIoTune")
    domain = find(session, dom)
    check_one_impact(flags)
    return encode_counted(disk_limits.get(domain, disk, flags), nparams, flags, _MOST_OF_DISK)


@remote
async def domain_set_block_io_tune(
    session: Session, dom: DomainHandle, disk: str, params: list[WireParam], flags: int
) -> None:
    """Limit a disk's traffic: now, in the definition, or both."""
    check_flags(flags, _IMPACT, "qemuDomainSetBlockIoTune")
    given = decode(params, {**disk_limits.TYPES}).items()
    values = {name: value if isinstance(value, str) else int(value) for name, value in given}
    await disk_limits.change(find(session, dom), disk, values, flags)


@remote
async def domain_get_numa_parameters(
    session: Session, dom: DomainHandle, nparams: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give the host's nodes that memory comes from."""
    check_flags(flags, _GET, "qemuDomainGetNumaParameters")
    check_one_impact(flags)
    found = await tunables.numa(find(session, dom), flags)
    return encode_counted(found, nparams, flags, _MOST)


@remote
async def domain_set_numa_parameters(
    session: Session, dom: DomainHandle, params: list[WireParam], flags: int
) -> None:
    """Change the host's nodes that memory comes from."""
    check_flags(flags, _IMPACT, "qemuDomainSetNumaParameters")
    await tunables.set_numa(find(session, dom), decode(params, _NUMA), flags)


@remote
async def domain_get_perf_events(session: Session, dom: DomainHandle, flags: int) -> list[WireParam]:
    """Say which performance events are counted, now or configured."""
    check_flags(flags, _GET, "qemuDomainGetPerfEvents")
    return encode(await perf.events(find(session, dom), flags & ~STRING_OKAY), flags)


@remote
async def domain_set_perf_events(
    session: Session, dom: DomainHandle, params: list[WireParam], flags: int
) -> None:
    """Count performance events, or no more, now and configured."""
    check_flags(flags, _IMPACT, "qemuDomainSetPerfEvents")
    values = {name: bool(value) for name, value in decode(params, _PERF).items()}
    await perf.set_events(find(session, dom), values, flags)
