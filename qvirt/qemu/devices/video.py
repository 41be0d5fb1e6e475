"""Graphics cards: which one a guest gets, how much memory it has, and its ``-device``."""

from collections.abc import Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.video import Video
from qvirt.model.domain import Domain
from qvirt.qemu import machines
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import FileResource, Handler, PairResource, Resource, line
from qvirt.qemu.devices.disk_rules import shared_memory
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Chardev, Device, Switch

#: KiB of video memory when the document does not say
_VRAM = {"vga": 16384, "cirrus": 16384, "vmvga": 16384, "bochs": 16384, "qxl": 65536}
_QXL_RAM = 65536
_QXL_VGAMEM = 16384
_MIB = 1024  # KiB
_MAX_KIB = (2**32 - 1) // 1024

#: the QEMU type of a card the guest boots with
_PRIMARY = {
    "vga": "VGA",
    "cirrus": "cirrus-vga",
    "vmvga": "vmware-svga",
    "qxl": "qxl-vga",
    "virtio": "virtio-vga",
    "bochs": "bochs-display",
    "ramfb": "ramfb",
}
_WITH_RESOLUTION = ("vga", "qxl", "virtio", "bochs")


class VideoHandler(Handler[Video], kind=Video):
    config = False

    def defaults(self, dev: Video, ctx: Context) -> None:
        settle_primary(ctx.domain)
        model = dev.model
        if model.type is None:
            model.type = default_model(ctx)
        if model.type == "none":
            for name in ("ram", "vram", "vram64", "vgamem", "heads", "primary", "acceleration", "resolution"):
                model.__dict__.pop(name, None)
            dev.address = None
            return
        if model.type == "qxl":
            model.ram = _round(model.ram or 0) or _QXL_RAM
            model.vgamem = model.vgamem or _QXL_VGAMEM
        model.vram = _round(model.vram or 0) or _VRAM.get(model.type)
        if model.heads is None:
            model.heads = 1

    def validate(self, dev: Video, ctx: Context) -> None:
        _validate_document(dev, ctx.domain)
        _validate_emulator(dev, ctx)

    def prepare(self, dev: Video, ctx: BuildContext) -> None:
        if is_served(dev) and not shared_memory(ctx):
            raise ConfigUnsupported(f"'vhostuser' requires shared memory{line(dev)}")

    def resources(self, dev: Video, ctx: Context) -> Iterable[Resource]:
        if not is_served(dev):
            return
        yield PairResource(dev, gpu_socket(dev))
        node = dev.model.acceleration.rendernode
        if node is not None:
            yield FileResource(dev, node, shared=True, relabel=False)

    def switches(self, dev: Video, ctx: BuildContext) -> Iterator[Switch]:
        model = dev.model
        if model.type == "none":
            return
        socket = None
        if is_served(dev):
            socket = gpu_socket(dev)
            fd = ctx.launch.fds(socket)[0]
            yield Chardev("socket", {"id": socket, "fd": fd}, origin=dev)
        props: dict[str, JsonValue] = {"driver": _type(dev, ctx)}
        if model.type == "virtio":
            props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
        props["id"] = dev.alias.name
        if model.type in ("qxl", "virtio"):
            props["max_outputs"] = model.heads or None
        props["chardev"] = socket
        if model.type == "qxl":
            props["ram_size"] = (model.ram or 0) * 1024
            props["vram_size"] = (model.vram or 0) * 1024
            props["vram64_size_mb"] = (model.vram64 or 0) // _MIB
            props["vgamem_mb"] = (model.vgamem or 0) // _MIB
        elif model.type in ("vga", "vmvga") and model.vram:
            props["vgamem_mb"] = model.vram // _MIB
        elif model.type == "bochs" and model.vram:
            props["vgamem"] = model.vram * 1024
        if model.resolution is not None:
            props["xres"], props["yres"] = model.resolution.x, model.resolution.y
        yield Device({**props, **placement(dev, ctx)}, origin=dev)


def is_served(dev: Video) -> bool:
    """Tell whether a process beside QEMU is the card."""
    return dev.driver.name == "vhostuser"


def gpu_socket(dev: Video) -> str:
    """Return what the connection to that process is called."""
    return f"chr-vu-{dev.alias.name}"


def default_model(ctx: Context) -> str:
    """Return the card a guest of this machine and emulator gets."""
    domain = ctx.domain
    if machines.is_pseries(domain) or domain.os.type.arch in ("ppc64", "ppc64le"):
        return "vga"
    if machines.is_arm_virt(domain) or machines.is_riscv_virt(domain) or machines.is_s390(domain):
        return "virtio"
    if ctx.caps.has_device("cirrus-vga"):
        return "cirrus"
    if ctx.caps.has_device("VGA"):
        return "vga"
    return "virtio" if _has_virtio(ctx) else "none"


def add_default_video(ctx: Context) -> None:
    """Give a domain that has a display a card to show on it, unless it has one."""
    devices = ctx.domain.devices
    if devices.graphics and not devices.videos:
        devices.videos.append(Video())


def settle_primary(domain: Domain) -> None:
    """Make exactly one card the first, and put it first. Raises ConfigUnsupported when several want to be."""
    videos = domain.devices.videos
    chosen = [video for video in videos if video.model.is_primary]
    if len(chosen) > 1:
        raise ConfigUnsupported("Only one primary video device is supported", domain=ErrorDomain.DOMAIN)
    if chosen and videos[0] is not chosen[0]:
        videos.remove(chosen[0])
        videos.insert(0, chosen[0])
    if videos and videos[0].model.type != "none":
        videos[0].model.primary = "yes"


def _round(kib: int) -> int:
    """Round up to a power of two, as the guest's PCI window is; 0 for what does not fit into 32 bits."""
    return (1 << (kib - 1).bit_length()) & 0xFFFFFFFF if kib > 0 else 0


def _has_virtio(ctx: Context) -> bool:
    return any(
        ctx.caps.has_device(type)
        for type in ("virtio-gpu-pci", "virtio-gpu-device", "virtio-gpu-ccw", "virtio-vga")
    )


def _validate_document(dev: Video, domain: Domain) -> None:
    def refuse(text: str) -> ConfigUnsupported:
        return ConfigUnsupported(text, domain=ErrorDomain.DOMAIN)

    model = dev.model
    if model.type == "none" and len(domain.devices.videos) > 1:
        raise refuse("a 'none' video type must be the only video device defined for the domain")
    if dev.driver.name == "vhostuser" and model.type != "virtio":
        raise refuse("'vhostuser' driver is only supported with 'virtio' device")
    if model.acceleration.rendernode is not None and dev.driver.name != "vhostuser":
        raise refuse("unsupported rendernode accel attribute without 'vhostuser'")
    if model.type != "virtio":
        for option in ("iommu", "ats", "packed"):
            if getattr(dev.driver, option) is not None:
                raise refuse(f"{option} driver option is only supported for virtio devices")
    if model.type == "ramfb" and dev.address is not None:
        raise refuse("address not supported for video type ramfb")
    if model.type != "qxl":
        for attribute in ("ram", "vram64", "vgamem"):
            if getattr(model, attribute):
                raise refuse(f"{attribute} attribute only supported for video type qxl")


def _validate_emulator(dev: Video, ctx: Context) -> None:
    model = dev.model
    type = model.type
    if type == "none":
        return
    known = _PRIMARY.get(type or "")
    if known is None or not (_has_virtio(ctx) if type == "virtio" else ctx.caps.has_device(known)):
        raise ConfigUnsupported(f"domain configuration does not support video model '{type}'")
    if is_served(dev):
        served = _served_type(dev)
        if not any(ctx.caps.has_device(name) for name in (served, f"{served}-pci")):
            raise ConfigUnsupported(f"{served} device is not supported with this QEMU binary")
    if not model.is_primary and type not in ("qxl", "virtio"):
        raise ConfigUnsupported(f"video type '{type}' is only valid as primary video device")
    if model.acceleration.accel3d and type != "virtio":
        raise ConfigUnsupported("3d acceleration is supported only with 'virtio' video device")
    if type == "qxl":
        for attribute in ("vram", "ram"):
            if (getattr(model, attribute) or 0) > _MAX_KIB:
                raise ConfigUnsupported(f"value for '{attribute}' must be less than '{_MAX_KIB}'")
        if model.vgamem:
            if model.vgamem < _MIB:
                raise ConfigUnsupported("value for 'vgamem' must be at least 1 MiB (1024 KiB)")
            if model.vgamem & (model.vgamem - 1):
                raise ConfigUnsupported("value for 'vgamem' must be power of two")
    if type not in ("qxl", "virtio") and model.heads is not None and model.heads != 1:
        raise ConfigUnsupported(f"video type '{type}' doesn't support multiple 'heads'")
    if type in ("vga", "vmvga") and model.vram and model.vram < _MIB:
        raise ConfigUnsupported("value for 'vram' must be at least 1 MiB (1024 KiB)")
    if model.resolution is not None and type not in _WITH_RESOLUTION:
        raise XmlError("model resolution is not supported", domain=ErrorDomain.QEMU)


def _type(dev: Video, ctx: Context) -> str:
    type = dev.model.type or ""
    if is_served(dev):
        served = _served_type(dev)
        return served if served.endswith("vga") else virtio_type(served, dev)
    accel3d = type == "virtio" and bool(dev.model.acceleration.accel3d)
    if type != "virtio":
        return _PRIMARY[type] if dev.model.is_primary or type != "qxl" else "qxl"
    if dev.model.is_primary and ctx.caps.has_device("virtio-vga"):
        return "virtio-vga-gl" if accel3d and ctx.caps.has_device("virtio-vga-gl") else "virtio-vga"
    base = "virtio-gpu-gl" if accel3d and ctx.caps.has_device("virtio-gpu-gl-pci") else "virtio-gpu"
    return virtio_type(base, dev)


def _served_type(dev: Video) -> str:
    return "vhost-user-vga" if dev.model.is_primary else "vhost-user-gpu"
