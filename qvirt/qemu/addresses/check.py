"""What no device may say in its address, whatever its kind."""

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.address import CcwAddress, PciAddress, UnassignedAddress
from qvirt.model.devices.device import Device
from qvirt.model.devices.hostdev import Hostdev
from qvirt.qemu.context import Context
from qvirt.qemu.machines import is_s390_ccw


def check_address(dev: Device, ctx: Context) -> None:
    """Raise ConfigUnsupported for an address this machine cannot have."""
    where = dev.address
    if isinstance(where, PciAddress):
        if where.zpci is not None and not ctx.caps.has_device("zpci"):
            raise ConfigUnsupported("This QEMU binary doesn't support zPCI")
    elif isinstance(where, UnassignedAddress) and not isinstance(dev, Hostdev):
        raise ConfigUnsupported(f"address of type '{where.type}' is supported only for hostdevs")
    elif isinstance(where, CcwAddress) and not is_s390_ccw(ctx.domain):
        raise ConfigUnsupported(
            f"cannot use CCW address type for device '{dev.tag}' using machine type "
            f"'{ctx.domain.os.type.machine}'"
        )
    if dev.says("rom") and dev.rom.enabled is False and (dev.rom.bar is not None or dev.rom.file is not None):
        raise ConfigUnsupported("ROM tuning is not supported when ROM is disabled")
    if dev.says("acpi") and dev.acpi.index and where is not None and not isinstance(where, PciAddress):
        raise ConfigUnsupported("ACPI index is only supported for PCI devices")
