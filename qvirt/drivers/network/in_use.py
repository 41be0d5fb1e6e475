"""What a network must not collide with on the host: a bridge's name, address ranges, routes by advertisement.

All from files of ``/proc/net``, which show the network namespace we are in. Blocking.
"""

import ipaddress
import logging
from pathlib import Path
from typing import Final

from qvirt.drivers.network import bridge
from qvirt.errors import InternalError
from qvirt.model.network import Network as Document
from qvirt.model.network_ip import Subnet
from qvirt.record import Record

log = logging.getLogger(__name__)

#: linux/ipv6_route.h: set by the kernel for what a router's advertisement brought (RFC 4861)
_RTF_ADDRCONF: Final = 0x00040000
#: ranges that every device has; nobody's
_EVERYWHERE: Final = tuple(ipaddress.IPv6Network(text) for text in ("fe80::/10", "ff00::/8"))
_CONF: Final = Path("/proc/sys/net/ipv6/conf")


class _Route(Record):
    """A route of the host but a default one. direct: it ends right at the device; advertised: by a router."""

    device: str
    target: Subnet
    direct: bool
    advertised: bool = False


def check_free(document: Document) -> None:
    """Refuse a bridge name and address ranges that are in use. Raises InternalError in libvirt's words.

    A range is in use where a route of the host leads to the very same network (libvirt's rule, which it has
    for IPv4), or to a part or the whole of it right at a device: then we would take the addresses of others.
    """
    name = document.bridge_name or ""
    if bridge.exists(name):
        raise InternalError(
            f"bridge name '{name}' already in use: the host has a device of this name; "
            "give the network another bridge name or remove the device"
        )
    routes = [*_routes4(), *(route for route in _routes6() if route.target.prefixlen)]
    for ip in document.ips:
        subnet = ip.subnet
        for route in routes:
            if route.device == name or route.target.version != subnet.version:
                continue
            if route.target == subnet or (route.direct and _overlap(route.target, subnet)):
                raise InternalError(
                    f"Network is already in use by interface {route.device}: {subnet} of network "
                    f"'{document.name}' and the host's route to {route.target}; choose another address range"
                )


def check_forwarding(document: Document) -> None:
    """Refuse to forward IPv6 where that would cut the host off. Raises InternalError.

    A kernel that forwards takes no router's advertisements, and drops the routes it had from them, unless the
    device's ``accept_ra`` is 2.
    """
    if document.mode is None or not any(ip.version == 6 for ip in document.ips):
        return
    if _setting("all", "forwarding") == "1":
        return
    for route in _routes6():
        if route.advertised and _setting(route.device, "accept_ra") == "1":
            raise InternalError(
                f"interface {route.device} has IPv6 routes from a router's advertisement, which the kernel "
                f"drops when network '{document.name}' makes it forward IPv6; to keep them: "
                f"sysctl net.ipv6.conf.{route.device}.accept_ra=2"
            )


def _overlap(one: Subnet, other: Subnet) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.overlaps(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.overlaps(other)
    return False


def _setting(device: str, name: str) -> str:
    try:
        return (_CONF / device / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""  # the device has gone, or has no IPv6


def _lines(name: str) -> list[list[str]]:
    try:
        text = Path(f"/proc/net/{name}").read_text(encoding="ascii")
    except FileNotFoundError:
        return []  # there is no such protocol here
    except OSError as error:
        log.warning("cannot read the host's routes: %s", error)
        return []
    return [line.split() for line in text.splitlines()]


def _routes4() -> list[_Route]:
    """Return the routes of IPv4 but default ones."""
    found = []
    for device, target, gateway, _flags, _, _, _, mask, *_rest in _lines("route")[1:]:
        numbers = [int.from_bytes(bytes.fromhex(word), "little") for word in (target, mask)]
        length = numbers[1].bit_count()
        if length:
            subnet = ipaddress.IPv4Network((numbers[0], length))
            found.append(_Route(device=device, target=subnet, direct=not int(gateway, 16)))
    return found


def _routes6() -> list[_Route]:
    """Return the routes of IPv6 but those of the loopback and what every device has."""
    found = []
    for target, length, _, _, gateway, _, _, _, flags, device in _lines("ipv6_route"):
        subnet = ipaddress.IPv6Network((int(target, 16), int(length, 16)))
        if device == "lo" or any(subnet.subnet_of(own) for own in _EVERYWHERE):
            continue
        found.append(
            _Route(
                device=device,
                target=subnet,
                direct=not int(gateway, 16),
                advertised=bool(int(flags, 16) & _RTF_ADDRCONF),
            )
        )
    return found
