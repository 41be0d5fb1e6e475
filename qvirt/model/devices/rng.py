"""``<rng>``: a source of random numbers for the guest."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.chardev import SOURCE_ATTRIBUTES, CharSource, Log, Protocol, read_backend
from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.xml.codecs import Codec, refusing, string, uint
from qvirt.xml.fields import attr, children, content, part
from qvirt.xml.node import Node


def _number(name: str) -> Codec[int]:
    return refusing(uint, lambda text: XmlError(f"invalid RNG rate {name} value"))


class Rate(Node, tag="rate"):
    """``<rate>``: at most ``bytes`` per ``period`` milliseconds."""

    bytes: int | None = attr(_number("bytes"))
    period: int | None = attr(_number("period"))

    def check(self) -> None:
        if not self.bytes:
            self.__dict__.pop("bytes", None)
            self.__dict__.pop("period", None)
        elif not self.period:
            self.__dict__.pop("period", None)


class RngBackend(Node, tag="backend"):
    """``<backend>``: ``random`` reads the device ``path``, ``egd`` asks a daemon at a character backend."""

    model: str | None = attr(string)
    type: str = attr(string, default="", omit="")
    path: str | None = content(string)
    sources: list[CharSource] = children(CharSource)
    protocols: list[Protocol] = children(Protocol)
    logs: list[Log] = children(Log)

    def check(self) -> None:
        if self.model is None:
            raise XmlError("missing RNG device backend model")
        if self.model not in ("random", "egd", "builtin"):
            raise ConfigUnsupported(f"unknown RNG backend model '{self.model}'", domain=ErrorDomain.DOMAIN)
        if self.model != "random" or not (self.path or "").strip():
            self.__dict__.pop("path", None)
        if self.model == "egd":
            if not self.type:
                raise XmlError("missing EGD backend type")
            if self.type not in SOURCE_ATTRIBUTES:
                raise ConfigUnsupported(
                    f"unknown backend type '{self.type}' for egd", domain=ErrorDomain.DOMAIN
                )
            read_backend(self)
        else:
            for name in ("type", "sources", "protocols", "logs"):
                self.__dict__.pop(name, None)


class Rng(Device, tag="rng"):
    """``<rng>``."""

    model: str | None = attr(string)
    rate: Rate = part(Rate)
    backends: list[RngBackend] = children(RngBackend)
    driver: VirtioDriver = part(VirtioDriver)

    def check(self) -> None:
        if self.model is None:
            raise XmlError("missing RNG device model")
        if self.model not in ("virtio", "virtio-transitional", "virtio-non-transitional"):
            raise ConfigUnsupported(f"unknown RNG model '{self.model}'", domain=ErrorDomain.DOMAIN)
        if len(self.backends) != 1:
            raise XmlError("only one RNG backend is supported")

    @property
    def backend(self) -> RngBackend:
        """The backend."""
        return self.backends[0]
