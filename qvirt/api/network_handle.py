"""Network handles: name and uuid as they travel, the network they mean, and whose errors these are."""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from qvirt.api.handle import uuid_bytes, uuid_text
from qvirt.api.registry import Function, remote_of
from qvirt.api.session import Session
from qvirt.constants.error import ErrorDomain
from qvirt.drivers.network.driver import Networks
from qvirt.drivers.network.network import Network
from qvirt.errors import NoNetwork, NoSupport, QvirtError
from qvirt.model.network_port import NetworkPort

NetworkName: TypeAlias = tuple[str, bytes]
"""Name and the uuid's 16 bytes."""
PortName: TypeAlias = tuple[NetworkName, bytes]
"""The network's handle and the port's uuid."""

F = TypeVar("F", bound=Function)

_NOT_OURS = (ErrorDomain.QEMU, ErrorDomain.DOMAIN)


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


@contextmanager
def _as_networks() -> Iterator[None]:
    """Let errors that name no part of libvirt, or the hypervisor, come from the network driver."""
    try:
        yield
    except QvirtError as error:
        if error.domain in _NOT_OURS:
            error.domain = ErrorDomain.NETWORK
        raise


def network_call(function: F) -> F:
    """Register a call about networks; its errors come from the network driver."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            with _as_networks():
                return await function(*args, **kwargs)

        return remote_of("network")(cast(F, waiting))

    @functools.wraps(function)
    def direct(*args: Any, **kwargs: Any) -> Any:
        with _as_networks():
            return function(*args, **kwargs)

    return remote_of("network")(cast(F, direct))


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
