"""Host directories given to the guest: 9p, served by QEMU itself, and virtiofs, served by a helper."""

from collections.abc import Iterable, Iterator

from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    NoSource,
    NoTarget,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
)
from qvirt.model.devices.filesystem import Filesystem
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import FileResource, Handler, Resource, agrees
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Chardev, Device, KeyValue, Switch

#: libvirt's access modes and QEMU's security models
SECURITY_MODELS: dict[str, str] = {"passthrough": "passthrough", "mapped": "mapped", "squash": "none"}


class FilesystemHandler(Handler[Filesystem], kind=Filesystem):
    """A shared directory."""

    live = True

    def defaults(self, dev: Filesystem, ctx: Context) -> None:
        if dev.accessmode is None and (dev.source is None or dev.source.socket is None):
            dev.accessmode = "passthrough"
        if dev.driver.type != "virtiofs":
            dev.driver.queue = None  # only virtiofs has queues
        if dev.source is None:
            raise NoSource(f"{_target(dev) or ''}")
        if dev.target is None and dev.source.socket is None:
            raise NoTarget(f"{dev.source.dir or ''}")

    def validate(self, dev: Filesystem, ctx: Context) -> None:
        if dev.boot is not None and dev.driver.type != "virtiofs":
            raise ConfigUnsupported("boot order is only supported for virtiofs")
        if dev.type != "mount":
            raise ConfigUnsupported("only supports mount filesystem type")
        if dev.driver.type == "virtiofs":
            _validate_virtiofs(dev, ctx)
            return
        if dev.driver.type not in (None, "path", "handle"):
            raise ConfigUnsupported("Filesystem driver type not supported")
        if (dev.fmode is not None or dev.dmode is not None) and dev.accessmode != "mapped":
            raise ConfigUnsupported("fmode and dmode must be used with accessmode=mapped")

    def resources(self, dev: Filesystem, ctx: Context) -> Iterable[Resource]:
        if dev.source is not None and dev.source.dir is not None and dev.driver.type != "virtiofs":
            yield FileResource(dev, dev.source.dir, writable=not dev.readonly, shared=True, relabel=False)

    def clash(self, dev: Filesystem, ctx: Context, *, live: bool) -> QvirtError | None:
        # libvirt lets a running guest have two of one name
        others = [] if live else [one for one in ctx.domain.devices.filesystems if one is not dev]
        if any(_target(one) == _target(dev) for one in others):
            return OperationInvalid("Target already exists")
        return None

    def check_plug(self, dev: Filesystem, ctx: Context) -> None:
        if dev.driver.type != "virtiofs":
            raise OperationUnsupported("only virtiofs filesystems can be hotplugged")

    def check_unplug(self, dev: Filesystem, ctx: Context) -> None:
        self.check_plug(dev, ctx)

    def same(self, wanted: Filesystem, known: Filesystem, ctx: Context) -> bool:
        return agrees(wanted, known) and _target(wanted) == _target(known)

    def missing(self, dev: Filesystem, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return DeviceMissing(
            "matching filesystem not found" if live else "no matching filesystem device was found"
        )

    def switches(self, dev: Filesystem, ctx: BuildContext) -> Iterator[Switch]:
        build = _virtiofs if dev.driver.type == "virtiofs" else _ninep
        for made in build(dev, ctx):
            made.origin = dev
            yield made


def _target(dev: Filesystem) -> str | None:
    return dev.target.dir if dev.target is not None else None


def _validate_virtiofs(dev: Filesystem, ctx: Context) -> None:
    if not ctx.caps.has_device("vhost-user-fs-pci") and not ctx.caps.has_device("vhost-user-fs-ccw"):
        raise ConfigUnsupported("virtiofs is not supported with this QEMU binary")
    if dev.readonly:
        raise ConfigUnsupported("virtiofs does not yet support read-only mode")
    if ctx.host.uid:
        raise ConfigUnsupported(
            "virtiofs is not yet supported in session mode: its server runs as root; share the folder by 9p, "
            "without <driver type='virtiofs'/>, or run the guest by qemu:///system"
        )
    if dev.accessmode not in (None, "passthrough"):
        raise ConfigUnsupported("virtiofs only supports passthrough accessmode")
    if dev.driver.wrpolicy is not None:
        raise ConfigUnsupported("virtiofs does not support wrpolicy")
    if dev.model in ("virtio-transitional", "virtio-non-transitional"):
        raise ConfigUnsupported("virtiofs does not support model")
    if dev.multidevs not in (None, "default"):
        raise ConfigUnsupported("virtiofs does not support multidevs")
    if dev.fmode is not None or dev.dmode is not None:
        raise ConfigUnsupported("virtiofs does not support fmode and dmode")
    if not _shares_memory(ctx):
        raise ConfigUnsupported("'virtiofs' requires shared memory")


def _shares_memory(ctx: Context) -> bool:
    """Tell whether another process can have all of the guest's memory."""
    backing = ctx.domain.memory_backing
    shared = backing.access is not None and backing.access.mode == "shared"
    if backing.source is not None and backing.source.type == "memfd" and backing.access is None:
        shared = True
    cpu = ctx.domain.cpu
    cells = cpu.numa.cells if cpu is not None and cpu.numa is not None else []
    if not cells:
        return shared
    return all(cell.mem_access == "shared" or (cell.mem_access is None and shared) for cell in cells)


def _ninep(dev: Filesystem, ctx: BuildContext) -> Iterator[Switch]:
    backend: dict[str, JsonValue] = {
        "fsdriver": "handle" if dev.driver.type == "handle" else "local",
        "security_model": None
        if dev.driver.type == "handle"
        else SECURITY_MODELS[dev.accessmode or "passthrough"],
        "multidevs": dev.multidevs if dev.multidevs != "default" else None,
        "fmode": None if dev.fmode is None else f"{dev.fmode:04o}",
        "dmode": None if dev.dmode is None else f"{dev.dmode:04o}",
        "writeout": dev.driver.wrpolicy,
        "id": f"fsdev-{dev.alias.name}",
        "path": dev.source.dir if dev.source is not None else None,
        "readonly": True if dev.readonly else None,
    }
    yield KeyValue("fsdev", backend, "fsdriver")
    props: dict[str, JsonValue] = {"driver": virtio_type("virtio-9p", dev, dev.model)}
    props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
    props |= {"id": dev.alias.name, "fsdev": f"fsdev-{dev.alias.name}", "mount_tag": _target(dev)}
    yield Device(props | placement(dev, ctx))


def _virtiofs(dev: Filesystem, ctx: BuildContext) -> Iterator[Switch]:
    chardev = f"chr-vu-{dev.alias.name}"
    socket = dev.source.socket if dev.source is not None else None
    yield Chardev("socket", {"id": chardev, "path": socket or virtiofs_socket(dev, ctx)})
    props: dict[str, JsonValue] = {"driver": virtio_type("vhost-user-fs", dev)}
    props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
    props |= {
        "id": dev.alias.name,
        "chardev": chardev,
        "queue-size": dev.driver.queue,
        "tag": _target(dev),
        "bootindex": boot_index(dev, ctx.domain),
    }
    yield Device(props | placement(dev, ctx))


def virtiofs_socket(dev: Filesystem, ctx: BuildContext) -> str:
    """Return where the helper that serves the directory listens."""
    return f"{ctx.domain_dir}/{dev.alias.name}-fs.sock"
