"""Flags and arguments as libvirt checks them, with its sentences."""

from qvirt.constants.domain import DomainModificationImpact
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg


class PlainInvalidArg(InvalidArg):
    """An invalid argument whose sentence stands alone, as libvirt words those about flags."""

    template = "%s"


def check_flags(flags: int, known: int, function: str, domain: int | None = None) -> None:
    """Raise InvalidArg when a bit outside ``known`` is set.

    function: libvirt's function that checks; domain: its ErrorDomain, where it is not the driver's.
    """
    if flags & ~known:
        raise PlainInvalidArg(
            f"unsupported flags (0x{flags & ~known:x}) in function {function}", domain=domain
        )


def check_one_impact(flags: int) -> None:
    """Raise InvalidArg when both the live and the persistent definition are asked about."""
    both = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
    if flags & both == both:
        raise PlainInvalidArg(
            "Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive",
            domain=ErrorDomain.DOMAIN,
        )


def check_exclusive(flags: int, one: tuple[str, int], other: tuple[str, int], function: str) -> None:
    """Raise InvalidArg when both flags, given with their names, are set."""
    if flags & one[1] and flags & other[1]:
        raise PlainInvalidArg(
            f"flags '{one[0]}' and '{other[0]}' in function '{function}' are mutually exclusive"
        )
