"""The host side of a character device: ``type``, ``<source>``, ``<protocol>``, ``<log>``.

Shared by serial, parallel, console and channel, and by the kinds that carry such a backend inside:
smartcard, redirdev, the egd rng.
"""

from typing import Protocol as Shape

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.device import Device
from qvirt.model.seclabel import DeviceSecLabel, settled
from qvirt.xml.codecs import on_off, string, uint, word, yes_no
from qvirt.xml.fields import attr, child, children
from qvirt.xml.node import Node

#: what ``<source>`` may say, by type of backend; what is not listed is not read
SOURCE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "null": (),
    "vc": (),
    "pty": ("path",),
    "dev": ("path", "seclabels"),
    "file": ("path", "append", "seclabels"),
    "pipe": ("path", "seclabels"),
    "stdio": (),
    "udp": ("mode", "host", "service"),
    "tcp": ("mode", "host", "service", "tls", "reconnect"),
    "unix": ("mode", "path", "seclabels", "reconnect"),
    "spicevmc": (),
    "spiceport": ("channel",),
    "nmdm": ("master", "slave"),
    "qemu-vdagent": ("clipboard", "mouse"),
    "dbus": ("channel",),
}


class Reconnect(Node, tag="reconnect"):
    """``<reconnect>``: dial again when the peer goes away; ``timeout`` in seconds."""

    enabled: bool = attr(yes_no, required=True)
    timeout: int | None = attr(uint)

    def check(self) -> None:
        if not self.enabled:
            self.timeout = None
        elif self.timeout is None:
            raise XmlError(
                "Missing required attribute 'timeout' in element 'reconnect'", domain=ErrorDomain.XML
            )


class Clipboard(Node, tag="clipboard"):
    copypaste: bool = attr(yes_no, required=True)


class MouseMode(Node, tag="mouse"):
    mode: str = attr(word("server", "client"), required=True)


class CharSource(Node, tag="source"):
    """``<source>``: the other end."""

    mode: str | None = attr(string)
    path: str | None = attr(string)
    append: bool | None = attr(on_off)
    host: str | None = attr(string)
    service: str | None = attr(string)
    tls: bool | None = attr(yes_no)
    master: str | None = attr(string)
    slave: str | None = attr(string)
    channel: str | None = attr(string)
    seclabels: list[DeviceSecLabel] = children(DeviceSecLabel)
    reconnect: Reconnect | None = child(Reconnect)
    clipboard: Clipboard | None = child(Clipboard)
    mouse: MouseMode | None = child(MouseMode)

    def keep(self, names: tuple[str, ...]) -> None:
        """Forget what this type of backend does not have."""
        for name in [field.name for field in self.fields if field.name not in names]:
            self.__dict__.pop(name, None)
        if "seclabels" in self.__dict__:
            self.seclabels = settled(self.seclabels)


class Protocol(Node, tag="protocol"):
    type: str | None = attr(string)


class Log(Node, tag="log"):
    """``<log>``: a file that everything the guest says is copied to."""

    file: str | None = attr(string)
    append: bool | None = attr(on_off)


class HasChardev(Shape):
    """What every owner of a character backend has."""

    type: str
    sources: list[CharSource]
    protocols: list[Protocol]
    logs: list[Log]


def read_backend(dev: HasChardev) -> None:
    """Refuse what no backend can be, and drop what this type does not have, as libvirt's reading does.

    Raises ConfigUnsupported for an unknown type or protocol, XmlError for elements that occur too often.
    """
    allowed = SOURCE_ATTRIBUTES.get(dev.type)
    if allowed is None:
        raise ConfigUnsupported(
            f"unknown type presented to host for character device: {dev.type}", domain=ErrorDomain.DOMAIN
        )
    if dev.sources:
        most = 2 if dev.type == "udp" else 1
        if len(dev.sources) > most:
            count = {1: "one source element is", 2: "two source elements are"}[most]
            raise XmlError(f"only {count} allowed for character device")
        for source in dev.sources:
            source.keep(allowed)
            if "mode" not in allowed:
                continue
            source.mode = source.mode or "connect"
            if source.mode not in ("connect", "bind"):
                at = f"line {source.line}; " if source.line else ""
                raise XmlError(
                    f"Invalid value for attribute 'mode' in element 'source': '{source.mode}'. "
                    f"({at}expected one of 'connect', 'bind')",
                    domain=ErrorDomain.XML,
                )
    if len(dev.logs) > 1:
        raise XmlError("only one log element is allowed for character device")
    if len(dev.protocols) > 1:
        raise XmlError("only one protocol element is allowed for character device")
    if dev.type == "tcp":
        for protocol in dev.protocols:
            if protocol.type not in (None, "raw", "telnet", "telnets", "tls"):
                raise ConfigUnsupported(f"Unknown protocol '{protocol.type}'", domain=ErrorDomain.DOMAIN)
    else:
        dev.protocols.clear()
    if dev.logs and dev.logs[0].file is None:
        dev.logs.clear()


class CharDevice(Device):
    """Base of the devices that are a character backend and a frontend, and nothing else."""

    type: str = attr(string, default="pty")
    sources: list[CharSource] = children(CharSource)
    protocols: list[Protocol] = children(Protocol)
    logs: list[Log] = children(Log)

    def check(self) -> None:
        read_backend(self)

    @property
    def source(self) -> CharSource:
        """The source; made when there is none."""
        if not self.sources:
            self.sources.append(CharSource())
        return self.sources[0]

    @property
    def path(self) -> str | None:
        """The file, pty, socket or device node behind the device."""
        return self.sources[0].path if self.sources else None
