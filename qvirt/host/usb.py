"""USB devices of this machine, as sysfs lists them, and which of them a document means."""

from pathlib import Path

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, OperationFailed
from qvirt.host.sysfs import read_int
from qvirt.model.devices.hostdev import Hostdev, UsbHostAddress
from qvirt.record import Record

ROOT = Path("/")


class UsbDevice(Record):
    """One device: where it is plugged in now, and what it is."""

    bus: int
    device: int
    vendor: int
    product: int


def list_devices(root: Path = ROOT) -> list[UsbDevice]:
    """List what is plugged in, hubs included; nothing on a machine without USB. Blocking."""
    try:
        # what has a colon is an interface of a device
        entries = [path for path in (root / "sys/bus/usb/devices").iterdir() if ":" not in path.name]
    except OSError:
        return []
    found: list[UsbDevice] = []
    for entry in entries:
        numbers = [
            read_int(entry / name, base)
            for name, base in (("busnum", 10), ("devnum", 10), ("idVendor", 16), ("idProduct", 16))
        ]
        bus, device, vendor, product = numbers
        if bus is None or device is None or vendor is None or product is None:
            continue  # it was pulled out while we looked
        found.append(UsbDevice(bus, device, vendor, product))
    return sorted(found, key=lambda one: (one.bus, one.device))


def find(wanted: Hostdev, present: list[UsbDevice]) -> UsbDevice:
    """Return the device a ``<hostdev>`` means: by what it is, by its place, or by both.

    Raises InternalError when it is not there, OperationFailed when several are.
    """
    source, where = wanted.source, wanted.host_address
    vendor = source.vendor.id if source is not None and source.vendor is not None else None
    product = source.product.id if source is not None and source.product is not None else None
    place = (where.bus, where.device) if isinstance(where, UsbHostAddress) else None
    found = [
        one
        for one in present
        if (vendor is None or (one.vendor, one.product) == (vendor, product))
        and (place is None or (one.bus, one.device) == place)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise OperationFailed(
            f"Multiple USB devices for {vendor or 0:x}:{product or 0:x}, use <address> to specify one",
            domain=ErrorDomain.NONE,
        )
    words = [f"{vendor:04x}:{product:04x}"] if vendor is not None else []
    words += [f"bus:{place[0]} device:{place[1]}"] if place is not None else []
    raise InternalError(f"Did not find USB device {' '.join(words)}", domain=ErrorDomain.NONE)
