"""Network handles: name and uuid as they travel, the network they mean, and whose errors these are."""

from typing import Protocol, TypeAlias

from qvirt.api.handle import uuid_bytes, uuid_text
from qvirt.api.owned import calls_of
from qvirt.api.session import Session
from qvirt.constants.error import ErrorDomain
from qvirt.drivers.network.driver import Networks
from qvirt.drivers.network.network import Network
from qvirt.errors import NoNetwork, NoSupport
from qvirt.model.network_port import NetworkPort

NetworkName: TypeAlias = tuple[str, bytes]
"""Name and the uuid's 16 bytes."""
PortName: TypeAlias = tuple[NetworkName, bytes]
"""The network's handle and the port's uuid."""

network_call = calls_of("network", ErrorDomain.NETWORK)
"""Registers a call about networks."""


class NetworkHandle(Protocol):
    """A handle as a client sent it."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> bytes: ...


class PortHandle(Protocol):
    """A port's handle as a client sent it."""

    @property
    def net(self) -> NetworkHandle: ...
    @property
    def uuid(self) -> bytes: ...


def networks(session: Session) -> Networks:
    """Return the instance's networks."""
    found = session.hypervisor.networks
    if found is None:
        raise NoSupport("this instance has no virtual networks")
    return found


def network_handle(network: Network) -> NetworkName:
    """Make the handle of a network."""
    return (network.name, uuid_bytes(network.uuid))


def port_handle(network: Network, port: NetworkPort) -> PortName:
    """Make the handle of a port."""
    return (network_handle(network), uuid_bytes(port.uuid or ""))


def find_network(session: Session, net: NetworkHandle) -> Network:
    """Give the network a client's handle means; raises NoNetwork."""
    uuid = uuid_text(net.uuid)
    network = networks(session).find(uuid)
    if network is None:
        raise NoNetwork(f"no network with matching uuid '{uuid}' ({net.name})")
    return network


def find_port(session: Session, port: PortHandle) -> tuple[Network, NetworkPort]:
    """Give the port a client's handle means, and its network. Raises NoNetwork, NoNetworkPort."""
    network = find_network(session, port.net)
    return network, networks(session).port(network, uuid_text(port.uuid))
