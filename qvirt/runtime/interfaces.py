"""A domain's interfaces on their way in and out: the one seam for boot and hot-plug.

    reserve      names what it is going to have, in the document and in the footprint; makes nothing
    connect      makes the host's end; returns QEMU's descriptors
    disconnect   takes away what outlives QEMU; harmless when there is nothing

At boot all interfaces are reserved, the status file is written once, then each is connected. `connect` of an
interface that was not reserved does both by itself.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from uuid import uuid4

from qvirt.constants.network import IPAddrType, NetworkEventLifecycleType
from qvirt.drivers.network import floors, plug, ports
from qvirt.drivers.network.events import NetworkEvent, NetworkLifecycle
from qvirt.drivers.network.plug import Connection
from qvirt.errors import NoNetwork, QvirtError
from qvirt.host import links, nic
from qvirt.model.devices.interface import ActualTraffic, Interface, InterfaceType
from qvirt.model.netdev import Bandwidth
from qvirt.qemu.devices.base import HandedResource
from qvirt.qemu.devices.interface import wanted_tap
from qvirt.qmp.wire import Json
from qvirt.runtime.life import lending
from qvirt.runtime.plugging import passing, pci
from qvirt.runtime.records import GuestInterface, IpAddress
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: as many groups as a card of QEMU's keeps apart; beyond, it takes all there are
_MOST_GROUPS = 64
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}", re.ASCII)

#: seconds for making or removing one interface's devices; a user's script may take long
DEADLINE = 60.0


async def reserve(domain: "Domain", running: Running, interface: Interface) -> None:
    """Name what the interface will have on the host, before anything is made.

    Raises NoNetwork, OperationInvalid and the like where its network will not have it.
    """
    if interface.type == InterfaceType.NETWORK:
        take_place(domain, interface)
    elif interface.type == InterfaceType.VDPA:
        there = partial(plug.open_vdpa, interface)
        await domain.hypervisor.files.run(f"interfaces of '{domain.name}'", there, DEADLINE)
    mark = running.footprint
    if interface.actual_type == InterfaceType.HOSTDEV:
        await passing.note(domain, running, interface)
    if plug.outlives_qemu(interface):
        taken = set(mark.links)
        interface.target.dev = interface.target.dev or links.free_name("macvtap", taken)
        mark.links.append(interface.target.dev)
        lower = plug.lower_device(interface)
        if lower is not None and lower not in mark.macs:
            mark.macs[lower] = await domain.hypervisor.files.run(f"MAC of '{lower}'", partial(_mac, lower))
            mark.files.append(str(_notes(domain) / lower))


def _notes(domain: "Domain") -> Path:
    """Return where libvirt notes the own addresses of devices that have a guest's, a file for each."""
    return domain.hypervisor.paths.pidfile(domain.name).parent


async def _note_mac(domain: "Domain", running: Running, interface: Interface) -> None:
    """Note the own address of the device that is lent one, for a libvirtd that goes on with the guest."""
    lower = plug.lower_device(interface)
    mac = running.footprint.macs.get(lower or "")
    if lower is not None and mac:
        note = partial(plug.save_mac, _notes(domain), lower, mac)
        await domain.hypervisor.files.run(f"MAC of '{lower}'", note)


def take_place(domain: "Domain", interface: Interface) -> None:
    """Find an interface that asks for a network its place there, unless it has one. Raises as `reserve`."""
    if interface.type == InterfaceType.NETWORK and interface.actual is None:
        _take_port(domain, interface)


async def leave_place(domain: "Domain", interface: Interface) -> None:
    """Give up a place where nothing was made yet."""
    await _leave_port(domain, interface)
    interface.unplug()


def _take_port(domain: "Domain", interface: Interface) -> None:
    """Get an interface a port of its network, which counts from now on; its file is written by `connect`.

    So the status file, which names the port, is there before the port's own.
    """
    hv = domain.hypervisor
    name = _network_of(interface)
    if hv.networks is None:
        raise NoNetwork(f"no network with matching name '{name}'")
    try:
        network = ports.active(hv.networks, name)
    except NoNetwork as error:
        if os.geteuid() == 0:
            raise
        raise NoNetwork(
            f"{error.detail}: an unprivileged daemon makes no networks; give the guest "
            "<interface type='user'>, with <backend type='passt'/> for forwarded ports, or run it by "
            "qemu:///system"
        ) from None

    def used(device: str) -> int:
        return network.connections(device) + pci.has_owner(hv, device)

    port = ports.allocate(network.current, interface, str(uuid4()), (domain.name, domain.uuid), used)
    floors.reserve(network, port)
    network.ports[str(port.uuid)] = port
    ports.plug_in(interface, port)


async def _leave_port(domain: "Domain", interface: Interface) -> None:
    """Give an interface's port back to its network."""
    hv = domain.hypervisor
    uuid = interface.source.portid if interface.source is not None else None
    if hv.networks is None or interface.type != InterfaceType.NETWORK or uuid is None:
        return
    try:
        network = hv.networks.by_name(_network_of(interface))
        network.ports.pop(uuid, None)
        await hv.files.run(f"network port of '{domain.name}'", partial(ports.erase_port, network, uuid))
        await floors.settle(network)
    except NoNetwork:
        return  # it went away, and its ports with it
    except (QvirtError, OSError) as error:
        log.error("domain '%s': port %s: %s", domain.name, uuid, error)


def _network_of(interface: Interface) -> str:
    return (interface.source.network if interface.source is not None else None) or ""


def _on_networks(hv: "Hypervisor") -> Iterator[tuple["Domain", Running, Interface]]:
    """Yield the interfaces of running domains that are plugged into networks."""
    for domain in hv.domains:
        running = domain.running
        if running is None or running.finishing:
            continue
        for interface in running.definition.devices.interfaces:
            if interface.type == InterfaceType.NETWORK and interface.actual is not None:
                yield domain, running, interface


async def _leased(networks: ports.Networks, name: str, mac: str) -> Sequence[tuple[str, int]]:
    try:
        return await networks.leased(networks.by_name(name), mac)
    except NoNetwork:
        return ()


async def leased_hostname(domain: "Domain", running: Running) -> str | None:
    """Return the first name under which one of the guest's cards has a lease."""
    networks = domain.hypervisor.networks
    for interface in running.definition.devices.interfaces:
        mac = interface.mac.address
        if networks is None or mac is None or interface.type != InterfaceType.NETWORK:
            continue
        try:
            given = await networks.leases(networks.by_name(_network_of(interface)))
        except NoNetwork:
            continue
        for lease in given:
            if lease.hostname and lease.mac is not None and lease.mac.lower() == mac:
                return lease.hostname
    return None


async def leases(domain: "Domain", running: Running) -> list[GuestInterface]:
    """List the interfaces that have leases of their networks, with these."""
    networks = domain.hypervisor.networks
    found: list[GuestInterface] = []
    for interface in running.definition.devices.interfaces:
        mac = interface.mac.address
        if networks is None or mac is None or interface.type != InterfaceType.NETWORK:
            continue
        addresses = tuple(
            IpAddress(IPAddrType.IPV6 if ":" in address else IPAddrType.IPV4, address, prefix)
            for address, prefix in await _leased(networks, _network_of(interface), mac)
        )
        if addresses:
            found.append(GuestInterface(interface.target.dev or "", mac, addresses))
    return found


def follows_guest(running: Running, alias: str) -> Interface | None:
    """Return the interface of an alias where the host follows its guest's filters; None elsewhere.

    That is asked for by trustGuestRxFilters, and only a macvtap has filters of its own to set.
    """
    for interface in running.definition.devices.interfaces:
        if interface.alias.name == alias and interface.actual_type == InterfaceType.DIRECT:
            return interface if interface.plugged().trust_guest_rx_filters else None
    return None


def _is_mac(value: Json) -> TypeGuard[str]:
    return isinstance(value, str) and _MAC.fullmatch(value) is not None


async def follow_filter(domain: "Domain", running: Running, alias: str) -> None:
    """Let a macvtap take what its guest's card now takes: another MAC address, groups. @background."""
    answer = await running.execute("query-rx-filter", {"name": alias})
    interface = follows_guest(running, alias)
    name = interface.target.dev if interface is not None else None
    if not isinstance(answer, list) or not answer or not isinstance(answer[0], dict) or name is None:
        return
    wanted = answer[0]
    mac, table = wanted.get("main-mac"), wanted.get("multicast-table")
    groups = [group for group in table if _is_mac(group)] if isinstance(table, list) else []
    if not _is_mac(mac):
        log.warning("domain '%s': '%s' says it has the MAC address %.40r", domain.name, alias, mac)
        return
    await domain.hypervisor.files.run(
        f"interfaces of '{domain.name}'",
        partial(
            links.set_filter,
            name,
            mac=mac,
            groups=groups[:_MOST_GROUPS],
            all_groups=wanted.get("multicast") == "all" or len(groups) > _MOST_GROUPS,
            promiscuous=wanted.get("promiscuous") is True,
        ),
    )


async def settle_ports(hv: "Hypervisor") -> None:
    """Bring the book of ports and the running domains together, after both were found again.

    A port whose guest has gone is given back; one that its guest has and the book has not is entered again.
    What fails is logged: no network keeps the daemon from serving the others.
    """
    if hv.networks is None:
        return
    for network in hv.networks:
        if network.active:
            await plug_again(hv, network.name)
    alive = {str(interface.source.portid) for _, _, interface in _on_networks(hv) if interface.source}
    ours = {domain.uuid for domain in hv.domains}
    for network in hv.networks:
        gone: list[str] = []
        for uuid, port in list(network.ports.items()):
            # a port of somebody who is no domain was made by net-port-create, and is theirs to delete
            if uuid not in alive and (port.owner is None or port.owner.uuid in ours):
                del network.ports[uuid]
                gone.append(uuid)
        try:
            for uuid in gone:
                erase = partial(ports.erase_port, network, uuid)
                await hv.files.run(f"network port of '{network.name}'", erase)
            await floors.settle(network)
        except QvirtError as error:
            log.error("ports of network '%s': %s", network.name, error)


def follow_networks(hv: "Hypervisor") -> None:
    """Plug guests in again whenever their network is started."""

    def told(event: NetworkEvent) -> None:
        if isinstance(event, NetworkLifecycle) and event.event == NetworkEventLifecycleType.STARTED:
            hv.background(plug_again(hv, event.name), f"guests of network {event.name}")

    if hv.networks is not None:
        hv.networks.events.subscribe(told)


async def plug_again(hv: "Hypervisor", name: str) -> None:
    """Put the taps of running guests into a network's bridge, which has been made anew. @background.

    What fails is logged: the network is up, even if a guest is not on it.
    """
    if hv.networks is None:
        return
    for domain, _, interface in _on_networks(hv):
        if _network_of(interface) != name:
            continue
        try:
            network = ports.active(hv.networks, name)
            port = ports.port_of(interface, (domain.name, domain.uuid))
            if port.uuid not in network.ports:
                floors.reserve(network, port)
                network.ports[str(port.uuid)] = port
                await hv.files.run(
                    f"network port of '{domain.name}'", partial(ports.write_port, network, port)
                )
                await floors.settle(network)
            again = await hv.files.run(f"interfaces of '{domain.name}'", partial(plug.rejoin, interface))
        except QvirtError as error:
            log.error(
                "domain '%s': cannot plug '%s' into network '%s' again: %s",
                *(domain.name, interface.target.dev, name, error),
            )
        else:
            if again:
                log.info("domain '%s': '%s' is on '%s' again", domain.name, interface.target.dev, name)


def _mac(lower: str) -> str:
    try:
        return nic.mac(lower)
    except OSError:
        return ""  # there is no such device, which making the macvtap will say


async def connect(domain: "Domain", running: Running, interface: Interface) -> Connection:
    """Make the host's end of an interface; the descriptors are in the connection, which the caller closes.

    Raises what keeps it from being made; then it is disconnected.
    """
    hv = domain.hypervisor
    connection = Connection()
    try:
        if not _is_reserved(running, interface):
            await reserve(domain, running, interface)
            await domain.save_status()
        await _note_mac(domain, running, interface)
        if interface.type == InterfaceType.NETWORK and hv.networks is not None:
            network = ports.active(hv.networks, _network_of(interface))
            port = ports.port_of(interface, (domain.name, domain.uuid))
            await hv.files.run(f"network port of '{domain.name}'", partial(ports.write_port, network, port))
            hv.checkpoint("port written")
            await floors.settle(network)
        if interface.uses_tap:
            wanted = wanted_tap(interface, kvm=running.definition.type == "kvm")
            await hv.files.run(
                f"interfaces of '{domain.name}'",
                partial(plug.plug, interface, wanted, connection, helper=hv.config.bridge_helper),
                DEADLINE,
            )
            allow = partial(_allow, running, interface)
            await hv.files.run(f"interfaces of '{domain.name}'", allow, lending.DEADLINE)
        elif interface.type == InterfaceType.VDPA:
            opened = partial(plug.open_vdpa, interface, connection)
            await hv.files.run(f"interfaces of '{domain.name}'", opened, DEADLINE)
        elif interface.actual_type == InterfaceType.HOSTDEV:
            await passing.dress(domain, running, interface)
        hv.checkpoint("interface plugged")
    except BaseException:
        connection.close()
        await asyncio.shield(disconnect(domain, running, interface))
        interface.target.dev = None  # whoever clears up after the whole start has nothing to do here
        raise
    return connection


def _allow(running: Running, interface: Interface) -> None:
    """Let QEMU have what it gets descriptors of. Blocking. Raises what a security model says."""
    node = plug.node(interface)
    if node is not None:
        running.guard.give([], [HandedResource(interface, node)])


def _deny(running: Running, interface: Interface) -> list[str]:
    """Undo `_allow` while the interface is still there; returns what went wrong. Blocking."""
    node = plug.node(interface) if not running.finishing else None
    return running.guard.take_back([], [HandedResource(interface, node)]) if node is not None else []


async def disconnect(domain: "Domain", running: Running, interface: Interface) -> None:
    """Take away what an interface has left on the host, and its place in its network."""
    hv = domain.hypervisor
    mark = running.footprint
    if interface.actual_type == InterfaceType.HOSTDEV:
        await passing.undress(domain, running, interface)
    if interface.target.dev:
        try:
            failures = await hv.files.run(
                f"interfaces of '{domain.name}'",
                partial(_undo, running, interface, dict(mark.macs), _notes(domain)),
                lending.DEADLINE,
            )
        except (QvirtError, OSError) as error:
            failures = [str(error)]
        for failure in failures:
            log.error("domain '%s': %s", domain.name, failure)
    if plug.outlives_qemu(interface) and interface.target.dev in mark.links:
        mark.links.remove(interface.target.dev)
        lower = plug.lower_device(interface)
        if lower is not None:
            mark.macs.pop(lower, None)
            noted = str(_notes(domain) / lower)
            mark.files[:] = [path for path in mark.files if path != noted]
    await _leave_port(domain, interface)
    interface.unplug()
    if not running.finishing:
        domain.save_soon()


async def update(domain: "Domain", running: Running, old: Interface, new: Interface) -> None:
    """Bring the host's end of an interface from one description to another while the guest runs.

    new: gets the old one's device, and a port of its own where it asks for another network. On failure all is
    as it was. Raises OperationUnsupported where it would take another device.
    """
    hv = domain.hypervisor
    new.target.dev = old.target.dev
    moves = new.type == InterfaceType.NETWORK and _asked_place(old) != _asked_place(new)
    if moves:
        _take_port(domain, new)
    elif new.type == InterfaceType.NETWORK and old.actual is not None and old.source is not None:
        new.actual = old.actual.copy()
        new.actual.bandwidth = new.bandwidth or _limits_of_group(domain, new)
        if new.source is not None:
            new.source.portid = old.source.portid
        _enter(domain, new)
    what = f"interfaces of '{domain.name}'"
    try:
        if new.uses_tap and new.target.dev:
            await hv.files.run(what, partial(plug.change, old, new), DEADLINE)
        await _keep(domain, new)
    except BaseException:
        await asyncio.shield(_back(domain, old, new, moved=moves))
        raise
    if old.type == InterfaceType.NETWORK and (moves or new.type != InterfaceType.NETWORK):
        await _leave_port(domain, old)


def check_floor(domain: "Domain", interface: Interface) -> None:
    """Refuse a floor that a plugged-in interface asks for and cannot have. Raises OperationUnsupported."""
    networks = domain.hypervisor.networks
    network = None
    if networks is not None and interface.actual_type == InterfaceType.NETWORK:
        network = ports.active(networks, _network_of(interface)).current
    ports.check_floor(network, interface.mac.address or "", interface.bandwidth)


def _limits_of_group(domain: "Domain", interface: Interface) -> Bandwidth | None:
    """Return the limits that an interface which says none has from its port group."""
    networks = domain.hypervisor.networks
    if networks is None or interface.source is None:
        return None
    group = ports.active(networks, _network_of(interface)).current.group(interface.source.portgroup)
    return group.bandwidth if group is not None else None


async def _back(domain: "Domain", old: Interface, new: Interface, *, moved: bool) -> None:
    """Undo a change that failed half way."""
    what = f"interfaces of '{domain.name}'"
    try:
        if new.uses_tap and new.target.dev and old.actual_type == new.actual_type:
            await domain.hypervisor.files.run(what, partial(plug.change, new, old), DEADLINE)
    except QvirtError as error:
        log.error("domain '%s': cannot put '%s' back: %s", domain.name, old.target.dev, error)
    if moved:
        await _leave_port(domain, new)
        return
    try:
        _enter(domain, old)
        await _keep(domain, old)
    except QvirtError as error:
        log.error("domain '%s': port of '%s': %s", domain.name, old.target.dev, error)


def _enter(domain: "Domain", interface: Interface) -> None:
    """Enter the port of a plugged-in interface, as it is now, into its network's book.

    Raises OperationInvalid, OperationUnsupported for a floor that cannot be kept; then nothing changes.
    """
    networks = domain.hypervisor.networks
    if interface.type != InterfaceType.NETWORK or interface.actual is None or networks is None:
        return
    network = ports.active(networks, _network_of(interface))
    port = ports.port_of(interface, (domain.name, domain.uuid))
    floors.reserve(network, port)
    network.ports[str(port.uuid)] = port
    interface.actual.traffic = ActualTraffic(id=port.class_id)


async def _keep(domain: "Domain", interface: Interface) -> None:
    """Write down the port of an interface, and bring the network's bridge to what it has."""
    hv = domain.hypervisor
    if interface.type != InterfaceType.NETWORK or hv.networks is None:
        return
    network = ports.active(hv.networks, _network_of(interface))
    port = ports.port_of(interface, (domain.name, domain.uuid))
    await hv.files.run(f"port of '{domain.name}'", partial(ports.write_port, network, port))
    await floors.settle(network)


def _asked_place(interface: Interface) -> tuple[str, str | None, str | None]:
    """Return what an interface asks to be plugged into."""
    source = interface.source
    if source is None:
        return (str(interface.type), None, None)
    return (str(interface.type), source.network, source.portgroup)


def _undo(running: Running, interface: Interface, macs: dict[str, str], folder: Path) -> list[str]:
    failures = _deny(running, interface) + plug.unplug(interface)
    lower = plug.lower_device(interface)
    if lower is not None and macs.get(lower):
        failures += plug.give_mac_back(lower, macs[lower])
        (folder / lower).unlink(missing_ok=True)
    return failures


def _is_reserved(running: Running, interface: Interface) -> bool:
    if interface.type == InterfaceType.NETWORK and interface.actual is None:
        return False
    if interface.actual_type == InterfaceType.HOSTDEV:
        return passing.is_noted(running, interface)
    if plug.outlives_qemu(interface):
        return interface.target.dev in running.footprint.links
    return True
