"""``<ip>`` of a network: its address, and what DHCP and TFTP serve there."""

import ipaddress
from collections.abc import Callable

from qvirt.errors import ConfigUnsupported
from qvirt.model.netdev import parse_address
from qvirt.xml.codecs import if_said, string, uint, ulong, words, yes_no
from qvirt.xml.fields import attr, child, children, part
from qvirt.xml.node import Node

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

#: the units of a lease's length, in seconds
LEASE_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}


def write_open(
    node: Node,
    write: Callable[[list[str], str, str | None, bool], None],
    out: list[str],
    indent: str,
    tag: str | None,
) -> None:
    """Write an element that libvirt never writes as an empty tag."""
    mark = len(out)
    write(out, indent, tag, True)
    if len(out) == mark + 1:
        out[mark] = f"{out[mark].removesuffix('/>' + chr(10))}>\n"
        out.append(f"{indent}</{tag or node.tag}>\n")


class Lease(Node, tag="lease"):
    """How long an address is given out; 0 is forever."""

    expiry: int | None = attr(ulong)
    unit: str | None = attr(words(*LEASE_UNITS))

    def check(self) -> None:
        if not self.expiry:
            self.unit = None
            return
        self.unit = self.unit or "minutes"
        if self.seconds < 120:
            raise ConfigUnsupported("The minimum lease time should be greater than 2 minutes")

    @property
    def seconds(self) -> int:
        """The length in seconds; 0 is forever."""
        return (self.expiry or 0) * LEASE_UNITS[self.unit or "minutes"]


class DhcpRange(Node, tag="range"):
    """A range of addresses to give out."""

    start: str | None = attr(string)
    end: str | None = attr(string)
    lease: Lease | None = child(Lease)

    def check(self) -> None:
        if self.lease is not None and self.lease.expiry is None:
            self.lease = None


class DhcpHost(Node, tag="host"):
    """A host that always gets the same address."""

    mac: str | None = attr(string)
    id: str | None = attr(string)
    name: str | None = attr(string)
    ip: str | None = attr(string)
    lease: Lease | None = child(Lease)

    def check(self) -> None:
        if self.lease is not None and self.lease.expiry is None:
            self.lease = None


class Bootp(Node, tag="bootp"):
    """What a host boots from the network, and where it is served when not here."""

    file: str | None = attr(string)
    server: str | None = attr(string)


class Dhcp(Node, tag="dhcp"):
    """What dnsmasq hands out."""

    ranges: list[DhcpRange] = children(DhcpRange)
    hosts: list[DhcpHost] = children(DhcpHost)
    bootp: Bootp | None = child(Bootp)

    def check(self) -> None:
        if self.bootp is not None and self.bootp.file is None:
            self.bootp = None


class Tftp(Node, tag="tftp"):
    """The folder that is served over TFTP."""

    root: str | None = attr(if_said(string))


class NetworkIp(Node, tag="ip"):
    """An address of the bridge; what is served on it."""

    family: str | None = attr(if_said(string))
    address: str | None = attr(if_said(string))
    netmask: str | None = attr(if_said(string))
    prefix: int | None = attr(uint, omit=0)
    local_ptr: bool | None = attr(yes_no, "localPtr")
    tftp: Tftp = part(Tftp)
    dhcp: Dhcp | None = child(Dhcp)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if self.family == "ipv6" else 4

    @property
    def own(self) -> Address:
        """The bridge's own address. Raises ValueError for a document that was not validated."""
        return parse_address(self.address or "")

    @property
    def length(self) -> int:
        """The prefix length; without one that of the address's class (64 for IPv6), as libvirt has it."""
        if self.prefix:
            return self.prefix
        if self.netmask:
            return ipaddress.ip_network(f"0.0.0.0/{parse_address(self.netmask)}").prefixlen
        own = self.own
        if own.version == 6:
            return 64
        first = own.packed[0]
        return 8 if first < 128 else 16 if first < 192 else 24 if first < 224 else 0

    @property
    def subnet(self) -> Subnet:
        """The network the address is in."""
        return ipaddress.ip_network(f"{self.own}/{self.length}", strict=False)

    @property
    def ranges(self) -> list[DhcpRange]:
        """The ranges DHCP gives out."""
        return self.dhcp.ranges if self.dhcp is not None else []

    @property
    def hosts(self) -> list[DhcpHost]:
        """The hosts DHCP knows."""
        return self.dhcp.hosts if self.dhcp is not None else []

    def dhcp_or_new(self) -> Dhcp:
        """Return ``<dhcp>``, made where there is none."""
        if self.dhcp is None:
            self.dhcp = Dhcp()
        return self.dhcp

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        shown = self
        if self.dhcp is not None and not (self.dhcp.ranges or self.dhcp.hosts):
            shown = self.copy()  # a boot server alone is not written
            shown.dhcp = None
        write_open(shown, super(NetworkIp, shown).write, out, indent, tag)
