"""Ports of virtio serial controllers; port 0 is for the first console, as old guests expect it there."""

from qvirt.errors import XmlError
from qvirt.model.devices.address import VirtioSerialAddress
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.pci_flags import said
from qvirt.qemu.controllers import ensure_controller

#: ports of a controller that says nothing, port 0 included
DEFAULT_PORTS = 32


def assign_virtio_serial(domain: Domain) -> None:
    """Give ports to the channels on virtio serial controllers, adding controllers when full.

    QEMU finds the port of a console that names none; one that at least names the bus is counted.
    Raises XmlError for a port that does not exist or is taken.
    """
    ports = _Ports(domain)
    wanting: list[tuple[Device, bool]] = []
    for dev, is_console in _devices(domain):
        where = dev.address
        if isinstance(where, VirtioSerialAddress) and where.port:
            ports.reserve(where)
        else:
            wanting.append((dev, is_console))
    for dev, is_console in wanting:
        where = dev.address
        if isinstance(where, VirtioSerialAddress):
            number = 0 if is_console else where.controller or 0
            port = ports.next_on(number)
            if not is_console:
                where.port = port
        elif where is None and not is_console:
            dev.address = ports.next(domain)


def _devices(domain: Domain) -> list[tuple[Device, bool]]:
    found: list[tuple[Device, bool]] = []
    for console in domain.devices.consoles:
        if said(console, "target.type") == "virtio":
            found.append((console, True))
    for channel in domain.devices.channels:
        if said(channel, "target.type") == "virtio":
            found.append((channel, False))
    return found


class _Ports:
    """Ports taken, by controller; controllers in the order of their numbers."""

    def __init__(self, domain: Domain) -> None:
        self.counts: dict[int, int] = {}
        self.taken: dict[int, set[int]] = {}
        for controller in domain.devices.controllers:
            if controller.type is ControllerType.VIRTIO_SERIAL:
                self.add(controller)

    def add(self, controller: Controller) -> None:
        index = controller.index or 0
        ports = DEFAULT_PORTS if controller.ports is None or controller.ports < 0 else controller.ports
        self.counts[index] = ports
        self.taken[index] = set()

    def reserve(self, where: VirtioSerialAddress) -> None:
        number, port = where.controller or 0, where.port or 0
        if number not in self.counts:
            raise XmlError(f"virtio serial controller {number} is missing")
        if port >= self.counts[number]:
            raise XmlError(f"virtio serial controller {number} does not have port {port}")
        if port in self.taken[number]:
            raise XmlError(f"virtio serial port {port} on controller {number} is already occupied")
        self.taken[number].add(port)

    def _free(self, number: int) -> int | None:
        taken = self.taken[number]
        for port in range(1, self.counts[number]):
            if port not in taken:
                return port
        return None

    def next_on(self, number: int) -> int:
        """Take a port of one controller."""
        if number not in self.counts:
            raise XmlError(f"virtio-serial controller {number} not available")
        port = self._free(number)
        if port is None:
            raise XmlError(f"Unable to find a free port on virtio-serial controller {number}")
        self.taken[number].add(port)
        return port

    def next(self, domain: Domain) -> VirtioSerialAddress:
        """Find a port on any controller; add one when all are full."""
        if not self.counts:
            raise XmlError("no virtio-serial controllers are available")
        for number in sorted(self.counts):
            port = self._free(number)
            if port is not None:
                break
        else:
            number = next(n for n in range(len(self.counts) + 1) if n not in self.counts)
            added = ensure_controller(domain, ControllerType.VIRTIO_SERIAL, number)
            if added is None:
                raise XmlError("Unable to find a free virtio-serial port")
            self.add(added)
            port = 1
        self.taken[number].add(port)
        return VirtioSerialAddress(controller=number, bus=0, port=port)
