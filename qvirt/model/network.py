"""``<network>``: the order of its children, how its text is read and written; validation is the driver's.

``ip`` and DHCP are in ``network_ip``; bandwidth, VLANs and virtual ports in ``netdev``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import cast

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, NoName, QvirtError, XmlDetail, XmlError
from qvirt.model.devices.address import PciAddress
from qvirt.model.domain import Metadata
from qvirt.model.netdev import BadRoute, Bandwidth, PortOptions, Route, VirtualPort, Vlan
from qvirt.model.network_ip import NetworkIp, write_open
from qvirt.xml.codecs import Codec, if_said, one_of, string, uint, ulong, uuid, words, yes_no
from qvirt.xml.document import parse
from qvirt.xml.fields import Attr, attr, child, children, part, text, texts
from qvirt.xml.node import Node, Reader, complain

DNSMASQ_NAMESPACE = "http://libvirt.org/schemas/network/dnsmasq/1.0"


#: where libvirt takes 'yes' and looks at nothing else
_LAX: Codec[bool] = Codec(lambda value: value == "yes", lambda value: "yes" if value else "no", "'yes'")


def _filled(value: str) -> str:
    if not value:
        raise ValueError(value)
    return value


_FILLED: Codec[str] = Codec(_filled, str, "text")


#: what is only told, and nobody reads
_COUNTED: Codec[int] = Codec(lambda value: int(value) if value.isdigit() else 0, str, "a number")


#: stands for the network's name in the sentences of elements that do not know it
THIS = "\ufdd0"


class NoNetworkName(NoName):
    """The network lacks a name; libvirt says no more."""

    template = "missing name information"


class NetworkDetail(XmlDetail):
    """What libvirt's network driver says of a document's details."""

    default_domain = ErrorDomain.NETWORK


class ForwardMode(StrEnum):
    """How the guests reach the world; a network without ``<forward>`` is isolated."""

    NAT = "nat"
    ROUTE = "route"
    OPEN = "open"
    BRIDGE = "bridge"
    PRIVATE = "private"
    VEPA = "vepa"
    PASSTHROUGH = "passthrough"
    HOSTDEV = "hostdev"


#: the modes in which libvirt makes the bridge itself; None is the isolated network
BRIDGED_BY_US: frozenset[ForwardMode | None] = frozenset(
    {None, ForwardMode.NAT, ForwardMode.ROUTE, ForwardMode.OPEN}
)
#: the modes whose guests have macvtap devices
MACVTAP_MODES = frozenset(
    {ForwardMode.PRIVATE, ForwardMode.VEPA, ForwardMode.PASSTHROUGH, ForwardMode.BRIDGE}
)


_MODE: Codec[ForwardMode] = Codec(
    lambda value: one_of(ForwardMode).parse(value or ForwardMode.NAT), str, one_of(ForwardMode).expects
)


class ForwardDriver(Node, tag="driver"):
    complaints = complain(
        {"name": (ConfigUnsupported, f"Unknown forward <driver name='{{}}'/> in network {THIS}")}
    )
    name: str | None = attr(if_said(words("kvm", "vfio", "xen", "qemu")))


class NatAddress(Node, tag="address"):
    """The addresses that outgoing connections appear to come from."""

    start: str | None = attr(string)
    end: str | None = attr(string)


class NatPort(Node, tag="port"):
    """The ports that outgoing connections appear to come from."""

    complaints = complain(
        {
            which: (
                NetworkDetail,
                f"Missing or invalid '{which}' attribute in <port> in <nat> in <forward> in network {THIS}",
            )
            for which in ("start", "end")
        }
    )

    start: int | None = attr(uint)
    end: int | None = attr(uint)


class Nat(Node, tag="nat"):
    """``ipv6``: IPv6 is translated, too."""

    ipv6: bool | None = attr(yes_no)
    address: NatAddress | None = child(NatAddress)
    port: NatPort | None = child(NatPort)


class ForwardInterface(Node, tag="interface"):
    """A device of the host; connections: how many guests use it now."""

    complaints = complain(
        {
            "!dev": (
                XmlError,
                f"Missing required dev attribute in <forward> <interface> element of network {THIS}",
            )
        }
    )
    dev: str = attr(string, required=True)
    connections: int | None = attr(uint, omit=0)


class ForwardAddress(PciAddress, tag="address"):
    """A PCI device of the host to pass through."""

    complaints = complain({"!type": (XmlError, f"missing address type in network {THIS}")})
    type: str = attr(string, required=True)

    connections: int | None = attr(uint, omit=0)


class Pf(Node, tag="pf"):
    """The physical function whose virtual functions are the pool."""

    complaints = complain(
        {"!dev": (XmlError, f"Missing required dev attribute in <pf> element of network '{THIS}'")}
    )
    dev: str | None = cast("str | None", attr(string, required=True))


class Forward(Node, tag="forward"):
    """How the guests reach the world."""

    dev: str | None = attr(if_said(string))
    mode: ForwardMode = attr(_MODE, default=ForwardMode.NAT)
    managed: bool | None = attr(_LAX)
    driver: ForwardDriver = part(ForwardDriver)
    nat: Nat | None = child(Nat)
    pf: Pf | None = child(Pf)
    interfaces: list[ForwardInterface] = children(ForwardInterface)
    addresses: list[ForwardAddress] = children(ForwardAddress)

    def _bad_attr(self, el: etree._Element, field: Attr, text: str, error: ValueError) -> QvirtError:
        if field.name == "mode":
            return ConfigUnsupported(f"unknown forwarding type '{text}'")
        return super()._bad_attr(el, field, text, error)

    @property
    def devices(self) -> list[str]:
        """The names of the host's devices, in the document's order."""
        return [item.dev for item in self.interfaces if item.dev]


class Bridge(Node, tag="bridge"):
    """The bridge of the host the guests are plugged into. delay: seconds."""

    complaints = complain(
        {
            "delay": (XmlError, f"Invalid delay value in network '{THIS}'"),
            "macTableManager": (XmlError, f"Invalid macTableManager setting '{{}}' in network '{THIS}'"),
        }
    )

    name: str | None = attr(string)
    zone: str | None = attr(if_said(string))
    stp: str | None = attr(string)
    delay: int | None = attr(if_said(ulong))
    mac_table_manager: str | None = attr(if_said(words("kernel", "libvirt")), "macTableManager")


class NetworkMtu(Node, tag="mtu"):
    complaints = complain({"size": (XmlError, f"Invalid mtu size '{{}}' in network '{THIS}'")})
    size: int | None = attr(if_said(uint), omit=0)


class BridgeMac(Node, tag="mac"):
    address: str | None = attr(string)


class DnsDomain(Node, tag="domain"):
    """The DNS domain of the guests. localOnly: names in it are never asked of others."""

    name: str | None = attr(string)
    local_only: bool | None = attr(yes_no, "localOnly")
    register: bool | None = attr(_LAX, omit=False)


class DnsForwarder(Node, tag="forwarder"):
    """A server that is asked, for one domain or all; without address the domain is not forwarded."""

    domain: str | None = attr(string)
    addr: str | None = attr(string)


class DnsTxt(Node, tag="txt"):
    name: str | None = attr(string)
    value: str | None = attr(string)


class DnsSrv(Node, tag="srv"):
    """Where a service is. Numbers are checked together with what else is said: `drivers.network.validate`."""

    service: str | None = attr(string)
    protocol: str | None = attr(string)
    domain: str | None = attr(string)
    target: str | None = attr(string)
    port: int | None = attr(if_said(uint), omit=0)
    priority: int | None = attr(if_said(uint), omit=0)
    weight: int | None = attr(if_said(uint), omit=0)

    def _bad_attr(self, el: etree._Element, field: Attr, text: str, error: ValueError) -> QvirtError:
        word = "Invalid" if field.name == "priority" else "invalid"
        return NetworkDetail(
            f"{word} DNS SRV {field.name} attribute for service '{el.get('service')}' in network '{THIS}'"
        )


class DnsHost(Node, tag="host"):
    ip: str | None = attr(string)
    hostnames: list[str] = texts(string, "hostname")

    def check(self) -> None:
        self.hostnames = [name for name in self.hostnames if name]


class Dns(Node, tag="dns"):
    """What dnsmasq answers."""

    enable: bool | None = attr(yes_no)
    forward_plain_names: bool | None = attr(yes_no, "forwardPlainNames")
    forwarders: list[DnsForwarder] = children(DnsForwarder)
    txts: list[DnsTxt] = children(DnsTxt)
    srvs: list[DnsSrv] = children(DnsSrv)
    hosts: list[DnsHost] = children(DnsHost)


class PortGroup(Node, tag="portgroup"):
    """Settings that an interface may ask for by name."""

    complaints = complain(
        dict.fromkeys(("name", "!name"), (XmlError, "Missing required name attribute in portgroup"))
    )
    name: str = attr(_FILLED, required=True)
    default: bool | None = attr(_LAX, omit=False)
    trust_guest_rx_filters: bool | None = attr(yes_no, "trustGuestRxFilters")
    vlan: Vlan | None = child(Vlan)
    virtualport: VirtualPort | None = child(VirtualPort)
    bandwidth: Bandwidth | None = child(Bandwidth)

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        write_open(self, super().write, out, indent, tag)


class DnsmasqNode(Node):
    """Base: an element of the namespace, written with the prefix ``dnsmasq:``."""

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        super().write(out, indent, "dnsmasq:" + (tag or self.tag).rpartition("}")[2], force)


class DnsmasqOption(DnsmasqNode, tag=f"{{{DNSMASQ_NAMESPACE}}}option"):
    complaints = complain({"!value": (InternalError, "No dnsmasq options value specified")})
    value: str = attr(string, required=True)


class DnsmasqOptions(DnsmasqNode, tag=f"{{{DNSMASQ_NAMESPACE}}}options"):
    """Lines appended to dnsmasq's configuration."""

    options: list[DnsmasqOption] = children(DnsmasqOption)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the network's name into the sentences of elements that do not know it."""
    try:
        yield
    except QvirtError as error:
        if isinstance(error, BadRoute):
            raise type(error)(f"{name}: {error.detail}", domain=error.domain) from None
        if THIS not in error.detail:
            raise
        raise type(error)(error.detail.replace(THIS, name), domain=error.domain) from None


#: what there may be only one of, and where
_SINGLE = (
    ("forward[1]/nat", "nat", "<forward> of"),
    ("forward[1]/nat[1]/address", "address", "<nat> in <forward> in"),
    ("forward[1]/nat[1]/port", "port", "<nat> in <forward> in"),
    ("forward[1]/pf", "pf", "<forward> of"),
)


class Network(Node, tag="network"):
    """A virtual network, as the user describes it."""

    complaints = complain(
        {
            "!name": (NoNetworkName, ""),
            "uuid": (InternalError, "malformed uuid element"),
            "ipv6": (XmlError, f"Invalid ipv6 setting '{{}}' in network '{THIS}'"),
        }
    )
    connections: int | None = attr(_COUNTED, omit=0)
    ipv6: bool | None = attr(yes_no, omit=False)
    trust_guest_rx_filters: bool | None = attr(yes_no, "trustGuestRxFilters")
    name: str = text(string, required=True)
    uuid: str | None = text(if_said(uuid))
    title: str | None = text(string)
    description: str | None = text(string)
    metadata: Metadata | None = child(Metadata)
    forward: Forward | None = child(Forward)
    bridge: Bridge | None = child(Bridge)
    mtu: NetworkMtu = part(NetworkMtu)
    mac: BridgeMac = part(BridgeMac)
    domain: DnsDomain = part(DnsDomain)
    dns: Dns = part(Dns)
    vlan: Vlan | None = child(Vlan)
    bandwidth: Bandwidth | None = child(Bandwidth)
    port: PortOptions = part(PortOptions)
    ips: list[NetworkIp] = children(NetworkIp)
    routes: list[Route] = children(Route)
    virtualport: VirtualPort | None = child(VirtualPort)
    portgroups: list[PortGroup] = children(PortGroup)
    dnsmasq: DnsmasqOptions | None = child(DnsmasqOptions)

    def _read(self, el: etree._Element, reader: Reader) -> None:
        with naming(el.findtext("name") or ""):
            super()._read(el, reader)
        for path, kind, where in _SINGLE:
            if len(el.findall(path)) > 1:
                raise XmlError(f"Only one <{kind}> element is allowed in {where} network {self.name}")

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        mark = len(out)
        super().write(out, indent, tag, force)
        if self.dnsmasq is not None:  # libvirt writes the namespace before the attributes
            head = f"{indent}<{tag or self.tag}"
            out[mark] = f"{head} xmlns:dnsmasq='{DNSMASQ_NAMESPACE}'{out[mark].removeprefix(head)}"

    def check(self) -> None:
        if not self.name:
            raise NoNetworkName("")
        if "\n" in self.name:
            raise XmlDetail("invalid char in name: \n", domain=ErrorDomain.XML)
        if "/" in self.name:
            raise XmlDetail("invalid char in name: /", domain=ErrorDomain.XML)
        if self.title is not None and "\n" in self.title:
            raise XmlError("Network title can't contain newlines")
        for name in ("title", "description"):
            if self.__dict__.get(name) == "":
                del self.__dict__[name]
        if self.dnsmasq is not None and not self.dnsmasq.options:
            self.dnsmasq = None
        if self.bandwidth is not None and self.bandwidth.is_empty():
            self.bandwidth = None
        for group in self.portgroups:
            if group.bandwidth is not None and group.bandwidth.is_empty():
                group.bandwidth = None
            if group.virtualport is not None and group.virtualport.is_empty():
                group.virtualport = None

    # ------------------------------------------------------------ using

    @property
    def mode(self) -> ForwardMode | None:
        """How it forwards; None: not at all."""
        return self.forward.mode if self.forward is not None else None

    @property
    def bridge_name(self) -> str | None:
        """The bridge's name; None where there is none, or none yet."""
        return self.bridge.name if self.bridge is not None else None

    def group(self, name: str | None) -> PortGroup | None:
        """Return the port group of a name, or the default one; None when there is none.

        An interface that names no group, or one that is not there, gets the default.
        """
        for group in self.portgroups:
            if group.name == name:
                return group
        return next((group for group in self.portgroups if group.default), None)


def parse_network(xml: str, *, validate: bool = False) -> Network:
    """Read a network document. Raises XmlDetail, XmlError, XmlInvalidSchema."""
    return parse(xml, Network, "(network_definition)", validate=validate)
