"""Cryptographic accelerators: QEMU's own implementation, or the host kernel's, behind a virtio device."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.crypto import Crypto
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.switches import Device, Object, Switch


class CryptoHandler(Handler[Crypto], kind=Crypto):
    config = False

    def validate(self, dev: Crypto, ctx: Context) -> None:
        model = dev.backend.model if dev.backend is not None else "builtin"
        for what in ("virtio-crypto-device", f"cryptodev-backend-{model}"):
            if what not in ctx.caps.types:
                raise ConfigUnsupported(
                    f"crypto device of backend '{model}' is not supported with this QEMU binary: it has no "
                    f"{what}{line(dev)}"
                )

    def switches(self, dev: Crypto, ctx: BuildContext) -> Iterator[Switch]:
        name, backend = dev.alias.name, dev.backend
        model = backend.model if backend is not None else "builtin"
        yield Object(
            {
                "qom-type": f"cryptodev-backend-{model}",
                "id": f"obj{name}",
                "queues": backend.queues if backend is not None else None,
            },
            origin=dev,
        )
        yield Device(
            {
                "driver": virtio_type("virtio-crypto", dev),
                **VIRTIO_OPTIONS.render(dev.driver, ctx),
                "cryptodev": f"obj{name}",
                "id": name,
                **placement(dev, ctx),
            },
            origin=dev,
        )
