"""Where a device sits: ``<address type='…'/>``, one class per type (formatdomain, "Device addresses")."""

import re
from typing import Protocol

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, XmlError
from qvirt.xml.codecs import Codec, hex1, hex4, hex8, hexnum, on_off, string, uint
from qvirt.xml.fields import attr, child, choice
from qvirt.xml.node import Node


class Address(Node, tag="address"):
    """Base of all address types."""

    type: str = attr(string, required=True)


class Zpci(Node, tag="zpci"):
    uid: int | None = attr(hex4)
    fid: int | None = attr(hex8)


def pci_number(width: int) -> Codec[int]:
    """A PCI number: what is too large is refused by name, with libvirt's sentence."""
    return Codec(hex8.parse, f"0x{{:0{width}x}}".format, "a non-negative integer", hex8.sentence)


class PciAddress(Address):
    """A PCI function; ``slot`` and ``bus`` are None only before addresses are assigned."""

    type: str = attr(string, default="pci")
    domain: int | None = attr(pci_number(4))
    bus: int | None = attr(pci_number(2))
    slot: int | None = attr(pci_number(2))
    function: int | None = attr(pci_number(1))
    multifunction: bool | None = attr(on_off)
    zpci: Zpci | None = child(Zpci)

    def check(self) -> None:
        if not (self.domain or self.bus or self.slot):
            return  # asks for an address
        check_pci(self.domain, self.bus, self.slot, self.function)


class Place(Protocol):
    """Whatever says where a function is."""

    @property
    def domain(self) -> int | None: ...
    @property
    def bus(self) -> int | None: ...
    @property
    def slot(self) -> int | None: ...
    @property
    def function(self) -> int | None: ...


def pci_name(where: Place) -> str:
    """Return the name Linux and QEMU give a function of the host: ``0000:06:12.5``."""
    return f"{where.domain or 0:04x}:{where.bus or 0:02x}:{where.slot or 0:02x}.{where.function or 0:x}"


def check_pci(domain: int | None, bus: int | None, slot: int | None, function: int | None) -> None:
    """Refuse a PCI address no machine has. Raises XmlError."""
    if domain is not None and domain > 0xFFFF:
        raise _beyond(f"domain='{domain:#x}', must be <= 0xFFFF")
    if bus is not None and bus > 0xFF:
        raise _beyond(f"bus='{bus:#x}', must be <= 0xFF")
    if slot is not None and slot > 0x1F:
        raise _beyond(f"slot='{slot:#x}', must be <= 0x1F")
    if function is not None and function > 7:
        raise _beyond(f"function={function:#x}, must be <= 7")


def _beyond(what: str) -> XmlError:
    return XmlError(f"Invalid PCI address {what}", domain=ErrorDomain.NONE)


class DriveAddress(Address):
    type: str = attr(string, default="drive")
    controller: int | None = attr(uint)
    bus: int | None = attr(uint)
    target: int | None = attr(uint)
    unit: int | None = attr(uint)


class VirtioSerialAddress(Address):
    type: str = attr(string, default="virtio-serial")
    controller: int | None = attr(uint)
    bus: int | None = attr(uint)
    port: int | None = attr(uint)


class CcidAddress(Address):
    type: str = attr(string, default="ccid")
    controller: int | None = attr(uint)
    slot: int | None = attr(uint)


class UsbAddress(Address):
    """A USB port; ``port`` is a dotted path through hubs, such as ``1.4``."""

    type: str = attr(string, default="usb")
    bus: int | None = attr(uint)
    port: str | None = attr(string)

    def check(self) -> None:
        if self.port is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+){0,3}", self.port):
            raise InternalError("Cannot parse <address> 'port' attribute", domain=ErrorDomain.DOMAIN)


class SpaprVioAddress(Address):
    type: str = attr(string, default="spapr-vio")
    reg: int | None = attr(hex8)


class CcwAddress(Address):
    type: str = attr(string, default="ccw")
    cssid: int | None = attr(hexnum)
    ssid: int | None = attr(hex1)
    devno: int | None = attr(hex4)


class VirtioMmioAddress(Address):
    type: str = attr(string, default="virtio-mmio")


class VirtioS390Address(Address):
    type: str = attr(string, default="virtio-s390")

    def check(self) -> None:
        raise XmlError("virtio-s390 bus doesn't have an address")


class IsaAddress(Address):
    type: str = attr(string, default="isa")
    iobase: int | None = attr(hexnum)
    irq: int | None = attr(hexnum)


class DimmAddress(Address):
    type: str = attr(string, default="dimm")
    slot: int = attr(uint, required=True)
    base: int | None = attr(hexnum)


class UnassignedAddress(Address):
    type: str = attr(string, default="unassigned")


ADDRESSES: dict[str, type[Address]] = {
    "pci": PciAddress,
    "drive": DriveAddress,
    "virtio-serial": VirtioSerialAddress,
    "ccid": CcidAddress,
    "usb": UsbAddress,
    "spapr-vio": SpaprVioAddress,
    "ccw": CcwAddress,
    "virtio-mmio": VirtioMmioAddress,
    "virtio-s390": VirtioS390Address,
    "isa": IsaAddress,
    "dimm": DimmAddress,
    "unassigned": UnassignedAddress,
}


def address() -> Address | None:
    """Declare a device's ``<address>`` field."""
    return choice(ADDRESSES, "address")
