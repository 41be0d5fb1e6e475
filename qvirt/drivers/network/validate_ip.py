"""Addresses, DHCP and routes of a network: what libvirt refuses, in its words."""

import ipaddress
import re

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, SystemError_, XmlError
from qvirt.model.netdev import is_mac, parse_address
from qvirt.model.network import Network
from qvirt.model.network_ip import Address, DhcpHost, DhcpRange, NetworkIp

#: addresses a range may have
_RANGE_MAX = 65535


class BadAddress(SystemError_):
    """An address that cannot be read, where libvirt asks the resolver."""

    def __init__(self, text: str) -> None:
        super().__init__(f"Cannot parse socket address '{text}': Name or service not known")
        self.domain = ErrorDomain.NONE


def _socket_address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError:
        raise BadAddress(text) from None


def check(ip: NetworkIp, name: str) -> None:
    """Check an ``<ip>`` and what is served there; addresses are put into their usual spelling."""
    where = f"in network '{name}'"
    if ip.address is None:
        raise XmlError(f"Missing required address attribute {where}")
    said = ip.address
    try:
        own = parse_address(said)
    except ValueError:
        raise XmlError(f"Invalid address '{said}' {where}") from None
    ip.address = str(own)
    netmask = _netmask(ip, where)
    if ip.family is None and own.version != 4:
        raise ConfigUnsupported(f"no family specified for non-IPv4 address '{said}' {where}")
    if ip.family not in (None, "ipv4", "ipv6"):
        raise XmlError(f"Unrecognized family '{ip.family}' {where}")
    if ip.family is not None and ip.version != own.version:
        raise ConfigUnsupported(
            f"Family '{ip.family}' specified for non-IPv{ip.version} address '{said}' {where}"
        )
    if netmask is not None and own.version == 6:
        raise ConfigUnsupported(f"netmask not allowed for IPv6 address '{said}' {where}")
    if netmask is not None and ip.prefix:
        raise ConfigUnsupported(f"Network '{name}' IP address cannot have both a prefix and a netmask")
    if ip.prefix and ip.prefix > own.max_prefixlen:
        raise ConfigUnsupported(f"Invalid IPv{own.version} prefix '{ip.prefix}' {where}")
    if own.version == 6 and ip.says("tftp"):
        raise ConfigUnsupported(f"Unsupported <tftp> element in an IPv6 element {where}")
    if ip.dhcp is None:
        return
    for range_ in ip.dhcp.ranges:
        check_range(range_, ip, name)
    for host in ip.dhcp.hosts:
        check_host(host, ip, name)
    if own.version == 6:
        ip.dhcp.bootp = None
    elif ip.dhcp.bootp is not None and ip.dhcp.bootp.server is not None:
        ip.dhcp.bootp.server = str(_socket_address(ip.dhcp.bootp.server))


def _netmask(ip: NetworkIp, where: str) -> str | None:
    if ip.netmask is None:
        return None
    try:
        mask = parse_address(ip.netmask)
        if mask.version == 4:
            ipaddress.ip_network(f"0.0.0.0/{mask}")  # libvirt would fail on a mask with holes at start
    except ValueError:
        raise XmlError(f"Invalid netmask '{ip.netmask}' {where}") from None
    if mask.version != 4 and ip.version == 4:
        raise ConfigUnsupported(
            f"Invalid netmask '{ip.netmask}' for address '{ip.address}' {where} (both must be IPv4)"
        )
    ip.netmask = str(mask)
    return ip.netmask


def check_size(start: str, end: str) -> None:
    """Refuse a range that is reversed, or whose ends differ in more than their last 16 bits.

    Raises InternalError.
    """
    first, last = parse_address(start), parse_address(end)
    shown = f"range {first} - {last}"
    if int(first) >> 16 != int(last) >> 16:
        raise InternalError(f"{shown} is too large (> {_RANGE_MAX})", domain=ErrorDomain.NONE)
    if int(first) > int(last):
        what = "is reversed " if first.version == 4 else "start larger than end"
        raise InternalError(f"{shown} {what}", domain=ErrorDomain.NONE)


def check_range(range_: DhcpRange, ip: NetworkIp, name: str) -> None:
    """Check a range: both ends, in the subnet, not its first or last address."""
    for which in ("start", "end"):
        if getattr(range_, which) is None:
            raise XmlError(f"Missing '{which}' attribute in dhcp range for network '{name}'")
    first, last = (_socket_address(end or "") for end in (range_.start, range_.end))
    range_.start, range_.end = str(first), str(last)
    own, length = ip.own, _length(ip)
    shown = f"range {first} - {last}"
    if first.version != last.version:
        raise InternalError(f"mismatch of address family in {shown}", domain=ErrorDomain.NONE)
    if last.version != own.version:
        raise InternalError(
            f"mismatch of address family in {shown} for network {own}", domain=ErrorDomain.NONE
        )
    where = f"network {own}/{length}"
    subnet = ipaddress.ip_network(f"{own}/{length}", strict=False)
    if first not in subnet or last not in subnet:
        raise InternalError(f"{shown} is not entirely within {where}", domain=ErrorDomain.NONE)
    if own.version == 4:
        if first == subnet.network_address:
            raise InternalError(
                f"start of {shown} in {where} is the network address", domain=ErrorDomain.NONE
            )
        if last == subnet.broadcast_address:
            raise InternalError(
                f"end of {shown} in {where} is the broadcast address", domain=ErrorDomain.NONE
            )
    check_size(str(first), str(last))


def _length(ip: NetworkIp) -> int:
    try:
        return ip.length
    except ValueError:
        return 24 if ip.version == 4 else 64


def check_host(host: DhcpHost, ip: NetworkIp, name: str, *, partial: bool = False) -> None:
    """Check a host; partial: it only says which one is meant, to be removed."""
    where = f"in network '{name}'"
    if host.mac is not None:
        if not is_mac(host.mac):
            raise XmlError(f"Cannot parse MAC address '{host.mac}' {where}")
        if int(host.mac.split(":")[0], 16) & 1:
            raise XmlError(f"expected unicast mac address, found multicast '{host.mac}' {where}")
        if ip.version == 6:
            raise XmlError(
                f"Invalid to specify MAC address '{host.mac}' in network '{name}' IPv6 static host definition"
            )
    if host.id is not None:
        bad = re.search("[^0-9a-fA-F:]", host.id)
        if bad is not None:
            raise XmlError(f"Invalid character '{bad[0]}' in id '{host.id}' of network '{name}'")
    if host.name is not None and not (host.name and host.name[0].isalnum()):
        raise XmlError(f"Cannot use host name '{host.name}' {where}")
    if host.ip is not None:
        try:
            host.ip = str(parse_address(host.ip))
        except ValueError:
            raise XmlError(f"Invalid IP address in static host definition for network '{name}'") from None
    if partial:
        if host.mac is None and host.name is None and host.ip is None and host.id is None:
            raise XmlError(
                f"At least one of name, mac, or ip attribute must be specified for static host "
                f"definition {where}"
            )
        return
    if ip.version == 6:
        if host.id is None and host.name is None:
            raise XmlError(f"Static host definition in IPv6 network '{name}' must have id or name attribute")
    elif host.mac is None and host.name is None:
        raise XmlError(f"Static host definition in IPv4 network '{name}' must have mac or name attribute")
    if host.ip is None:
        raise XmlError(f"Missing IP address in static host definition for network '{name}'")


def check_dhcp_once(network: Network) -> None:
    """Refuse DHCP on a second address of a family. Raises ConfigUnsupported."""
    for version in (4, 6):
        if sum(bool(ip.ranges or ip.hosts) for ip in network.ips if ip.version == version) > 1:
            raise ConfigUnsupported(
                f"Multiple IPv{version} dhcp sections found -- dhcp is supported only for a single "
                f"IPv{version} address on each network"
            )


def check_routes(network: Network) -> None:
    """Refuse routes that lead through a gateway that is not in one of the network's subnets."""
    for route in network.routes:
        gateway = parse_address(route.gateway or "")
        if not any(gateway in ip.subnet for ip in network.ips if ip.version == gateway.version):
            raise ConfigUnsupported(
                f"unreachable static route gateway '{route.gateway}' specified for network '{network.name}'"
            )
