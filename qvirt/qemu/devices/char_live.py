"""Character devices of a running guest: which can be plugged, in libvirt's sentences."""

from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InvalidArg,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
)
from qvirt.model.devices.char import Channel, Console, Serial
from qvirt.model.devices.chardev import CharDevice
from qvirt.model.domain import Domain

#: what sits on a bus that takes devices while the guest runs
_SERIALS = ("pci-serial", "usb-serial")
_CHANNELS = ("virtio", "guestfwd")


def check_plug(dev: CharDevice, verb: str) -> None:
    """Raise OperationUnsupported for a device on a bus that a running guest has closed.

    verb: what is tried, "plugged into" or "taken from". libvirt 9.0 asks QEMU, which refuses.
    """
    if isinstance(dev, Console):
        if dev.target.type != "virtio":
            raise ConfigUnsupported(f"unsupported console target type {dev.target.type}")
        return
    if isinstance(dev, Serial):
        possible = dev.target.type in _SERIALS
    else:
        possible = isinstance(dev, Channel) and dev.target.type in _CHANNELS
    if not possible:
        kind = "" if dev.tag == "parallel" else f" of type '{dev.target.type}'"  # type: ignore[attr-defined]
        raise OperationUnsupported(f"{dev.tag} device{kind} cannot be {verb} a running guest")


def missing(dev: CharDevice, *, live: bool) -> QvirtError:
    """Return libvirt's error for a device that is not there."""
    if live:
        return DeviceMissing(f"chr type '{dev.tag}' device not present in domain configuration")
    if isinstance(dev, Console) and dev.target.type in (None, "serial"):
        return OperationInvalid("detaching serial console is not supported")
    return InvalidArg("device not present in domain configuration")


def drop_mirror(domain: Domain) -> None:
    """Take away the console that showed a serial port which has gone."""
    consoles = domain.devices.consoles
    if consoles and consoles[0].target.type == "serial":
        del consoles[0]
