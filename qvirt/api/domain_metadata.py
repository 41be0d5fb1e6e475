"""Title, description and the metadata elements of applications."""

from typing import Final

from qvirt.api.flags import check_flags, check_one_impact
from qvirt.api.handle import DomainHandle, find
from qvirt.api.metadata import check_get, check_set
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.domain import DomainMetadataType as Kind
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg

_IMPACT: Final = Impact.LIVE | Impact.CONFIG


def _check_kind(kind: int) -> None:
    if not Kind.DESCRIPTION <= kind <= Kind.ELEMENT:
        raise InvalidArg(f"unknown metadata type '{kind}'", domain=ErrorDomain.DOMAIN)


@remote
async def domain_set_metadata(
    session: Session,
    dom: DomainHandle,
    type: int,
    metadata: str | None,
    key: str | None,
    uri: str | None,
    flags: int,
) -> None:
    """Set title, description or one application's element."""
    check_flags(flags, _IMPACT, "qemuDomainSetMetadata")
    _check_kind(type)
    check_set("Domain", type, metadata, key, uri)
    await find(session, dom).set_metadata(type, metadata, key, uri, flags)


@remote
async def domain_get_metadata(
    session: Session, dom: DomainHandle, type: int, uri: str | None, flags: int
) -> str:
    """Give title, description or one application's element."""
    check_flags(flags, _IMPACT, "qemuDomainGetMetadata")
    check_one_impact(flags)
    _check_kind(type)
    check_get("Domain", type, uri)
    return await find(session, dom).metadata(type, uri, flags)
