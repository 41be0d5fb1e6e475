"""Where devices sit: addresses for all that have none; a module per bus."""

from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.dimm import assign_slots
from qvirt.qemu.addresses.normal import spell_out
from qvirt.qemu.addresses.pci import assign_pci, assign_pci_live
from qvirt.qemu.addresses.spapr import assign_spapr_vio
from qvirt.qemu.addresses.usb import assign_usb, assign_usb_live
from qvirt.qemu.addresses.virtio import assign_virtio
from qvirt.qemu.addresses.virtio_serial import assign_virtio_serial
from qvirt.qemu.addresses.zpci import assign_zpci
from qvirt.qemu.context import Context


def assign(domain: Domain, ctx: Context) -> None:
    """Give every device that needs one an address, adding bridges, ports and hubs as it takes.

    What the document says is kept. Raises XmlError, InternalError, ConfigUnsupported for addresses that are
    taken, out of range or on the wrong kind of bus.
    """
    for dev in domain.devices.all():
        if dev.address is not None:
            spell_out(dev.address)
    assign_virtio_serial(domain)
    assign_spapr_vio(domain)
    assign_virtio(ctx)
    assign_pci(ctx)
    assign_zpci(domain)
    assign_usb(ctx)
    assign_slots(domain)


def assign_live(new: Device, ctx: Context) -> None:
    """Give the devices that are to be plugged into a running guest their addresses; nothing grows for them.

    new: the device that is plugged, beside which there may be controllers it needs. Raises as `assign` does,
    and InternalError where there is no place left that takes a device now.
    """
    domain = ctx.domain
    for dev in domain.devices.all():
        if dev.address is not None:
            spell_out(dev.address)
    assign_virtio_serial(domain)
    assign_virtio(ctx)
    assign_pci_live(new, ctx)
    assign_usb_live(domain)
    assign_slots(domain)
