"""What the PC chipsets have built in: devices at fixed PCI addresses, and places kept for some.

440FX with PIIX3: IDE at 1.1, USB at 1.2, power management at 1.3, the first video card at 2.
Q35 with ICH9: SATA at 1f.2, SMBus at 1f.3, the first video card at 1; and by custom, not by need, sound at
1b, USB2 at 1d and 1a, the DMI bridge at 1e.
"""

from qvirt.errors import InternalError
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.controller import Controller
from qvirt.model.devices.device import Device
from qvirt.qemu.addresses.pci_bus import PCI, PCIE, Buses, Connect, Place
from qvirt.qemu.addresses.pci_flags import Slots, given_pci, said, wants_pci
from qvirt.qemu.context import Context
from qvirt.qemu.machines import is_i440fx, is_q35

_PIIX3_USB = (None, "piix3-uhci")


def reserve_builtin(ctx: Context, buses: Buses, slots: Slots) -> None:
    """Take the places of the machine's own devices, and give the devices that belong there their addresses.

    Raises InternalError when one of them has been put elsewhere.
    """
    if is_i440fx(ctx.domain):
        _piix3(ctx, buses, slots)
    if is_q35(ctx.domain):
        _q35(ctx, buses, slots)


def take_custom_bridge(model: str | None, buses: Buses) -> Place | None:
    """Take the place that a Q35's bridge to conventional PCI has, when it is free and this is such."""
    if model != "dmi-to-pci-bridge" or buses.in_use(0, _BRIDGE_SLOT):
        return None
    return buses.reserve(Place(0, _BRIDGE_SLOT), PCIE & ~Connect.HOTPLUG)


_BRIDGE_SLOT = 0x1E


def is_piix3_function(dev: Device) -> bool:
    """Tell whether the device is an IDE or USB controller at its place in the PIIX3."""
    if not isinstance(dev, Controller) or dev.index != 0 or not isinstance(dev.address, PciAddress):
        return False
    where = dev.address
    if where.domain or where.bus or where.slot != 1:
        return False
    if dev.type == "ide":
        return where.function == 1
    return dev.type == "usb" and dev.model in _PIIX3_USB and where.function == 2


def place(dev: Device, where: Place, multifunction: bool | None = None) -> None:
    """Give a device its address."""
    zpci = dev.address.zpci if isinstance(dev.address, PciAddress) else None
    dev.address = PciAddress(domain=where.domain, bus=where.bus, slot=where.slot, function=where.function)
    dev.address.multifunction = multifunction
    if zpci is not None:
        dev.address.zpci = zpci


def _is_at(dev: Device, slot: int, function: int) -> bool:
    where = dev.address
    return isinstance(where, PciAddress) and (where.domain, where.bus, where.slot, where.function) == (
        0,
        0,
        slot,
        function,
    )


def _fixed(dev: Controller, slot: int, function: int, refusal: str) -> None:
    if given_pci(dev) is not None:
        if not _is_at(dev, slot, function):
            raise InternalError(refusal)
    else:
        place(dev, Place(0, slot, function))


def _piix3(ctx: Context, buses: Buses, slots: Slots) -> None:
    functions = [0, 3]
    for dev in ctx.domain.devices.controllers:
        if dev.index != 0:
            continue
        if dev.type == "ide":
            _fixed(dev, 1, 1, "Primary IDE controller must have PCI address 0:0:1.1")
            functions.append(1)
        elif dev.type == "usb" and dev.model in _PIIX3_USB:
            _fixed(dev, 1, 2, "PIIX3 USB controller at index 0 must have PCI address 0:0:1.2")
            functions.append(2)
    for function in functions:
        buses.reserve(Place(0, 1, function), PCI & ~Connect.HOTPLUG)
    _primary_video(ctx, buses, slots, 2)


def _q35(ctx: Context, buses: Buses, slots: Slots) -> None:
    for dev in ctx.domain.devices.controllers:
        if dev.type == "sata" and dev.index == 0:
            _fixed(dev, 0x1F, 2, "Primary SATA controller must have PCI address 0:0:1f.2")
            if not buses.buses[0].taken.get(0x1F, 0) & 1 << 2:
                buses.reserve(Place(0, 0x1F, 2), PCIE & ~Connect.HOTPLUG)
        elif dev.type == "usb" and dev.model == "ich9-uhci1" and dev.address is None:
            for slot in (0x1D, 0x1A):
                if _custom(dev, buses, slot, multifunction=True):
                    break
        elif dev.type == "pci" and dev.address is None:
            bridge = take_custom_bridge(dev.model, buses)
            if bridge is not None:
                place(dev, bridge)
    for function in (0, 3):
        buses.reserve(Place(0, 0x1F, function), PCIE & ~Connect.HOTPLUG)
    for sound in ctx.domain.devices.sounds:
        if said(sound, "model") == "ich9" and wants_pci(sound):
            _custom(sound, buses, 0x1B)
            break
    _primary_video(ctx, buses, slots, 1)


def _custom(dev: Device, buses: Buses, slot: int, multifunction: bool | None = None) -> bool:
    """Put the device where real hardware has it, unless something else is there."""
    if buses.in_use(0, slot):
        return False
    buses.reserve(Place(0, slot), PCIE & ~Connect.HOTPLUG)
    place(dev, Place(0, slot), multifunction)
    return True


def _primary_video(ctx: Context, buses: Buses, slots: Slots, slot: int) -> None:
    videos = ctx.domain.devices.videos
    if not videos and not ctx.caps.plugs_first_card and not buses.in_use(0, slot):
        buses.reserve(Place(0, slot), PCI & ~Connect.HOTPLUG)
    if not videos or not wants_pci(videos[0]) or not slots.needs(videos[0]):
        return
    if buses.in_use(0, slot):
        place(videos[0], buses.next(slots.needs(videos[0])))
    else:
        buses.reserve(Place(0, slot), PCI & ~Connect.HOTPLUG)
        place(videos[0], Place(0, slot))
