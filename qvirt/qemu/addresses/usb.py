"""USB ports: controllers and the hubs below them, and hubs added when there are more devices than ports."""

from collections.abc import Callable
from typing import Any

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
    controllers = [c for c in domain.devices.controllers if c.type is ControllerType.USB]
    hubs, devices = _hubs(domain), _devices(domain)
    if (hubs or devices) and any(c.model == "none" for c in controllers):
        raise ConfigUnsupported(
            "USB is disabled for this domain, but USB devices are present in the domain XML"
        )
    wanting = [dev for dev in devices if _wants(dev)]
    if not ctx.abi_update and (wanting or any(_wants(hub) for hub in hubs)):
        return  # an old definition: where QEMU puts the devices is where the guest knows them
    available = sum(port_count(c) or 0 for c in controllers) + HUB_PORTS * len(hubs)
    hubs += _add_hubs(domain, len(hubs) + len(devices) - available)
    buses = _Buses(domain)
    for dev in devices:
        if isinstance(dev.address, UsbAddress) and not _wants(dev):
            buses.reserve(dev.address)
    for hub in hubs:
        if _wants(hub):
            buses.add_hub(buses.assign(hub))
    for dev in wanting:
        buses.assign(dev)


def assign_usb_live(domain: Domain) -> None:
    """Give ports to USB devices that are to be plugged into a running guest, which gets no hubs for them.

    A port that QEMU chose, for a device of an old definition, is nobody's to give.
    """
    devices = _devices(domain)
    wanting = [dev for dev in devices if _wants(dev) and dev.alias.name is None]
    if not wanting:
        return
    buses = _Buses(domain)
    for dev in devices:
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


def _hubs(domain: Domain) -> list[Hub]:
    listed: list[Hub] = domain.devices.__dict__.get("hubs", [])
    return [hub for hub in listed if hub.type == "usb"]


_ON_USB: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("hostdevs", lambda dev: dev.is_subsystem("usb")),
    ("disks", lambda dev: said(dev, "target.bus") == "usb"),
    ("controllers", lambda dev: dev.type is ControllerType.CCID),
    ("inputs", lambda dev: dev.bus == "usb"),
    ("serials", lambda dev: said(dev, "target.type") == "usb-serial"),
    ("sounds", lambda dev: said(dev, "model") == "usb"),
    ("redirdevs", lambda dev: said(dev, "bus") == "usb"),
)
"""The lists in which devices on USB are, in the order in which they choose their ports."""


def _devices(domain: Domain) -> list[Device]:
    """Return the devices on USB but for hubs, in the order in which they choose their ports."""
    held = domain.devices.__dict__
    return [dev for name, is_on_usb in _ON_USB for dev in held.get(name, ()) if is_on_usb(dev)]


def _add_hubs(domain: Domain, lacking: int) -> list[Hub]:
    """Add as many hubs as it takes to have so many ports more, and return them."""
    if lacking <= 0:
        return []
    added = [Hub(type="usb") for _ in range(-(-(lacking + 1) // (HUB_PORTS - 1)))]
    domain.devices.hubs.extend(added)
    return added
