"""Random numbers for the guest: the source as an object, and the virtio device in front of it."""

from collections.abc import Iterable, Iterator

from qvirt.errors import DeviceMissing, QvirtError
from qvirt.model.devices.rng import Rng
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices import chardev
from qvirt.qemu.devices.base import FileResource, Handler, Resource
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device, Object, Switch

DEFAULT_SOURCE = "/dev/random"
#: milliseconds; QEMU takes a rate only together with a period
_DEFAULT_PERIOD = 1000


class RngHandler(Handler[Rng], kind=Rng):
    live = True

    def defaults(self, dev: Rng, ctx: Context) -> None:
        backend = dev.backend
        if backend.model == "random" and backend.path is None:
            backend.path = DEFAULT_SOURCE
        elif backend.model == "egd":
            chardev.settle(backend)

    def validate(self, dev: Rng, ctx: Context) -> None:
        if dev.backend.model == "egd":
            chardev.validate(dev.backend, ctx)

    def resources(self, dev: Rng, ctx: Context) -> Iterable[Resource]:
        backend = dev.backend
        if backend.model == "random" and backend.path is not None:
            yield FileResource(dev, backend.path, writable=False, shared=True, relabel=False)
        elif backend.model == "egd":
            yield from chardev.resources(backend, dev, ctx)

    def missing(self, dev: Rng, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        if live:
            return DeviceMissing(
                f"model '{dev.backend.model}' RNG device not present in domain configuration"
            )
        return DeviceMissing("no matching RNG device was found")

    def switches(self, dev: Rng, ctx: BuildContext) -> Iterator[Switch]:
        backend, name = dev.backend, f"obj{dev.alias.name}"
        if backend.model == "egd":
            id = f"char{dev.alias.name}"
            yield from chardev.switches(backend, dev, ctx, id=id)
            yield Object({"qom-type": "rng-egd", "id": name, "chardev": id}, origin=dev)
        elif backend.model == "builtin":
            yield Object({"qom-type": "rng-builtin", "id": name}, origin=dev)
        else:
            yield Object({"qom-type": "rng-random", "id": name, "filename": backend.path}, origin=dev)
        rate: dict[str, JsonValue] = {}
        if dev.rate.bytes:
            rate = {"max-bytes": dev.rate.bytes, "period": dev.rate.period or _DEFAULT_PERIOD}
        yield Device(
            {
                "driver": virtio_type("virtio-rng", dev, dev.model),
                **VIRTIO_OPTIONS.render(dev.driver, ctx),
                "rng": name,
                "id": dev.alias.name,
                **rate,
                **placement(dev, ctx),
            },
            origin=dev,
        )
