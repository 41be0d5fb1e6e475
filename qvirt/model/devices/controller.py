"""``<controller>``: what other devices plug into (formatdomain, "Controllers")."""

from enum import StrEnum

from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.model.memory import Size
from qvirt.xml.codecs import any_natural, hex_natural, natural, on_off, one_of, string, uint, words
from qvirt.xml.fields import attr, child, part, text
from qvirt.xml.node import Node


class ControllerType(StrEnum):
    """The buses."""

    IDE = "ide"
    FDC = "fdc"
    SCSI = "scsi"
    SATA = "sata"
    VIRTIO_SERIAL = "virtio-serial"
    CCID = "ccid"
    USB = "usb"
    PCI = "pci"
    XENBUS = "xenbus"
    ISA = "isa"


class PciControllerModel(Node, tag="model"):
    """``<model>``: the QEMU device behind a PCI controller."""

    name: str | None = attr(
        words(
            "pci-bridge", "i82801b11-bridge", "ioh3420", "x3130-upstream", "xio3130-downstream", "pxb",
            "pxb-pcie", "pcie-root-port", "spapr-pci-host-bridge", "pcie-pci-bridge",
        )
    )  # fmt: skip


class PciControllerTarget(Node, tag="target"):
    """``<target>``: what the guest sees of a PCI controller; ``port`` is hexadecimal in the document."""

    chassis_nr: int | None = attr(any_natural, "chassisNr")
    chassis: int | None = attr(any_natural)
    port: int | None = attr(hex_natural)
    bus_nr: int | None = attr(any_natural, "busNr")
    index: int | None = attr(any_natural)
    hotplug: bool | None = attr(on_off)
    node: int | None = text(uint)


class ControllerDriver(VirtioDriver, tag="driver"):
    queues: int | None = attr(uint)
    cmd_per_lun: int | None = attr(uint)
    max_sectors: int | None = attr(uint)
    ioeventfd: bool | None = attr(on_off)
    iothread: int | None = attr(uint, omit=0)


class Master(Node, tag="master"):
    """``<master>``: the first port of the master controller that a USB companion takes over."""

    startport: int = attr(uint, default=0)


class PciHole64(Size, tag="pcihole64"):
    """``<pcihole64>``: the size of the 64-bit PCI window."""


#: attributes that mean nothing on other types, where they are left out
_OF_TYPES = {
    "ports": (ControllerType.VIRTIO_SERIAL, ControllerType.USB),
    "vectors": (ControllerType.VIRTIO_SERIAL,),
    "max_grant_frames": (ControllerType.XENBUS,),
    "max_event_channels": (ControllerType.XENBUS,),
}


class Controller(Device, tag="controller"):
    """``<controller>``; ``index`` is None only before the domain is completed."""

    type: ControllerType = attr(one_of(ControllerType), default=ControllerType.IDE)
    index: int | None = attr(natural)
    model: str | None = attr(string)
    ports: int | None = attr(natural)
    vectors: int | None = attr(natural)
    max_grant_frames: int | None = attr(natural, "maxGrantFrames")
    max_event_channels: int | None = attr(natural, "maxEventChannels")
    pci_model: PciControllerModel | None = child(PciControllerModel, "model")
    target: PciControllerTarget = part(PciControllerTarget)
    driver: ControllerDriver = part(ControllerDriver)
    master: Master | None = child(Master)
    pcihole64: PciHole64 | None = child(PciHole64)

    def check(self) -> None:
        for name, types in _OF_TYPES.items():
            if name in self.__dict__ and self.type not in types:
                del self.__dict__[name]


# <master> stands between <alias> and <acpi>, <pcihole64> after everything else; libvirt's order of output
_LATE = {"master": "acpi", "pcihole64": ""}
_ORDER = [field for field in Controller.fields if field.name not in _LATE]
for _field in Controller.fields:
    if _field.name in _LATE:
        _before = [field.name for field in _ORDER]
        _ORDER.insert(_before.index(_LATE[_field.name]) if _LATE[_field.name] else len(_ORDER), _field)
Controller._bind(tuple(_ORDER))


def insert_controller(known: list[Controller], new: Controller) -> None:
    """Add a controller among those of its type, by index, a USB master before its companions."""
    at: int | None = None
    for position in range(len(known) - 1, -1, -1):
        current = known[position]
        if current.type is not new.type:
            continue
        if new.index is None:
            at = position + 1
            break
        index = -1 if current.index is None else current.index
        if index > new.index or (new.master is None and current.master is not None and index == new.index):
            at = position
        elif at is None:
            at = position + 1
    known.insert(len(known) if at is None else at, new)
