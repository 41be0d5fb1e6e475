"""Addresses as libvirt writes them: every number there, 0 where the document said nothing."""

from qvirt.model.devices.address import (
    Address,
    CcidAddress,
    DriveAddress,
    PciAddress,
    UsbAddress,
    VirtioSerialAddress,
)

_NUMBERS: dict[type[Address], tuple[str, ...]] = {
    PciAddress: ("domain", "bus", "slot", "function"),
    DriveAddress: ("controller", "bus", "target", "unit"),
    VirtioSerialAddress: ("controller", "bus", "port"),
    CcidAddress: ("controller", "slot"),
    UsbAddress: ("bus",),
}


def spell_out(where: Address) -> None:
    """Set the numbers the document left out to 0."""
    for name in _NUMBERS.get(type(where), ()):
        if getattr(where, name) is None:
            setattr(where, name, 0)
