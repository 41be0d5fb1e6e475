"""What an interface and a network have in common: virtual port, bandwidth, VLANs, addresses, routes."""

import ipaddress
import re

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, QvirtError, XmlDetail, XmlError
from qvirt.xml.codecs import if_said, positive, string, uint, uuid, words, yes_no
from qvirt.xml.fields import Attr, attr, child, children
from qvirt.xml.node import Node, at, complain


class Bad(XmlError):
    """What libvirt says of these elements, whose errors come from no driver of its own."""

    default_domain = ErrorDomain.NONE


class BadDetail(XmlDetail):
    default_domain = ErrorDomain.NONE


class BadConfig(ConfigUnsupported):
    default_domain = ErrorDomain.NONE


class BadPort(XmlError):
    default_domain = ErrorDomain.NET


class BadRoute(XmlError):
    """A route that cannot be read; a network puts its name before the sentence."""


class VirtualPortParameters(Node, tag="parameters"):
    """What the switch is told about the port; which of them count depends on the port's type."""

    complaints = complain(
        {name: (Bad, f"cannot parse {name} parameter as a uuid") for name in ("instanceid", "interfaceid")}
    )
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
                raise Bad(f"cannot parse value of {name} parameter") from None
            if not 0 <= value <= highest:
                raise Bad(f"value of {name} out of range")
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
            raise BadConfig(f"unknown virtualport type {self.type}")

    def require_all(self) -> None:
        """Refuse a port that lacks what its type needs. Raises XmlError."""
        if self.type is None:
            raise Bad("missing required virtualport type")
        for name in _NEEDED[self.type]:
            if self.parameters is None or getattr(self.parameters, name) is None:
                raise BadPort(f"missing {name} in <virtualport type='{self.type}'>")
        self.refuse_extra()

    def refuse_extra(self) -> None:
        """Refuse parameters that its type has not. Raises XmlError."""
        if self.parameters is None or self.type is None:
            return
        for field in VirtualPortParameters.fields:
            if self.parameters.says(field.name) and field.name not in _TAKEN[self.type]:
                raise BadPort(f"extra {field.name} unsupported in <virtualport type='{self.type}'>")


class Traffic(Node):
    """One direction of ``<bandwidth>``: KiB a second, burst in KiB."""

    average: int | None = attr(uint)
    peak: int | None = attr(uint)
    floor: int | None = attr(uint)
    burst: int | None = attr(uint)

    def _bad_attr(self, el: etree._Element, field: Attr, text: str, error: ValueError) -> QvirtError:
        return BadConfig(
            f"could not convert bandwidth {field.wire} value '{text}'{at(el, field.codec.expects)}"
        )

    def check(self) -> None:
        if self.average is None and self.floor is None:
            raise BadDetail("Missing mandatory average or floor attributes")
        for field in self.fields:
            if getattr(self, field.name) == 0:
                setattr(self, field.name, None)
        if (self.peak is not None or self.burst is not None) and self.average is None:
            raise BadDetail("'peak' and 'burst' require 'average' attribute")


class Bandwidth(Node, tag="bandwidth"):
    """Limits on the traffic; inbound is towards the guest."""

    inbound: Traffic | None = child(Traffic, "inbound")
    outbound: Traffic | None = child(Traffic, "outbound")

    def check(self) -> None:
        for name in ("inbound", "outbound"):  # a limit of 0 is none
            traffic = getattr(self, name)
            if traffic is not None and traffic.is_empty():
                setattr(self, name, None)
        if self.outbound is not None and self.outbound.floor is not None:
            raise BadConfig("'floor' attribute allowed only in <inbound> element")


class VlanTag(Node, tag="tag"):
    id: int = attr(uint, required=True)
    native_mode: str | None = attr(words("tagged", "untagged"), "nativeMode")

    def check(self) -> None:
        if self.id > 4095:
            raise Bad(f"vlan tag id {self.id} too large (maximum 4095)")


class Vlan(Node, tag="vlan"):
    """The VLANs of the port; more than one, or a native one, makes it a trunk."""

    trunk: bool | None = attr(if_said(yes_no), omit=False)
    tags: list[VlanTag] = children(VlanTag)

    def _bad_attr(self, el: etree._Element, field: Attr, text: str, error: ValueError) -> QvirtError:
        several = len(el.findall("tag")) > 1
        wanted = "trunk='yes' is required for more than one vlan tag" if several else "must be yes or no"
        return Bad(f"invalid \"trunk='{text}'\" in <vlan> - {wanted}{at(el, field.codec.expects)}")

    def check(self) -> None:
        if not self.tags:
            raise Bad("missing tag id - each <vlan> must have at least one <tag id='n'/> subelement")
        if sum(tag.native_mode is not None for tag in self.tags) > 1:
            raise Bad("duplicate native vlan setting")
        if any(tag.native_mode is not None for tag in self.tags):
            if self.trunk is False:
                raise Bad(
                    "invalid configuration in <vlan> - \"trunk='no'\" is not allowed with a native vlan id"
                )
            self.trunk = True
        if len(self.tags) > 1:
            if self.trunk is False:
                raise Bad(
                    "invalid \"trunk='no'\" in <vlan> - trunk='yes' is required for more than one vlan tag"
                )
            self.trunk = True


class PortOptions(Node, tag="port"):
    """``isolated``: the guests of a bridge do not see each other."""

    isolated: bool | None = attr(yes_no)


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address as the C library does: ``10.1`` and ``0x0a000001`` are 10.0.0.1. Raises ValueError."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        *first, last = [_number(part) for part in text.split(".")]
    # the last number fills what the others leave
    if len(first) > 3 or any(value > 255 for value in first) or last >= 256 ** (4 - len(first)):
        raise ValueError(text)
    return ipaddress.IPv4Address(bytes(first) + last.to_bytes(4 - len(first), "big"))


def _number(text: str) -> int:
    """Read a part of an IPv4 address as C writes numbers. Raises ValueError."""
    if not text.isalnum() or not text.isascii():
        raise ValueError(text)
    if text[:2] in ("0x", "0X"):
        return int(text[2:], 16)
    return int(text, 8 if text.startswith("0") else 10)


def _address(text: str | None, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return parse_address(text or "")
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
        for name in ("address", "gateway"):
            if getattr(self, name) is None:
                raise BadRoute(f"Missing required {name} attribute in route definition")
        parsed = self._parsed("network address", self.address)
        mask = self._parsed("netmask address", self.netmask) if self.netmask is not None else None
        gateway = self._parsed("gateway address", self.gateway)
        self.gateway = str(gateway)
        if self.family not in (None, "ipv4", "ipv6"):
            raise BadRoute(f"Unrecognized family '{self.family}' in route definition")
        self._check_family(parsed.version, gateway.version)
        if mask is not None and mask.version != 4:
            raise BadRoute(
                f"Invalid netmask '{self.netmask}' for address '{self.address}' (both must be IPv4)"
            )
        if mask is not None and self.prefix is not None:
            raise BadRoute("Route definition cannot have both a prefix and a netmask")
        if self.prefix is not None and self.prefix > parsed.max_prefixlen:
            raise BadRoute(
                f"Invalid prefix {self.prefix} specified in route definition, must be 0 - "
                f"{parsed.max_prefixlen}"
            )
        bits = 0 if mask is None else int(mask)
        if self.prefix is not None:
            bits = (1 << parsed.max_prefixlen) - (1 << (parsed.max_prefixlen - self.prefix))
        if int(parsed) & ~bits:
            raise BadRoute(f"Address '{self.address}' in route definition is not a network address")

    def _parsed(self, what: str, text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        try:
            return parse_address(text or "")
        except ValueError:
            raise BadRoute(f"Bad {what} '{text}' in route definition") from None

    def _check_family(self, version: int, gateway: int) -> None:
        """Refuse addresses of another family than the one said, IPv4 where none is, in libvirt's words."""
        where = "in route definition"
        if self.family == "ipv6":
            if version != 6:
                raise BadRoute(f"ipv6 family specified for non-IPv6 address '{self.address}' {where}")
            if self.netmask is not None:
                raise BadRoute(f"Specifying netmask invalid for IPv6 address '{self.address}' {where}")
            if gateway != 6:
                raise BadRoute(f"ipv6 specified for non-IPv6 gateway address '{self.gateway}' {where}")
            return
        said = "IPv4 family" if self.family == "ipv4" else "No family"
        for kind, found in (("address", version), ("gateway", gateway)):
            if found != 4:
                raise BadRoute(f"{said} specified for non-IPv4 {kind} '{self.address}' {where}")

    @property
    def target(self) -> str:
        """The network it leads to, as ADDRESS/LENGTH; where no length is said that of the address's class."""
        parsed = parse_address(self.address or "::")
        if self.prefix is not None:
            length: int | str = self.prefix
        elif self.netmask is not None:
            length = str(parse_address(self.netmask))
        else:
            first = parsed.packed[0]
            by_class = 8 if first < 128 else 16 if first < 192 else 24
            length = 0 if not int(parsed) else 64 if parsed.version == 6 else by_class
        return str(ipaddress.ip_network(f"{parsed}/{length}", strict=False))


_MAC = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}")


def is_mac(text: str) -> bool:
    """Tell whether a text is a MAC address."""
    return _MAC.fullmatch(text) is not None


def spell_mac(text: str) -> str:
    """Return a MAC address in the kernel's spelling: two small digits for each byte."""
    return ":".join(part.lower().zfill(2) for part in text.split(":"))


def normal_mac(text: str) -> str:
    """Return a MAC address in libvirt's spelling. Raises XmlError when it is none, or a multicast one."""
    if not is_mac(text):
        raise XmlError(f"unable to parse mac address '{text}'")
    if int(text.split(":")[0], 16) & 1:
        raise XmlError(f"expected unicast mac address, found multicast '{text}'")
    return spell_mac(text)
