"""vsock: a socket family between host and guest; the kernel's vhost device serves it."""

from collections.abc import Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.vsock import Vsock
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.switches import Device, Switch

_FIRST_CID = 3


class VsockHandler(Handler[Vsock], kind=Vsock):
    def defaults(self, dev: Vsock, ctx: Context) -> None:
        dev.model = dev.model or "virtio"
        if dev.cid.auto is None:
            dev.cid.auto = not dev.cid.address

    def validate(self, dev: Vsock, ctx: Context) -> None:
        if len(ctx.domain.devices.vsocks) > 1:
            raise XmlError("only a single vsock device is supported", domain=ErrorDomain.DOMAIN)
        if dev.cid.address and dev.cid.address < _FIRST_CID:
            raise ConfigUnsupported(f"guest CIDs must be >= {_FIRST_CID}", domain=ErrorDomain.DOMAIN)
        if not any(ctx.caps.has_device(f"vhost-vsock-{bus}") for bus in ("pci", "ccw", "device")):
            raise ConfigUnsupported("vsock device is not supported with this QEMU binary")

    def prepare(self, dev: Vsock, ctx: BuildContext) -> None:
        raise ConfigUnsupported(f"<vsock>{line(dev)} cannot be started yet; remove it to start the domain")

    def switches(self, dev: Vsock, ctx: BuildContext) -> Iterator[Switch]:
        yield Device(
            {
                "driver": virtio_type("vhost-vsock", dev, dev.model),
                **VIRTIO_OPTIONS.render(dev.driver, ctx),
                "id": dev.alias.name,
                "guest-cid": dev.cid.address or 0,
                "vhostfd": "-1",  # the descriptor a start would open
                **placement(dev, ctx),
            },
            origin=dev,
        )
