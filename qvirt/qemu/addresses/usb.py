"""USB ports: controllers and the hubs below them, and hubs added when there are more devices than ports."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.devices.address import UsbAddress
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.devices.hub import Hub
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.pci_flags import said
from qvirt.qemu.context import Context

HUB_PORTS = 8

#: ports of each controller model; the companions serve the ports of their EHCI controller
_PORTS: dict[str, int] = {
    "piix3-uhci": 2,
    "piix4-uhci": 2,
    "vt82c686b-uhci": 2,
    "ehci": 6,
    "ich9-ehci1": 6,
    "pci-ohci": 3,
    "nec-xhci": 4,
    "qemu-xhci": 4,
}
#: ports a device's path may go through
MAX_DEPTH = 4
_CONFIGURABLE = frozenset({"nec-xhci", "qemu-xhci"})


class _Hub:
    """The root hub of a controller, or a hub: which of its ports are taken, and by which hubs."""

    def __init__(self, ports: int) -> None:
        self.ports = ports
        self.taken: set[int] = set()
        self.hubs: dict[int, _Hub] = {}
        self.is_full = False

    def free(self, depth: int = 1) -> list[int] | None:
        """Return the path to the first free port: the ports here first, then those of the hubs."""
        if self.is_full:
            return None
        for port in range(1, self.ports + 1):
            if port not in self.taken:
                return [port]
        for port in sorted(self.hubs) if depth < MAX_DEPTH else ():
            below = self.hubs[port].free(depth + 1)
            if below is not None:
                return [port, *below]
        self.is_full = True
        return None


def port_count(controller: Controller) -> int | None:
    """Return how many ports a USB controller has; None when it has none of its own."""
    model = controller.model or ""
    if model in _CONFIGURABLE and controller.ports is not None and controller.ports >= 0:
        return controller.ports
    return _PORTS.get(model)


def assign_usb(ctx: Context) -> None:
    """Give ports to the USB devices.

    Raises XmlError for a port that does not exist or is taken, ConfigUnsupported where USB is disabled.
    """
    domain = ctx.domain
    if any(c.type is ControllerType.USB and c.model == "none" for c in domain.devices.controllers) and any(
        _devices(domain, hubs=True)
    ):
        raise ConfigUnsupported(
            "USB is disabled for this domain, but USB devices are present in the domain XML"
        )
    if not ctx.abi_update and any(_wants(dev) for dev in _devices(domain, hubs=True)):
        return  # an old definition: where QEMU puts the devices is where the guest knows them
    _add_hubs(domain)
    buses = _Buses(domain)
    for dev in _devices(domain, hubs=False):
        if isinstance(dev.address, UsbAddress) and not _wants(dev):
            buses.reserve(dev.address)
    for hub in _hubs(domain):
        if _wants(hub):
            buses.add_hub(buses.assign(hub))
    for dev in _devices(domain, hubs=False):
        if _wants(dev):
            buses.assign(dev)


def assign_usb_live(domain: Domain) -> None:
    """Give ports to USB devices that are to be plugged into a running guest, which gets no hubs for them.

    A port that QEMU chose, for a device of an old definition, is nobody's to give.
    """
    wanting = [dev for dev in _devices(domain, hubs=False) if _wants(dev) and dev.alias.name is None]
    if not wanting:
        return
    buses = _Buses(domain)
    for dev in _devices(domain, hubs=False):
        if isinstance(dev.address, UsbAddress) and not _wants(dev):
            buses.reserve(dev.address)
    for dev in wanting:
        buses.assign(dev)


class _Buses:
    """The ports of all USB controllers."""

    def __init__(self, domain: Domain) -> None:
        self.roots: dict[int, _Hub] = {}
        for controller in domain.devices.controllers:
            if controller.type is not ControllerType.USB:
                continue
            ports = port_count(controller)
            if ports is None:
                continue
            index = controller.index or 0
            if index in self.roots:
                raise XmlError(f"Duplicate USB controllers with index {index}")
            self.roots[index] = _Hub(ports)
        for hub in _hubs(domain):
            if isinstance(hub.address, UsbAddress) and not _wants(hub):
                self.add_hub(hub.address)

    def _find(self, where: UsbAddress) -> tuple[_Hub, int]:
        bus = where.bus or 0
        root = self.roots.get(bus)
        if root is None:
            raise XmlError(f"Missing USB bus {bus}")
        path = _path(where)
        hub = root
        for port in path[:-1]:
            if port > hub.ports:
                raise XmlError(f"port {port} out of range in USB address bus: {bus} port: {where.port}")
            if port not in hub.hubs:
                raise XmlError(f"there is no hub at port {port} in USB address bus: {bus} port: {where.port}")
            hub = hub.hubs[port]
        if not 1 <= path[-1] <= hub.ports:
            raise XmlError(f"requested USB port {where.port} not present on USB bus {bus}")
        return hub, path[-1]

    def add_hub(self, where: UsbAddress) -> None:
        hub, port = self._find(where)
        if port in hub.hubs:
            raise XmlError(f"Duplicate USB hub on bus {where.bus or 0} port {where.port}")
        hub.hubs[port] = _Hub(HUB_PORTS)
        hub.taken.add(port)
        above = self.roots[where.bus or 0]
        above.is_full = False
        for step in _path(where)[:-1]:
            above = above.hubs[step]
            above.is_full = False

    def reserve(self, where: UsbAddress) -> None:
        hub, port = self._find(where)
        if port in hub.taken:
            raise XmlError(f"Duplicate USB address bus {where.bus or 0} port {where.port}")
        hub.taken.add(port)

    def assign(self, dev: Device) -> UsbAddress:
        """Take a free port, on the bus the device asks for if it does."""
        asked = dev.address.bus if isinstance(dev.address, UsbAddress) else None
        if asked is not None and asked not in self.roots:
            raise XmlError(f"USB bus {asked} requested but no controller with that index is present")
        for bus in sorted(self.roots) if asked is None else [asked]:
            path = self.roots[bus].free()
            if path is not None:
                where = UsbAddress(bus=bus, port=".".join(map(str, path)))
                hub, port = self._find(where)
                hub.taken.add(port)
                dev.address = where
                return where
        raise InternalError("No free USB ports")


def _path(where: UsbAddress) -> list[int]:
    return [int(part) for part in (where.port or "0").split(".")]


def _wants(dev: Device) -> bool:
    if isinstance(dev, Hub):  # whatever else it says
        return not (isinstance(dev.address, UsbAddress) and where_is_said(dev.address))
    return dev.address is None or (isinstance(dev.address, UsbAddress) and not where_is_said(dev.address))


def where_is_said(where: UsbAddress) -> bool:
    """Tell whether the address names a port."""
    return bool(where.port) and where.port != "0"


def _hubs(domain: Domain) -> Iterator[Hub]:
    return (hub for hub in domain.devices.hubs if hub.type == "usb")


def _devices(domain: Domain, *, hubs: bool) -> Iterator[Device]:
    """Yield the devices on USB, in the order in which they choose their ports."""
    devices = domain.devices
    if hubs:
        yield from _hubs(domain)
    yield from (dev for dev in devices.hostdevs if dev.is_subsystem("usb"))
    yield from (dev for dev in devices.disks if said(dev, "target.bus") == "usb")
    yield from (dev for dev in devices.controllers if dev.type is ControllerType.CCID)
    yield from (dev for dev in devices.inputs if dev.bus == "usb")
    yield from (dev for dev in devices.serials if said(dev, "target.type") == "usb-serial")
    yield from (dev for dev in devices.sounds if said(dev, "model") == "usb")
    yield from (dev for dev in devices.redirdevs if said(dev, "bus") == "usb")


def _add_hubs(domain: Domain) -> None:
    """Add as many hubs as it takes to have a port for every device."""
    available = sum(
        port_count(c) or 0 for c in domain.devices.controllers if c.type is ControllerType.USB
    ) + HUB_PORTS * sum(1 for _ in _hubs(domain))
    needed = sum(1 for _ in _devices(domain, hubs=True))
    if needed > available:
        count = -(-(needed - available + 1) // (HUB_PORTS - 1))
        domain.devices.hubs.extend(Hub(type="usb") for _ in range(count))
