"""Ports: which of a network's bridges or devices a guest's interface gets, and the book of who has what.

The rules are those of libvirt's network driver: the interface's own settings go before its port group's, and
those before the network's; of a pool the device with the fewest guests is taken.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from qvirt.errors import ConfigUnsupported, InternalError, NoNetworkPort, OperationUnsupported, QvirtError
from qvirt.model.devices.interface import Actual, ActualSource, Interface, InterfaceSource, InterfaceType
from qvirt.model.netdev import VirtualPort, VirtualPortParameters
from qvirt.model.networkport import NetworkPort, Plug, PlugNetwork, PortMac, PortOwner, RxFilters
from qvirt.xml.document import parse_element

#: forward modes whose guests are on a bridge that is the network's own
BRIDGED: Final = frozenset({None, "none", "nat", "route", "open"})
#: forward modes whose guests get a macvtap, unless (bridge) there is a bridge
MACVTAP: Final = frozenset({"bridge", "private", "vepa", "passthrough"})


class Networks(Protocol):
    """What a domain's interfaces ask of the networks."""

    def live_document(self, name: str) -> str:
        """Return the live document of an active network.

        Raises NoNetwork "no network with matching name 'X'", OperationInvalid "network 'X' is not active".
        """
        ...

    @property
    def ports(self) -> "PortBook":
        """The book of all networks' ports."""
        ...


def read_network(text: str) -> PlugNetwork:
    """Read what of a network's live document decides about ports."""
    return PlugNetwork.from_xml(parse_element(text, "(network)"))


def allocate(
    network: PlugNetwork, interface: Interface, uuid: str, owner: tuple[str, str], used: Mapping[str, int]
) -> NetworkPort:
    """Choose what an interface is plugged into. owner: name and uuid of the domain.

    used: how many guests each device of a pool has. Raises ConfigUnsupported, OperationUnsupported and
    InternalError in libvirt's words.
    """
    source = interface.source or InterfaceSource()
    group = network.portgroup(source.portgroup)
    port = NetworkPort(
        uuid=uuid,
        owner=PortOwner(name=owner[0], uuid=owner[1]),
        group=source.portgroup,
        mac=PortMac(address=interface.mac.address),
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
    port.plug = _plug(network, port, used)
    _check(network, port)
    return port


def _plug(network: PlugNetwork, port: NetworkPort, used: Mapping[str, int]) -> Plug:
    forward = network.forward
    mode = (forward.mode or "nat") if forward is not None else None
    kind = port.virtualport.type if port.virtualport is not None else None
    if mode in BRIDGED:
        if kind is not None:
            raise ConfigUnsupported(
                f"<virtualport type='{kind}'> not supported for network '{network.name}' which uses IP "
                "forwarding"
            )
        return Plug(
            type="network", bridge=network.bridge.name, mac_table_manager=network.bridge.mac_table_manager
        )
    if mode == "bridge" and network.bridge.name:
        if kind not in (None, "openvswitch"):
            raise ConfigUnsupported(
                f"<virtualport type='{kind}'> not supported for network '{network.name}' which uses a bridge "
                "device"
            )
        return Plug(
            type="bridge", bridge=network.bridge.name, mac_table_manager=network.bridge.mac_table_manager
        )
    if mode in MACVTAP and forward is not None:
        if kind not in (None, "802.1Qbg", "802.1Qbh"):
            raise ConfigUnsupported(
                f"<virtualport type='{kind}'> not supported for network '{network.name}' which uses a "
                "macvtap device"
            )
        return Plug(type="direct", dev=_choose(network, mode, used), mode=mode)
    raise ConfigUnsupported(
        f"network '{network.name}' passes whole devices through to its guests (forward mode '{mode}'), which "
        "is not supported yet"
    )


def _choose(network: PlugNetwork, mode: str | None, used: Mapping[str, int]) -> str:
    """Return the device of the pool with the fewest guests; one with none where a guest needs it alone."""
    forward = network.forward
    pool = [device.dev for device in forward.devices if device.dev] if forward is not None else []
    if not pool and forward is not None and forward.dev:
        pool = [forward.dev]
    if not pool:
        raise InternalError(
            f"network '{network.name}' uses a direct mode, but has no forward dev and no interface pool"
        )
    best = min(pool, key=lambda dev: used.get(dev, 0))
    if mode == "passthrough" and used.get(best, 0):
        raise InternalError(
            f"network '{network.name}' requires exclusive access to interfaces, but none are available "
            f"({', '.join(pool)} are all in use)"
        )
    return best


def _check(network: PlugNetwork, port: NetworkPort) -> None:
    mac = port.mac.address
    kind = port.virtualport.type if port.virtualport is not None else None
    if port.vlan is not None and not (port.plug.type == "bridge" and kind == "openvswitch"):
        raise ConfigUnsupported(f"interface {mac} - vlan tag not supported for this connection type")
    inbound = port.bandwidth.inbound if port.bandwidth is not None else None
    if inbound is None or not inbound.floor:
        return
    if port.plug.type != "network":
        raise OperationUnsupported(
            f"Invalid use of 'floor' on interface with MAC address {mac} - 'floor' is only supported for "
            "interface type 'network' with forward type 'nat', 'route', 'open' or none"
        )
    whole = network.bandwidth.inbound if network.bandwidth is not None else None
    if whole is None or not whole.average:
        raise OperationUnsupported(
            f"Invalid use of 'floor' on interface with MAC address {mac} - network '{network.name}' has no "
            "inbound QoS set"
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
    interface.source.portid = port.uuid
    interface.actual = Actual(
        type=InterfaceType(port.plug.type or "network"),
        trust_guest_rx_filters=port.rxfilters.trust_guest,
        source=ActualSource(bridge=port.plug.bridge, dev=port.plug.dev, mode=port.plug.mode),
        vlan=port.vlan,
        virtualport=port.virtualport,
        bandwidth=port.bandwidth,
        port=port.port,
    )


def port_of(interface: Interface, owner: tuple[str, str]) -> NetworkPort:
    """Return the port a plugged-in interface has, from what the interface says of it."""
    source, actual = interface.source or InterfaceSource(), interface.actual or Actual()
    port = NetworkPort(
        uuid=source.portid,
        owner=PortOwner(name=owner[0], uuid=owner[1]),
        group=source.portgroup,
        mac=PortMac(address=interface.mac.address),
        virtualport=actual.virtualport,
        bandwidth=actual.bandwidth,
        vlan=actual.vlan,
        port=actual.port,
        plug=Plug(
            type=str(actual.type), bridge=actual.source.bridge, dev=actual.source.dev, mode=actual.source.mode
        ),
    )
    if actual.trust_guest_rx_filters is not None:
        port.rxfilters = RxFilters(trust_guest=actual.trust_guest_rx_filters)
    return port


class PortBook:
    """Every network's ports, by uuid; in files under ``run/network/NAME/ports``, so that they outlive us.

    Reading is from memory. `write` and `erase` block; `enter` and `strike` change the memory alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports: dict[str, dict[str, NetworkPort]] = {}

    def of(self, network: str) -> list[NetworkPort]:
        """Return a network's ports, oldest first."""
        return list(self._ports.get(network, {}).values())

    def find(self, network: str, uuid: str) -> NetworkPort:
        """Raises NoNetworkPort."""
        port = self._ports.get(network, {}).get(uuid)
        if port is None:
            raise NoNetworkPort(f"no network port with matching uuid '{uuid}'")
        return port

    def __iter__(self) -> Iterator[tuple[str, NetworkPort]]:
        return iter([(name, port) for name, ports in self._ports.items() for port in ports.values()])

    def used(self, network: str) -> dict[str, int]:
        """Count the guests on each device of a pool."""
        counted: dict[str, int] = {}
        for port in self.of(network):
            if port.plug.dev:
                counted[port.plug.dev] = counted.get(port.plug.dev, 0) + 1
        return counted

    def enter(self, network: str, port: NetworkPort) -> None:
        """Take a port into the book."""
        self._ports.setdefault(network, {})[str(port.uuid)] = port

    def strike(self, network: str, uuid: str) -> bool:
        """Take a port out of the book; tells whether it was there."""
        return self._ports.get(network, {}).pop(uuid, None) is not None

    def path(self, network: str, uuid: str) -> Path:
        """Return where a port's file is."""
        return self.folder / network / "ports" / f"{uuid}.xml"

    def write(self, network: str, port: NetworkPort) -> None:
        """Write a port's file. Blocking."""
        path = self.path(network, str(port.uuid))
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(port.to_xml(), encoding="utf-8")
        new.replace(path)

    def erase(self, network: str, uuid: str) -> None:
        """Remove a port's file; harmless when it is gone. Blocking."""
        self.path(network, uuid).unlink(missing_ok=True)

    def load(self) -> list[str]:
        """Read the files of an earlier daemon; returns what could not be read, a sentence each. Blocking."""
        reports: list[str] = []
        for path in sorted(self.folder.glob("*/ports/*.xml")):
            try:
                port = NetworkPort.from_xml(parse_element(path.read_text(encoding="utf-8"), str(path)))
            except (QvirtError, OSError, ValueError) as error:
                reports.append(f"network port '{path}' cannot be read and is left as it is: {error}")
                continue
            port.uuid = port.uuid or path.stem
            self.enter(path.parent.parent.name, port)
        return reports

    def strays(self, alive: Iterable[str]) -> list[tuple[str, str]]:
        """Return (network, port) of the ports that no living interface has. alive: ports of those."""
        living = set(alive)
        return [(name, str(port.uuid)) for name, port in self if port.uuid not in living]
