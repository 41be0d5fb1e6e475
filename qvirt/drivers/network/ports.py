"""Ports: which of a network's bridges or devices a guest's interface gets, and the book of who has what.

The rules are those of libvirt's network driver: the interface's own settings go before its port group's, and
those before the network's; of a pool the device with the fewest guests is taken.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    InternalError,
    OperationInvalid,
    OperationUnsupported,
    SystemError_,
)
from qvirt.host.persist import remove, write_atomic
from qvirt.model.devices.address import Address, PciAddress, pci_name
from qvirt.model.devices.interface import (
    Actual,
    ActualDriver,
    ActualSource,
    ActualTraffic,
    Interface,
    InterfaceSource,
    InterfaceType,
    Mac,
)
from qvirt.model.netdev import Bandwidth, VirtualPort, VirtualPortParameters
from qvirt.model.network import BRIDGED_BY_US, MACVTAP_MODES, ForwardMode
from qvirt.model.network import Network as Document
from qvirt.model.network_port import (
    NetworkPort,
    Owner,
    PciPlace,
    PortBandwidth,
    PortDriver,
    PortPlug,
    RxFilters,
)

if TYPE_CHECKING:
    from qvirt.drivers.network.events import NetworkEvents
    from qvirt.drivers.network.network import Network

B = TypeVar("B", bound=Bandwidth)

#: what begins every file libvirt writes
HEADER = """<!--
WARNING: THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE
OVERWRITTEN AND LOST. Changes to this xml configuration should be made using:
  virsh net-port-create {}
or other application using the libvirt API.
-->
"""


class Networks(Protocol):
    """What a domain's interfaces ask of the networks."""

    @property
    def events(self) -> "NetworkEvents":
        """Who wants to know of starts and ends."""
        ...

    def by_name(self, name: str) -> "Network":
        """Raises NoNetwork."""
        ...

    def __iter__(self) -> "Iterator[Network]":
        """Give every network."""
        ...

    async def leased(self, network: "Network", mac: str) -> Sequence[tuple[str, int]]:
        """Return the addresses, and the lengths of their networks, that a network has leased to a card."""
        ...


def active(networks: Networks, name: str) -> "Network":
    """Return an active network. Raises NoNetwork, OperationInvalid."""
    network = networks.by_name(name)
    if not network.active:
        raise OperationInvalid(f"network '{name}' is not active")
    return network


def allocate(
    network: Document,
    interface: Interface,
    uuid: str,
    owner: tuple[str, str],
    used: Callable[[str], int],
) -> NetworkPort:
    """Choose what an interface is plugged into. owner: name and uuid of the domain.

    used: tells how many guests a device of a pool has. Raises ConfigUnsupported, OperationUnsupported and
    InternalError in libvirt's words.
    """
    source = interface.source or InterfaceSource()
    group = network.group(source.portgroup)
    port = NetworkPort(
        uuid=uuid,
        owner=Owner(name=owner[0], uuid=owner[1]),
        group=source.portgroup,
        mac=Mac(address=interface.mac.address),
    )
    port.bandwidth = interface.bandwidth or (group.bandwidth if group is not None else None)
    port.vlan = interface.vlan or (group.vlan if group is not None else None) or network.vlan
    port.virtualport = _merged_port(
        interface.virtualport, network.virtualport, group.virtualport if group is not None else None
    )
    port.port.isolated = (
        interface.port.isolated if interface.port.isolated is not None else network.port.isolated
    )
    trust = next(
        (
            said
            for said in (
                interface.trust_guest_rx_filters,
                group.trust_guest_rx_filters if group is not None else None,
                network.trust_guest_rx_filters,
            )
            if said is not None
        ),
        None,
    )
    if trust is not None:
        port.rxfilters = RxFilters(trust_guest=trust)
    port.plug = _choose_plug(network, port, used)
    _check(network, port)
    return port


def complete(network: Document, port: NetworkPort, used: Callable[[str], int]) -> NetworkPort:
    """Return a port as a client has asked for it, with what its group and network give it. See `allocate`."""
    interface = Interface(mac=Mac(address=port.mac.address))
    interface.source = InterfaceSource(network=network.name, portgroup=port.group)
    interface.bandwidth, interface.vlan, interface.virtualport = port.bandwidth, port.vlan, port.virtualport
    interface.port, interface.trust_guest_rx_filters = port.port, port.rxfilters.trust_guest
    owner = port.owner or Owner()
    made = allocate(network, interface, port.uuid or "", (owner.name or "", owner.uuid or ""), used)
    made.owner = port.owner
    return made


def _choose_plug(network: Document, port: NetworkPort, used: Callable[[str], int]) -> PortPlug:
    mode = network.mode
    manager = network.bridge.mac_table_manager if network.bridge is not None else None
    kind = port.virtualport.type if port.virtualport is not None else None
    if mode in BRIDGED_BY_US:
        if kind is not None:
            raise ConfigUnsupported(
                f"<virtualport type='{kind}'> not supported for network '{network.name}' which uses IP "
                "forwarding"
            )
        return PortPlug(type="network", bridge=network.bridge_name, mac_table_manager=manager)
    if mode == ForwardMode.BRIDGE and network.bridge_name:
        if kind not in (None, "openvswitch"):
            raise ConfigUnsupported(
                f"<virtualport type='{kind}'> not supported for network '{network.name}' which uses a bridge "
                "device"
            )
        return PortPlug(type="bridge", bridge=network.bridge_name, mac_table_manager=manager)
    if mode in MACVTAP_MODES:
        if kind not in (None, "802.1Qbg", "802.1Qbh"):
            raise ConfigUnsupported(
                f"<virtualport type='{kind}'> not supported for network '{network.name}' which uses a "
                "macvtap device"
            )
        return PortPlug(type="direct", dev=_choose(network, used), mode=str(mode))
    if kind not in (None, "802.1Qbh"):
        raise ConfigUnsupported(
            f"<virtualport type='{kind}'> not supported for network '{network.name}' which uses an SR-IOV "
            "Virtual Function via PCI passthrough"
        )
    return _choose_function(network, used)


def _choose_function(network: Document, used: Callable[[str], int]) -> PortPlug:
    """Return a function of the host that no guest has."""
    forward = network.forward
    pool = forward.addresses if forward is not None else []
    if forward is None or not pool:
        raise InternalError(
            f"network '{network.name}' uses a hostdev mode, but has no forward dev and no interface pool"
        )
    free = next((address for address in pool if not used(pci_name(address))), None)
    if free is None:
        listed = ", ".join(map(pci_name, pool))
        raise InternalError(
            f"network '{network.name}' requires exclusive access to interfaces, but none are available "
            f"({listed} are all in use)"
        )
    return PortPlug(
        type="hostdev-pci",
        managed=bool(forward.managed),
        driver=PortDriver(name=forward.driver.name),
        address=PciPlace(
            domain=free.domain or 0, bus=free.bus or 0, slot=free.slot or 0, function=free.function or 0
        ),
    )


def _choose(network: Document, used: Callable[[str], int]) -> str:
    """Return the device of the pool with the fewest guests; one with none where a guest needs it alone."""
    forward = network.forward
    pool = forward.devices if forward is not None else []
    if not pool and forward is not None and forward.dev:
        pool = [forward.dev]
    if not pool:
        raise InternalError(
            f"network '{network.name}' uses a direct mode, but has no forward dev and no interface pool"
        )
    best = min(pool, key=used)
    if network.mode == ForwardMode.PASSTHROUGH and used(best):
        raise InternalError(
            f"network '{network.name}' requires exclusive access to interfaces, but none are available "
            f"({', '.join(pool)} are all in use)"
        )
    return best


def _check(network: Document, port: NetworkPort) -> None:
    mac, plug = port.mac.address, port.plug or PortPlug(type="none")
    kind = port.virtualport.type if port.virtualport is not None else None
    is_function = plug.type == "hostdev-pci"
    if is_function and port.bandwidth is not None:
        raise ConfigUnsupported(
            f"interface {mac} - bandwidth settings are not supported for hostdev interfaces"
        )
    if port.vlan is not None and not is_function and not (plug.type == "bridge" and kind == "openvswitch"):
        raise ConfigUnsupported(f"interface {mac} - vlan tag not supported for this connection type")
    check_floor(network if plug.type == "network" else None, mac or "", port.bandwidth)


def check_floor(network: Document | None, mac: str, bandwidth: Bandwidth | None) -> None:
    """Refuse a floor that nobody can guarantee. network: whose bridge it is, None for others' bridges.

    Raises OperationUnsupported.
    """
    inbound = bandwidth.inbound if bandwidth is not None else None
    if inbound is None or not inbound.floor:
        return
    if network is None:
        raise OperationUnsupported(
            f"Invalid use of 'floor' on interface with MAC address {mac} - 'floor' is only supported for "
            "interface type 'network' with forward type 'nat', 'route', 'open' or none"
        )
    whole = network.bandwidth.inbound if network.bandwidth is not None else None
    if whole is None or not whole.average:
        raise OperationUnsupported(
            f"Invalid use of 'floor' on interface with MAC address {mac} - network '{network.name}' has no "
            "inbound QoS set",
            domain=ErrorDomain.NETWORK,
        )


def _merged_port(*ports: VirtualPort | None) -> VirtualPort | None:
    """Join what several say about a virtual port; the first that says something counts."""
    said = [port for port in ports if port is not None]
    if not said:
        return None
    merged = VirtualPort(type=next((port.type for port in said if port.type is not None), None))
    for port in said:
        if port.type is not None and port.type != merged.type:
            raise ConfigUnsupported(
                f"attempt to merge virtualports of type '{merged.type}' and type '{port.type}'"
            )
        if port.parameters is None:
            continue
        if merged.parameters is None:
            merged.parameters = VirtualPortParameters()
        for field in VirtualPortParameters.fields:
            if getattr(merged.parameters, field.name) is None:
                setattr(merged.parameters, field.name, getattr(port.parameters, field.name))
    return merged


def plug_in(interface: Interface, port: NetworkPort) -> None:
    """Note in an interface what its port has given it."""
    if interface.source is None:
        interface.source = InterfaceSource()
    plug = port.plug or PortPlug(type="none")
    interface.source.portid = port.uuid
    interface.actual = Actual(
        type=InterfaceType.HOSTDEV if plug.type == "hostdev-pci" else InterfaceType(plug.type),
        managed=plug.managed,
        trust_guest_rx_filters=port.rxfilters.trust_guest,
        driver=ActualDriver(name=plug.driver.name),
        source=ActualSource(
            bridge=plug.bridge,
            mac_table_manager=plug.mac_table_manager,
            dev=plug.dev,
            mode=plug.mode,
            host_address=_address_of(plug.address),
        ),
        vlan=port.vlan,
        virtualport=port.virtualport,
        bandwidth=_limits(Bandwidth, port.bandwidth),
        port=port.port,
        traffic=ActualTraffic(id=port.class_id),
    )


def _limits(kind: type[B], said: Bandwidth | None) -> B | None:
    return kind(inbound=said.inbound, outbound=said.outbound) if said is not None else None


def _address_of(place: PciPlace | None) -> PciAddress | None:
    if place is None:
        return None
    return PciAddress(domain=place.domain, bus=place.bus, slot=place.slot, function=place.function)


def port_of(interface: Interface, owner: tuple[str, str]) -> NetworkPort:
    """Return the port a plugged-in interface has, from what the interface says of it."""
    source, actual = interface.source or InterfaceSource(), interface.actual or Actual()
    port = NetworkPort(
        uuid=source.portid,
        owner=Owner(name=owner[0], uuid=owner[1]),
        group=source.portgroup,
        mac=Mac(address=interface.mac.address),
        virtualport=actual.virtualport,
        bandwidth=_limits(PortBandwidth, actual.bandwidth),
        vlan=actual.vlan,
        port=actual.port,
        plug=PortPlug(
            type="hostdev-pci" if actual.type == InterfaceType.HOSTDEV else str(actual.type),
            bridge=actual.source.bridge,
            mac_table_manager=actual.source.mac_table_manager,
            dev=actual.source.dev,
            mode=actual.source.mode,
            managed=actual.managed,
            driver=PortDriver(name=actual.driver.name),
            address=_place_of(actual.source.host_address),
        ),
    )
    if isinstance(port.bandwidth, PortBandwidth):
        port.bandwidth.class_id = actual.traffic.id
    if actual.trust_guest_rx_filters is not None:
        port.rxfilters = RxFilters(trust_guest=actual.trust_guest_rx_filters)
    return port


def _place_of(address: Address | None) -> PciPlace | None:
    if not isinstance(address, PciAddress):
        return None
    return PciPlace(domain=address.domain, bus=address.bus, slot=address.slot, function=address.function)


def write_port(network: "Network", port: NetworkPort) -> None:
    """Write a port's file, so that it outlives us. Blocking. Raises SystemError_."""
    folder = network.host.folders.ports(network.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemError_(f"cannot create directory '{folder}'", error) from error
    text = HEADER.format(port.uuid) + port.to_xml()
    write_atomic(folder / f"{port.uuid}.xml", text.encode("utf-8", "surrogateescape"), 0o600, sync=False)


def erase_port(network: "Network", uuid: str) -> None:
    """Remove a port's file; harmless when it is gone. Blocking. Raises SystemError_."""
    remove(network.host.folders.ports(network.name) / f"{uuid}.xml")
