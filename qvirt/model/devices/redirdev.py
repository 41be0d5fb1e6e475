"""``<redirdev>``: a USB device of the viewer's machine; ``<redirfilter>``: which ones may come."""

import re

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.model.devices.chardev import SOURCE_ATTRIBUTES, CharDevice, CharSource, Log, Protocol
from qvirt.model.devices.device import Device
from qvirt.xml.codecs import Codec, string, yes_no
from qvirt.xml.fields import attr, children
from qvirt.xml.node import Node


class Redirdev(CharDevice, tag="redirdev"):
    """``<redirdev>``."""

    bus: str = attr(string, default="usb")
    type: str = attr(string, default="", omit="")
    sources: list[CharSource] = children(CharSource)
    protocols: list[Protocol] = children(Protocol)
    logs: list[Log] = children(Log)

    def check(self) -> None:
        if self.bus != "usb":
            raise ConfigUnsupported(f"unknown redirdev bus '{self.bus}'", domain=ErrorDomain.DOMAIN)
        if not self.type:
            raise InternalError("missing type in redirdev", domain=ErrorDomain.DOMAIN)
        if self.type not in SOURCE_ATTRIBUTES:
            raise ConfigUnsupported(
                f"unknown redirdev character device type '{self.type}'", domain=ErrorDomain.DOMAIN
            )
        super().check()


def _id(width: int) -> Codec[int]:
    def parse(said: str) -> int:
        if not re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)", said.strip()):
            raise ValueError(said)
        value = int(said, 16 if "x" in said.lower() else 10)
        if not -1 <= value < 2**32:
            raise ValueError(said)
        return value

    return Codec(parse, f"0x{{:0{width}X}}".format, "a number, -1 for any")


class UsbFilter(Node, tag="usbdev"):
    """``<usbdev>``: one rule; what is left out, or -1, matches everything."""

    class_: int | None = attr(_id(2), "class", omit=-1)
    vendor: int | None = attr(_id(4), omit=-1)
    product: int | None = attr(_id(4), omit=-1)
    version: str | None = attr(string, omit="-1")
    allow: bool = attr(yes_no, required=True)

    def check(self) -> None:
        for what, value, most in (
            ("Class code", self.class_, 0xFF),
            ("Vendor ID", self.vendor, 0xFFFF),
            ("Product ID", self.product, 0xFFFF),
        ):
            if value is not None and value > most:
                raise InternalError(f"Invalid USB {what} 0x{value:x}", domain=ErrorDomain.DOMAIN)
        if self.version is None or self.version == "-1":
            return
        said = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?", self.version)
        if said is None:
            raise XmlError(f"Cannot parse USB device version {self.version}")
        # binary coded decimal: 1.1 is one dot ten
        self.version = f"{int(said[1])}.{(said[2] or '0').ljust(2, '0')}"


class Redirfilter(Device, tag="redirfilter"):
    """``<redirfilter>``: rules, the first that matches decides."""

    usbdevs: list[UsbFilter] = children(UsbFilter)
