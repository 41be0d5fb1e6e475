"""Emulators without ``-device`` or ``-chardev``: every device has a switch of its own, or cannot be had."""

from collections.abc import Callable, Iterator, Sequence

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.char import Parallel, Serial
from qvirt.model.devices.chardev import CharDevice, CharSource
from qvirt.model.devices.controller import Controller
from qvirt.model.devices.hostdev import Hostdev, PciHostAddress, UsbHostAddress
from qvirt.model.devices.input import Input
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.devices.sound import Sound
from qvirt.model.devices.watchdog import Watchdog
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.base import line
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.switches import Chardev, Device, KeyValue, Option, Switch
from qvirt.xml.node import Node


def rewrite(switches: Sequence[Switch], ctx: BuildContext, caps: DialectCaps) -> Iterator[Switch]:
    """Yield the switches without ``-device`` and ``-chardev`` where the emulator has none."""
    has_device, has_chardev = caps.says("-device"), caps.says("-chardev")
    for switch in switches:
        origin = switch.origin
        if isinstance(switch, Chardev) and not (has_chardev and has_device):
            if switch.props.get("id") == "charmonitor":
                yield switch
            elif not isinstance(origin, (Serial, Parallel)):
                raise _missing(origin, "-chardev")
        elif isinstance(switch, Device):
            yield from _device(switch, has_device, has_chardev, caps)
        elif isinstance(origin, Serial) and _is_port(switch) and not has_chardev:
            yield Option("serial", port_word(origin), origin=origin)
        else:
            yield switch
    if not caps.says("-nodefaults"):
        yield from _nothing_by_default(ctx)


def _device(switch: Device, has_device: bool, has_chardev: bool, caps: DialectCaps) -> Iterator[Switch]:
    origin = switch.origin
    if isinstance(origin, (Serial, Parallel)) and not (has_device and has_chardev):
        yield Option(origin.tag, port_word(origin), origin=origin)
    elif has_device:
        yield switch
    else:
        make = _SWITCHES.get(type(origin)) if origin is not None else None
        if make is None:
            raise _missing(origin, "-device")
        yield from make(switch, origin, caps)


def _missing(origin: Node | None, what: str) -> ConfigUnsupported:
    tag = f"<{origin.tag}>{line(origin)}" if origin is not None else "this machine"
    return ConfigUnsupported(f"{tag} needs an emulator with {what}; leave it out or name a newer dialect")


def _is_port(switch: Switch) -> bool:
    return isinstance(switch, Option) and switch.name == "serial"


def _nothing_by_default(ctx: BuildContext) -> Iterator[Switch]:
    devices = ctx.domain.devices
    if not devices.interfaces:
        yield Option("net", "none")
    if not devices.serials:
        yield Option("serial", "none")
    if not devices.parallels:
        yield Option("parallel", "none")


def port_word(dev: CharDevice, *, listens: str = ",server,nowait") -> str:
    """Return what ``-serial`` and ``-parallel`` take. Raises ConfigUnsupported.

    listens: how a server is told.
    """
    source = dev.source
    make = _WORDS.get(dev.type)
    if make is None:
        raise ConfigUnsupported(f"<{dev.tag} type='{dev.type}'>{line(dev)} needs an emulator with -chardev")
    is_server = dev.type in ("unix", "tcp") and source.mode == "bind"
    return make(dev, source) + (listens if is_server else "")


def _tcp(dev: CharDevice, source: CharSource) -> str:
    telnet = bool(dev.protocols) and dev.protocols[0].type == "telnet"
    return f"{'telnet' if telnet else 'tcp'}:{source.host}:{source.service}"


def _udp(dev: CharDevice, source: CharSource) -> str:
    ends = {end.mode or "connect": end for end in dev.sources}
    remote, local = ends.get("connect", CharSource()), ends.get("bind", CharSource())
    return f"udp:{remote.host or ''}:{remote.service}@{local.host or ''}:{local.service or '0'}"


_WORDS: dict[str, Callable[[CharDevice, CharSource], str]] = {
    "null": lambda dev, source: "null",
    "vc": lambda dev, source: "vc",
    "pty": lambda dev, source: "pty",
    "stdio": lambda dev, source: "stdio",
    "dev": lambda dev, source: source.path or "",
    "file": lambda dev, source: f"file:{source.path}",
    "pipe": lambda dev, source: f"pipe:{source.path}",
    "unix": lambda dev, source: f"unix:{source.path}",
    "tcp": _tcp,
    "udp": _udp,
}


# ------------------------------------------------------------ devices


def _controller(switch: Device, dev: Controller, caps: DialectCaps) -> Iterator[Switch]:
    if dev.type == "usb":
        yield Option("usb", origin=dev)


def _input(switch: Device, dev: Input, caps: DialectCaps) -> Iterator[Switch]:
    if dev.bus != "usb":
        raise _missing(dev, "-device")
    yield Option("usbdevice", dev.type, origin=dev)


def _sound(switch: Device, dev: Sound, caps: DialectCaps) -> Iterator[Switch]:
    if not str(switch.props["driver"]).startswith("hda-"):
        yield Option("soundhw", {"ich6": "hda"}.get(dev.model, dev.model), origin=dev)


def _watchdog(switch: Device, dev: Watchdog, caps: DialectCaps) -> Iterator[Switch]:
    yield Option("watchdog", dev.model, origin=dev)


def _balloon(switch: Device, dev: Memballoon, caps: DialectCaps) -> Iterator[Switch]:
    if caps.says("-balloon"):
        yield Option("balloon", "virtio", origin=dev)


def _hostdev(switch: Device, dev: Hostdev, caps: DialectCaps) -> Iterator[Switch]:
    where = dev.host_address
    source = dev.source
    if isinstance(where, PciHostAddress) and caps.says("-pcidevice"):
        yield KeyValue("pcidevice", {"host": where.name.removeprefix("0000:")}, origin=dev)
    elif isinstance(where, UsbHostAddress):
        yield Option("usbdevice", f"host:{where.bus or 0}.{where.device or 0}", origin=dev)
    elif (
        dev.type == "usb" and source is not None and source.vendor is not None and source.product is not None
    ):
        yield Option("usbdevice", f"host:{source.vendor.id}:{source.product.id}", origin=dev)
    else:
        raise _missing(dev, "-device")


_SWITCHES: dict[type, Callable[..., Iterator[Switch]]] = {
    Controller: _controller,
    Input: _input,
    Sound: _sound,
    Watchdog: _watchdog,
    Memballoon: _balloon,
    Hostdev: _hostdev,
}
