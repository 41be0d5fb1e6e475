"""PCI functions of the host that a guest's devices are made of, whatever their element; by VFIO."""

from collections.abc import Iterable, Iterator

from qvirt.errors import InternalError
from qvirt.model.devices.device import Device
from qvirt.model.devices.hostdev import Hostdev, PciHostAddress
from qvirt.qemu.context import Context
from qvirt.qemu.devices.base import FileResource, Resource, line
from qvirt.record import Record

#: what QEMU opens for any function
CONTAINER = "/dev/vfio/vfio"
#: where the groups' nodes are
NODES = "/dev/vfio"


class Wanted(Record):
    """A function that a device wants. managed: it is taken from its driver, and given back.

    backend: how it is passed through, where the document says. line: where it says so, 0 for nowhere.
    """

    name: str
    managed: bool
    backend: str | None = None
    line: int = 0

    @property
    def node(self) -> str:
        """Where the document has it, for a sentence."""
        return f" (line {self.line})" if self.line else ""


def wanted_by(dev: Device) -> Iterator[Wanted]:
    """Yield the functions of the host that a device wants."""
    if isinstance(dev, Hostdev) and dev.is_subsystem("pci"):
        where = dev.host_address
        if isinstance(where, PciHostAddress):
            yield Wanted(where.name, bool(dev.managed), dev.driver.name, dev.line)


def is_behind_vfio(dev: Device) -> bool:
    """Tell whether a device reaches the guest's memory by VFIO."""
    return next(wanted_by(dev), None) is not None or (isinstance(dev, Hostdev) and dev.is_subsystem("mdev"))


def check_backend(dev: Device) -> None:
    """Refuse what the kernel has no more. Raises InternalError."""
    for one in wanted_by(dev):
        if one.backend in ("kvm", "xen"):
            raise InternalError(f"invalid PCI passthrough type '{one.backend}'{line(dev)}")


def nodes(dev: Device, ctx: Context) -> Iterable[Resource]:
    """Yield the nodes QEMU opens for a device's functions."""
    for one in wanted_by(dev):
        yield FileResource(dev, CONTAINER, shared=True, relabel=False)
        group = ctx.host.iommu_group(one.name)
        if group is not None:
            yield FileResource(dev, f"{NODES}/{group}", late=True)
