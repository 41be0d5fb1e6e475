"""``<input>``: mouse, tablet, keyboard, and host input devices."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError
from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.xml.codecs import on_off, string
from qvirt.xml.fields import attr, child, part
from qvirt.xml.node import Node


class InputDriver(VirtioDriver, tag="driver"):
    """``<driver>`` of a virtio input device."""


class InputSource(Node, tag="source"):
    """``<source>``: ``evdev`` for type passthrough, ``dev`` and the rest for type evdev."""

    evdev: str | None = attr(string)
    dev: str | None = attr(string)
    grab: str | None = attr(string)
    grab_toggle: str | None = attr(string, "grabToggle")
    repeat: bool | None = attr(on_off)

    def keep(self, kind: str) -> None:
        """Drop what a source of this type of device does not have."""
        other = {"passthrough": ("dev", "grab", "grab_toggle", "repeat"), "evdev": ("evdev",)}
        for name in other.get(kind, ()):
            self.__dict__.pop(name, None)


class Input(Device, tag="input"):
    """``<input>``; ``bus`` is None only before the domain is completed."""

    type: str = attr(string, default="")
    bus: str | None = attr(string)
    model: str | None = attr(string)
    driver: InputDriver = part(InputDriver)
    source: InputSource | None = child(InputSource)

    def check(self) -> None:
        if not self.type:
            raise InternalError("missing input device type", domain=ErrorDomain.DOMAIN)
        if self.source is not None:
            self.source.keep(self.type)
