"""Virtio devices that are not on PCI: in the channel subsystem of s390x, in memory-mapped slots of boards."""

from collections.abc import Iterator

from qvirt.errors import XmlError
from qvirt.model.devices.address import CcwAddress, VirtioMmioAddress
from qvirt.model.devices.controller import ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.pci_flags import said
from qvirt.qemu.context import Context
from qvirt.qemu.machines import is_arm, is_arm_virt, is_riscv_virt, is_s390_ccw, root_model

#: the subsystem image virtio devices are in
_VIRTIO_CSSID = 0xFE


def assign_virtio(ctx: Context) -> None:
    """Give ccw or virtio-mmio addresses where the machine has such buses.

    Raises XmlError for a place that is taken.
    """
    domain = ctx.domain
    if is_s390_ccw(domain):
        for dev in _virtio(domain, every=True):
            if dev.address is None:
                dev.address = CcwAddress()
        _assign_ccw(domain)
    elif _prefers_mmio(ctx):
        for dev in _virtio(domain, every=False):
            if dev.address is None:
                dev.address = VirtioMmioAddress()


def _prefers_mmio(ctx: Context) -> bool:
    domain = ctx.domain
    board = is_arm(domain) and (domain.os.type.machine or "").startswith("vexpress-")
    if not (board or is_arm_virt(domain) or is_riscv_virt(domain)):
        return False
    if root_model(domain) == "pcie-root" and not any(
        isinstance(dev.address, VirtioMmioAddress) for dev in domain.devices.all()
    ):
        return False
    return ctx.caps.has_device("virtio-mmio")


def _virtio(domain: Domain, *, every: bool) -> Iterator[Device]:
    """Yield the virtio devices; ``every``: also those that only the channel subsystem takes."""
    devices = domain.devices
    yield from (dev for dev in devices.disks if said(dev, "target.bus") == "virtio")
    for nic in devices.interfaces:
        model = str(said(nic, "model.type") or "")
        if model.startswith("virtio") and said(nic, "type") != "hostdev":
            yield nic
    yield from (dev for dev in devices.inputs if dev.bus == "virtio")
    for controller in devices.controllers:
        scsi = controller.type is ControllerType.SCSI and (controller.model or "").startswith("virtio")
        if scsi or controller.type is ControllerType.VIRTIO_SERIAL:
            yield controller
    yield from (dev for dev in devices.memballoons if dev.model.startswith("virtio"))
    yield from devices.rngs
    yield from devices.filesystems
    if every:
        yield from (dev for dev in devices.hostdevs if dev.is_subsystem("scsi_host"))
        yield from (dev for dev in devices.hostdevs if dev.is_subsystem("mdev") and dev.model == "vfio-ccw")
        yield from (dev for dev in devices.videos if said(dev, "model.type") == "virtio")
        yield from devices.cryptos
    yield from devices.vsocks


#: the order in which devices choose their numbers
_ORDER = (
    "disks", "interfaces", "sounds", "hostdevs", "videos", "controllers", "smartcards", "serials",
    "parallels", "channels", "consoles", "inputs", "filesystems", "watchdogs", "memballoons", "rngs",
    "nvrams", "hubs",
    "shmems", "tpms", "panics", "redirdevs", "memory", "iommus", "vsocks", "cryptos",
)  # fmt: skip


def _assign_ccw(domain: Domain) -> None:
    taken: set[tuple[int, int, int]] = set()
    wanting: list[CcwAddress] = []
    for name in _ORDER:
        for dev in getattr(domain.devices, name):
            where = dev.address
            if not isinstance(where, CcwAddress):
                continue
            if where.devno is None:
                wanting.append(where)
                continue
            spot = (where.cssid or 0, where.ssid or 0, where.devno)
            if spot in taken:
                raise XmlError(f"The CCW devno '{spot[0]:x}.{spot[1]:x}.{spot[2]:04x}' is in use already ")
            taken.add(spot)
    for where in wanting:
        devno = next(n for n in range(0x10000) if (_VIRTIO_CSSID, 0, n) not in taken)
        where.cssid, where.ssid, where.devno = _VIRTIO_CSSID, 0, devno
        taken.add((_VIRTIO_CSSID, 0, devno))
