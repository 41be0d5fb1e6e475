"""Memory shared between guests: ivshmem, plain or with a server that rings bells."""

from collections.abc import Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.shmem import Shmem, ShmemModel, ShmemSize
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.switches import Chardev, Device, Object, Switch

_DEFAULT_SIZE = 4 << 20
_MIB = 1 << 20


class ShmemHandler(Handler[Shmem], kind=Shmem):
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
        raise ConfigUnsupported(f"<shmem>{line(dev)} cannot be started yet; remove it to start the domain")

    def switches(self, dev: Shmem, ctx: BuildContext) -> Iterator[Switch]:
        name = dev.alias.name
        if dev.server is None:
            size = dev.size.value if dev.size is not None else _DEFAULT_SIZE
            if size & (size - 1):
                raise XmlError("shmem size must be a power of two", domain=ErrorDomain.QEMU)
            if size < _MIB:
                raise XmlError("shmem size must be at least 1 MiB (1024 KiB)", domain=ErrorDomain.QEMU)
            yield Object(
                {
                    "qom-type": "memory-backend-file",
                    "id": f"shmmem-{name}",
                    "mem-path": f"/dev/shm/{dev.name}",  # noqa: S108 - where all guests look for it
                    "size": size,
                    "share": True,
                },
                origin=dev,
            )
            master = {"master": True, "peer": False, None: None}[dev.role]
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
        path = dev.server.path or f"/var/lib/libvirt/shmem-{dev.name}-sock"
        yield Chardev("socket", {"id": f"char{name}", "path": path}, origin=dev)
