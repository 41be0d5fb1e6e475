"""Memory modules: DIMMs, NVDIMMs and the virtio kinds, each a backend and the module it fills."""

from collections.abc import Iterable, Iterator
from functools import partial

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InvalidArg,
    OperationUnsupported,
    QvirtError,
    XmlDetail,
    XmlError,
)
from qvirt.model.devices.address import DimmAddress, PciAddress
from qvirt.model.devices.memory import Memory, MemorySize
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.dimm import IN_SLOTS
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import DirectoryResource, FileResource, Handler, Resource, agrees, line
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.memory import BackendRequest, backend, cells, module_alignment, module_folder, round_up
from qvirt.qemu.switches import Device, Step, Switch
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

_PROPS = PropTable(Memory, Prop("node", "target.node"), Prop("unarmed", "target.readonly"))


class MemoryHandler(Handler[Memory], kind=Memory):
    """A memory module."""

    live = config_update = live_update = True

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

    def entered(self, dev: Memory, domain: Domain) -> None:
        size = dev.target.size
        in_use = None
        if domain.id is not None and domain.id >= 0:  # as a start does with those it finds
            size.value = round_up(size.value, module_alignment(dev, domain))
            in_use = 0 if dev.model == "virtio-mem" else None  # the guest takes what it is offered later
        _resize(domain, size.value, in_use)

    def left(self, dev: Memory, domain: Domain) -> None:
        current = dev.target.current
        _resize(domain, -dev.target.size.value, -current.value if current is not None else None)

    def clash(self, dev: Memory, ctx: Context, *, live: bool) -> QvirtError | None:
        room, total, nodes = ctx.domain.max_memory, ctx.domain.memory, len(cells(ctx.domain))
        if dev.target.node is not None and dev.target.node >= nodes:
            return XmlDetail(
                "can't add memory backend as guest has no NUMA nodes configured"
                if not nodes
                else f"can't add memory backend for guest node '{dev.target.node}' as the guest has only "
                f"'{nodes}' NUMA nodes configured",
                domain=ErrorDomain.DOMAIN,
            )
        if room is None or total is None:
            return ConfigUnsupported(
                "cannot use/hotplug a memory device when domain 'maxMemory' is not defined",
                domain=ErrorDomain.DOMAIN,
            )
        if total.value + dev.target.size.value > room.value:
            return ConfigUnsupported(
                f"Attaching memory device with size '{dev.target.size.value}' would exceed domain's "
                f"maxMemory config size '{room.value}'",
                domain=ErrorDomain.DOMAIN,
            )
        count = sum(known.model in IN_SLOTS for known in (dev, *ctx.domain.devices.memory))
        if dev.model not in IN_SLOTS or count <= room.slots:
            return None
        return ConfigUnsupported(f"memory device count '{count}' exceeds slots count '{room.slots}'")

    def check_plug(self, dev: Memory, ctx: Context) -> None:
        if dev.model == "sgx-epc":
            raise OperationUnsupported(f"hotplug is not supported for {dev.model} device")

    def same(self, wanted: Memory, known: Memory, ctx: Context) -> bool:
        if wanted.model != known.model:
            return False
        if isinstance(wanted.address, DimmAddress) and isinstance(known.address, DimmAddress):
            return wanted.address.slot == known.address.slot
        if wanted.alias.name is not None or wanted.address is not None:
            return agrees(wanted, known)
        return self.content(wanted, ctx) == self.content(known, ctx)

    def content(self, dev: Memory, ctx: Context) -> Memory:
        twin = super().content(dev, ctx)
        twin.target.requested = None
        return twin

    def missing(self, dev: Memory, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        if update:
            if live:
                return ConfigUnsupported(f"memory '{dev.alias.name or '(null)'}' not found")
            return InvalidArg("memory not found")
        if live:
            return DeviceMissing(f"model '{dev.model}' memory device not present in the domain configuration")
        return DeviceMissing("matching memory device was not found")

    def update(self, old: Memory, new: Memory, ctx: BuildContext, *, force: bool) -> Iterator[Step]:
        if old.model != "virtio-mem" or self.content(old, ctx) != self.content(new, ctx):
            raise OperationUnsupported(
                f"cannot modify memory of model '{old.model}'; only the requested size of virtio-mem changes"
            )
        if old.target.requested != new.target.requested:
            yield Step(*_request(new), undo=_request(old))

    def resources(self, dev: Memory, ctx: Context) -> Iterable[Resource]:
        if dev.source is not None and dev.source.path is not None:
            yield FileResource(dev, dev.source.path, writable=not dev.target.readonly)
        elif isinstance(ctx, BuildContext) and dev.model != "sgx-epc":
            said = _kib(dev.source.pagesize if dev.source is not None else None)
            folder = module_folder(ctx.domain, ctx, dev.target.node, said, dev.access)
            if folder is not None:
                yield DirectoryResource(dev, folder)

    def switches(self, dev: Memory, ctx: BuildContext) -> Iterator[Switch]:
        name = dev.alias.name or ""
        source = dev.source
        if dev.target.node is None and dev.model in IN_SLOTS and cells(ctx.domain):
            raise ConfigUnsupported(f"target NUMA node needs to be specified for memory device{line(dev)}")
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


def _resize(domain: Domain, change: int, in_use: int | None) -> None:
    """Let the guest's memory grow by so many KiB; one that uses all it has goes on to do so.

    in_use: how many of them the guest uses at once, where that is known.
    """
    total, current = domain.memory, domain.current_memory
    if total is None:
        return
    uses_all = current is not None and current.value >= total.value
    total.value += change
    if current is not None:
        if in_use is not None:
            current.value = min(current.value + in_use, total.value)
        else:
            current.value = total.value if uses_all else min(current.value, total.value)


def _request(dev: Memory) -> tuple[str, dict[str, JsonValue]]:
    requested = dev.target.requested
    return "qom-set", {
        "path": f"/machine/peripheral/{dev.alias.name}",
        "property": "requested-size",
        "value": requested.value << 10 if requested is not None else 0,
    }


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
    refused = partial(XmlDetail, domain=ErrorDomain.DOMAIN)
    block, requested, size = target.block.value, target.requested.value, target.size.value
    if requested > size:
        raise refused(f"requested size must be smaller than or equal to @size ({size}KiB)")
    if block & (block - 1) or block < 2048:
        raise refused("block size must be a power of two, at least 2 MiB")
    if requested % block:
        raise refused("requested size must be an integer multiple of block size")
