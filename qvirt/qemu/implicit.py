"""Devices that libvirt adds by itself, because the machine has them or because other devices need them."""

from collections.abc import Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, QvirtError, XmlError
from qvirt.model.devices import MAX_DEVICES
from qvirt.model.devices.address import CcidAddress, DriveAddress, VirtioSerialAddress
from qvirt.model.devices.controller import ControllerType
from qvirt.model.devices.input import Input
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.devices.panic import Panic
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.drive import address_disk, address_scsi_hostdev
from qvirt.qemu.addresses.pci_flags import said
from qvirt.qemu.context import Context
from qvirt.qemu.controllers import (
    add_usb_controller,
    arrange_controllers,
    ensure_controller,
    find_controller,
    number_controllers,
    refuse_duplicates,
)
from qvirt.qemu.devices.audio import add_default_audio
from qvirt.qemu.devices.char import mirror_consoles
from qvirt.qemu.devices.video import add_default_video
from qvirt.qemu.machines import is_arm_virt, is_i440fx, is_pseries, is_q35, is_riscv_virt, is_s390, is_x86
from qvirt.qemu.names import drop_generated_aliases
from qvirt.record import Record


class BuiltIn(Record, frozen=False):
    """What a machine comes with.

    usb: the machine has a default USB controller, of usb_model (None: what its handler chooses).
    root: the model of PCI controller 0.
    """

    usb: bool = True
    usb_model: str | None = None
    root: str | None = None
    sata: bool = False
    balloon: bool = True
    usb_keyboard: bool = False
    usb_mouse: bool = False
    panic: str | None = None


def add_machine_devices(ctx: Context) -> None:
    """Add what the machine itself has.

    Raises XmlError for a PCI controller 0 of another model than the machine's.
    """
    domain = ctx.domain
    machine = built_in(ctx)
    if machine.usb and find_controller(domain, ControllerType.USB, 0) is None:
        add_usb_controller(domain, 0, machine.usb_model)
    if machine.sata:
        ensure_controller(domain, ControllerType.SATA, 0)
    if machine.root is not None:
        root = find_controller(domain, ControllerType.PCI, 0)
        if root is None:
            ensure_controller(domain, ControllerType.PCI, 0, machine.root)
        elif root.model != machine.root:
            raise XmlError(
                f"The PCI controller with index='0' must be model='{machine.root}' for this machine type, "
                f"but model='{root.model or '(null)'}' was found instead"
            )
    devices = domain.devices
    if machine.balloon and not devices.memballoons:
        devices.memballoons.append(Memballoon(model="virtio"))
    if is_x86(domain):
        _ensure_input(domain, "mouse", "ps2")
        _ensure_input(domain, "keyboard", "ps2")
    if machine.usb_keyboard:
        _ensure_input(domain, "keyboard", "usb")
    if machine.usb_mouse:
        _ensure_input(domain, "mouse", "usb")
    if machine.panic is not None and not any(dev.model in (machine.panic, None) for dev in devices.panics):
        devices.panics.append(Panic(model=machine.panic))


def add_implicit(domain: Domain, ctx: Context) -> None:
    """Add the controllers that disks, channels and other devices of the domain need."""
    drop_generated_aliases(domain)
    _refuse_several(domain)
    arrange_controllers(domain)
    _scsi_controllers(domain)
    number_controllers(domain)
    add_machine_devices(ctx)
    refuse_duplicates(domain)
    mirror_consoles(domain)
    add_default_video(ctx)
    add_default_audio(ctx)
    add_controllers(domain)


_DRIVE_CONTROLLERS = (
    ("scsi", ControllerType.SCSI),
    ("fdc", ControllerType.FDC),
    ("ide", ControllerType.IDE),
    ("sata", ControllerType.SATA),
)


def add_controllers(domain: Domain) -> None:
    """Give the drives of controllers their places, and add the controllers that devices sit on."""
    for disk in domain.devices.disks:
        address_disk(domain, disk)
    for dev in domain.devices.hostdevs:
        if dev.is_subsystem("scsi"):
            address_scsi_hostdev(domain, dev)
    used: dict[str, list[int]] = {}
    for disk in domain.devices.disks:
        if isinstance(disk.address, DriveAddress):
            used.setdefault(said(disk, "target.bus"), []).append(disk.address.controller or 0)
    for bus, type in _DRIVE_CONTROLLERS:
        if bus in used:
            _ensure_all(domain, type, iter(used[bus]))
    for index in _virtio_serial_controllers(domain):
        ensure_controller(domain, ControllerType.VIRTIO_SERIAL, index)
    _smartcards(domain)
    _scsi_controllers(domain)


def built_in(ctx: Context) -> BuiltIn:
    """Return what the domain's machine comes with."""
    domain = ctx.domain
    arch = domain.os.type.arch or ""
    machine = domain.os.type.machine or ""
    has = ctx.caps.has_device
    if is_x86(domain):
        if machine == "isapc":
            return BuiltIn(usb=False)
        if is_q35(domain):
            for device, model in (
                ("qemu-xhci", "qemu-xhci"),
                ("nec-usb-xhci", "nec-xhci"),
                ("ich9-usb-ehci1", "ich9-ehci1"),
            ):
                if has(device):
                    return BuiltIn(usb_model=model, root="pcie-root", sata=True)
            return BuiltIn(usb=False, root="pcie-root", sata=True)
        return BuiltIn(root="pci-root" if is_i440fx(domain) else None)
    if arch in ("armv7l", "armv6l", "aarch64"):
        if is_arm_virt(domain):
            root = "pcie-root" if has("gpex-pcihost") else None  # the first such boards had no PCI
            return BuiltIn(usb=False, root=root, balloon=False)
        return BuiltIn(usb=False, root="pci-root" if machine == "versatilepb" else None, balloon=False)
    if arch in ("riscv32", "riscv64"):
        return BuiltIn(usb=False, root="pcie-root" if is_riscv_virt(domain) else None)
    if arch in ("ppc64", "ppc64le"):
        usb = is_pseries(domain)
        return BuiltIn(
            root="pci-root",
            usb_keyboard=usb and _has_vnc_or_sdl(domain),
            usb_mouse=usb and _has_vnc_or_sdl(domain),
            panic="pseries" if usb else None,
        )
    if arch in ("ppc", "ppcemb", "alpha", "mips", "mipsel", "mips64", "mips64el"):
        return BuiltIn(root="pci-root")
    if is_s390(domain):
        return BuiltIn(usb=False, panic="s390", root="pci-root" if has("zpci") else None)
    if arch in ("sparc", "m68k", "cris", "lm32", "microblaze", "microblazeel", "xtensa", "xtensaeb", "or32"):
        return BuiltIn(usb=False, balloon=False)
    if arch in ("sh4", "sh4eb"):
        return BuiltIn(usb=False, balloon=False)
    return BuiltIn()


def _has_vnc_or_sdl(domain: Domain) -> bool:
    return bool(domain.devices.graphics)


def _ensure_input(domain: Domain, type: str, bus: str) -> None:
    if not any(dev.type == type and dev.bus == bus for dev in domain.devices.inputs):
        domain.devices.inputs.append(Input(type=type, bus=bus))


def _ensure_all(domain: Domain, type: ControllerType, used: Iterator[int]) -> None:
    highest = max(used, default=-1)
    if highest >= MAX_DEVICES:
        raise XmlError(
            f"a device names {type} controller {highest}, the highest there can be is {MAX_DEVICES - 1}"
        )
    for index in range(highest + 1):
        ensure_controller(domain, type, index)


def _virtio_serial_controllers(domain: Domain) -> Iterator[int]:
    for dev in (*domain.devices.channels, *domain.devices.consoles):
        if said(dev, "target.type") == "virtio":
            where = dev.address
            yield (where.controller or 0) if isinstance(where, VirtioSerialAddress) else 0


def _smartcards(domain: Domain) -> None:
    cards = domain.devices.smartcards
    taken = {
        ((card.address.controller or 0), (card.address.slot or 0))
        for card in cards
        if isinstance(card.address, CcidAddress)
    }
    for card in cards:
        if card.address is None:
            slot = next(number for number in range(len(taken) + 1) if (0, number) not in taken)
            taken.add((0, slot))
            card.address = CcidAddress(controller=0, slot=slot)
        if isinstance(card.address, CcidAddress):
            _ensure_all(domain, ControllerType.CCID, iter((card.address.controller or 0,)))


def _scsi_controllers(domain: Domain) -> None:
    """Add the controllers that SCSI host devices sit on; asked before they have addresses, the first."""
    for dev in domain.devices.hostdevs:
        if dev.is_subsystem("scsi"):
            where = dev.address
            index = (where.controller or 0) if isinstance(where, DriveAddress) else 0
            _ensure_all(domain, ControllerType.SCSI, iter((index,)))


#: lists that may hold one device only, what messages call it
_SINGLE: tuple[tuple[str, str, type[QvirtError]], ...] = (
    ("watchdogs", "watchdog", InternalError),
    ("memballoons", "memory balloon", InternalError),
    ("nvrams", "nvram", InternalError),
    ("iommus", "IOMMU", XmlError),
)


def _refuse_several(domain: Domain) -> None:
    for name, word, error in _SINGLE:
        if len(getattr(domain.devices, name)) > 1:
            raise error(f"only a single {word} device is supported", domain=ErrorDomain.DOMAIN)
