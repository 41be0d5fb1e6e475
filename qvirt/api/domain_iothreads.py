"""Making, removing and setting iothreads."""

from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import WireParam, decode
from qvirt.constants.common import TypedParameterType as Type
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.runtime.tuning import iothreads

_IMPACT: Final = Impact.LIVE | Impact.CONFIG
_PARAMETERS: Final = {
    "poll_max_ns": Type.ULLONG,
    "poll_grow": Type.UINT,
    "poll_shrink": Type.UINT,
    "thread_pool_min": Type.INT,
    "thread_pool_max": Type.INT,
}


@remote
async def domain_add_iothread(session: Session, dom: DomainHandle, iothread_id: int, flags: int) -> None:
    """Make an iothread."""
    check_flags(flags, _IMPACT, "qemuDomainAddIOThread")
    await iothreads.add(find(session, dom), iothread_id, flags)


@remote
async def domain_del_iothread(session: Session, dom: DomainHandle, iothread_id: int, flags: int) -> None:
    """Remove an iothread."""
    check_flags(flags, _IMPACT, "qemuDomainDelIOThread")
    await iothreads.remove(find(session, dom), iothread_id, flags)


@remote
async def domain_set_iothread_params(
    session: Session, dom: DomainHandle, iothread_id: int, params: list[WireParam], flags: int
) -> None:
    """Change how an iothread polls and the size of its thread pool."""
    check_flags(flags, _IMPACT, "qemuDomainSetIOThreadParams")
    values = {name: int(value) for name, value in decode(params, _PARAMETERS).items()}
    await iothreads.set_parameters(find(session, dom), iothread_id, values, flags)
