"""A network's bridge on the host: made, addressed, routed. Blocking."""

import logging
import socket
from pathlib import Path

from qvirt.errors import InternalError, SystemError_
from qvirt.host import netlink
from qvirt.model.network import Network as Document

log = logging.getLogger(__name__)

#: libvirt's metric for a route that names none
_METRIC = 1
_SYSCTL = Path("/proc/sys/net")
#: RFC 8200, section 5
_IPV6_MTU = 1280


def exists(name: str) -> bool:
    """Tell whether the host has a device of a name."""
    try:
        return bool(socket.if_nametoindex(name))
    except OSError:
        return False


def make(document: Document) -> None:
    """Make the bridge with its addresses and routes; what is there already stays. Undoes itself on failure.

    Raises SystemError_, ConfigUnsupported.
    """
    bridge = document.bridge
    name = document.bridge_name
    if bridge is None or not name:
        raise InternalError(f"network '{document.name}' has no bridge name")
    fresh = not exists(name)
    try:
        if fresh:
            netlink.add_bridge(
                name,
                mac=document.mac.address,
                stp=bridge.stp != "off",
                delay=bridge.delay or 0,
                mtu=document.mtu.size or None,
            )
        _settings(document, name)
        addresses = [(str(ip.own), ip.length) for ip in document.ips]
        if addresses:
            netlink.add_addresses(name, addresses)
        netlink.set_up(name)
        routes = [(route.target, route.gateway or "", route.metric or _METRIC) for route in document.routes]
        if routes:
            netlink.add_routes(name, routes)
    except BaseException:
        if fresh:
            netlink.remove(name)
        raise


def remove(name: str) -> None:
    """Remove a bridge; harmless when it is gone. Raises SystemError_."""
    netlink.remove(name)


def _settings(document: Document, name: str) -> None:
    """No IPv6 where none is wanted, and no advice from routers among the guests."""
    folder = _SYSCTL / "ipv6" / "conf" / name
    wanted = any(ip.version == 6 for ip in document.ips)
    if not folder.is_dir():
        if wanted:
            size = document.mtu.size
            why = (
                f"its MTU of {size} is below the {_IPV6_MTU} that IPv6 needs"
                if size and size < _IPV6_MTU
                else "IPv6 is disabled on this host"
            )
            raise SystemError_(f"bridge '{name}' cannot have an IPv6 address: {why}")
        return
    _write(folder / "disable_ipv6", "0" if wanted else "1")
    _write(folder / "accept_ra", "0")
    _write(folder / "autoconf", "0")
    if document.bridge is not None and document.bridge.mac_table_manager == "libvirt":
        _filter_vlans(name)


def forward_packets(document: Document) -> None:
    """Let the host forward packets of the families that a network forwards. Raises SystemError_.

    It stays so: who else has come to count on it meanwhile, nobody knows.
    """
    if document.mode is None:
        return
    if any(ip.version == 4 for ip in document.ips):
        _write(_SYSCTL / "ipv4" / "ip_forward", "1")
    if any(ip.version == 6 for ip in document.ips):
        _write(_SYSCTL / "ipv6" / "conf" / "all" / "forwarding", "1")


def _filter_vlans(name: str) -> None:
    """Let a bridge whose table of addresses is ours keep one for each VLAN, as libvirt does."""
    path = Path(f"/sys/class/net/{name}/bridge/vlan_filtering")
    if path.exists():
        _write(path, "1")
    else:
        log.warning("the kernel filters no VLANs on bridge '%s': what guests tag reaches every port", name)


def _write(path: Path, value: str) -> None:
    try:
        if path.read_text(encoding="ascii").strip() != value:
            path.write_text(value, encoding="ascii")
    except OSError as error:
        raise SystemError_(f"cannot write to {path}", error) from error
