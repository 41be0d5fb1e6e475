"""``<interface>``: what the XML says; what QEMU makes of it is in ``qemu/devices/interface.py``.

The type of an interface decides what its ``<source>`` may say, so one class holds what all types say and
``keep`` leaves what the type has.
"""

import re
from collections.abc import Iterator
from enum import StrEnum

from lxml import etree

from qvirt.errors import ConfigUnsupported, InvalidArg, QvirtError, XmlError
from qvirt.model.devices.address import ADDRESSES, Address
from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.model.netdev import Bandwidth, IpAddress, PortOptions, Route, VirtualPort, Vlan, normal_mac
from qvirt.model.storage_source import Named, Reconnect
from qvirt.xml.codecs import integer, on_off, one_of, string, uint, ulong, uuid, words, yes_no
from qvirt.xml.fields import Attr, Field, Texts, attr, child, children, choice, part, text
from qvirt.xml.node import Node


class InterfaceType(StrEnum):
    """What the guest's card is plugged into."""

    USER = "user"
    ETHERNET = "ethernet"
    VHOSTUSER = "vhostuser"
    SERVER = "server"
    CLIENT = "client"
    MCAST = "mcast"
    NETWORK = "network"
    BRIDGE = "bridge"
    INTERNAL = "internal"
    DIRECT = "direct"
    HOSTDEV = "hostdev"
    UDP = "udp"
    VDPA = "vdpa"
    NULL = "null"
    VDS = "vds"


#: the types whose card is a tap of the host, handed to QEMU as a descriptor
TAP_TYPES = frozenset(
    {InterfaceType.ETHERNET, InterfaceType.NETWORK, InterfaceType.BRIDGE, InterfaceType.DIRECT}
)
#: the models that speak virtio
VIRTIO_MODELS = frozenset({"virtio", "virtio-transitional", "virtio-non-transitional"})


class Mac(Node, tag="mac"):
    address: str | None = attr(string)
    type: str | None = attr(words("generated", "static"))
    check_: bool | None = attr(yes_no, "check")

    def check(self) -> None:
        if self.address is not None:
            self.address = normal_mac(self.address)


class UdpLocal(Node, tag="local"):
    address: str = attr(string, required=True)
    port: int = attr(integer, required=True)


#: what a source of each type may say
_SOCKET = frozenset({"address", "port"})
_TYPE_FIELDS: dict[str, frozenset[str]] = {
    InterfaceType.USER: frozenset({"dev", "ips", "routes"}),
    InterfaceType.ETHERNET: frozenset({"ips", "routes"}),
    InterfaceType.VHOSTUSER: frozenset({"type", "path", "mode", "reconnect"}),
    InterfaceType.SERVER: _SOCKET,
    InterfaceType.CLIENT: _SOCKET,
    InterfaceType.MCAST: _SOCKET,
    InterfaceType.NETWORK: frozenset({"network", "portgroup", "portid", "bridge"}),
    InterfaceType.BRIDGE: frozenset({"bridge"}),
    InterfaceType.INTERNAL: frozenset({"name"}),
    InterfaceType.DIRECT: frozenset({"dev", "mode"}),
    InterfaceType.HOSTDEV: frozenset({"host_address"}),
    InterfaceType.UDP: _SOCKET | {"local"},
    InterfaceType.VDPA: frozenset({"dev"}),
    InterfaceType.NULL: frozenset(),
    InterfaceType.VDS: frozenset({"switchid", "portid", "portgroupid", "connectionid"}),
}
#: what it must say, in the order libvirt asks
_TYPE_NEEDS: dict[str, tuple[str, ...]] = {
    InterfaceType.VHOSTUSER: ("type", "path", "mode"),
    InterfaceType.SERVER: ("port",),
    InterfaceType.CLIENT: ("port", "address"),
    InterfaceType.MCAST: ("port", "address"),
    InterfaceType.NETWORK: ("network",),
    InterfaceType.BRIDGE: ("bridge",),
    InterfaceType.INTERNAL: ("name",),
    InterfaceType.DIRECT: ("dev",),
    InterfaceType.UDP: ("port", "address"),
    InterfaceType.VDPA: ("dev",),
    InterfaceType.VDS: ("switchid", "portid", "portgroupid", "connectionid"),
}


class InterfaceSource(Node, tag="source"):
    """Where the card's packets go."""

    network: str | None = attr(string)
    portgroup: str | None = attr(string)
    switchid: str | None = attr(uuid)
    portid: str | None = attr(string)
    portgroupid: str | None = attr(string)
    connectionid: str | None = attr(string)
    bridge: str | None = attr(string)
    mac_table_manager: str | None = attr(string, "macTableManager")
    dev: str | None = attr(string)
    type: str | None = attr(string)
    path: str | None = attr(string)
    mode: str | None = attr(string)
    name: str | None = attr(string)
    address: str | None = attr(string)
    port: int | None = attr(integer)
    reconnect: Reconnect | None = child(Reconnect)
    local: UdpLocal | None = child(UdpLocal)
    ips: list[IpAddress] = children(IpAddress)
    routes: list[Route] = children(Route)
    host_address: Address | None = choice(ADDRESSES, "address")

    def keep(self, kind: str) -> None:
        """Drop what a source of this type does not have. Raises XmlError for what it lacks."""
        kept = _TYPE_FIELDS[kind]
        for field in self.fields:
            if field.name not in kept:
                self.__dict__.pop(field.name, None)
        for name in _TYPE_NEEDS.get(kind, ()):
            if getattr(self, name) is None:
                raise XmlError(f"Missing required attribute '{name}' in element 'source'")
        if kind == InterfaceType.DIRECT:
            self._one_of("mode", ("vepa", "private", "bridge", "passthrough"))
        elif kind == InterfaceType.VHOSTUSER:
            self._check_vhostuser()
        elif kind == InterfaceType.UDP and self.local is None:
            raise XmlError("'<local>' element missing for 'udp' socket interface")

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value is not None and value not in allowed:
            raise XmlError(f"Invalid value for attribute '{name}' in element 'source': '{value}'.")

    def _check_vhostuser(self) -> None:
        if self.type != "unix":
            raise XmlError(f"Type='{self.type}' unsupported for <interface type='vhostuser'>")
        self._one_of("mode", ("client", "server"))
        if self.reconnect is not None and self.mode == "server":
            raise ConfigUnsupported(
                "'reconnect' attribute unsupported 'server' mode for <interface type='vhostuser'>"
            )


class ScriptPath(Node):
    """A program that is run for the tap."""

    path: str | None = attr(string)


class InterfaceTarget(Node, tag="target"):
    """The name of the tap on the host; managed='no': somebody else made it."""

    dev: str | None = attr(string)
    managed: bool | None = attr(yes_no)


class GuestDev(Node, tag="guest"):
    dev: str | None = attr(string)
    actual: str | None = attr(string)


class InterfaceModel(Node, tag="model"):
    type: str | None = attr(string)

    def check(self) -> None:
        if self.type is not None and not re.fullmatch(r"[a-zA-Z0-9_-]+", self.type):
            raise InvalidArg("Model name contains invalid characters")


class HostOffloads(Node, tag="host"):
    """Which offloads the host may do for the guest."""

    csum: bool | None = attr(on_off)
    gso: bool | None = attr(on_off)
    tso4: bool | None = attr(on_off)
    tso6: bool | None = attr(on_off)
    ecn: bool | None = attr(on_off)
    ufo: bool | None = attr(on_off)
    mrg_rxbuf: bool | None = attr(on_off)


class GuestOffloads(Node, tag="guest"):
    """Which offloads the guest may leave to the host."""

    csum: bool | None = attr(on_off)
    tso4: bool | None = attr(on_off)
    tso6: bool | None = attr(on_off)
    ecn: bool | None = attr(on_off)
    ufo: bool | None = attr(on_off)


class InterfaceDriver(VirtioDriver, tag="driver"):
    """How the host serves the card: in QEMU or in the kernel (vhost), queues, offloads."""

    name: str | None = attr(words("qemu", "vhost", "vfio", "kvm", "xen"))
    txmode: str | None = attr(words("iothread", "timer"))
    ioeventfd: bool | None = attr(on_off)
    event_idx: bool | None = attr(on_off)
    queues: int | None = attr(uint, omit=0)
    rx_queue_size: int | None = attr(uint, omit=0)
    tx_queue_size: int | None = attr(uint, omit=0)
    rss: bool | None = attr(on_off)
    rss_hash_report: bool | None = attr(on_off)
    host: HostOffloads = part(HostOffloads)
    guest: GuestOffloads = part(GuestOffloads)


class InterfaceBackend(Node, tag="backend"):
    """Who does the networking of a ``user`` interface; other device nodes for tap and vhost-net."""

    type: str | None = attr(string)
    tap: str | None = attr(string)
    vhost: str | None = attr(string)
    log_file: str | None = attr(string, "logFile")

    def check(self) -> None:
        if self.type not in (None, "passt"):
            raise XmlError(f"Invalid value for attribute 'type' in element 'backend': '{self.type}'.")


class PortRange(Node, tag="range"):
    start: int = attr(uint, required=True)
    end: int | None = attr(uint)
    to: int | None = attr(uint)
    exclude: bool | None = attr(yes_no)


class PortForward(Node, tag="portForward"):
    """Ports of the host that passt forwards to the guest."""

    proto: str = attr(words("tcp", "udp"), required=True)
    address: str | None = attr(string)
    dev: str | None = attr(string)
    ranges: list[PortRange] = children(PortRange)


class FilterParameter(Node, tag="parameter"):
    name: str = attr(string, required=True)
    value: str = attr(string, required=True)


class FilterRef(Node, tag="filterref"):
    """A network filter and the values of its variables; written sorted by name."""

    filter: str | None = attr(string)
    parameters: list[FilterParameter] = children(FilterParameter)

    def check(self) -> None:
        self.parameters = sorted(self.parameters, key=lambda parameter: parameter.name)


class Tune(Node, tag="tune"):
    """``sndbuf``: how much the tap may hold back before QEMU waits; bytes, 0 is no limit."""

    sndbuf: int | None = text(ulong)

    def _bad_text(self, el: etree._Element, field: Attr | Texts, text: str, error: ValueError) -> QvirtError:
        return XmlError("sndbuf must be a positive integer")


class Teaming(Node, tag="teaming"):
    """The two halves of a failover pair: a persistent virtio card and a transient passed-through one."""

    type: str | None = attr(string)
    persistent: str | None = attr(string)

    def check(self) -> None:
        if self.type not in ("persistent", "transient"):
            raise ConfigUnsupported(f"unknown teaming type '{self.type}'")


class Link(Node, tag="link"):
    state: str | None = attr(string)

    def check(self) -> None:
        if self.state not in (None, "up", "down"):
            raise ConfigUnsupported(f"unknown interface link state '{self.state}'")


class Mtu(Node, tag="mtu"):
    size: int | None = attr(uint, omit=0)


class CoalesceFrames(Node, tag="frames"):
    max: int | None = attr(uint, omit=0)


class CoalesceRx(Node, tag="rx"):
    frames: CoalesceFrames = part(CoalesceFrames)


class Coalesce(Node, tag="coalesce"):
    rx: CoalesceRx = part(CoalesceRx)


class ActualSource(Node, tag="source"):
    """The bridge, the device and mode, or the function of the host, a network has given an interface.

    mac_table_manager: who tells the bridge which addresses its port has.
    """

    bridge: str | None = attr(string)
    mac_table_manager: str | None = attr(words("kernel", "libvirt"), "macTableManager")
    dev: str | None = attr(string)
    mode: str | None = attr(string)
    host_address: Address | None = choice(ADDRESSES, "address")


class ActualDriver(Node, tag="driver"):
    """How a function of the host is passed through."""

    name: str | None = attr(string)


class ActualTraffic(Node, tag="class"):
    """The class of the bridge's traffic control that guarantees an interface its floor."""

    id: int | None = attr(uint, omit=0)


class Actual(Node, tag="actual"):
    """``<actual>``: what an interface of type ``network`` is plugged into while the guest runs.

    Only status files have the element; what clients see has its content in place of the configuration's.
    """

    type: InterfaceType = attr(one_of(InterfaceType), default=InterfaceType.NETWORK)
    managed: bool | None = attr(yes_no, omit=False)
    trust_guest_rx_filters: bool | None = attr(yes_no, "trustGuestRxFilters")
    driver: ActualDriver = part(ActualDriver)
    source: ActualSource = part(ActualSource)
    traffic: ActualTraffic = part(ActualTraffic)
    vlan: Vlan | None = child(Vlan)
    virtualport: VirtualPort | None = child(VirtualPort)
    bandwidth: Bandwidth | None = child(Bandwidth)
    port: PortOptions = part(PortOptions)


class Interface(Device, tag="interface"):
    """``<interface>``: a network card and what it is plugged into."""

    type: InterfaceType = attr(one_of(InterfaceType), default=InterfaceType.USER)
    managed: bool | None = attr(yes_no, omit=False)
    trust_guest_rx_filters: bool | None = attr(yes_no, "trustGuestRxFilters")
    mac: Mac = part(Mac)
    source: InterfaceSource | None = child(InterfaceSource)
    actual: Actual | None = child(Actual)
    vlan: Vlan | None = child(Vlan)
    virtualport: VirtualPort | None = child(VirtualPort)
    bandwidth: Bandwidth | None = child(Bandwidth)
    port: PortOptions = part(PortOptions)
    ips: list[IpAddress] = children(IpAddress)
    routes: list[Route] = children(Route)
    port_forwards: list[PortForward] = children(PortForward)
    script: ScriptPath | None = child(ScriptPath, "script")
    downscript: ScriptPath | None = child(ScriptPath, "downscript")
    backenddomain: Named | None = child(Named, "backenddomain")
    target: InterfaceTarget = part(InterfaceTarget)
    guest: GuestDev = part(GuestDev)
    model: InterfaceModel = part(InterfaceModel)
    driver: InterfaceDriver = part(InterfaceDriver)
    backend: InterfaceBackend = part(InterfaceBackend)
    filterref: FilterRef | None = child(FilterRef)
    tune: Tune = part(Tune)
    teaming: Teaming | None = child(Teaming)
    link: Link = part(Link)
    mtu: Mtu = part(Mtu)
    coalesce: Coalesce = part(Coalesce)

    def check(self) -> None:
        if self.type != InterfaceType.HOSTDEV:
            self.managed = None
        self._check_source()
        self._check_port()
        if self.backend.type is not None and self.type != InterfaceType.USER:
            raise XmlError(f"Invalid value for attribute 'type' in element 'backend': '{self.backend.type}'.")
        if self.driver.queues == 1:
            self.driver.queues = None
        if self.model.type not in VIRTIO_MODELS and self.type != InterfaceType.HOSTDEV:
            # libvirt reads only the options that every virtio device has, to refuse them later
            for field in InterfaceDriver.fields:
                if field.name not in ("iommu", "ats", "packed", "page_per_vq"):
                    self.driver.__dict__.pop(field.name, None)
            self.backend.vhost = None
        if self.filterref is not None and (
            self.filterref.filter is None
            or self.type not in (InterfaceType.ETHERNET, InterfaceType.NETWORK, InterfaceType.BRIDGE)
        ):
            self.filterref = None
        if self.script is not None and not self.script.path:
            self.script = None
        if self.downscript is not None and not self.downscript.path:
            self.downscript = None

    def _check_source(self) -> None:
        if self.source is None:
            if self.type == InterfaceType.HOSTDEV:
                raise XmlError("missing source address type")
            if self.type in _TYPE_NEEDS:
                raise XmlError(f"interface type='{self.type}' requires a 'source' element")
            return
        self.source.keep(self.type)
        if self.type == InterfaceType.USER and not self.uses_passt:
            self.source.dev = None
        if self.source.is_empty():
            self.source = None
        if self.type == InterfaceType.HOSTDEV and (self.source is None or self.source.host_address is None):
            raise XmlError("missing source address type")

    def _check_port(self) -> None:
        if self.virtualport is None:
            return
        if self.type in (InterfaceType.BRIDGE, InterfaceType.DIRECT, InterfaceType.HOSTDEV):
            self.virtualport.require_all()
        elif self.type != InterfaceType.NETWORK:
            raise ConfigUnsupported(f"<virtualport> element unsupported for <interface type='{self.type}'>")

    # ------------------------------------------------------------ using

    @property
    def is_virtio(self) -> bool:
        """Tell whether the guest sees a virtio card."""
        return self.model.type in VIRTIO_MODELS

    @property
    def uses_tap(self) -> bool:
        """Tell whether the host end is a tap (or macvtap) of the host."""
        return self.actual_type in TAP_TYPES

    @property
    def actual_type(self) -> InterfaceType:
        """What it is plugged into: for a network that has given it something, that."""
        return self.actual.type if self.actual is not None else self.type

    @property
    def uses_passt(self) -> bool:
        """Tell whether a passt of its own does its networking."""
        return self.type == InterfaceType.USER and self.backend.type == "passt"

    def plugged(self) -> "Interface":
        """Return the interface as it is plugged in, which is how a running domain's document shows it.

        What a network has given it stands in place of what was asked for; without that it is the interface.
        """
        actual = self.actual
        if actual is None:
            return self
        twin = self.copy()
        twin.actual = None
        twin.type = actual.type
        twin.trust_guest_rx_filters = actual.trust_guest_rx_filters
        asked = self.source or InterfaceSource()
        twin.source = InterfaceSource(
            network=asked.network,
            portgroup=asked.portgroup,
            portid=asked.portid,
            bridge=actual.source.bridge,
            mac_table_manager=actual.source.mac_table_manager,
            dev=actual.source.dev,
            mode=actual.source.mode,
        )
        twin.vlan, twin.virtualport, twin.bandwidth = actual.vlan, actual.virtualport, actual.bandwidth
        twin.port = actual.port
        if actual.type == InterfaceType.HOSTDEV:
            # libvirt shows the function alone
            twin.source = InterfaceSource(host_address=actual.source.host_address)
            twin.managed = actual.managed
            twin.driver = InterfaceDriver(name=actual.driver.name)
        return twin

    def unplug(self) -> None:
        """Forget what a network has given it."""
        self.actual = None
        if self.type == InterfaceType.NETWORK and self.source is not None:
            self.source.portid = self.source.bridge = None

    def write_body(self, out: list[str], indent: str) -> None:
        # a passed-through card is written like a <hostdev>: its driver stands before the source
        fields = _HOSTDEV_ORDER if self.type == InterfaceType.HOSTDEV else type(self)._body
        values = self.__dict__
        for field in fields:
            self.write_field(field, values.get(field.name), out, indent)


def _hostdev_order() -> Iterator[Field]:
    driver = next(field for field in Interface._body if field.name == "driver")
    for field in Interface._body:
        if field.name == "source":
            yield driver
        if field is not driver:
            yield field


_HOSTDEV_ORDER = tuple(_hostdev_order())
