"""Finding domains: lookups, the bulk list with its filters, and the old lists of ids and names."""

from collections.abc import Callable, Iterator
from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import Handle, handle, uuid_text
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.domain import ConnectListAllDomainsFlags as Filter
from qvirt.constants.domain import DomainState
from qvirt.errors import InvalidArg, RpcError
from qvirt.runtime.domain import Domain

LIST_MAX: Final = 16384
"""Domains, names or ids a reply can carry."""

Test = Callable[[Domain], bool]

_GROUPS: Final[tuple[tuple[tuple[int, Test], ...], ...]] = (
    (
        (Filter.ACTIVE, lambda d: d.active),
        (Filter.INACTIVE, lambda d: not d.active),
    ),
    (
        (Filter.PERSISTENT, lambda d: d.persistent),
        (Filter.TRANSIENT, lambda d: not d.persistent),
    ),
    (
        (Filter.RUNNING, lambda d: d.state == DomainState.RUNNING),
        (Filter.PAUSED, lambda d: d.state == DomainState.PAUSED),
        (Filter.SHUTOFF, lambda d: d.state == DomainState.SHUTOFF),
        (
            Filter.OTHER,
            lambda d: d.state not in (DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUTOFF),
        ),
    ),
    (
        (Filter.MANAGEDSAVE, lambda d: d.has_managed_save),
        (Filter.NO_MANAGEDSAVE, lambda d: not d.has_managed_save),
    ),
    (
        (Filter.AUTOSTART, lambda d: d.autostart),
        (Filter.NO_AUTOSTART, lambda d: not d.autostart),
    ),
    (
        (Filter.HAS_SNAPSHOT, lambda d: False),
        (Filter.NO_SNAPSHOT, lambda d: True),
    ),
    (
        (Filter.HAS_CHECKPOINT, lambda d: False),
        (Filter.NO_CHECKPOINT, lambda d: True),
    ),
)
"""Flags of one group exclude nothing together; groups narrow each other. A group without flags passes all."""

_ALL: Final = sum(flag for group in _GROUPS for flag, _ in group)


def visible(session: Session) -> Iterator[Domain]:
    """Give the domains that this client may know of."""
    domains = iter(session.hypervisor.domains)
    if session.shown is None:
        return domains
    return (domain for domain in domains if session.may_show(domain.uuid))


def select(session: Session, flags: int) -> list[Domain]:
    """Give the domains that pass the filters."""
    wanted = [
        tests
        for group in _GROUPS
        if (tests := [test for flag, test in group if flags & flag]) and len(tests) < len(group)
    ]
    # one that is just being defined is not there yet
    domains = [domain for domain in visible(session) if domain.persistent or domain.active]
    for tests in wanted:
        domains = [domain for domain in domains if any(test(domain) for test in tests)]
    return domains


@remote
def connect_list_all_domains(session: Session, need_results: int, flags: int) -> tuple[list[Handle], int]:
    """List domains, filtered; without need_results only count them."""
    check_flags(flags, _ALL, "qemuConnectListAllDomains")
    domains = select(session, flags)
    if not need_results:
        return [], len(domains)
    if len(domains) > LIST_MAX:
        raise RpcError(f"Too many domains '{len(domains)}' for limit '{LIST_MAX}'")
    return [handle(domain) for domain in domains], len(domains)


@remote
def connect_num_of_domains(session: Session) -> int:
    """Count the active domains."""
    return sum(domain.active for domain in visible(session))


@remote
def connect_list_domains(session: Session, maxids: int) -> list[int]:
    """List the ids of active domains."""
    _check_max("maxids", maxids)
    return [domain.id for domain in visible(session) if domain.active][:maxids]


@remote
def connect_num_of_defined_domains(session: Session) -> int:
    """Count the inactive domains."""
    return sum(not domain.active for domain in visible(session))


@remote
def connect_list_defined_domains(session: Session, maxnames: int) -> list[str]:
    """List the names of inactive domains."""
    _check_max("maxnames", maxnames)
    return [domain.name for domain in visible(session) if not domain.active][:maxnames]


def _check_max(name: str, value: int) -> None:
    if value > LIST_MAX:
        raise RpcError(f"{name} > REMOTE_DOMAIN_LIST_MAX")
    if value < 0:
        raise InvalidArg(f"{name} in must be zero or greater")


@remote
def domain_lookup_by_id(session: Session, id: int) -> Handle:
    """Find an active domain by id."""
    return handle(session.hypervisor.domains.by_id(id))


@remote
def domain_lookup_by_name(session: Session, name: str) -> Handle:
    """Find a domain by name."""
    return handle(session.hypervisor.domains.by_name(name))


@remote
def domain_lookup_by_uuid(session: Session, uuid: bytes) -> Handle:
    """Find a domain by uuid."""
    return handle(session.hypervisor.domains.by_uuid(uuid_text(uuid)))
