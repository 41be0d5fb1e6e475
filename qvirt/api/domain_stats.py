"""Statistics of many domains in one call."""

from typing import Final

from qvirt.api.domain_list import LIST_MAX, select
from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, Handle, handle, uuid_text
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import WireParam, encode
from qvirt.constants.domain import ConnectGetAllDomainStatsFlags as Flag
from qvirt.constants.domain import DomainStatsTypes
from qvirt.errors import ArgumentUnsupported, RpcError

_FILTERS: Final = (
    Flag.ACTIVE
    | Flag.INACTIVE
    | Flag.PERSISTENT
    | Flag.TRANSIENT
    | Flag.RUNNING
    | Flag.PAUSED
    | Flag.SHUTOFF
    | Flag.OTHER
)
_FLAGS: Final = _FILTERS | Flag.NOWAIT | Flag.BACKING | Flag.ENFORCE_STATS

_KNOWN: Final = sum(value for name, value in vars(DomainStatsTypes).items() if name.isupper())


@remote
async def connect_get_all_domain_stats(
    session: Session, doms: list[DomainHandle], stats: int, flags: int
) -> list[tuple[Handle, list[WireParam]]]:
    """Give the groups of statistics asked for (0: all) of some domains, or of all that pass the filters."""
    check_flags(flags, _FLAGS, "qemuConnectGetAllDomainStats")
    if stats & ~_KNOWN and flags & Flag.ENFORCE_STATS:
        raise ArgumentUnsupported(
            f"Stats types bits 0x{stats & ~_KNOWN:x} are not supported by this daemon or QEMU"
        )
    domains = select(session, flags & _FILTERS)
    if doms:
        # A domain that is gone by now is left out, as in libvirt.
        wanted = {uuid_text(dom.uuid) for dom in doms}
        domains = [domain for domain in domains if domain.uuid in wanted]
    found = await session.hypervisor.bulk_stats(
        domains, stats & _KNOWN, nowait=bool(flags & Flag.NOWAIT), backing=bool(flags & Flag.BACKING)
    )
    if len(found) > LIST_MAX:
        raise RpcError(f"Number of domain stats records is {len(found)}, which exceeds max limit: {LIST_MAX}")
    return [(handle(each), encode(each.params)) for each in found]
