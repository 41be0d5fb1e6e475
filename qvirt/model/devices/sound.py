"""``<sound>``: a sound card."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.device import Device
from qvirt.model.devices.graphics import AudioRef
from qvirt.xml.codecs import string, word
from qvirt.xml.fields import attr, child, children
from qvirt.xml.node import Node


class Codec(Node, tag="codec"):
    """``<codec>``: what hangs on an HDA card."""

    type: str = attr(string, required=True)

    def check(self) -> None:
        if self.type not in ("duplex", "micro", "output"):
            raise ConfigUnsupported(f"unknown codec type '{self.type}'", domain=ErrorDomain.DOMAIN)


class Sound(Device, tag="sound"):
    """``<sound>``."""

    model: str = attr(word("sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "ich7"), required=True)
    codecs: list[Codec] = children(Codec)
    audio: AudioRef | None = child(AudioRef)

    def check(self) -> None:
        if self.model not in ("ich6", "ich9"):
            self.codecs.clear()
