"""Cards of the host that are passed through: what their physical function keeps for them meanwhile.

note      finds out what is kept now, before anything changes; only virtual functions of cards will do
dress     has the guest's MAC address and VLAN kept
undress   has kept what was before; harmless when nothing was changed
"""

import logging
from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import QvirtError
from qvirt.host import pci, vf
from qvirt.host.netlink import VfConfig
from qvirt.model.devices.interface import Interface
from qvirt.qemu.devices.vfio import wanted_by
from qvirt.runtime.running import Running
from qvirt.runtime.state import VfMark

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: seconds for asking a card's driver
DEADLINE = 60.0


async def note(domain: "Domain", running: Running, interface: Interface) -> None:
    """Take down what the card keeps for a function. Raises ConfigUnsupported for what is no virtual one."""
    names = [one.name for one in wanted_by(interface)]

    def look() -> list[VfMark]:
        made = []
        for name in names:
            place = vf.find(pci.BUS, name)
            vf.check_online(pci.BUS, place)
            kept = vf.read(place)
            made.append(VfMark(name, place.card, place.number, kept.mac, kept.vlan, kept.qos))
        return made

    if not is_noted(running, interface):
        running.footprint.vfs += await domain.hypervisor.files.run(
            f"interfaces of '{domain.name}'", look, DEADLINE
        )


def is_noted(running: Running, interface: Interface) -> bool:
    """Tell whether `note` was asked."""
    return bool(_marks(running, interface))


def _marks(running: Running, interface: Interface) -> list[VfMark]:
    names = [one.name for one in wanted_by(interface)]
    return [mark for mark in running.footprint.vfs if mark.name in names]


async def dress(domain: "Domain", running: Running, interface: Interface) -> None:
    """Have the card keep the guest's MAC address and VLAN. Raises SystemError_."""
    vlan = interface.plugged().vlan
    config = VfConfig(interface.mac.address or "", vlan.tags[0].id if vlan is not None and vlan.tags else 0)
    for mark in _marks(running, interface):
        write = partial(vf.write, vf.Place(mark.card, mark.number), config)
        await domain.hypervisor.files.run(f"interfaces of '{domain.name}'", write, DEADLINE)
        domain.hypervisor.checkpoint("virtual function dressed")


async def undress(domain: "Domain", running: Running, interface: Interface) -> None:
    """Have the card keep what it kept before; what fails is logged."""
    for mark in _marks(running, interface):
        before = VfConfig(mark.mac, mark.vlan, mark.qos)
        restore = partial(vf.restore, vf.Place(mark.card, mark.number), before)
        try:
            failures = await domain.hypervisor.files.run(f"interfaces of '{domain.name}'", restore, DEADLINE)
        except QvirtError as error:
            failures = [str(error)]
        for failure in failures:
            log.error("domain '%s': %s", domain.name, failure)
        running.footprint.vfs = [other for other in running.footprint.vfs if other is not mark]
