"""PCI addresses: every device that needs one gets one, and the bridges and ports that takes.

First it is found out what each device needs, then a plan is made of these needs alone, in two passes: how
many buses there must be, and who goes where. What a document says is never changed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.controller import Controller, ControllerType, PciControllerModel
from qvirt.model.devices.device import Device
from qvirt.model.devices.filesystem import Filesystem
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.chipset import is_piix3_function, place, reserve_builtin, take_custom_bridge
from qvirt.qemu.addresses.pci_bus import BUS_KINDS, PCI, PCIE, UPLINKS, Bus, Buses, Connect, Place, Shape
from qvirt.qemu.addresses.pci_flags import Slots, given_pci, wants_pci
from qvirt.qemu.context import Context
from qvirt.qemu.controllers import USB2_FUNCTIONS
from qvirt.qemu.machines import is_pseries, is_q35, root_model, supports_pci

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


class Wish(NamedTuple):
    """What a device without a place asks for. group: the parts of a USB2 controller share a slot."""

    needs: int
    function: int = 0
    group: int | None = None


Wanting: TypeAlias = list[tuple[Device, Wish]]
"""Devices without a place, in the order in which they choose."""

Groups: TypeAlias = dict[int, Place]
"""The slots of USB2 controllers of which some part has its place."""


class Plan(NamedTuple):
    """Where devices go. places: theirs who wish. added: index, model and place of the controllers to add."""

    added: tuple[tuple[int, str, Place | None], ...]
    places: tuple[Place, ...]


class Problem(NamedTuple):
    """All that a plan depends on, which guests of one make share.

    root: the model of controller 0. numbers: of the controllers there are; highest of them. bridges: how many
    of the wishes are PCI controllers', which come first. shape: what is taken of the buses.
    """

    root: str | None
    numbers: frozenset[int]
    highest: int
    bridges: int
    is_q35: bool
    shape: Shape
    wishes: tuple[Wish, ...]
    groups: tuple[tuple[int, Place], ...]


#: the highest number of a PCI bus
MAX_INDEX = 255


def assign_pci(ctx: Context) -> None:
    """Give the PCI addresses. Raises XmlError, InternalError, ConfigUnsupported."""
    domain = ctx.domain
    numbers = frozenset(c.index or 0 for c in domain.devices.controllers if c.type is ControllerType.PCI)
    highest = max(numbers, default=-1)
    if highest > MAX_INDEX:
        raise ConfigUnsupported(f"PCI controller index {highest} too high, maximum is {MAX_INDEX}")
    is_pci = supports_pci(domain)
    if not numbers and not is_pci:
        return
    slots = Slots(ctx)
    buses = _buses(ctx, slots, highest + 1, growing=bool(numbers))
    reserve_builtin(ctx, buses, slots)
    wanting = _wanting(ctx, slots)
    if numbers:
        problem = Problem(
            root_model(domain),
            numbers,
            highest,
            sum(_is_pci_controller(dev) for dev, _ in wanting),
            is_q35(domain),
            buses.shape,
            tuple([wish for _, wish in wanting]),
            tuple(_groups(domain).items()),
        )
        plan = _PLANS.get(problem)
        if plan is None:
            plan = _plan(problem, buses)
            if len(_PLANS) >= _MOST_PLANS:
                _PLANS.clear()
            _PLANS[problem] = plan
        for number, model, where in plan.added:
            added = Controller(type=ControllerType.PCI, index=number, model=model)
            domain.devices.controllers.append(added)
            if where is not None and is_pci:
                place(added, where)
        places: Sequence[Place] = plan.places
    else:
        places = _settle(buses, [wish for _, wish in wanting], _groups(domain))
    if not is_pci:
        return
    _put(wanting, places)
    _set_multifunction(ctx)
    for controller in domain.devices.controllers:
        if controller.type is ControllerType.PCI:
            _controller_options(ctx, controller)


def assign_pci_live(new: Device, ctx: Context) -> None:
    """Give PCI addresses on the buses a running guest has, and refuse one that is taken there.

    new: the device that is plugged. Raises XmlError, InternalError.
    """
    domain = ctx.domain
    highest = max(
        (c.index or 0 for c in domain.devices.controllers if c.type is ControllerType.PCI), default=-1
    )
    if highest < 0 or not supports_pci(domain):
        return
    slots = Slots(ctx)
    wanting = [(dev, wish) for dev, wish in _wanting(ctx, slots) if wish.needs]
    if not wanting and given_pci(new) is None:
        return
    buses = _buses(ctx, slots, highest + 1, growing=False)
    reserve_builtin(ctx, buses, slots)
    _put(wanting, _settle(buses, [wish for _, wish in wanting], _groups(domain)))


_PLANS: dict[Problem, Plan] = {}
"""Plans made before: most guests are made as others were."""

_MOST_PLANS = 256


def _plan(problem: Problem, buses: Buses) -> Plan:
    """Count the places everything takes, add controllers for the buses that are lacking, and give the places.

    buses: with what is taken. As in libvirt nothing is written down while places are counted, so each part of
    a USB2 group that has no place yet counts as a slot of its own.
    """
    wishes, groups = problem.wishes, dict(problem.groups)
    rehearsal = buses.copy()
    if problem.root == "pci-root" and not all(bus.is_full for bus in rehearsal.buses):
        rehearsal.next(PCI)  # for the bridge that one device too many would need
    _settle(rehearsal, wishes, groups)
    if problem.highest <= 0 and len(rehearsal) > problem.highest + 1 and problem.root == "pcie-root":
        rehearsal.next(PCIE)  # one free port, so that something can be plugged in later
    added: list[tuple[int, str, int]] = []
    number = 1
    while number < len(rehearsal):  # placing a controller may add another bus
        if number not in problem.numbers:
            model = rehearsal.buses[number].model
            needs = UPLINKS.get(model, Connect.NONE)
            added.append((number, model, needs))
            if needs:
                # a bridge that was added finds a port as any device does; one of the document must have one
                rehearsal.next(needs | PCIE if needs & Connect.PCIE_TO_PCI else needs)
        number += 1
    buses.growing = False
    buses.buses += [Bus(bus.model) for bus in rehearsal.buses[len(buses) :]]
    given = {}
    for number, model, _ in added:
        if problem.is_q35 and (where := take_custom_bridge(model, buses)) is not None:
            given[number] = where
    looking = [(number, Wish(needs)) for number, _, needs in added if needs and number not in given]
    first = problem.bridges
    places = _settle(buses, [*wishes[:first], *(wish for _, wish in looking), *wishes[first:]], groups)
    theirs = places[first : first + len(looking)]
    given |= dict(zip([number for number, _ in looking], theirs, strict=True))
    return Plan(
        tuple((number, model, given.get(number)) for number, model, _ in added),
        (*places[:first], *places[first + len(looking) :]),
    )


def _settle(buses: Buses, wishes: Sequence[Wish], groups: Groups) -> list[Place]:
    """Find a place for each wish. Raises XmlError, InternalError."""
    places: list[Place] = []
    known = groups.copy()
    for wish in wishes:
        beside = known.get(wish.group) if wish.group is not None else None
        if beside is not None:
            found = beside._replace(function=wish.function)
            buses.reserve(found, wish.needs)
        else:
            found = buses.next(wish.needs, function=wish.function)
            if wish.group is not None and not buses.growing:
                known[wish.group] = found
        places.append(found)
    return places


def _put(wanting: Wanting, places: Iterable[Place]) -> None:
    """Write the places down."""
    for (dev, wish), where in zip(wanting, places, strict=True):
        # the parts of a USB2 controller are known to be several
        place(dev, where, True if wish.group is not None and wish.function == 0 else None)


def _groups(domain: Domain) -> Groups:
    """Return the slots of the USB2 controllers of which a part has a place."""
    groups: Groups = {}
    for dev in domain.devices.controllers:
        if dev.type is ControllerType.USB and dev.model in USB2_FUNCTIONS and dev.index is not None:
            where = given_pci(dev)
            if where is not None:
                groups.setdefault(dev.index, _place_of(where))
    return groups


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
    """Return the devices without a place, in the order in which they choose."""
    wanting: Wanting = []
    for dev in _in_order(ctx):
        if not wants_pci(dev):
            continue
        needs = slots.needs(dev)
        if not needs and not _is_expected(dev):
            continue
        wish = Wish(needs)
        if isinstance(dev, Controller):
            if dev.type is ControllerType.IDE and dev.index == 0:
                continue  # in the chipset, or refused
            if dev.type is ControllerType.USB and dev.model in USB2_FUNCTIONS:
                wish = Wish(needs, USB2_FUNCTIONS[dev.model], dev.index)
        wanting.append((dev, wish))
    return wanting


def _is_expected(dev: Device) -> bool:
    """Tell whether libvirt looks for a place though the device can have none, and says so."""
    if isinstance(dev, Controller):
        return dev.type in (ControllerType.XENBUS, ControllerType.ISA)
    if isinstance(dev, Memballoon):
        return dev.model != "none"
    return isinstance(dev, (Interface, Filesystem))


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
