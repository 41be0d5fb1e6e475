"""Where devices sit: the buses by name, and the slot QEMU gives a device that asks for none."""

import re

from qvirt.model.devices.address import CcwAddress, PciAddress
from qvirt.qemu.importer.parts import Part, Unfit
from qvirt.record import Record, field

#: slots of bus 0 that the chipset has
_CHIPSET: dict[str, tuple[str, frozenset[int]]] = {
    "pc": ("pci.0", frozenset({0, 1})),
    "q35": ("pcie.0", frozenset({0, 0x1F})),
    "virt": ("pcie.0", frozenset({0})),
    "s390": ("pci.0", frozenset()),
    "microvm": ("pcie.0", frozenset()),
}


class PciBus(Record, frozen=False):
    """One PCI bus: libvirt's number, the slots in use, the lowest QEMU gives away."""

    index: int
    used: set[int] = field(default_factory=set)
    first: int = 0


class Bus(Record):
    """A bus that is not PCI: the controller's index, and which bus of it."""

    kind: str
    controller: int
    number: int = 0


class Buses:
    """The buses there are so far, by QEMU's name, and what is taken on each."""

    def __init__(self, family: str) -> None:
        name, used = _CHIPSET[family]
        #: the machine has PCI as XML knows it: on a mainframe functions have numbers of their own
        self.has_pci = family not in ("s390", "microvm")
        self.root = PciBus(0, set(used))
        self.pci: dict[str, PciBus] = {name: self.root}
        self.others: dict[str, Bus] = {}
        self.counts: dict[str, int] = {}
        self.taken: dict[str, set[object]] = {}
        #: below which all places of a bus are taken that have been given away in turn
        self.lowest: dict[str, int] = {}
        # a device that names no bus goes to the one made last
        if family == "pc":
            self.others["ide.0"], self.others["ide.1"] = Bus("ide", 0, 0), Bus("ide", 0, 1)
        elif family == "q35":
            for number in range(6):
                self.others[f"ide.{number}"] = Bus("sata", 0, number)
            self.counts["sata"] = 1

    def next(self, kind: str) -> int:
        """Return the number of the next controller of a kind."""
        number = self.counts.get(kind, 1 if kind == "pci" else 0)
        self.counts[kind] = number + 1
        return number

    def find(self, part: Part, kind: str) -> Bus:
        """Return the bus of a kind that a part sits on; the first that has room, when it names none."""
        name = part.text("bus")
        if name is not None:
            bus = self.others.get(name)
            if bus is None or bus.kind != kind:
                raise Unfit(f"its bus '{name}' is not in the XML")
            return bus
        for bus in reversed(self.others.values()):
            if bus.kind == kind:
                return bus
        raise Unfit(f"there is no {kind} controller in the XML for it")

    def named(self, name: str | None) -> Bus | None:
        """Return the bus of a name."""
        return self.others.get(name or "")

    def take(self, bus: str, place: object) -> bool:
        """Occupy a place of a bus; False where it is in use."""
        places = self.taken.setdefault(bus, set())
        if place in places:
            return False
        places.add(place)
        return True

    def take_first(self, bus: str, first: int = 0) -> int:
        """Occupy the lowest place of a bus that is free, and return it."""
        places = self.taken.setdefault(bus, set())
        place = max(first, self.lowest.get(bus, first))
        while place in places:
            place += 1
        places.add(place)
        self.lowest[bus] = place + 1
        return place

    def place_pci(self, part: Part) -> PciAddress:
        """Return the address QEMU gives the part. Raises Unfit where its bus is unknown."""
        if not self.has_pci:
            raise Unfit("where it is on this machine's PCI is not said in XML's way")
        name = part.text("bus")
        bus = self.root if name is None else self.pci.get(name)
        if bus is None:
            raise Unfit(f"its bus '{name}' is not in the XML")
        slot, function = self.slot_of(part, bus)
        bus.used.add(slot)
        address = PciAddress(domain=0, bus=bus.index, slot=slot, function=function)
        if part.flag("multifunction") is not None:
            address.multifunction = part.flag("multifunction")
        return address

    def place_ccw(self, part: Part) -> CcwAddress:
        """Return the number on the channel that QEMU gives the part. Raises Unfit for one of another kind."""
        said = part.text("devno")
        if said is None:
            number = self.take_first("ccw")
        else:
            match = re.fullmatch(r"fe\.0\.([0-9a-fA-F]{1,4})", said)
            if match is None:
                raise Unfit(f"its number '{said}' is not on the virtual channel")
            number = int(match[1], 16)
            self.take("ccw", number)
        return CcwAddress(cssid=0xFE, ssid=0, devno=number)

    def slot_of(self, part: Part, bus: PciBus) -> tuple[int, int]:
        """Return slot and function: as said, else the first free slot."""
        said = part.props.get("addr")
        if isinstance(said, int) and not isinstance(said, bool):
            return said >> 3, said & 7
        if said is not None:
            match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]+)(?:\.(?:0x)?([0-7]))?", str(said))
            if match is None:
                raise Unfit(f"its address '{said}' cannot be read")
            return int(match[1], 16), int(match[2] or "0")
        return next(slot for slot in range(bus.first, 256) if slot not in bus.used), 0

    def occupy(self, part: Part) -> None:
        """Keep the slot of a device that is handed to QEMU as it is, and write its place into it."""
        name = part.text("bus")
        bus = self.root if name is None else self.pci.get(name)
        if bus is None or bus is not self.root or not self.has_pci:
            return
        slot, function = self.slot_of(part, bus)
        bus.used.add(slot)
        if "addr" not in part.props:
            part.props["addr"] = f"{slot:#x}" + (f".{function:#x}" if function else "")


#: devices on PCI, for those whose name does not end with -pci
PCI = re.compile(
    r".*-pci(?:-(?:non-)?transitional)?$|e1000.*|rtl8139$|ne2k_pci$|pcnet$|vmxnet3$|tulip$|i82\w+$|VGA$|secondary-vga$|"
    r"cirrus-vga$|vmware-svga$|qxl(?:-vga)?$|virtio-vga(?:-gl)?$|bochs-display$|ati-vga$|AC97$|ES1370$|"
    r".*intel-hda$|ivshmem.*|nvme$|ahci$|ich9-ahci$|lsi53c\w+$|lsi$|megasas.*|mptsas1068$|pvscsi$|am53c974$|"
    r"dc-?390$|.*-uhci.*|.*-ehci.*|.*xhci$|pci-ohci$|i6300esb$|edu$|pci-bridge$|pcie-.*|ioh3420$|i82801b11-bridge$|"
    r"x3130-upstream$|xio3130-downstream$|pxb.*|piix3-ide$|piix4-ide$|sdhci-pci$|igb$|virtio-mem-pci$|rocker$"
)


def is_pci(driver: str) -> bool:
    """Tell whether a device type sits on PCI."""
    return PCI.match(driver) is not None
