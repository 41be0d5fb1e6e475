"""Limits on the traffic of a domain's interfaces."""

from typing import Final

from qvirt.api.flags import check_flags, check_one_impact
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import STRING_OKAY, WireParam, decode, encode_counted
from qvirt.constants.common import TypedParameterType as Type
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.runtime.records import Param
from qvirt.runtime.tuning import interface_limits

_IMPACT: Final = Impact.LIVE | Impact.CONFIG
_PARAMETERS_MAX: Final = 16


@remote
async def domain_set_interface_parameters(
    session: Session, dom: DomainHandle, device: str, params: list[WireParam], flags: int
) -> None:
    """Limit an interface's traffic: now, in the definition, or both."""
    check_flags(flags, _IMPACT, "qemuDomainSetInterfaceParameters")
    known = dict.fromkeys(interface_limits.NAMES, Type.UINT)
    values = {name: int(value) for name, value in decode(params, {**known}).items()}
    await interface_limits.change(find(session, dom), device, values, flags)


@remote
async def domain_get_interface_parameters(
    session: Session, dom: DomainHandle, device: str, nparams: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give the limits on an interface's traffic."""
    check_flags(flags, _IMPACT | STRING_OKAY, "qemuDomainGetInterfaceParameters")
    domain = find(session, dom)
    check_one_impact(flags)
    params = [Param(name, Type.UINT, value) for name, value in interface_limits.get(domain, device, flags)]
    return encode_counted(params, nparams, flags, _PARAMETERS_MAX)
