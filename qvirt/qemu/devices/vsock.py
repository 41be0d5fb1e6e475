"""vsock: a socket family between host and guest; the kernel's vhost device serves it."""

from collections.abc import Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    OperationFailed,
    OperationInvalid,
    QvirtError,
    XmlError,
)
from qvirt.model.devices.vsock import Vsock
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import HandedResource, Handler, Resource, VsockResource
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.switches import Device, Switch

#: addresses below are the hypervisor's, the host's own and the loopback's
FIRST_CID = 3
DEVICE = "/dev/vhost-vsock"


class VsockHandler(Handler[Vsock], kind=Vsock):
    """The guest's end of the sockets."""

    live = True

    def defaults(self, dev: Vsock, ctx: Context) -> None:
        dev.model = dev.model or "virtio"
        if dev.cid.auto is None:
            dev.cid.auto = not dev.cid.address

    def validate(self, dev: Vsock, ctx: Context) -> None:
        if len(ctx.domain.devices.vsocks) > 1:
            raise XmlError("only a single vsock device is supported", domain=ErrorDomain.DOMAIN)
        if dev.cid.address and dev.cid.address < FIRST_CID:
            raise ConfigUnsupported(f"guest CIDs must be >= {FIRST_CID}", domain=ErrorDomain.DOMAIN)
        if not any(ctx.caps.has_device(f"vhost-vsock-{bus}") for bus in ("pci", "ccw", "device")):
            raise ConfigUnsupported("vsock device is not supported with this QEMU binary")

    def resources(self, dev: Vsock, ctx: Context) -> Iterable[Resource]:
        yield VsockResource(dev, _descriptor(dev))
        yield HandedResource(dev, DEVICE)

    def clash(self, dev: Vsock, ctx: Context, *, live: bool) -> QvirtError | None:
        if ctx.domain.devices.vsocks:
            return OperationInvalid("the domain already has a vsock device")
        return None

    def content(self, dev: Vsock, ctx: Context) -> Vsock:
        twin = super().content(dev, ctx)
        if twin.cid.auto:
            twin.cid.address = None  # only the run has it
        return twin

    def missing(self, dev: Vsock, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return (DeviceMissing if live else OperationFailed)("matching vsock device not found")

    def switches(self, dev: Vsock, ctx: BuildContext) -> Iterator[Switch]:
        name = _descriptor(dev)
        yield Device(
            {
                "driver": virtio_type("vhost-vsock", dev, dev.model),
                **VIRTIO_OPTIONS.render(dev.driver, ctx),
                "id": dev.alias.name,
                "guest-cid": dev.cid.address or 0,
                "vhostfd": ctx.launch.fds(name)[0] if ctx.launch.has(name) else "-1",
                **placement(dev, ctx),
            },
            origin=dev,
        )


def _descriptor(dev: Vsock) -> str:
    return f"vhostfd-{dev.alias.name}"
