"""Guests whose memory is encrypted: their measurement, and their owner's secret."""

from typing import Final

from qvirt.api.flags import PlainInvalidArg, check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import WireParam, decode, encode
from qvirt.constants.common import TypedParameterFlags
from qvirt.constants.common import TypedParameterType as Type
from qvirt.runtime.life import launch_security

_HEADER: Final = "sev-secret-header"
_SECRET: Final = "sev-secret"  # noqa: S105 - libvirt's name of a parameter
_ADDRESS: Final = "sev-secret-set-address"


@remote
async def domain_get_launch_security_info(session: Session, dom: DomainHandle, flags: int) -> list[WireParam]:
    """Give the measurement of a guest that SEV encrypts; nothing of others."""
    check_flags(flags, TypedParameterFlags.OKAY, "qemuDomainGetLaunchSecurityInfo")
    return encode(await launch_security.info(find(session, dom)))


@remote
async def domain_set_launch_security_state(
    session: Session, dom: DomainHandle, params: list[WireParam], flags: int
) -> None:
    """Give a guest that SEV encrypts its owner's secret, before it runs."""
    check_flags(flags, 0, "qemuDomainSetLaunchSecurityState")
    known = {_HEADER: Type.STRING, _SECRET: Type.STRING, _ADDRESS: Type.ULLONG}
    values = decode(params, known)
    domain = find(session, dom)
    launch_security.refuse_secret(domain)
    if _HEADER not in values or _SECRET not in values:
        raise PlainInvalidArg("Both secret and the secret header are required")
    address = int(values[_ADDRESS]) if _ADDRESS in values else None
    await launch_security.set_secret(domain, str(values[_HEADER]), str(values[_SECRET]), address)
