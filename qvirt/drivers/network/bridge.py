"""A network's bridge on the host: made, addressed, routed; and what it must not collide with. Blocking."""

import ipaddress
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


def exists(name: str) -> bool:
    """Tell whether the host has a device of a name."""
    try:
        return bool(socket.if_nametoindex(name))
    except OSError:
        return False


def check_free(document: Document) -> None:
    """Refuse a bridge name and address ranges that are in use. Raises InternalError in libvirt's words.

    A range is in use where a route of the host leads to the very same network (libvirt's rule), or to a
    part or the whole of it right at a device: then we would take the addresses of others.
    """
    name = document.bridge_name or ""
    if exists(name):
        raise InternalError(
            f"bridge name '{name}' already in use: the host has a device of this name; "
            "give the network another bridge name or remove the device"
        )
    for ip in document.ips:
        if ip.version != 4:
            continue
        subnet = ip.subnet
        for device, target, direct in _routes():
            if device != name and (target == subnet or (direct and target.overlaps(subnet))):
                raise InternalError(
                    f"Network is already in use by interface {device}: {subnet} of network "
                    f"'{document.name}' and the host's route to {target}; choose another address range"
                )


def _routes() -> list[tuple[str, ipaddress.IPv4Network, bool]]:
    """Return device, network and whether it is right at the device, of the host's routes but default ones."""
    found = []
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError as error:
        log.warning("cannot read the host's routes: %s", error)
        return []
    for line in lines:
        device, target, gateway, _flags, _, _, _, mask, *_rest = line.split()
        numbers = [int.from_bytes(bytes.fromhex(word), "little") for word in (target, mask)]
        length = numbers[1].bit_count()
        if length:
            found.append((device, ipaddress.IPv4Network((numbers[0], length)), not int(gateway, 16)))
    return found


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
        if document.mode is not None:
            forward_packets(document)
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
    if not folder.is_dir():
        if any(ip.version == 6 for ip in document.ips):
            raise SystemError_(f"bridge '{name}' cannot have an IPv6 address: IPv6 is disabled on this host")
        return
    wanted = any(ip.version == 6 for ip in document.ips)
    _write(folder / "disable_ipv6", "0" if wanted else "1")
    _write(folder / "accept_ra", "0")
    _write(folder / "autoconf", "0")
    if document.bridge is not None and document.bridge.mac_table_manager == "libvirt":
        _write(Path(f"/sys/class/net/{name}/bridge/vlan_filtering"), "1", missing_ok=True)


def forward_packets(document: Document) -> None:
    """Let the host forward packets of the families the network has. Raises SystemError_."""
    if any(ip.version == 4 for ip in document.ips):
        _write(_SYSCTL / "ipv4" / "ip_forward", "1")
    if any(ip.version == 6 for ip in document.ips):
        _write(_SYSCTL / "ipv6" / "conf" / "all" / "forwarding", "1")


def _write(path: Path, value: str, *, missing_ok: bool = False) -> None:
    try:
        if path.read_text(encoding="ascii").strip() != value:
            path.write_text(value, encoding="ascii")
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return
        raise SystemError_(f"cannot write to {path}", error) from error
