"""What an interface and a network have in common: virtual port, bandwidth, VLANs, addresses, routes."""

import ipaddress
import re

from lxml import etree

from qvirt.errors import ConfigUnsupported, QvirtError, XmlDetail, XmlError
from qvirt.xml.codecs import positive, string, uint, uuid, words, yes_no
from qvirt.xml.fields import Attr, attr, child, children
from qvirt.xml.node import Node


class VirtualPortParameters(Node, tag="parameters"):
    """What the switch is told about the port; which of them count depends on the port's type."""

    managerid: str | None = attr(string)
    typeid: str | None = attr(string)
    typeidversion: str | None = attr(string)
    instanceid: str | None = attr(uuid)
    interfaceid: str | None = attr(uuid)
    profileid: str | None = attr(string)

    def check(self) -> None:
        for name, highest in (("managerid", 0xFF), ("typeid", 0xFFFFFF), ("typeidversion", 0xFF)):
            text = getattr(self, name)
            if text is None:
                continue
            try:
                value = int(text, 0)
            except ValueError:
                raise XmlError(f"cannot parse value of {name} parameter") from None
            if not 0 <= value <= highest:
                raise XmlError(f"value of {name} out of range")
            setattr(self, name, str(value))


#: the parameters each type must have; those that can be made up are not listed
_NEEDED = {
    "802.1Qbg": ("managerid", "typeid", "typeidversion"),
    "802.1Qbh": ("profileid",),
    "openvswitch": (),
    "midonet": ("interfaceid",),
}
#: the parameters each type has at all
_TAKEN = {
    "802.1Qbg": ("managerid", "typeid", "typeidversion", "instanceid"),
    "802.1Qbh": ("profileid",),
    "openvswitch": ("interfaceid", "profileid"),
    "midonet": ("interfaceid",),
}


class VirtualPort(Node, tag="virtualport"):
    """How the port behaves towards the switch (formatdomain, "virtualport")."""

    type: str | None = attr(string)
    parameters: VirtualPortParameters | None = child(VirtualPortParameters)

    def check(self) -> None:
        if self.type is not None and self.type not in _NEEDED:
            raise ConfigUnsupported(f"unknown virtualport type {self.type}")

    def require_all(self) -> None:
        """Refuse a port that lacks what its type needs. Raises XmlError."""
        if self.type is None:
            raise XmlError("missing required virtualport type")
        for name in _NEEDED[self.type]:
            if self.parameters is None or getattr(self.parameters, name) is None:
                raise XmlError(f"missing {name} in <virtualport type='{self.type}'>")
        if self.parameters is not None:
            for field in VirtualPortParameters.fields:
                if self.parameters.says(field.name) and field.name not in _TAKEN[self.type]:
                    raise XmlError(f"extra {field.name} unsupported in <virtualport type='{self.type}'>")


class Traffic(Node):
    """One direction of ``<bandwidth>``: KiB a second, burst in KiB."""

    average: int | None = attr(uint)
    peak: int | None = attr(uint)
    floor: int | None = attr(uint)
    burst: int | None = attr(uint)

    def _bad_attr(self, el: etree._Element, field: Attr, text: str, error: ValueError) -> QvirtError:
        return ConfigUnsupported(f"could not convert bandwidth {field.wire} value '{text}'")

    def check(self) -> None:
        for field in self.fields:
            if getattr(self, field.name) == 0:
                setattr(self, field.name, None)
        if self.average is None and self.floor is None:
            raise XmlDetail("Missing mandatory average or floor attributes")
        if (self.peak is not None or self.burst is not None) and self.average is None:
            raise XmlDetail("'peak' and 'burst' require 'average' attribute")


class Bandwidth(Node, tag="bandwidth"):
    """Limits on the traffic; inbound is towards the guest."""

    inbound: Traffic | None = child(Traffic, "inbound")
    outbound: Traffic | None = child(Traffic, "outbound")

    def check(self) -> None:
        if self.outbound is not None and self.outbound.floor is not None:
            raise XmlError("floor attribute allowed only in <inbound> element")


class VlanTag(Node, tag="tag"):
    id: int = attr(uint, required=True)
    native_mode: str | None = attr(words("tagged", "untagged"), "nativeMode")

    def check(self) -> None:
        if self.id > 4095:
            raise XmlError(f"vlan tag id {self.id} too large (maximum 4095)")


class Vlan(Node, tag="vlan"):
    """The VLANs of the port; more than one, or a native one, makes it a trunk."""

    trunk: bool | None = attr(yes_no, omit=False)
    tags: list[VlanTag] = children(VlanTag)

    def check(self) -> None:
        if not self.tags:
            raise XmlError("missing tag id - each <vlan> must have at least one <tag id='n'/> subelement")
        if sum(tag.native_mode is not None for tag in self.tags) > 1:
            raise XmlError("duplicate native vlan setting")
        if any(tag.native_mode is not None for tag in self.tags):
            if self.trunk is False:
                raise XmlError(
                    "invalid configuration in <vlan> - \"trunk='no'\" is not allowed with a native vlan id"
                )
            self.trunk = True
        if len(self.tags) > 1:
            if self.trunk is False:
                raise XmlError(
                    "invalid \"trunk='no'\" in <vlan> - trunk='yes' is required for more than one vlan tag"
                )
            self.trunk = True


class PortOptions(Node, tag="port"):
    """``isolated``: the guests of a bridge do not see each other."""

    isolated: bool | None = attr(yes_no)


def _address(text: str | None, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text or "")
    except ValueError:
        raise XmlError(what) from None


class IpAddress(Node, tag="ip"):
    """An address, and where it is a point to point link the peer's."""

    address: str | None = attr(string)
    family: str | None = attr(string)
    prefix: int | None = attr(uint, omit=0)
    peer: str | None = attr(string)

    def _bad_attr(self, el: etree._Element, field: Attr, text: str, error: ValueError) -> QvirtError:
        return XmlError(f"Invalid prefix value '{text}' in <ip>")

    def check(self) -> None:
        if self.address is None:
            raise XmlError("Missing required address in <ip>")
        parsed = _address(self.address, f"Invalid address '{self.address}' in <ip>")
        family = f"ipv{parsed.version}"
        if self.family not in (None, "ipv4", "ipv6"):
            raise XmlError(f"Invalid address family '{self.family}' in <ip>")
        if self.family not in (None, family):
            raise XmlError(f"family '{self.family}' does not match address '{self.address}' in <ip>")
        self.family = family
        if self.prefix is not None and self.prefix > parsed.max_prefixlen:
            raise XmlError(f"Invalid prefix value '{self.prefix}' in <ip>")
        self.address = str(parsed)
        if self.peer is not None:
            self.peer = str(_address(self.peer, f"Invalid peer '{self.peer}' in <ip>"))


class Route(Node, tag="route"):
    """A static route; ``prefix`` and ``netmask`` are two ways to say the same."""

    family: str | None = attr(string)
    address: str | None = attr(string)
    netmask: str | None = attr(string)
    prefix: int | None = attr(uint)
    gateway: str | None = attr(string)
    metric: int | None = attr(positive)

    def check(self) -> None:
        if self.address is None:
            raise XmlError("Missing required address attribute in route definition")
        if self.gateway is None:
            raise XmlError("Missing required gateway attribute in route definition")
        parsed = _address(self.address, f"Bad network address '{self.address}' in route definition")
        gateway = _address(self.gateway, f"Bad gateway address '{self.gateway}' in route definition")
        wanted = {None: 4, "ipv4": 4, "ipv6": 6}.get(self.family)
        where = "in route definition"
        if wanted is None:
            raise XmlError(f"Bad address family '{self.family}' in route definition")
        if parsed.version != wanted:
            raise XmlError(
                f"ipv{wanted} family specified for non-IPv{wanted} address '{self.address}' {where}"
            )
        if gateway.version != wanted:
            raise XmlError(
                f"ipv{wanted} family specified for non-IPv{wanted} gateway '{self.gateway}' {where}"
            )
        if self.prefix is not None and self.prefix > parsed.max_prefixlen:
            raise XmlError(
                f"Invalid prefix {self.prefix} specified {where}, must be 0 - {parsed.max_prefixlen}"
            )

    @property
    def target(self) -> str:
        """The network it leads to, as ADDRESS/LENGTH; where no length is said that of the address's class."""
        parsed = ipaddress.ip_address(self.address or "::")
        if self.prefix is not None:
            length: int | str = self.prefix
        elif self.netmask is not None:
            length = self.netmask
        else:
            first = parsed.packed[0]
            by_class = 8 if first < 128 else 16 if first < 192 else 24
            length = 0 if not int(parsed) else 64 if parsed.version == 6 else by_class
        return str(ipaddress.ip_network(f"{parsed}/{length}", strict=False))


_MAC = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}")


def normal_mac(text: str) -> str:
    """Return a MAC address in libvirt's spelling. Raises XmlError when it is none, or a multicast one."""
    if not _MAC.fullmatch(text):
        raise XmlError(f"unable to parse mac address '{text}'")
    parts = [part.lower().zfill(2) for part in text.split(":")]
    if int(parts[0], 16) & 1:
        raise XmlError(f"expected unicast mac address, found multicast '{text}'")
    return ":".join(parts)
