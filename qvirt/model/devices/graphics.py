"""``<graphics>``: how people see the guest's screen."""

import re

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, QvirtError, XmlError
from qvirt.model.devices.device import Device
from qvirt.xml.codecs import integer, string, uint, word, yes_no
from qvirt.xml.fields import Attr, attr, child, children
from qvirt.xml.node import Node

SPICE_CHANNELS = (
    "main", "display", "inputs", "cursor", "playback", "record", "smartcard", "usbredir",
)  # fmt: skip
_AUTH = ("passwd", "passwd_valid_to", "connected")
#: attributes and children each type has; others are not read
_OWN: dict[str, tuple[str, ...]] = {
    "vnc": (
        "port", "autoport", "websocket", "listen", "socket", "keymap", "share_policy", "power_control",
        *_AUTH, "listens", "audio",
    ),
    "spice": (
        "port", "tls_port", "autoport", "listen", "keymap", "default_mode", *_AUTH, "listens", "channels",
        "image", "jpeg", "zlib", "playback", "streaming", "mouse", "clipboard", "filetransfer", "gl",
    ),
    "sdl": ("display", "xauth", "fullscreen", "gl"),
    "desktop": ("display", "fullscreen"),
    "rdp": ("port", "autoport", "replace_user", "multi_user", "listen", "listens"),
    "egl-headless": ("gl",),
    "dbus": ("p2p", "bus_address", "gl", "audio"),
}  # fmt: skip


class Listen(Node, tag="listen"):
    """``<listen>``: where the server waits for viewers."""

    type: str = attr(word("none", "address", "network", "socket"), required=True)
    address: str | None = attr(string)
    network: str | None = attr(string)
    socket: str | None = attr(string)

    def check(self) -> None:
        if self.type == "network" and self.network is None:
            raise XmlError("'network' attribute is required for listen type 'network'")
        for name in ("network", "socket"):
            if self.type != name and getattr(self, name):
                raise XmlError(f"'{name}' attribute is valid only for listen type '{name}'")
        wanted = {"address": ("address",), "network": ("address", "network"), "socket": ("socket",)}
        for name in ("address", "network", "socket"):
            if name not in wanted.get(self.type, ()):
                self.__dict__.pop(name, None)
        if self.address == "":
            del self.address


class SpiceChannel(Node, tag="channel"):
    name: str = attr(word(*SPICE_CHANNELS), required=True)
    mode: str = attr(word("any", "secure", "insecure"), required=True)


class SpiceImage(Node, tag="image"):
    compression: str = attr(word("auto_glz", "auto_lz", "quic", "glz", "lz", "off"), required=True)


class SpiceJpeg(Node, tag="jpeg"):
    compression: str = attr(word("auto", "never", "always"), required=True)


class SpiceZlib(Node, tag="zlib"):
    compression: str = attr(word("auto", "never", "always"), required=True)


class SpicePlayback(Node, tag="playback"):
    compression: str = attr(word("on", "off"), required=True)


class SpiceStreaming(Node, tag="streaming"):
    mode: str = attr(word("filter", "all", "off"), required=True)


class SpiceMouse(Node, tag="mouse"):
    mode: str = attr(word("client", "server"), required=True)


class SpiceClipboard(Node, tag="clipboard"):
    copypaste: bool = attr(yes_no, required=True)


class SpiceFileTransfer(Node, tag="filetransfer"):
    enable: bool = attr(yes_no, required=True)


class Gl(Node, tag="gl"):
    """``<gl>``: draw with the host's GPU; ``rendernode`` is the DRM node to use."""

    enable: bool | None = attr(yes_no)
    rendernode: str | None = attr(string)


class AudioRef(Node, tag="audio"):
    """``<audio>`` in another device: which ``<audio>`` of the domain it plays through."""

    id: int = attr(uint, required=True)


class Graphics(Device, tag="graphics"):
    """``<graphics>``.

    port: -1 (or None) with autoport on until the guest runs. listen: the first listen's address once more, as
    old clients know it. connected, passwd_valid_to: what happens to viewers at password changes, and until
    when (UTC, ``YYYY-MM-DDTHH:MM:SS``) the password is good.
    """

    type: str = attr(word("sdl", "vnc", "rdp", "desktop", "spice", "egl-headless", "dbus"), required=True)
    p2p: bool | None = attr(yes_no, omit=False)
    bus_address: str | None = attr(string, "address")
    display: str | None = attr(string)
    xauth: str | None = attr(string)
    fullscreen: bool | None = attr(yes_no, omit=False)
    port: int | None = attr(integer)
    tls_port: int | None = attr(integer, "tlsPort")
    autoport: bool | None = attr(yes_no)
    websocket: int | None = attr(integer)
    replace_user: bool | None = attr(yes_no, "replaceUser", omit=False)
    multi_user: bool | None = attr(yes_no, "multiUser", omit=False)
    listen: str | None = attr(string)
    socket: str | None = attr(string)
    keymap: str | None = attr(string)
    share_policy: str | None = attr(word("allow-exclusive", "force-shared", "ignore"), "sharePolicy")
    power_control: bool | None = attr(yes_no, "powerControl")
    default_mode: str | None = attr(word("any", "secure", "insecure"), "defaultMode", omit="any")
    passwd: str | None = attr(string)
    passwd_valid_to: str | None = attr(string, "passwdValidTo")
    connected: str | None = attr(string)
    listens: list[Listen] = children(Listen)
    channels: list[SpiceChannel] = children(SpiceChannel)
    image: SpiceImage | None = child(SpiceImage)
    jpeg: SpiceJpeg | None = child(SpiceJpeg)
    zlib: SpiceZlib | None = child(SpiceZlib)
    playback: SpicePlayback | None = child(SpicePlayback)
    streaming: SpiceStreaming | None = child(SpiceStreaming)
    mouse: SpiceMouse | None = child(SpiceMouse)
    clipboard: SpiceClipboard | None = child(SpiceClipboard)
    filetransfer: SpiceFileTransfer | None = child(SpiceFileTransfer)
    gl: Gl | None = child(Gl)
    audio: AudioRef | None = child(AudioRef)

    def _bad_attr(self, el: etree._Element, field: Attr, text: str, error: ValueError) -> QvirtError:
        if field.name == "port" and el.get("type") == "vnc":
            return InternalError(f"cannot parse vnc port {text}", domain=ErrorDomain.DOMAIN)
        return super()._bad_attr(el, field, text, error)

    def check(self) -> None:
        mine = _OWN[self.type]
        for name in [known.name for known in self.fields if known.name not in mine]:
            if name not in _COMMON:
                self.__dict__.pop(name, None)
        if self.p2p and self.bus_address is not None:
            raise XmlError("D-Bus p2p with an address is not supported")
        if self.gl is not None and self.gl.enable is None and self.type in ("spice", "sdl"):
            raise XmlError("Missing required attribute 'enable' in element 'gl'")
        if self.gl is not None and self.type == "egl-headless":
            self.gl.enable = None
        if self.channels:
            chosen = {channel.name: channel for channel in self.channels if channel.mode != "any"}
            self.channels = [chosen[name] for name in SPICE_CHANNELS if name in chosen]
        self._check_auth()

    def _check_auth(self) -> None:
        if self.passwd is None:
            self.hide_secrets()
            return
        until = self.passwd_valid_to
        if until is not None and not _TIME.fullmatch(until):
            raise InternalError(
                f"cannot parse password validity time '{until}', expect YYYY-MM-DDTHH:MM:SS",
                domain=ErrorDomain.DOMAIN,
            )
        if self.connected is None:
            return
        if self.connected not in ("fail", "disconnect", "keep"):
            raise ConfigUnsupported(f"unknown connected value {self.connected}", domain=ErrorDomain.DOMAIN)
        if self.type == "vnc" and self.connected != "keep":
            raise ConfigUnsupported("VNC supports connected='keep' only", domain=ErrorDomain.DOMAIN)

    def hide_secrets(self) -> None:
        """Forget the password and what belongs to it: what readers without the right to see it get."""
        for name in _AUTH:
            self.__dict__.pop(name, None)


_COMMON = frozenset(known.name for known in Device.fields) | {"type"}
_TIME = re.compile(r"\d{4}-\d\d?-\d\d?T\d\d?:\d\d?:\d\d?")
