"""Memory modules: DIMMs, NVDIMMs and the virtio kinds, each a backend and the module it fills."""

from collections.abc import Iterable, Iterator

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.address import DimmAddress, PciAddress
from qvirt.model.devices.memory import Memory, MemorySize
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import FileResource, Handler, Resource, line
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.memory import BackendRequest, backend
from qvirt.qemu.switches import Device, Switch
from qvirt.xml.codecs import parse_cpuset

MODELS: dict[str, str] = {
    "dimm": "pc-dimm",
    "nvdimm": "nvdimm",
    "virtio-pmem": "virtio-pmem-pci",
    "virtio-mem": "virtio-mem-pci",
    "sgx-epc": "sgx-epc",
}
#: KiB
_SMALLEST_LABEL = 128
_SMALLEST_NVDIMM = 256 * 1024

_PROPS = PropTable(Memory, Prop("node", "target.node"), Prop("unarmed", "target.readonly"))


class MemoryHandler(Handler[Memory], kind=Memory):
    """A memory module."""

    def defaults(self, dev: Memory, ctx: Context) -> None:
        dev.target.current = None
        if dev.model == "virtio-pmem":
            dev.access = "shared"  # the guest's writes are meant for the file

    def validate(self, dev: Memory, ctx: Context) -> None:
        if dev.model == "nvdimm":
            _validate_nvdimm(dev, ctx)
        elif dev.model in ("virtio-pmem", "virtio-mem"):
            if dev.address is not None and not isinstance(dev.address, PciAddress):
                raise ConfigUnsupported(f"only 'pci' addresses are supported for the {dev.model} device")
            _validate_virtio(dev)
        elif dev.model == "dimm" and dev.address is not None and not isinstance(dev.address, DimmAddress):
            raise ConfigUnsupported("only 'dimm' addresses are supported for the pc-dimm device")
        if not ctx.caps.has_device(MODELS[dev.model]):
            name = "sgx epc" if dev.model == "sgx-epc" else dev.model
            raise ConfigUnsupported(f"{name} isn't supported by this QEMU binary")

    def resources(self, dev: Memory, ctx: Context) -> Iterable[Resource]:
        if dev.source is not None and dev.source.path is not None:
            yield FileResource(dev, dev.source.path, writable=not dev.target.readonly)

    def switches(self, dev: Memory, ctx: BuildContext) -> Iterator[Switch]:
        name = dev.alias.name or ""
        source = dev.source
        request = BackendRequest(
            id=f"mem{name}",
            file=name,
            size=dev.target.size.value,
            node=dev.target.node,
            path=source.path if source is not None else None,
            pmem=source is not None and source.pmem,
            prealloc_path=dev.model == "nvdimm" and not (source is not None and source.pmem),
            alignsize=_kib(source.alignsize if source is not None else None),
            pagesize=_kib(source.pagesize if source is not None else None),
            nodes=parse_cpuset(source.nodemask) if source is not None and source.nodemask else None,
            access=dev.access,
            discard=dev.discard,
            reserve=False if dev.model == "virtio-mem" else None,
            origin=dev,
        )
        yield from backend(ctx.domain, ctx, request).switches
        props: dict[str, JsonValue] = {"driver": MODELS[dev.model], **_PROPS.render(dev, ctx)}
        if dev.target.label is not None:
            props["label-size"] = dev.target.label.size.value << 10
        if dev.target.block is not None:
            props["block-size"] = dev.target.block.value << 10
        if dev.target.requested is not None:
            props["requested-size"] = dev.target.requested.value << 10
        if dev.uuid is not None:
            props["uuid"] = dev.uuid
        props |= {"memdev": request.id, "id": name}
        if isinstance(dev.address, DimmAddress):
            props |= {"slot": dev.address.slot, "addr": dev.address.base}
        yield Device(props | placement(dev, ctx), origin=dev)


def _kib(size: MemorySize | None) -> int | None:
    return size.value if size is not None else None


def _validate_nvdimm(dev: Memory, ctx: Context) -> None:
    if dev.address is not None and not isinstance(dev.address, DimmAddress):
        raise ConfigUnsupported("only 'dimm' addresses are supported for the pc-dimm device")
    if dev.source is None or not dev.source.path:
        raise XmlError("path is required for model 'nvdimm'")
    if dev.discard:
        raise ConfigUnsupported("discard is not supported for nvdimms")
    if dev.target.label is not None:
        label = dev.target.label.size.value
        if label < _SMALLEST_LABEL:
            raise XmlError("nvdimm label must be at least 128KiB")
        if label >= dev.target.size.value:
            raise XmlError("label size must be smaller than NVDIMM size")


def _validate_virtio(dev: Memory) -> None:
    if dev.model == "virtio-pmem":
        if dev.source is None or not dev.source.path:
            raise XmlError(f"path is required for model '{dev.model}'")
        return
    target = dev.target
    if target.requested is None or target.block is None:
        missing = "requested" if target.requested is None else "block"
        raise XmlError(f"'{missing}' must be set for model '{dev.model}'{line(dev)}")
    block, requested, size = target.block.value, target.requested.value, target.size.value
    if requested > size:
        raise XmlError("requested size must be smaller than or equal to @size")
    if block & (block - 1) or block < 2048:
        raise ConfigUnsupported("block size must be a power of two, at least 2 MiB")
    if requested % block:
        raise XmlError("requested size must be an integer multiple of block size")
