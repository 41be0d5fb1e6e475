"""Virtual networks: finding, defining, starting, changing."""

from collections.abc import Callable
from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import uuid_text
from qvirt.api.metadata import check_get, check_set
from qvirt.api.network_handle import (
    NetworkHandle,
    NetworkName,
    find_network,
    network_call,
    network_handle,
    networks,
)
from qvirt.api.session import Session
from qvirt.constants.network import ConnectListAllNetworksFlags as Filter
from qvirt.constants.network import (
    NetworkCreateFlags,
    NetworkDefineFlags,
    NetworkUpdateFlags,
    NetworkXMLFlags,
)
from qvirt.drivers.network.network import Network
from qvirt.errors import InvalidArg, RpcError

LIST_MAX: Final = 16384
"""Networks or names a reply can carry."""

_IMPACT: Final = NetworkUpdateFlags.LIVE | NetworkUpdateFlags.CONFIG

Test = Callable[[Network], bool]

_GROUPS: Final[tuple[tuple[tuple[int, Test], ...], ...]] = (
    ((Filter.ACTIVE, lambda n: n.active), (Filter.INACTIVE, lambda n: not n.active)),
    ((Filter.PERSISTENT, lambda n: n.persistent), (Filter.TRANSIENT, lambda n: not n.persistent)),
    ((Filter.AUTOSTART, lambda n: n.autostart), (Filter.NO_AUTOSTART, lambda n: not n.autostart)),
)
"""Groups narrow each other; a group without flags passes all."""

_ALL: Final = sum(flag for group in _GROUPS for flag, _ in group)


def _known(session: Session) -> list[Network]:
    return [network for network in networks(session) if session.may_show(network.uuid)]


@network_call
def connect_list_all_networks(
    session: Session, need_results: int, flags: int
) -> tuple[list[NetworkName], int]:
    """List networks, filtered; without need_results only count them."""
    check_flags(flags, _ALL, "networkConnectListAllNetworks")
    found = _known(session)
    for group in _GROUPS:
        tests = [test for flag, test in group if flags & flag]
        if tests:
            found = [network for network in found if any(test(network) for test in tests)]
    if not need_results:
        return [], len(found)
    if len(found) > LIST_MAX:
        raise RpcError(f"Too many networks '{len(found)}' for limit '{LIST_MAX}'")
    return [network_handle(network) for network in found], len(found)


def _check_max(value: int) -> None:
    if value > LIST_MAX:
        raise RpcError("maxnames > REMOTE_NETWORK_LIST_MAX")
    if value < 0:
        raise InvalidArg("maxnames in must be zero or greater")


@network_call
def connect_num_of_networks(session: Session) -> int:
    """Count the active networks."""
    return sum(network.active for network in _known(session))


@network_call
def connect_list_networks(session: Session, maxnames: int) -> list[str]:
    """List the names of active networks."""
    _check_max(maxnames)
    return [network.name for network in _known(session) if network.active][:maxnames]


@network_call
def connect_num_of_defined_networks(session: Session) -> int:
    """Count the inactive networks."""
    return sum(not network.active for network in _known(session))


@network_call
def connect_list_defined_networks(session: Session, maxnames: int) -> list[str]:
    """List the names of inactive networks."""
    _check_max(maxnames)
    return [network.name for network in _known(session) if not network.active][:maxnames]


@network_call
def network_lookup_by_name(session: Session, name: str) -> NetworkName:
    """Find a network by name."""
    return network_handle(networks(session).by_name(name))


@network_call
def network_lookup_by_uuid(session: Session, uuid: bytes) -> NetworkName:
    """Find a network by uuid."""
    return network_handle(networks(session).by_uuid(uuid_text(uuid)))


# -------------------------------------------------------------- definitions, start, stop


@network_call
async def network_define_xml(session: Session, xml: str) -> NetworkName:
    """Keep a network's definition."""
    return network_handle(await networks(session).define(xml))


@network_call
async def network_define_xml_flags(session: Session, xml: str, flags: int) -> NetworkName:
    """Keep a network's definition, checked strictly with VALIDATE."""
    check_flags(flags, NetworkDefineFlags.VALIDATE, "networkDefineXMLFlags")
    return network_handle(
        await networks(session).define(xml, validated=bool(flags & NetworkDefineFlags.VALIDATE))
    )


@network_call
async def network_create_xml(session: Session, xml: str) -> NetworkName:
    """Start a network that exists only while it is active."""
    return network_handle(await networks(session).create(xml))


@network_call
async def network_create_xml_flags(session: Session, xml: str, flags: int) -> NetworkName:
    """Start a network that exists only while it is active, checked strictly with VALIDATE."""
    check_flags(flags, NetworkCreateFlags.VALIDATE, "networkCreateXMLFlags")
    return network_handle(
        await networks(session).create(xml, validated=bool(flags & NetworkCreateFlags.VALIDATE))
    )


@network_call
async def network_create(session: Session, net: NetworkHandle) -> None:
    """Start a defined network."""
    await networks(session).start(find_network(session, net))


@network_call
async def network_destroy(session: Session, net: NetworkHandle) -> None:
    """Stop a network."""
    await networks(session).destroy(find_network(session, net))


@network_call
async def network_undefine(session: Session, net: NetworkHandle) -> None:
    """Forget a network's definition."""
    await networks(session).undefine(find_network(session, net))


@network_call
def network_get_xml_desc(session: Session, net: NetworkHandle, flags: int) -> str:
    """Give a network's document: the active one, or with INACTIVE the one kept."""
    check_flags(flags, NetworkXMLFlags.INACTIVE, "networkGetXMLDesc")
    network = find_network(session, net)
    return network.shown(inactive=bool(flags & NetworkXMLFlags.INACTIVE)).to_xml()


@network_call
async def network_update(
    session: Session, net: NetworkHandle, command: int, section: int, parentIndex: int, xml: str, flags: int
) -> None:
    """Change a section of a network, live, in its definition, or both."""
    check_flags(flags, _IMPACT, "networkUpdate")
    network = find_network(session, net)
    await networks(session).update(network, command, section, parentIndex, xml, flags)


@network_call
def network_get_bridge_name(session: Session, net: NetworkHandle) -> str:
    """Give the name of a network's bridge."""
    return networks(session).bridge_name(find_network(session, net))


@network_call
def network_get_autostart(session: Session, net: NetworkHandle) -> int:
    """Tell whether it starts with the daemon."""
    return int(find_network(session, net).autostart)


@network_call
async def network_set_autostart(session: Session, net: NetworkHandle, autostart: int) -> None:
    """Start it with the daemon, or not."""
    await networks(session).set_autostart(find_network(session, net), bool(autostart))


@network_call
def network_is_active(session: Session, net: NetworkHandle) -> int:
    """Tell whether it is started."""
    return int(find_network(session, net).active)


@network_call
def network_is_persistent(session: Session, net: NetworkHandle) -> int:
    """Tell whether it is kept when it is not active."""
    return int(find_network(session, net).persistent)


# ---------------------------------------------------------------------- metadata


@network_call
async def network_set_metadata(
    session: Session,
    network: NetworkHandle,
    type: int,
    metadata: str | None,
    key: str | None,
    uri: str | None,
    flags: int,
) -> None:
    """Set title, description or one application's element."""
    check_flags(flags, _IMPACT, "networkSetMetadata")
    check_set("Network", type, metadata, key, uri)
    await networks(session).set_metadata(find_network(session, network), type, metadata, key, uri, flags)


@network_call
def network_get_metadata(
    session: Session, network: NetworkHandle, type: int, uri: str | None, flags: int
) -> str:
    """Give title, description or one application's element."""
    check_flags(flags, _IMPACT, "networkGetMetadata")
    check_get("Network", type, uri)
    return networks(session).metadata(find_network(session, network), type, uri, flags)
