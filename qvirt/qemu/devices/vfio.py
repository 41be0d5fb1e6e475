"""PCI functions of the host that a guest's devices are made of, whatever their element; by VFIO."""

from collections.abc import Iterable, Iterator

from qvirt.errors import InternalError, XmlError
from qvirt.model.devices.address import PciAddress, pci_name
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.hostdev import Hostdev, PciHostAddress
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.domain import Domain
from qvirt.model.storage_source import SourceType
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import FileResource, Resource, line
from qvirt.qemu.devices.placement import placement, rom
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device as Frontend
from qvirt.record import Record

#: what QEMU opens for any function
CONTAINER = "/dev/vfio/vfio"
#: where the groups' nodes are
NODES = "/dev/vfio"


class Wanted(Record):
    """A function that a device wants. managed: it is taken from its driver, and given back.

    backend: how it is passed through, where the document says. line: where it says so, 0 for nowhere.
    usual: the driver such a function has otherwise, '' for any.
    """

    name: str
    managed: bool
    backend: str | None = None
    line: int = 0
    usual: str = ""

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
    elif isinstance(dev, Disk):
        for image in dev.images():
            if image.type == SourceType.NVME and image.source.address is not None:
                at, managed = image.source.address, bool(image.source.managed)
                yield Wanted(pci_name(at), managed, line=dev.line, usual="nvme")
    elif isinstance(dev, Interface) and dev.actual_type == InterfaceType.HOSTDEV:
        plugged = dev.plugged()
        place = plugged.source.host_address if plugged.source is not None else None
        if not isinstance(place, PciAddress):
            kind = place.type if place is not None else "none"
            raise XmlError(f"address type='{kind}' not supported in hostdev interfaces{line(dev)}")
        yield Wanted(pci_name(place), bool(plugged.managed), plugged.driver.name, dev.line)


def is_behind_vfio(dev: Device) -> bool:
    """Tell whether a device reaches the guest's memory by VFIO."""
    return next(wanted_by(dev), None) is not None or (isinstance(dev, Hostdev) and dev.is_subsystem("mdev"))


def containers(domain: Domain) -> int:
    """Return how often QEMU has the guest's memory mapped, and locked, for its devices.

    Devices share one container, but for those behind an IOMMU of the guest's; each NVMe disk has its own.
    """
    others = sum(is_behind_vfio(dev) for dev in (*domain.devices.hostdevs, *domain.devices.interfaces))
    shared = others if domain.devices.iommus else min(others, 1)
    return shared + sum(1 for disk in domain.devices.disks for _ in wanted_by(disk))


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


def frontend(dev: Hostdev | Interface, ctx: BuildContext) -> Frontend:
    """Return the card that a guest sees of a function. Raises InternalError."""
    check_backend(dev)
    one = next(wanted_by(dev), None)
    if one is None:
        raise InternalError(f"host device '{dev.alias.name}'{line(dev)} does not say which device it is")
    team = dev.teaming
    props: dict[str, JsonValue] = {
        "driver": "vfio-pci",
        "host": one.name,
        "id": dev.alias.name,
        "bootindex": boot_index(dev, ctx.domain),
        "failover_pair_id": team.persistent if team is not None and team.type == "transient" else None,
    }
    return Frontend(props | placement(dev, ctx) | rom(dev), origin=dev)
