"""Memory shared between guests: ivshmem, plain or with a server that rings bells."""

from collections.abc import Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, DeviceMissing, OperationInvalid, QvirtError, XmlError
from qvirt.model.devices.shmem import Shmem, ShmemModel, ShmemSize
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import FileResource, Handler, Resource
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.switches import Chardev, Device, Object, Switch

_DEFAULT_SIZE = 4 << 20
_MIB = 1 << 20


class ShmemHandler(Handler[Shmem], kind=Shmem):
    """Memory shared with other guests.

    Whose it is, and who may have it, is for those to say who share it: nothing of it is lent. QEMU makes what
    is missing, and nobody removes it.
    """

    live = True

    def defaults(self, dev: Shmem, ctx: Context) -> None:
        if dev.model is None:
            dev.model = ShmemModel(type="ivshmem")
        if dev.model.type == "ivshmem-plain" and dev.size is None:
            dev.size = ShmemSize(unit="M", value=_DEFAULT_SIZE)
        if dev.model.type == "ivshmem-doorbell" and dev.msi is not None and dev.msi.ioeventfd is None:
            dev.msi.ioeventfd = True

    def validate(self, dev: Shmem, ctx: Context) -> None:
        model = dev.model.type if dev.model else "ivshmem"
        if not ctx.caps.has_device(model):
            raise ConfigUnsupported(f"{model} device is not supported with this QEMU binary")
        if model == "ivshmem-plain" and dev.server is not None:
            raise ConfigUnsupported(f"shmem model '{model}' is supported only with server option disabled")
        if model == "ivshmem-plain" and dev.msi is not None:
            raise ConfigUnsupported(f"shmem model '{model}' doesn't support msi")
        if model == "ivshmem-doorbell":
            if dev.server is None:
                raise ConfigUnsupported(f"shmem model '{model}' is supported only with server option enabled")
            if dev.size is not None:
                raise ConfigUnsupported(f"shmem model '{model}' does not support size setting")

    def prepare(self, dev: Shmem, ctx: BuildContext) -> None:
        _size(dev)
        if dev.server is not None and dev.server.path is None:
            dev.server.path = _server_path(dev)

    def resources(self, dev: Shmem, ctx: Context) -> Iterable[Resource]:
        if dev.server is not None:
            yield FileResource(dev, _server_path(dev), shared=True, relabel=False)
        else:
            yield FileResource(dev, _memory_path(dev), shared=True, optional=True, relabel=False)

    def clash(self, dev: Shmem, ctx: Context, *, live: bool) -> QvirtError | None:
        if not live and any(self.same(dev, known, ctx) for known in ctx.domain.devices.shmems):
            return OperationInvalid("device is already in the domain configuration")
        return None

    def content(self, dev: Shmem, ctx: Context) -> Shmem:
        twin = super().content(dev, ctx)
        if twin.server is not None:
            twin.server.path = _server_path(twin)
        return twin

    def missing(self, dev: Shmem, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        if live:
            model = dev.model.type if dev.model is not None else "ivshmem"
            return DeviceMissing(f"model '{model}' shmem device not present in domain configuration")
        return super().missing(dev, ctx, live=live, update=update)

    def switches(self, dev: Shmem, ctx: BuildContext) -> Iterator[Switch]:
        name = dev.alias.name
        if dev.server is None:
            yield Object(
                {
                    "qom-type": "memory-backend-file",
                    "id": f"shmmem-{name}",
                    "mem-path": _memory_path(dev),
                    "size": _size(dev),
                    "share": True,
                },
                origin=dev,
            )
            master = {"master": "on", "peer": "off", None: None}[dev.role]
            yield Device(
                {
                    "driver": "ivshmem-plain",
                    "id": name,
                    "memdev": f"shmmem-{name}",
                    "master": master,
                    **placement(dev, ctx),
                },
                origin=dev,
            )
            return
        msi = dev.msi
        yield Device(
            {
                "driver": "ivshmem-doorbell",
                "id": name,
                "chardev": f"char{name}",
                "vectors": (msi.vectors or None) if msi is not None else None,
                "ioeventfd": msi.ioeventfd if msi is not None else None,
                **placement(dev, ctx),
            },
            origin=dev,
        )
        yield Chardev("socket", {"id": f"char{name}", "path": _server_path(dev)}, origin=dev)


def _size(dev: Shmem) -> int:
    """Return the size in bytes. Raises XmlError for one that memory on a bus cannot have."""
    size = dev.size.value if dev.size is not None else _DEFAULT_SIZE
    if dev.server is None and size & (size - 1):
        raise XmlError("shmem size must be a power of two", domain=ErrorDomain.QEMU)
    if dev.server is None and size < _MIB:
        raise XmlError("shmem size must be at least 1 MiB (1024 KiB)", domain=ErrorDomain.QEMU)
    return size


def _memory_path(dev: Shmem) -> str:
    return f"/dev/shm/{dev.name}"  # noqa: S108 - where all guests look for it


def _server_path(dev: Shmem) -> str:
    """Return where the server listens; without a word of the document libvirt's place, in any instance."""
    path = dev.server.path if dev.server is not None else None
    return path or f"/var/lib/libvirt/shmem-{dev.name}-sock"
