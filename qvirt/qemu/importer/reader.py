"""One device being read: what every kind of reader asks for."""

import re
from collections.abc import Callable

from qvirt.model.devices.address import (
    UsbAddress,
    VirtioMmioAddress,
)
from qvirt.model.devices.device import Boot, Device, Rom
from qvirt.model.vcpu import Iothread
from qvirt.qemu.importer.buses import Buses
from qvirt.qemu.importer.line import Line, new_id
from qvirt.qemu.importer.parts import Part, Props, Unfit, integer

_TRANSPORT = re.compile(r"(.*?)-(pci|ccw|device)(-transitional|-non-transitional)?$")


class Reading:
    """One device being read: the line, the buses so far, and the parts it takes with it."""

    def __init__(self, line: Line, buses: Buses, part: Part) -> None:
        self.line = line
        self.buses = buses
        self.part = part
        self.used: list[Part] = []
        #: properties the device must have whatever the document makes of it
        self.forced: Props = {}

    def keep_netdev(self, backend: Part, reason: str) -> None:
        """Hand a netdev to QEMU as it is, and plug the card into it."""
        self.forced["netdev"] = new_id(backend.id or "", backend.kind)
        self.line.pass_part(backend, reason)

    def place(self, dev: Device) -> None:
        """Give a device on PCI or virtio's other transports its address."""
        match = _TRANSPORT.match(self.part.driver)
        if match is not None and match[2] == "device":
            if self.line.family not in ("virt", "microvm"):
                raise Unfit("virtio-mmio is no bus of this machine")
            dev.address = VirtioMmioAddress()
            bus = self.part.text("bus")
            if bus is not None:
                self.forced["bus"] = bus  # XML does not say on which of them
        elif match is not None and match[2] == "ccw":
            dev.address = self.buses.place_ccw(self.part)
        else:
            dev.address = self.buses.place_pci(self.part)

    def common(self, dev: Device) -> None:
        """Read what any device may say: its place in the boot order, its ROM."""
        order = self.part.props.get("bootindex")
        if order is not None:
            dev.boot = Boot(order=integer(order, "bootindex"))
        romfile, bar = self.part.text("romfile"), self.part.text("rombar")
        if romfile == "":
            dev.rom = Rom(enabled=False)
        elif romfile is not None:
            dev.rom = Rom(file=romfile)
        if bar in ("0", "1"):
            dev.rom.bar = bar == "1"

    def virtio_model(self) -> str:
        """Return libvirt's word for the kind of virtio."""
        match = _TRANSPORT.match(self.part.driver)
        return "virtio" + (match[3] or "" if match is not None else "")

    def usb_address(self, dev: Device) -> None:
        """Give a device on USB its bus; the port only when it was said."""
        bus = self.buses.find(self.part, "usb")
        port = self.part.text("port")
        if port is not None or self.part.text("bus") is not None:
            dev.address = UsbAddress(bus=bus.controller, port=port)


Reader = Callable[[Reading], Device]


def iothread(r: Reading, name: str | None) -> int | None:
    """Return the number of an iothread, which becomes one of the domain's."""
    if name is None:
        return None
    part = r.line.parts.find("object", name)
    if part is None or part.text("qom-type") != "iothread":
        raise Unfit(f"its iothread '{name}' is nowhere defined")
    if set(part.props) - {"id", "qom-type"}:
        raise Unfit(f"its iothread '{name}' says what XML cannot")
    threads = r.line.domain.iothreadids.iothreads
    place = r.line.threads.get(name)
    if place is None:
        place = r.line.threads[name] = len(threads) + 1
        threads.append(Iothread(id=place))
        r.line.domain.iothreads = len(threads)
        part.settled = "xml"
        r.line.to_xml(part.given, f"<iothread id='{place}'/>")
    return place
