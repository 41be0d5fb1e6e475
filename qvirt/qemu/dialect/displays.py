"""Displays, graphics cards and sound in older words: ``-sdl``, ``-vga``, and no ``-audiodev``."""

from collections.abc import Callable, Iterator, Sequence

from qvirt.model.devices.graphics import Graphics
from qvirt.model.devices.video import Video
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Audiodev, Device, KeyValue, Object, Option, Pairs, Switch

_VGA_NAMES = {"vga": "std", "vmvga": "vmware"}
#: cards that had a switch of their own before -vga; the emulator's default had none
_OWN_SWITCH = {"vga": "std-vga", "vmvga": "vmwarevga"}


def rewrite(switches: Sequence[Switch], ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    """Yield the switches with those of displays and graphics cards rewritten."""
    for switch in switches:
        origin = switch.origin
        if isinstance(switch, Audiodev) and not caps.says("-audiodev"):
            continue
        if isinstance(origin, Graphics):
            yield from _graphics(switch, origin, ctx, caps)
        elif isinstance(origin, Video) and isinstance(switch, Device):
            if origin.model.acceleration.accel3d and caps.says(f"{switch.props['driver']}.virgl"):
                switch = Device({**switch.props, "virgl": True}, origin=origin)
            yield from _card(switch, origin, caps)
        else:
            yield switch
    if not ctx.domain.devices.videos and not caps.says("-nodefaults") and caps.says("-vga:none"):
        yield Option("vga", "none")


def _graphics(switch: Switch, dev: Graphics, ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    if isinstance(switch, Object) and not caps.says("tls-creds-x509"):
        return
    if isinstance(switch, Pairs):
        pairs = [(key, value) for key, value in switch.props if _takes_spice(key, caps)]
        yield Pairs("spice", pairs, origin=dev)
        return
    if not isinstance(switch, KeyValue):
        yield switch
        return
    change = _CHANGES.get(switch.name)
    if change is None:
        yield switch
    else:
        yield from change(switch, dev, ctx, caps)


#: options of -spice that came later
_SPICE_LATER = frozenset(
    {"seamless-migration", "gl", "rendernode", "disable-agent-file-xfer", "disable-copy-paste"}
)


def _takes_spice(key: str, caps: DialectCaps) -> bool:
    return key not in _SPICE_LATER or caps.says(f"-spice:{key}")


def _vnc(switch: KeyValue, dev: Graphics, ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    props = dict(switch.props)
    for key in ("audiodev", "power-control", "websocket", "share"):
        if not caps.says(f"-vnc:{key}"):
            props.pop(key, None)
    if "tls-creds" in props and not caps.says("tls-creds-x509"):
        del props["tls-creds"]
        verify = "x509verify" if ctx.settings.vnc_tls_x509_verify else "x509"
        props |= {"tls": True, verify: ctx.settings.vnc_tls_x509_cert_dir}
    yield KeyValue("vnc", props, switch.implied, origin=dev)


def _display(switch: KeyValue, dev: Graphics, ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    if dev.type != "sdl" or caps.says("-display:type"):
        yield switch
    elif caps.says("-sdl"):
        yield Option("sdl", origin=dev)


_CHANGES: dict[str, Callable[[KeyValue, Graphics, BuildContext, DialectCaps], Iterator[Switch]]] = {
    "vnc": _vnc,
    "display": _display,
}


def _card(switch: Device, dev: Video, caps: DialectCaps) -> Iterator[Switch]:
    if not dev.model.is_primary or (caps.says("@primary-video") and caps.says("-device")):
        yield switch
        return
    type = dev.model.type or ""
    if caps.says("-vga"):
        yield Option("vga", _VGA_NAMES.get(type, type), origin=dev)
    elif type in _OWN_SWITCH:
        yield Option(_OWN_SWITCH[type], origin=dev)
    if not caps.says("-device"):
        return
    driver = str(switch.props["driver"])
    for key in ("ram_size", "vram_size", "vram64_size_mb", "vgamem_mb", "max_outputs"):
        value: JsonValue = switch.props.get(key)
        if value and (key in ("ram_size", "vram_size") or caps.says(f"{driver}.{key}")):
            yield KeyValue("global", {f"{driver}.{key}": value}, origin=dev)
