"""DHCP leases of networks, and their ports."""

from typing import Any, Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import uuid_text
from qvirt.api.network_handle import (
    NetworkHandle,
    PortHandle,
    PortName,
    find_network,
    find_port,
    network_call,
    networks,
    port_handle,
)
from qvirt.api.session import Session
from qvirt.api.typed_params import WireParam, decode, encode
from qvirt.constants.common import TypedParameterType as Type
from qvirt.constants.network import NetworkPortCreateFlags as Create
from qvirt.errors import InvalidMac, OperationInvalid, RpcError
from qvirt.model.netdev import Bandwidth, Traffic, is_mac, spell_mac
from qvirt.runtime.records import Param

_LEASES_MAX: Final = 65536
_PORTS_MAX: Final = 16384
_SENT: Final = ("average", "peak", "floor", "burst")
_PARAMETERS: Final = {
    **{f"inbound.{name}": Type.UINT for name in _SENT},
    **{f"outbound.{name}": Type.UINT for name in _SENT if name != "floor"},
}


@network_call
async def network_get_dhcp_leases(
    session: Session, net: NetworkHandle, mac: str | None, need_results: int, flags: int
) -> tuple[list[Any], int]:
    """Give the leases of a network, of one MAC address or all. Raises InvalidMac."""
    check_flags(flags, 0, "networkGetDHCPLeases")
    if mac is not None and not is_mac(mac):
        raise InvalidMac(mac)
    wanted = spell_mac(mac) if mac is not None else None
    found = [
        lease
        for lease in await networks(session).leases(find_network(session, net))
        if wanted in (None, (lease.mac or "").lower())
    ]
    if len(found) > _LEASES_MAX:
        raise RpcError(f"Number of leases is {len(found)}, which exceeds max limit: {_LEASES_MAX}")
    rows = [
        (
            lease.interface,
            lease.expiry,
            lease.type,
            lease.mac,
            lease.iaid,
            lease.address,
            lease.prefix,
            lease.hostname,
            lease.clientid,
        )
        for lease in found
    ]
    return (rows if need_results else []), len(found)


@network_call
def network_list_all_ports(
    session: Session, network: NetworkHandle, need_results: int, flags: int
) -> tuple[list[PortName], int]:
    """List the ports of a network. Raises OperationInvalid where it is not active."""
    check_flags(flags, 0, "networkListAllPorts")
    found = find_network(session, network)
    if not found.active:
        raise OperationInvalid(f"network '{found.name}' is not active")
    ports = [port for uuid, port in found.ports.items() if session.may_show(uuid)]
    if len(ports) > _PORTS_MAX:
        raise RpcError(f"Too many ports '{len(ports)}' for limit '{_PORTS_MAX}'")
    return ([port_handle(found, port) for port in ports] if need_results else []), len(ports)


@network_call
def network_port_lookup_by_uuid(session: Session, network: NetworkHandle, uuid: bytes) -> PortName:
    """Find a port by uuid."""
    found = find_network(session, network)
    return port_handle(found, networks(session).port(found, uuid_text(uuid)))


@network_call
async def network_port_create_xml(session: Session, network: NetworkHandle, xml: str, flags: int) -> PortName:
    """Make a port."""
    check_flags(flags, Create.RECLAIM | Create.VALIDATE, "networkPortCreateXML")
    found = find_network(session, network)
    port = await networks(session).create_port(
        found, xml, reclaim=bool(flags & Create.RECLAIM), validated=bool(flags & Create.VALIDATE)
    )
    return port_handle(found, port)


@network_call
def network_port_get_parameters(
    session: Session, port: PortHandle, nparams: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give the limits of a port, of the directions that have any.

    A client takes what comes, and sends whatever it had in the place of a number.
    """
    check_flags(flags, 4, "networkPortGetParameters")
    bandwidth = find_port(session, port)[1].bandwidth or Bandwidth()
    params = [
        Param(f"{direction}.{name}", Type.UINT, getattr(traffic, name) or 0)
        for direction, traffic in (("inbound", bandwidth.inbound), ("outbound", bandwidth.outbound))
        if traffic is not None
        for name in _SENT
        if f"{direction}.{name}" in _PARAMETERS
    ]
    wire = encode(params, flags)
    return wire, len(wire)


@network_call
async def network_port_set_parameters(
    session: Session, port: PortHandle, params: list[WireParam], flags: int
) -> None:
    """Change the bandwidth of a port."""
    check_flags(flags, 0, "networkPortSetParameters")
    values = decode(params, dict(_PARAMETERS))
    network, found = find_port(session, port)
    had = found.bandwidth or Bandwidth()
    bandwidth = Bandwidth(inbound=had.inbound, outbound=had.outbound).copy()
    for direction in ("inbound", "outbound"):
        said = {
            name: int(values[f"{direction}.{name}"]) or None
            for name in _SENT
            if f"{direction}.{name}" in values
        }
        if said:
            traffic: Traffic = getattr(bandwidth, direction) or Traffic()
            for name, value in said.items():
                setattr(traffic, name, value)
            setattr(bandwidth, direction, None if traffic.is_empty() else traffic)
    await networks(session).set_port_bandwidth(network, found, None if bandwidth.is_empty() else bandwidth)


@network_call
def network_port_get_xml_desc(session: Session, port: PortHandle, flags: int) -> str:
    """Give a port's document."""
    check_flags(flags, 0, "networkPortGetXMLDesc")
    return find_port(session, port)[1].to_xml()


@network_call
async def network_port_delete(session: Session, port: PortHandle, flags: int) -> None:
    """Remove a port."""
    check_flags(flags, 0, "networkPortDelete")
    await networks(session).delete_port(*find_port(session, port))
