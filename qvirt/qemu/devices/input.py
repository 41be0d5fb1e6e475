"""Input devices: PS/2 ones are part of the machine, the others are USB or virtio devices, or host devices."""

from collections.abc import Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InternalError,
    OperationUnsupported,
    QvirtError,
    XmlError,
)
from qvirt.model.devices.address import CcwAddress, PciAddress, UsbAddress
from qvirt.model.devices.input import Input
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import FileResource, Handler, Resource, line
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_s390, is_x86
from qvirt.qemu.switches import Device, Object, Switch

TYPES = frozenset({"mouse", "tablet", "keyboard", "passthrough", "evdev"})
BUSES = frozenset({"ps2", "usb", "xen", "parallels", "virtio", "none"})
MODELS = frozenset({"virtio", "virtio-transitional", "virtio-non-transitional"})
#: libvirt's words for the grab and toggle of an evdev input
GRABS = frozenset({"all"})
GRAB_TOGGLES = frozenset(
    {"ctrl-ctrl", "alt-alt", "shift-shift", "meta-meta", "scrolllock", "ctrl-scrolllock"}
)

#: the buses that take a device while the guest runs
_PLUGGABLE = ("usb", "virtio")

_USB_DEVICES = {"mouse": "usb-mouse", "tablet": "usb-tablet", "keyboard": "usb-kbd"}
_VIRTIO_DEVICES = {
    "mouse": "virtio-mouse",
    "tablet": "virtio-tablet",
    "keyboard": "virtio-keyboard",
    "passthrough": "virtio-input-host",
}
_EVDEV = PropTable(
    Input,
    Prop("evdev", "source.dev"),
    Prop("repeat", "source.repeat"),
    Prop("grab-toggle", "source.grab_toggle"),
)


class InputHandler(Handler[Input], kind=Input):
    """Mouse, tablet, keyboard, and host input devices."""

    live = True

    def defaults(self, dev: Input, ctx: Context) -> None:
        if dev.type not in TYPES:
            raise ConfigUnsupported(
                f"unknown input device type '{dev.type}'{line(dev)}", domain=ErrorDomain.DOMAIN
            )
        if dev.bus is not None and dev.bus not in BUSES:
            raise ConfigUnsupported(f"unknown input bus type '{dev.bus}'{line(dev)}")
        if dev.model is not None and dev.model not in MODELS:
            raise ConfigUnsupported(f"unknown input model '{dev.model}'{line(dev)}")
        if dev.type == "evdev":
            if dev.source is None or not dev.source.dev:
                raise XmlError("Missing evdev path for input device")
            if dev.bus not in (None, "none"):
                raise ConfigUnsupported("input evdev doesn't support bus element")
            dev.bus = None
            return
        if dev.type != "passthrough":
            dev.source = None  # of no use to a device that QEMU makes up
        if dev.bus is None:
            dev.bus = _default_bus(dev, ctx)
        elif dev.bus == "none":
            dev.bus = None
        if dev.bus == "ps2":
            if dev.type not in ("mouse", "keyboard"):
                raise InternalError(
                    f"ps2 bus does not support {dev.type} input device", domain=ErrorDomain.DOMAIN
                )
        elif dev.bus == "xen":
            raise InternalError(f"unsupported input bus {dev.bus}", domain=ErrorDomain.DOMAIN)
        if dev.bus == "usb":
            if dev.address is not None and not isinstance(dev.address, UsbAddress):
                raise XmlError("Invalid address for a USB device")
            if usb_is_disabled(ctx):
                raise ConfigUnsupported(
                    "Can't add USB input device. USB bus is disabled", domain=ErrorDomain.DOMAIN
                )

    def validate(self, dev: Input, ctx: Context) -> None:
        source = dev.source
        if dev.type == "passthrough" and dev.bus != "virtio":
            raise ConfigUnsupported("only bus 'virtio' is supported for 'passthrough' input devices")
        if dev.type == "evdev":
            if source is not None:
                _check_word("grab", source.grab, GRABS)
                _check_word("grabToggle", source.grab_toggle, GRAB_TOGGLES)
            return
        if dev.model is not None and dev.bus != "virtio":
            raise ConfigUnsupported(f"only bus 'virtio' is supported for input model '{dev.model}'")
        if dev.bus == "virtio":
            _validate_virtio(dev, ctx)
        if dev.bus == "usb" and dev.type == "keyboard" and not ctx.caps.has_device("usb-kbd"):
            raise ConfigUnsupported("usb keyboard is not supported by this QEMU binary")

    def check_plug(self, dev: Input, ctx: Context) -> None:
        if dev.bus not in _PLUGGABLE:
            raise OperationUnsupported(f"input device on bus '{dev.bus or 'none'}' cannot be hot plugged.")

    def check_unplug(self, dev: Input, ctx: Context) -> None:
        if dev.bus not in _PLUGGABLE:
            raise OperationUnsupported(f"input device on bus '{dev.bus or 'none'}' cannot be detached")

    def missing(self, dev: Input, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return DeviceMissing("matching input device not found")

    def resources(self, dev: Input, ctx: Context) -> Iterable[Resource]:
        path = None if dev.source is None else dev.source.evdev or dev.source.dev
        return () if path is None else (FileResource(dev, path),)

    def switches(self, dev: Input, ctx: BuildContext) -> Iterator[Switch]:
        if dev.type == "evdev":
            if dev.source is None or not dev.source.dev:
                raise ConfigUnsupported(f"evdev input{line(dev)} names no device; add <source dev='…'/>")
            props: dict[str, JsonValue] = {"qom-type": "input-linux", "id": dev.alias.name}
            made = _EVDEV.render(dev, ctx)
            if dev.source.grab == "all":
                made["grab_all"] = True
            yield Object(props | made, origin=dev)
        elif dev.bus == "usb":
            base: dict[str, JsonValue] = {"driver": _USB_DEVICES[dev.type], "id": dev.alias.name}
            yield Device(base | placement(dev, ctx), origin=dev)
        elif dev.bus == "virtio":
            props = {"driver": virtio_type(_VIRTIO_DEVICES[dev.type], dev, dev.model)}
            props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
            props["id"] = dev.alias.name
            if dev.type == "passthrough" and dev.source is not None:
                props["evdev"] = dev.source.evdev
            yield Device(props | placement(dev, ctx), origin=dev)


def usb_is_disabled(ctx: Context) -> bool:
    """Tell whether the domain says that it has no USB."""
    return any(c.type == "usb" and c.model == "none" for c in ctx.domain.devices.controllers)


def _default_bus(dev: Input, ctx: Context) -> str:
    if dev.type in ("mouse", "keyboard") and is_x86(ctx.domain):
        return "ps2"
    if is_s390(ctx.domain) or dev.type == "passthrough":
        return "virtio"
    return "usb"


def _check_word(name: str, word: str | None, known: frozenset[str]) -> None:
    if word is not None and word not in known:
        raise XmlError(f"Invalid value for attribute '{name}' in element 'source': '{word}'.")


def _validate_virtio(dev: Input, ctx: Context) -> None:
    if dev.model in ("virtio-transitional", "virtio-non-transitional"):
        raise ConfigUnsupported(
            f"virtio (non-)transitional models are not supported for input type={dev.type}"
        )
    base = _VIRTIO_DEVICES[dev.type]
    suffix = {PciAddress: "-pci", CcwAddress: "-ccw"}.get(type(dev.address), "-device")  # type: ignore[arg-type]
    if not ctx.caps.has_device(base + suffix):
        raise ConfigUnsupported(f"{base}{suffix} is not supported by this QEMU binary")
