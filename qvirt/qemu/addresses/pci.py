"""PCI addresses: every device that needs one gets one, and the bridges and ports that takes.

Two passes: the first finds out how many buses there must be, the second gives the addresses. What a document
says is never changed.
"""

from typing import TypeAlias

from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.controller import Controller, ControllerType, PciControllerModel
from qvirt.model.devices.device import Device
from qvirt.model.devices.filesystem import Filesystem
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.devices.memballoon import Memballoon
from qvirt.qemu.addresses.chipset import is_piix3_function, place, place_by_custom, reserve_builtin
from qvirt.qemu.addresses.pci_bus import BUS_KINDS, PCI, PCIE, Bus, Buses, Connect, Place
from qvirt.qemu.addresses.pci_flags import Slots, given_pci, wants_pci
from qvirt.qemu.context import Context
from qvirt.qemu.controllers import USB2_FUNCTIONS, find_controller
from qvirt.qemu.machines import is_pseries, root_model, supports_pci

#: QEMU's device behind each controller model
PCI_DEVICES: dict[str, str] = {
    "pci-bridge": "pci-bridge",
    "dmi-to-pci-bridge": "i82801b11-bridge",
    "pcie-to-pci-bridge": "pcie-pci-bridge",
    "pcie-root-port": "pcie-root-port",
    "pcie-switch-upstream-port": "x3130-upstream",
    "pcie-switch-downstream-port": "xio3130-downstream",
    "pci-expander-bus": "pxb",
    "pcie-expander-bus": "pxb-pcie",
}

#: the lists of devices in the order in which their given addresses are looked at: whose error comes first
_GIVEN_ORDER = (
    "disks", "interfaces", "sounds", "hostdevs", "videos", "controllers", "smartcards", "serials",
    "parallels", "channels", "consoles", "inputs", "filesystems", "watchdogs", "memballoons", "rngs",
    "nvrams", "hubs", "shmems", "tpms", "panics", "redirdevs", "memory", "iommus", "vsocks", "cryptos",
)  # fmt: skip


Wanting: TypeAlias = list[tuple[Device, int]]
"""Devices without a place, and the slots they need."""

#: the highest number of a PCI bus
MAX_INDEX = 255


def assign_pci(ctx: Context) -> None:
    """Give the PCI addresses. Raises XmlError, InternalError, ConfigUnsupported."""
    domain = ctx.domain
    highest = max(
        (c.index or 0 for c in domain.devices.controllers if c.type is ControllerType.PCI), default=-1
    )
    if highest > MAX_INDEX:
        raise ConfigUnsupported(f"PCI controller index {highest} too high, maximum is {MAX_INDEX}")
    slots = Slots(ctx)
    count = highest + 1
    if count == 0:
        if not supports_pci(domain):
            return
        buses = _buses(ctx, slots, count, growing=False)
        reserve_builtin(ctx, buses, slots)
        _assign_devices(ctx, buses, _wanting(ctx, slots))
    else:
        buses = _buses(ctx, slots, count, growing=True)
        reserve_builtin(ctx, buses, slots)
        rehearsal = buses.copy()
        wanting = _rehearse(ctx, rehearsal, slots, highest)
        if not supports_pci(domain):
            return
        buses.growing = False
        buses.buses += [Bus(added.model) for added in rehearsal.buses[len(buses) :]]
        wanting = [wish for wish in wanting if not place_by_custom(ctx, wish[0], buses)]
        _assign_devices(ctx, buses, wanting)
    _set_multifunction(ctx)
    for controller in domain.devices.controllers:
        if controller.type is ControllerType.PCI:
            _controller_options(ctx, controller)


def assign_pci_live(ctx: Context) -> None:
    """Give PCI addresses on the buses a running guest has. Raises XmlError, InternalError."""
    domain = ctx.domain
    highest = max(
        (c.index or 0 for c in domain.devices.controllers if c.type is ControllerType.PCI), default=-1
    )
    if highest < 0 or not supports_pci(domain):
        return
    slots = Slots(ctx)
    buses = _buses(ctx, slots, highest + 1, growing=False)
    reserve_builtin(ctx, buses, slots)
    _assign_devices(ctx, buses, _wanting(ctx, slots))


def _rehearse(ctx: Context, buses: Buses, slots: Slots, highest: int) -> Wanting:
    """Count the places everything takes, and add the controllers for the buses that turn out to be needed.

    Return what is still without a place, the controllers that were added among it.

    As in libvirt nothing is written down here but the chipset's fixed places, so each part of a USB2 group
    that has no address yet counts as a slot of its own.
    """
    domain = ctx.domain
    if root_model(domain) == "pci-root" and not all(bus.is_full for bus in buses.buses):
        buses.next(PCI)  # for the bridge that one device too many would need
    wanting = _wanting(ctx, slots)
    _assign_devices(ctx, buses, wanting)
    if highest <= 0 and len(buses) > highest + 1 and root_model(domain) == "pcie-root":
        buses.next(PCIE)  # one free port, so that something can be plugged in later
    known = sum(_is_pci_controller(dev) for dev, _ in wanting)
    added: Wanting = []
    number = 1
    while number < len(buses):  # placing a controller may add another bus
        if find_controller(domain, ControllerType.PCI, number) is None:
            new = Controller(type=ControllerType.PCI, index=number, model=buses.buses[number].model)
            domain.devices.controllers.append(new)
            needs = slots.needs(new)
            if needs:
                added.append((new, needs))
                # a bridge that was added finds a port as any device does; one of the document must have one
                buses.next(needs | PCIE if needs & Connect.PCIE_TO_PCI else needs)
        number += 1
    return [*wanting[:known], *added, *wanting[known:]]


def _is_pci_controller(dev: Device) -> bool:
    return isinstance(dev, Controller) and dev.type is ControllerType.PCI


def _buses(ctx: Context, slots: Slots, count: int, growing: bool) -> Buses:
    """Return the buses as the document has them, with the addresses that are taken."""
    domain = ctx.domain
    models: list[str | None] = [None] * count
    for controller in domain.devices.controllers:
        if controller.type is not ControllerType.PCI:
            continue
        index = controller.index or 0
        if index >= count:
            raise InternalError(f"Inappropriate new pci controller index {index} exceeds addrs array length")
        if controller.model not in BUS_KINDS:
            raise InternalError("PCI controller model was not set correctly")
        models[index] = controller.model
    if count and models[0] is None:
        models[0] = "pci-root"
    if is_pseries(domain):
        fill = "pci-root"
    else:
        fill = "pcie-root-port" if count and models[0] == "pcie-root" else "pci-bridge"
    buses = Buses(
        [model or fill for model in models],
        growing,
        many_roots=is_pseries(domain),
        pcie_to_pci=ctx.caps.has_device("pcie-pci-bridge"),
    )
    listed = domain.devices.__dict__
    for name in _GIVEN_ORDER:
        for dev in listed.get(name, ()):
            if dev.address is not None and (where := given_pci(dev)) is not None:
                _reserve_given(dev, where, buses, slots)
    return buses


def _reserve_given(dev: Device, where: PciAddress, buses: Buses, slots: Slots) -> None:
    if is_piix3_function(dev):
        if len(buses) and not BUS_KINDS[buses.buses[0].model].offers & Connect.PCI_DEVICE:
            raise InternalError("Bus 0 must be PCI for integrated PIIX3 USB or IDE controllers")
        if buses.buses and buses.buses[0].model == "pci-root":
            return  # the chipset's own devices are reserved with it
    needs = slots.needs(dev)
    if not needs & Connect.TYPES:
        needs = PCI  # libvirt complains in its log, and goes on
    where.bus = buses.reserve(_place_of(where), needs).bus


def _place_of(where: PciAddress) -> Place:
    return Place(where.bus or 0, where.slot or 0, where.function or 0, where.domain or 0)


#: the lists after controllers, network cards and disks in the order in which devices choose their places
_LATER = (
    "hostdevs", "memballoons", "rngs", "watchdogs", "videos", "shmems", "inputs", "serials", "vsocks",
    "iommus", "memory", "cryptos",
)  # fmt: skip


def _in_order(ctx: Context) -> list[Device]:
    """Return the devices in the order in which they choose their places."""
    devices = ctx.domain.devices
    pci, hostdev = ControllerType.PCI, InterfaceType.HOSTDEV
    controllers, nics, listed = devices.controllers, devices.interfaces, devices.__dict__
    return [
        *[c for c in controllers if c.type is pci],
        *devices.filesystems,
        *[nic for nic in nics if nic.type is not hostdev],
        *devices.sounds,
        *[c for c in controllers if c.type is not pci],
        *devices.disks,
        # a passed-through card is a host device, the first of them
        *[nic for nic in nics if nic.type is hostdev],
        *[dev for name in _LATER for dev in listed.get(name, ())],
    ]


def _wanting(ctx: Context, slots: Slots) -> Wanting:
    """Return the devices without a place and the slots they need, in the order in which they choose."""
    wanting: Wanting = []
    for dev in _in_order(ctx):
        if not wants_pci(dev):
            continue
        needs = slots.needs(dev)
        if not needs and not _is_expected(dev):
            continue
        if isinstance(dev, Controller) and dev.type is ControllerType.IDE and dev.index == 0:
            continue  # in the chipset, or refused
        wanting.append((dev, needs))
    return wanting


def _assign_devices(ctx: Context, buses: Buses, wanting: Wanting) -> None:
    """Find a place for each device without one."""
    for dev, needs in wanting:
        if isinstance(dev, Controller) and dev.type is ControllerType.USB and dev.model in USB2_FUNCTIONS:
            _assign_usb2(ctx, dev, buses, needs)
            continue
        found = buses.next(needs)
        if not buses.growing:
            place(dev, found)


def _is_expected(dev: Device) -> bool:
    """Tell whether libvirt looks for a place though the device can have none, and says so."""
    if isinstance(dev, Controller):
        return dev.type in (ControllerType.XENBUS, ControllerType.ISA)
    if isinstance(dev, Memballoon):
        return dev.model != "none"
    return isinstance(dev, (Interface, Filesystem))


def _assign_usb2(ctx: Context, dev: Controller, buses: Buses, needs: int) -> None:
    """Put an EHCI controller and its companions into the functions of one slot."""
    function = USB2_FUNCTIONS[dev.model or ""]
    multifunction = True if function == 0 else None
    for other in ctx.domain.devices.controllers:
        if other.type is not ControllerType.USB or other.model not in USB2_FUNCTIONS:
            continue
        beside = given_pci(other)
        if other.index == dev.index and beside is not None:
            where = Place(beside.bus or 0, beside.slot or 0, function, beside.domain or 0)
            buses.reserve(where, needs)
            if not buses.growing:
                place(dev, where, multifunction)
            return
    found = buses.next(needs, function=function)
    if not buses.growing:
        place(dev, found, multifunction)


def _set_multifunction(ctx: Context) -> None:
    """Mark function 0 of every slot that has more functions in use, as the guest looks there first."""
    shared: set[tuple[int, int, int]] = set()
    first: list[tuple[tuple[int, int, int], PciAddress]] = []
    for dev in ctx.domain.devices.all():
        where = given_pci(dev)
        if where is None:
            continue
        slot = (where.domain or 0, where.bus or 0, where.slot or 0)
        if where.function:
            shared.add(slot)
        else:
            first.append((slot, where))
    for slot, where in first:
        if slot in shared and where.multifunction is None:
            where.multifunction = True


def _controller_options(ctx: Context, controller: Controller) -> None:
    """Fill in the QEMU device and what the guest sees of a bridge or port."""
    model = controller.model or ""
    index = controller.index or 0
    target = controller.target
    where = controller.address if isinstance(controller.address, PciAddress) else PciAddress()
    if controller.pci_model is None:
        if model == "pci-root" and is_pseries(ctx.domain):
            controller.pci_model = PciControllerModel(name="spapr-pci-host-bridge")
        elif model in PCI_DEVICES:
            name = PCI_DEVICES[model]
            if model == "pcie-root-port" and not ctx.caps.has_device(name):
                name = "ioh3420"  # what there was before a generic one
            controller.pci_model = PciControllerModel(name=name)
    if model == "pci-bridge" and target.chassis_nr is None:
        target.chassis_nr = index
    if model in ("pcie-root-port", "pcie-switch-downstream-port"):
        if target.chassis is None:
            target.chassis = index
        if target.port is None:
            slot, function = where.slot or 0, where.function or 0
            target.port = (slot << 3) + function if model == "pcie-root-port" else slot
    if model in ("pci-expander-bus", "pcie-expander-bus") and target.bus_nr is None:
        target.bus_nr = _next_bus_number(ctx)
    if model == "pci-root" and is_pseries(ctx.domain) and target.index is None:
        target.index = _next_root_index(ctx)
    if model == "pci-bridge" and index <= (where.bus or 0):
        raise ConfigUnsupported(
            f"PCI controller at index {index} (0x{index:02x}) has bus='0x{where.bus or 0:02x}', "
            f"but index must be larger than bus"
        )


def _next_bus_number(ctx: Context) -> int:
    """Return the highest number that leaves two bus numbers below the expander buses there are."""
    lowest = 256
    for other in ctx.domain.devices.controllers:
        if other.type is ControllerType.PCI and other.target.bus_nr is not None:
            lowest = min(lowest, other.target.bus_nr)
    if lowest <= 2:
        raise InternalError(
            "No free busNr lower than current lowest busNr is available to auto-assign to bus"
        )
    return lowest - 2


def _next_root_index(ctx: Context) -> int:
    taken = {
        other.target.index
        for other in ctx.domain.devices.controllers
        if other.type is ControllerType.PCI and other.target.index is not None
    }
    return next(index for index in range(32) if index not in taken)
