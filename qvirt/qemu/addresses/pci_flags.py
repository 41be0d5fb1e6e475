"""Which slot a device needs: conventional PCI, PCI Express, or none at all.

A virtio device goes to a PCI Express slot where there is one, unless it is transitional: its legacy half
needs I/O ports, which an Express slot gives to few.
"""

from collections.abc import Callable
from typing import Any

from qvirt.model.devices import Devices
from qvirt.model.devices.address import PciAddress, pci_name
from qvirt.model.devices.char import Serial
from qvirt.model.devices.controller import Controller
from qvirt.model.devices.crypto import Crypto
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.filesystem import Filesystem
from qvirt.model.devices.hostdev import Hostdev, PciHostAddress
from qvirt.model.devices.input import Input
from qvirt.model.devices.interface import Interface
from qvirt.model.devices.iommu import Iommu
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.devices.memory import Memory
from qvirt.model.devices.rng import Rng
from qvirt.model.devices.shmem import Shmem
from qvirt.model.devices.sound import Sound
from qvirt.model.devices.video import Video
from qvirt.model.devices.vsock import Vsock
from qvirt.model.devices.watchdog import Watchdog
from qvirt.qemu.addresses.pci_bus import PCI, PCIE, UPLINKS, Connect
from qvirt.qemu.context import Context
from qvirt.qemu.machines import root_model

_USB_EXPRESS = frozenset({"nec-xhci", "qemu-xhci"})
_USB_VIRTUAL = frozenset({"none", "qusb1", "qusb2"})
_SCSI_CONVENTIONAL = frozenset(
    {"buslogic", "lsilogic", "lsisas1068", "lsisas1078", "vmpvscsi", "dc390", "am53c974", "auto"}
)
_NET_CONVENTIONAL = frozenset(
    {
        "rtl8139", "e1000", "vlance", "vmxnet", "vmxnet2", "vmxnet3", "Am79C970A", "Am79C973", "82540EM",
        "82545EM", "82543GC",
    }
)  # fmt: skip
_NET_ELSEWHERE = frozenset({"usb-net", "lan9118", "smc91c111", "spapr-vlan", "netfront"})
_VIDEO_CONVENTIONAL = frozenset({"vga", "cirrus", "vmvga", "xen", "qxl"})
_SOUND_CONVENTIONAL = frozenset({"es1370", "ac97", "ich6", "ich9"})


class Slots:
    """Answers for one guest what slot a device needs; NONE for what is not on PCI."""

    def __init__(self, ctx: Context) -> None:
        self._is_conventional = ctx.host.is_conventional
        self.pcie = PCIE if root_model(ctx.domain) == "pcie-root" else PCI
        self._modern_virtio = ctx.caps.has_modern_virtio

    def needs(self, dev: Device) -> int:
        """Return the slot the device needs."""
        return _RULES.get(type(dev), _nothing)(self, dev)

    def virtio(self, model: str | None) -> int:
        """Return the slot of a virtio device of a model."""
        if model is not None and model.endswith("-transitional") and not model.endswith("-non-transitional"):
            return PCI
        return self.pcie if self._modern_virtio else PCI

    # ------------------------------------------------------------ the kinds

    def controller(self, dev: Controller) -> int:
        model = dev.model or ""
        match dev.type:
            case "pci":
                return UPLINKS.get(model, Connect.NONE)
            case "usb":
                if model in _USB_VIRTUAL:
                    return Connect.NONE
                return self.pcie if model in _USB_EXPRESS else PCI
            case "scsi":
                if model in _SCSI_CONVENTIONAL:
                    return PCI
                return self.virtio(model) if model.startswith("virtio") else Connect.NONE
            case "ide" | "sata":
                return PCI
            case "virtio-serial":
                return self.virtio(model)
            case _:
                return Connect.NONE

    def disk(self, dev: Disk) -> int:
        target = dev.target
        return self.virtio(dev.model) if target is not None and target.bus == "virtio" else Connect.NONE

    def interface(self, dev: Interface) -> int:
        model = said(dev, "model.type")
        if said(dev, "type") == "hostdev":
            return self.host_pci(said(dev, "source.host_address"))
        if model in _NET_ELSEWHERE:
            return Connect.NONE
        if model is None or model in _NET_CONVENTIONAL:
            return PCI
        return self.virtio(model)  # a model libvirt does not know is taken for a modern one

    def host_pci(self, address: object) -> int:
        if isinstance(address, (PciHostAddress, PciAddress)) and self._is_conventional(pci_name(address)):
            return PCI
        return self.pcie  # a device that cannot be looked at is taken for a modern one

    def hostdev(self, dev: Hostdev) -> int:
        if dev.is_subsystem("pci"):
            return self.host_pci(dev.host_address)
        if dev.is_subsystem("scsi_host"):
            return self.virtio(dev.model)
        if dev.is_subsystem("mdev") and dev.model == "vfio-pci":
            return self.pcie
        return Connect.NONE

    def video(self, dev: Video) -> int:
        model = said(dev, "model.type")
        if model in _VIDEO_CONVENTIONAL:
            return PCI
        return self.pcie if model in ("virtio", "bochs") else Connect.NONE

    def iommu(self, dev: Iommu) -> int:
        return self.pcie & ~Connect.HOTPLUG | Connect.INTEGRATED if dev.model == "virtio" else Connect.NONE


def said(dev: object, path: str) -> Any:
    """Return what a device says at a path of fields, None where it says nothing."""
    value: Any = dev
    for step in path.split("."):
        value = getattr(value, step, None)
        if value is None:
            return None
    return value


def _nothing(_: Slots, __: Any) -> int:
    return Connect.NONE


def _virtio_model(slots: Slots, dev: Any) -> int:
    model = dev.model
    return slots.virtio(model) if model is None or model.startswith("virtio") else Connect.NONE


_RULES: dict[type[Device], Callable[[Slots, Any], int]] = {
    Controller: Slots.controller,
    Disk: Slots.disk,
    Interface: Slots.interface,
    Hostdev: Slots.hostdev,
    Video: Slots.video,
    Iommu: Slots.iommu,
    Filesystem: lambda slots, dev: (
        slots.virtio(dev.model) if dev.driver.type in (None, "path", "handle", "virtiofs") else Connect.NONE
    ),
    Sound: lambda _, dev: PCI if said(dev, "model") in _SOUND_CONVENTIONAL else Connect.NONE,
    Memballoon: _virtio_model,
    Rng: _virtio_model,
    Vsock: _virtio_model,
    Crypto: _virtio_model,
    Input: lambda slots, dev: slots.virtio(dev.model) if dev.bus == "virtio" else Connect.NONE,
    Watchdog: lambda _, dev: PCI if dev.model == "i6300esb" else Connect.NONE,
    Shmem: lambda _, __: PCI,
    Serial: lambda _, dev: PCI if said(dev, "target.type") == "pci-serial" else Connect.NONE,
    Memory: lambda slots, dev: slots.pcie if dev.model.startswith("virtio-") else Connect.NONE,
}


def wants_pci(dev: Device) -> bool:
    """Tell whether a PCI address is still to be found for the device, should it need one.

    ``<address type='pci'/>`` asks for one; 0000:00:00 is what an address without numbers means.
    """
    where = dev.address
    if where is None:
        return True
    return isinstance(where, PciAddress) and not (where.domain or where.bus or where.slot)


def given_pci(dev: Device) -> PciAddress | None:
    """Return the device's PCI address; None when it has none, or only asks for one."""
    where = dev.address
    return where if isinstance(where, PciAddress) and (where.domain or where.bus or where.slot) else None


def every(devices: Devices) -> list[Device]:
    """Return all devices as a list."""
    return devices.all()
