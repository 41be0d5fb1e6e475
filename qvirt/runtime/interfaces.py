"""A domain's interfaces on their way in and out: the one seam for boot and hot-plug.

    reserve      names what it is going to have, in the document and in the footprint; makes nothing
    connect      makes the host's end; returns QEMU's descriptors
    disconnect   takes away what outlives QEMU; harmless when there is nothing

At boot all interfaces are reserved, the status file is written once, then each is connected. `connect` of an
interface that was not reserved does both by itself.
"""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from qvirt.drivers.network import passt, plug
from qvirt.drivers.network.plug import Connection
from qvirt.errors import NoNetwork, QvirtError
from qvirt.host import links, nic
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.qemu.devices.interface import wanted_tap
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: seconds for making or removing one interface's devices; a user's script may take long
DEADLINE = 60.0


async def reserve(domain: "Domain", running: Running, interface: Interface) -> None:
    """Name what the interface will have on the host, before anything is made.

    Raises NoNetwork, OperationInvalid and the like where its network will not have it.
    """
    if interface.type == InterfaceType.NETWORK:
        name = interface.source.network if interface.source is not None else None
        raise NoNetwork(f"no network with matching name '{name}'")
    mark = running.footprint
    if plug.outlives_qemu(interface):
        taken = set(mark.links)
        interface.target.dev = interface.target.dev or links.free_name("macvtap", taken)
        mark.links.append(interface.target.dev)
        lower = plug.lower_device(interface)
        if lower is not None and lower not in mark.macs:
            mark.macs[lower] = await domain.hypervisor.files.run(f"MAC of '{lower}'", partial(_mac, lower))
    if interface.uses_passt:
        mark.files += passt.traces(_passt_folder(domain), running.id, domain.name, interface)


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
        if interface.uses_tap:
            wanted = wanted_tap(interface, kvm=running.definition.type == "kvm")
            await hv.files.run(
                f"interfaces of '{domain.name}'", partial(plug.plug, interface, wanted, connection), DEADLINE
            )
        elif interface.uses_passt:
            start = partial(
                passt.start, _passt_folder(domain), running.id, domain.name, interface, running.user
            )
            await hv.files.run(f"passt of '{domain.name}'", start, DEADLINE)
    except BaseException:
        connection.close()
        await asyncio.shield(disconnect(domain, running, interface))
        interface.target.dev = None  # whoever clears up after the whole start has nothing to do here
        raise
    return connection


async def disconnect(domain: "Domain", running: Running, interface: Interface) -> None:
    """Take away what an interface has left on the host, and its place in its network."""
    hv = domain.hypervisor
    mark = running.footprint
    if interface.target.dev or interface.uses_passt:
        try:
            failures = await hv.files.run(
                f"interfaces of '{domain.name}'",
                partial(_undo, _passt_folder(domain), running.id, domain.name, interface, dict(mark.macs)),
                DEADLINE,
            )
        except QvirtError as error:
            failures = [str(error)]
        for failure in failures:
            log.error("domain '%s': %s", domain.name, failure)
    if plug.outlives_qemu(interface) and interface.target.dev in mark.links:
        mark.links.remove(interface.target.dev)
        lower = plug.lower_device(interface)
        if lower is not None:
            mark.macs.pop(lower, None)
    interface.unplug()
    if not running.finishing:
        domain.save_soon()


def _undo(folder: str, id: int, name: str, interface: Interface, macs: dict[str, str]) -> list[str]:
    if interface.uses_passt:
        passt.stop(folder, id, name, interface)
    failures = plug.unplug(interface)
    lower = plug.lower_device(interface)
    if lower is not None and macs.get(lower):
        failures += plug.give_mac_back(lower, macs[lower])
    return failures


def _is_reserved(running: Running, interface: Interface) -> bool:
    if plug.outlives_qemu(interface):
        return interface.target.dev in running.footprint.links
    return True


def _passt_folder(domain: "Domain") -> str:
    return str(domain.hypervisor.paths.run / "passt")
