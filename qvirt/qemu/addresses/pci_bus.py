"""The PCI buses of a guest while addresses are given out: what fits where, what is taken, what may be added.

libvirt's rules (docs: "PCI topology and hotplug", "PCI addresses in domain XML and guest OS").
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, QvirtError, XmlError
from qvirt.record import Record


class Connect:
    """What a device needs of its slot, and what a bus offers; plain integers, tested for every slot."""

    NONE: Final = 0
    HOTPLUG: Final = 1
    AGGREGATE: Final = 2
    INTEGRATED: Final = 4
    PCI_DEVICE: Final = 8
    PCIE_DEVICE: Final = 16
    PCI_BRIDGE: Final = 32
    PCIE_ROOT_PORT: Final = 64
    UPSTREAM_PORT: Final = 128
    DOWNSTREAM_PORT: Final = 256
    DMI_TO_PCI: Final = 512
    PCIE_TO_PCI: Final = 0x2000
    PCI_EXPANDER: Final = 2048
    PCIE_EXPANDER: Final = 4096
    ENDPOINT: Final = PCI_DEVICE | PCIE_DEVICE
    TYPES: Final = (
        ENDPOINT
        | PCI_BRIDGE
        | PCIE_ROOT_PORT
        | UPSTREAM_PORT
        | DOWNSTREAM_PORT
        | DMI_TO_PCI
        | PCIE_TO_PCI
        | PCI_EXPANDER
        | PCIE_EXPANDER
    )


PCI = Connect.PCI_DEVICE | Connect.HOTPLUG
PCIE = Connect.PCIE_DEVICE | Connect.HOTPLUG


class BusKind(Record):
    """What a controller model offers to devices below it; auto: libvirt places devices there by itself."""

    offers: int
    first_slot: int
    last_slot: int
    auto: bool = True


_PORT = Connect.PCIE_DEVICE | Connect.UPSTREAM_PORT | Connect.PCIE_TO_PCI | Connect.HOTPLUG

BUS_KINDS: dict[str, BusKind] = {
    "pci-root": BusKind(PCI | Connect.PCI_BRIDGE | Connect.PCI_EXPANDER, 1, 31),
    "pci-bridge": BusKind(PCI | Connect.PCI_BRIDGE, 1, 31),
    "pci-expander-bus": BusKind(PCI | Connect.PCI_BRIDGE, 0, 31, auto=False),
    "pcie-root": BusKind(
        Connect.PCIE_DEVICE | Connect.PCIE_ROOT_PORT | Connect.DMI_TO_PCI | Connect.PCIE_EXPANDER, 1, 31
    ),
    "dmi-to-pci-bridge": BusKind(Connect.PCI_DEVICE | Connect.PCI_BRIDGE, 0, 31),
    "pcie-to-pci-bridge": BusKind(PCI | Connect.PCI_BRIDGE, 1, 31),
    "pcie-root-port": BusKind(_PORT, 0, 0),
    "pcie-switch-downstream-port": BusKind(_PORT, 0, 0),
    "pcie-switch-upstream-port": BusKind(Connect.DOWNSTREAM_PORT, 0, 31),
    "pcie-expander-bus": BusKind(Connect.PCIE_ROOT_PORT | Connect.DMI_TO_PCI, 0, 31, auto=False),
}

#: how a controller plugs into the bus above it
UPLINKS: dict[str, int] = {
    "pci-bridge": Connect.PCI_BRIDGE,
    "pci-expander-bus": Connect.PCI_EXPANDER,
    "pcie-expander-bus": Connect.PCIE_EXPANDER,
    "dmi-to-pci-bridge": Connect.DMI_TO_PCI,
    "pcie-to-pci-bridge": Connect.PCIE_TO_PCI,
    "pcie-root-port": Connect.PCIE_ROOT_PORT | Connect.AGGREGATE,
    "pcie-switch-upstream-port": Connect.UPSTREAM_PORT,
    "pcie-switch-downstream-port": Connect.DOWNSTREAM_PORT,
}

#: what messages call a device that needs the flag
_NAMES: tuple[tuple[int, str], ...] = (
    (Connect.PCI_DEVICE, "standard PCI device"),
    (Connect.PCIE_DEVICE, "PCI Express device"),
    (Connect.PCIE_ROOT_PORT, "pcie-root-port"),
    (Connect.UPSTREAM_PORT, "pcie-switch-upstream-port"),
    (Connect.DOWNSTREAM_PORT, "pcie-switch-downstream-port"),
    (Connect.DMI_TO_PCI, "dmi-to-pci-bridge"),
    (Connect.PCIE_TO_PCI, "pcie-to-pci-bridge"),
    (Connect.PCI_EXPANDER, "pci-expander-bus"),
    (Connect.PCIE_EXPANDER, "pcie-expander-bus"),
    (Connect.PCI_BRIDGE, "pci-bridge"),
)


class Place(NamedTuple):
    """One PCI function."""

    bus: int
    slot: int
    function: int = 0
    domain: int = 0

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function}"


class Bus:
    """A bus: its controller's model, and the functions taken in each slot, as bits.

    open_to: what the devices may need that are placed here by themselves. free: the slots with nothing in
    them, as bits; shared: those in which several devices go, and there is room for one more.
    """

    __slots__ = ("free", "kind", "model", "open_to", "shared", "taken")

    def __init__(self, model: str) -> None:
        self.model = model
        self.kind = kind = BUS_KINDS[model]
        self.open_to = kind.offers if kind.auto else Connect.NONE
        self.free = (2 << kind.last_slot) - (1 << kind.first_slot)
        self.shared = 0
        self.taken: dict[int, int] = {}

    def copy(self) -> "Bus":
        """Return a bus with the same things in it."""
        twin = Bus(self.model)
        twin.free, twin.shared, twin.taken = self.free, self.shared, self.taken.copy()
        return twin

    @property
    def is_full(self) -> bool:
        """Tell whether every slot has something in it."""
        return not self.free

    def take(self, slot: int, function: int, needs: int) -> None:
        """Note that a function is taken by a device with such needs."""
        bit = 1 << slot
        before = self.taken.get(slot, 0)
        functions = self.taken[slot] = before | 1 << function
        self.free &= ~bit
        if needs & Connect.AGGREGATE and not before:
            self.shared |= bit
        if functions == _ALL_FUNCTIONS:
            self.shared &= ~bit


_ALL_FUNCTIONS: Final = 0xFF

Shape: TypeAlias = tuple[bool, bool, tuple[tuple[str, int, tuple[tuple[int, int], ...]], ...]]


class Buses:
    """All buses of a guest. ``growing``: a bus that is missing is added, not refused."""

    def __init__(self, models: list[str], growing: bool, many_roots: bool = False, pcie_to_pci: bool = True):
        self.buses = [Bus(model) for model in models]
        self.growing = growing
        self.many_roots = many_roots
        self.pcie_to_pci = pcie_to_pci
        self._search_from: dict[int, int] = {}  # by needs: no bus below has a place, nor will it have one

    def __len__(self) -> int:
        return len(self.buses)

    def copy(self) -> "Buses":
        """Return buses with the same things in them."""
        twin = Buses([], self.growing, self.many_roots, self.pcie_to_pci)
        twin.buses = [bus.copy() for bus in self.buses]
        return twin

    @property
    def shape(self) -> Shape:
        """What there is and what is taken: buses of one shape take the same devices at the same places."""
        buses = [(bus.model, bus.shared, tuple(bus.taken.items())) for bus in self.buses]
        return self.many_roots, self.pcie_to_pci, tuple(buses)

    def in_use(self, bus: int, slot: int) -> bool:
        """Tell whether anything is in the slot."""
        return bus < len(self.buses) and bool(self.buses[bus].taken.get(slot))

    # -------------------------------------------------------------- reserving

    def reserve(self, place: Place, needs: int, *, user: bool = True) -> Place:
        """Take a function and return it.

        It is on the bus after the one asked for, when that had to become the port of a bridge.

        user: the address was written by somebody or is fixed by the machine, so softer rules hold.
        Raises XmlError (user) or InternalError when it does not fit or is taken.
        """
        error: Callable[[str], QvirtError] = XmlError if user else InternalError
        asked = place
        if self.growing and place.bus >= len(self.buses):
            number = self._grow(place.bus, needs)
            if number != place.bus:
                place = place._replace(bus=number)
        self._validate(place, asked, needs, user, error)
        bus = self.buses[place.bus]
        if bus.taken.get(place.slot, 0) & (1 << place.function):
            raise error(f"Attempted double use of PCI Address {asked}")
        bus.take(place.slot, place.function, needs)
        return place

    def next(self, needs: int, *, function: int = 0) -> Place:
        """Find a free place, take it and return it. Raises InternalError when there is none."""
        place = self._find(needs, function)
        if place is None:  # what is found fits, what is made need not
            if not self.growing:
                raise InternalError("No more available PCI slots", domain=ErrorDomain.DOMAIN)
            number = self._grow(len(self.buses), needs)
            place = Place(number, self.buses[number].kind.first_slot, function)
            self._validate(place, place, needs, False, InternalError)
        self.buses[place.bus].take(place.slot, place.function, needs)
        return place

    def _find(self, needs: int, function: int) -> Place | None:
        buses = self.buses
        if not buses:
            raise XmlError("No PCI buses available")
        for number in range(self._search_from.get(needs, 0), len(buses)):
            bus = buses[number]
            room = bus.free | bus.shared if needs & Connect.AGGREGATE else bus.free
            if room and _fits(needs, bus.open_to, number):
                self._search_from[needs] = number
                slot = _lowest(room)
                taken = bus.taken.get(slot)
                return Place(number, slot, _lowest(~taken) if taken else function)
        self._search_from[needs] = len(buses)
        return None

    # ------------------------------------------------------------ validation

    def _validate(
        self, place: Place, asked: Place, needs: int, user: bool, error: Callable[[str], QvirtError]
    ) -> None:
        if not self.buses:
            raise error("No PCI buses available")
        if place.domain != 0:
            raise error(f"Invalid PCI address {asked}. Only PCI domain 0 is available")
        if place.bus >= len(self.buses):
            raise error(
                f"Invalid PCI address {asked}. Only PCI buses up to {len(self.buses) - 1} are available"
            )
        kind = self.buses[place.bus].kind
        offers = kind.offers
        if user:
            if offers & Connect.ENDPOINT:
                offers |= Connect.ENDPOINT
            if needs & Connect.HOTPLUG:
                offers |= Connect.HOTPLUG
            if needs & Connect.PCI_BRIDGE:
                needs |= Connect.PCI_DEVICE
        if not needs & offers & Connect.TYPES:
            name = next((text for flag, text in _NAMES if needs & flag), None)
            if name is None:
                raise error(
                    f"The device at PCI address {asked} has unrecognized connection type flags "
                    f"0x{int(needs):02x}"
                )
            raise error(
                f"The device at PCI address {asked} cannot be plugged into the PCI controller with "
                f"index='{place.bus}'. It requires a controller that accepts a {name}."
            )
        if needs & Connect.HOTPLUG and not offers & Connect.HOTPLUG:
            raise error(
                f"The device at PCI address {asked} requires hotplug capability, but the PCI controller with "
                f"index='{place.bus}' doesn't support hotplug"
            )
        if needs & Connect.INTEGRATED and place.bus != 0:
            raise error(f"The device at PCI address {asked} needs to be an integrated device (bus=0)")
        if place.slot < kind.first_slot:
            raise error(f"Invalid PCI address {asked}. slot must be >= {kind.first_slot}")
        if place.slot > kind.last_slot:
            raise error(f"Invalid PCI address {asked}. slot must be <= {kind.last_slot}")
        if place.function > 7:
            raise error(f"Invalid PCI address {asked}. function must be <= 7")

    # --------------------------------------------------------------- growing

    def _grow(self, number: int, needs: int) -> int:
        """Add buses until there is one of this number; return the number of the bus the device goes on."""
        missing = number - len(self.buses) + 1
        if missing <= 0:
            return number
        first: list[str] = []
        if needs & Connect.PCI_DEVICE:
            if self.many_roots:
                model = "pci-root"
            else:
                model = "pci-bridge"
                if not any(bus.kind.offers & Connect.PCI_BRIDGE for bus in self.buses):
                    # a bridge to conventional PCI must come first, and with it what it is plugged into
                    first = ["pcie-root-port", "pcie-to-pci-bridge"]
                    if not self.pcie_to_pci:
                        first = ["dmi-to-pci-bridge", "pci-bridge"]
        elif needs & Connect.PCI_BRIDGE and self.buses[0].model == "pcie-root":
            model = "pcie-to-pci-bridge" if self.pcie_to_pci else "dmi-to-pci-bridge"
        elif needs & (Connect.PCIE_DEVICE | Connect.UPSTREAM_PORT):
            model = "pcie-root-port"
        else:
            uplink = next((name for name, flags in UPLINKS.items() if flags & needs & Connect.TYPES), None)
            if uplink is not None and not needs & Connect.PCIE_TO_PCI:
                raise InternalError(
                    f"a PCI slot is needed to connect a PCI controller model='{uplink}', but none is "
                    f"available, and it cannot be automatically added"
                )
            raise InternalError(
                f"Cannot automatically add a new PCI bus for a device with connect flags {int(needs):02x}",
                domain=ErrorDomain.DOMAIN,
            )
        if first and missing == 1:
            number += 1
        models = first + [model] * (missing - len(first))
        self.buses.extend(Bus(name) for name in models)
        return number


def _lowest(bits: int) -> int:
    """Return the number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1


def _fits(needs: int, offers: int, number: int) -> bool:
    """Tell whether a device that libvirt places by itself may go on a bus."""
    if not needs & offers & Connect.TYPES:
        return False
    if needs & Connect.HOTPLUG and not offers & Connect.HOTPLUG:
        return False
    return not (needs & Connect.INTEGRATED and number != 0)
