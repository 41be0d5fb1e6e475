"""Displays people look at: VNC, SPICE, windows on the host, D-Bus; their ports, sockets and passwords.

Ports are given out by the runtime, which asks ``ports_needed``.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InvalidArg,
    NoNetwork,
    OperationUnsupported,
    QvirtError,
    SystemError_,
    XmlError,
)
from qvirt.model.devices.graphics import SPICE_CHANNELS, Gl, Graphics, Listen
from qvirt.qemu.context import BuildContext, Context, Settings
from qvirt.qemu.devices import graphics_live
from qvirt.qemu.devices.audio import audiodev_id, find_audio
from qvirt.qemu.devices.base import FileResource, Handler, ReachedResource, Resource, line
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import KeyValue, Object, Option, Pairs, Step, Switch

FIRST_PORT, LAST_PORT = 5900, 65535
_VNC_PASSWORD_MAX = 8
#: ports shown by domxml-to-native, which takes none
_STAND_IN_PORT = {"vnc": 5900, "spice": 5901}
_STAND_IN_TLS_PORT = 5902


class GraphicsHandler(Handler[Graphics], kind=Graphics):
    config = False
    config_update = live_update = True

    def defaults(self, dev: Graphics, ctx: Context) -> None:
        if dev.type in ("vnc", "spice", "rdp"):
            _settle_listens(dev)
        if dev.type == "vnc":
            _settle_vnc(dev, ctx)
        elif dev.type == "spice":
            _settle_spice(dev)
        if dev.listens:
            _mirror_listen(dev)

    def settings(self, dev: Graphics, ctx: Context) -> Iterator[Step]:
        if dev.type in ("vnc", "spice") and password(dev, ctx.settings) is not None:
            yield Step(*_password(dev, ctx.settings))
            if dev.passwd_valid_to is not None:
                yield Step(*_validity(dev))

    def same(self, wanted: Graphics, known: Graphics, ctx: Context) -> bool:
        return wanted.type == known.type

    def missing(self, dev: Graphics, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        if live:
            return DeviceMissing(
                f"cannot find existing graphics device to modify of type '{dev.type}'{line(dev)}"
            )
        return InvalidArg(f"cannot find existing graphics type '{dev.type}' device to modify{line(dev)}")

    def keep(self, old: Graphics, new: Graphics) -> None:
        graphics_live.keep(old, new)
        if new.listens:
            _mirror_listen(new, live=True)

    def update(self, old: Graphics, new: Graphics, ctx: BuildContext, *, force: bool) -> Iterator[Step]:
        graphics_live.check(old, new)
        yield from graphics_live.change_listen(old, new, ctx)
        said = ("passwd", "passwd_valid_to", "connected")
        if all(getattr(old, name) == getattr(new, name) for name in said):
            return
        if password(old, ctx.settings) is None:
            raise OperationUnsupported(
                f"the {old.type} graphics were started without a password and take none before the next start"
            )
        yield Step(*_password(new, ctx.settings), undo=_password(old, ctx.settings))
        yield Step(*_validity(new), undo=_validity(old))

    def validate(self, dev: Graphics, ctx: Context) -> None:
        if dev.audio is not None and find_audio(ctx.domain, dev.audio.id) is None:
            raise XmlError(f"no audio device with ID {dev.audio.id}{line(dev)}")
        others = {graphics.type for graphics in ctx.domain.devices.graphics}
        if "egl-headless" in others:
            if dev.type not in ("egl-headless", "vnc", "spice"):
                raise ConfigUnsupported(
                    "graphics type 'egl-headless' is only supported with one of: 'vnc', 'spice' "
                    "graphics types"
                )
            if dev.type == "spice" and dev.gl is not None and dev.gl.enable:
                raise ConfigUnsupported("multiple OpenGL displays are not supported by QEMU")
        if dev.type in ("rdp", "desktop") or (
            dev.type == "spice" and not ctx.caps.has_command("query-spice")
        ):
            raise ConfigUnsupported(f"{dev.type} graphics are not supported with this QEMU")
        if dev.type == "vnc" and dev.passwd is not None and len(dev.passwd) > _VNC_PASSWORD_MAX:
            raise ConfigUnsupported(
                f"VNC password is {len(dev.passwd)} characters long, only {_VNC_PASSWORD_MAX} permitted"
            )
        if dev.type == "dbus" and dev.audio is not None:
            backend = next((one for one in ctx.domain.devices.audios if one.id == dev.audio.id), None)
            if backend is None or backend.type != "dbus":
                raise ConfigUnsupported("The associated audio is not of 'dbus' kind.")
        if dev.type == "spice" and (dev.tls_port or 0) > 0 and not ctx.settings.spice_tls:
            raise ConfigUnsupported(
                "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf"
            )

    def prepare(self, dev: Graphics, ctx: BuildContext) -> None:
        _refuse_several(dev, ctx)
        if dev.type == "dbus" and not dev.p2p and dev.bus_address is None:
            raise ConfigUnsupported(
                f"<graphics type='dbus'>{line(dev)} needs a D-Bus daemon of its own, which is not supported "
                "yet; give it p2p='yes' or an address"
            )
        for listen in dev.listens:
            if listen.type == "address" and listen.address is None:
                if _auto_socket(dev.type, ctx.settings):
                    listen.type, listen.socket = "socket", _socket_path(dev.type, ctx)
                else:
                    listen.address = _default_address(dev.type, ctx.settings)
            elif listen.type == "network" and listen.address is None:
                raise NoNetwork(f"no network with matching name '{listen.network}'")
            elif listen.type == "socket" and listen.socket is None:
                listen.socket = _socket_path(dev.type, ctx)
        if dev.listens:
            _mirror_listen(dev, live=True)
        if _wants_rendernode(dev):
            if dev.gl is None:
                dev.gl = Gl()
            dev.gl.rendernode = _rendernode(dev, ctx)

    def environment(self, dev: Graphics, ctx: BuildContext) -> Mapping[str, str]:
        if dev.type in ("vnc", "spice"):
            sasl = getattr(ctx.settings, f"{dev.type}_sasl_dir")
            return {"SASL_CONF_PATH": sasl} if getattr(ctx.settings, f"{dev.type}_sasl") and sasl else {}
        if dev.type != "sdl":
            return {}
        said = {"XAUTHORITY": dev.xauth, "DISPLAY": dev.display}
        return {name: value for name, value in said.items() if value is not None}

    def resources(self, dev: Graphics, ctx: Context) -> Iterable[Resource]:
        for listen in dev.listens:
            if listen.type == "socket" and listen.socket is not None:
                yield ReachedResource(dev, listen.socket)
        if dev.gl is not None and dev.gl.rendernode is not None:
            yield FileResource(dev, dev.gl.rendernode, shared=True, relabel=False)

    def switches(self, dev: Graphics, ctx: BuildContext) -> Iterator[Switch]:
        _refuse_several(dev, ctx)
        if dev.type == "vnc":
            yield from _vnc(dev, ctx)
        elif dev.type == "spice":
            yield from _spice(dev, ctx)
        elif dev.type == "sdl":
            if dev.fullscreen:
                yield Option("full-screen", origin=dev)
            yield _display(dev, {"gl": True if dev.gl is not None and dev.gl.enable else None})
        elif dev.type == "egl-headless":
            yield _display(dev, {"rendernode": _rendernode(dev, ctx)})
        elif dev.type == "dbus":
            yield _dbus(dev, ctx)
        else:
            raise ConfigUnsupported(f"unsupported graphics type '{dev.type}'{line(dev)}")


# -------------------------------------------------------------------- defaults


def _settle_listens(dev: Graphics) -> None:
    """Bring ``listen``, ``socket`` and ``<listen>`` together; raises ConfigUnsupported when they disagree."""
    address = dev.listen or None
    if not dev.listens:
        dev.listens.append(Listen(type="address"))
    first = dev.listens[0]
    if dev.socket is not None:
        if first.type != "socket":
            first = dev.listens[0] = Listen(type="socket", socket=dev.socket)
        elif first.socket is None:
            first.socket = dev.socket
        elif first.socket != dev.socket:
            raise _mismatch("socket", dev.socket, "socket", first.socket)
    elif first.type == "address" and address is not None:
        if first.address is None:
            first.address = address
        elif first.address != address:
            raise _mismatch("listen", address, "address", first.address)
    for listen in dev.listens:
        if listen.type == "network":
            listen.__dict__.pop("address", None)


def _mismatch(attribute: str, given: str, of_listen: str, found: str) -> ConfigUnsupported:
    return ConfigUnsupported(
        f"graphics '{attribute}' attribute '{given}' must match '{of_listen}' attribute of first listen "
        f"element (found '{found}')",
        domain=ErrorDomain.DOMAIN,
    )


def _settle_vnc(dev: Graphics, ctx: Context) -> None:
    auto = dev.autoport
    if auto is None:
        auto = dev.port in (None, -1)
    dev.autoport = auto
    if auto:
        dev.port = -1
    elif dev.port in (0, -1):
        dev.port = None
    if dev.websocket == 0:
        dev.websocket = None
    first = dev.listens[0]
    if first.type == "socket" and first.socket is not None and first.socket.startswith(ctx.dirs.lib):
        # such a path was made up for an earlier start, and once leaked into definitions
        dev.listens[0] = Listen(type="address")
        dev.port, dev.autoport = -1, True


def _settle_spice(dev: Graphics) -> None:
    if dev.port == -1 and dev.tls_port == -1:
        dev.autoport = True
    if dev.autoport:
        dev.port = dev.tls_port = None
    else:
        dev.autoport = False
        dev.port = dev.port or None
        dev.tls_port = dev.tls_port or None
    first = dev.listens[0]
    if first.type == "address" and not (dev.autoport or dev.port or dev.tls_port):
        dev.listens[0] = Listen(type="none")


def _mirror_listen(dev: Graphics, live: bool = False) -> None:
    """Repeat the first listen in the attributes old clients read; a socket has no ports."""
    first = dev.listens[0]
    dev.listen = first.address if first.type == "address" or live else None
    dev.socket = first.socket if first.type == "socket" and dev.type == "vnc" else None
    if first.type in ("socket", "none"):
        for name in ("port", "tls_port", "autoport", "websocket"):
            dev.__dict__.pop(name, None)


# ----------------------------------------------------------------------- ports


def ports_needed(dev: Graphics, settings: Settings) -> list[str]:
    """Return the attributes of a display that are ports to be given out; those it names are only reserved.

    Raises ConfigUnsupported when a TLS port is wanted and TLS is off.
    """
    if not _has_ports(dev):
        return []
    if dev.type == "vnc":
        plain, tls, websocket = bool(dev.autoport), False, dev.websocket == -1
    else:
        (plain, tls), websocket = _spice_wants(dev, settings), False
    if tls and not settings.spice_tls:
        raise ConfigUnsupported(
            "Auto allocation of spice TLS port requested but spice TLS is disabled in qemu.conf"
        )
    wanted = {"port": plain, "tls_port": tls, "websocket": websocket}
    return [name for name, is_wanted in wanted.items() if is_wanted]


def ports_chosen(dev: Graphics) -> dict[str, int]:
    """Return the ports the document itself names, by attribute."""
    names = ("websocket",) if dev.autoport else ("port", "tls_port", "websocket")
    found: dict[str, int | None] = {name: getattr(dev, name) for name in names} if _has_ports(dev) else {}
    return {name: port for name, port in found.items() if port is not None and port > 0}


def _has_ports(dev: Graphics) -> bool:
    return dev.type in ("vnc", "spice") and (not dev.listens or dev.listens[0].type in ("address", "network"))


def _spice_wants(dev: Graphics, settings: Settings) -> tuple[bool, bool]:
    plain, tls = dev.port == -1, dev.tls_port == -1
    if dev.autoport:
        modes = {channel.name: channel.mode for channel in dev.channels}
        for name in SPICE_CHANNELS:
            mode = modes.get(name, "any")
            if mode == "any":
                mode = dev.default_mode or "any"
            plain = plain or mode in ("insecure", "any")
            tls = tls or mode == "secure" or (mode == "any" and settings.spice_tls)
    return plain, tls


# --------------------------------------------------------------------- records


def _refuse_several(dev: Graphics, ctx: Context) -> None:
    same = [graphics for graphics in ctx.domain.devices.graphics if graphics.type == dev.type]
    if len(same) > 1:
        raise ConfigUnsupported(
            "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus) is supported"
        )
    if len(dev.listens) > 1:
        raise ConfigUnsupported("QEMU does not support multiple listens for one graphics device.")


def _vnc(dev: Graphics, ctx: BuildContext) -> Iterator[Switch]:
    listen = dev.listens[0] if dev.listens else Listen(type="address")
    settings = ctx.settings
    implied: str | None = "vnc"
    if listen.type == "socket":
        where, implied = f"unix:{listen.socket or _socket_path(dev.type, ctx)}", None
    elif listen.type == "none":
        where = "none"
    else:
        port = _STAND_IN_PORT["vnc"] if dev.autoport and (dev.port or 0) <= 0 else dev.port or 0
        if not FIRST_PORT <= port <= LAST_PORT:
            raise ConfigUnsupported(f"vnc port must be in range [{FIRST_PORT},{LAST_PORT}]")
        address = _listen_address(dev, listen, settings)
        where = f"[{address}]:{port - FIRST_PORT}" if ":" in address else f"{address}:{port - FIRST_PORT}"
    props: dict[str, JsonValue] = {"vnc": where, "websocket": dev.websocket, "share": dev.share_policy}
    if dev.passwd is not None or settings.vnc_password is not None:
        props["password"] = True
    if settings.vnc_tls:
        yield Object(
            {
                "qom-type": "tls-creds-x509",
                "id": "vnc-tls-creds0",
                "dir": settings.vnc_tls_x509_cert_dir,
                "endpoint": "server",
                "verify-peer": settings.vnc_tls_x509_verify,
            },
            origin=dev,
        )
        props["tls-creds"] = "vnc-tls-creds0"
    if settings.vnc_sasl:
        props["sasl"] = True
    props["power-control"] = dev.power_control
    props["audiodev"] = audiodev_id(ctx.domain, dev.audio)
    yield KeyValue("vnc", props, implied, origin=dev)
    if dev.keymap is not None:
        yield Option("k", dev.keymap, origin=dev)


def _spice(dev: Graphics, ctx: BuildContext) -> Iterator[Switch]:
    settings = ctx.settings
    listen = dev.listens[0] if dev.listens else Listen(type="address")
    props: list[tuple[str, JsonValue]] = []
    plain = tls = False
    if listen.type == "none":
        props.append(("port", 0))
    elif listen.type == "socket":
        props += [("unix", True), ("addr", listen.socket or _socket_path(dev.type, ctx))]
    else:
        port, tls_port = dev.port or 0, dev.tls_port or 0
        wants_port, wants_tls = _spice_wants(dev, settings)
        if wants_port and port <= 0:
            port = _STAND_IN_PORT["spice"]
        if wants_tls and tls_port <= 0:
            tls_port = _STAND_IN_TLS_PORT
        plain, tls = port > 0, tls_port > 0
        if plain:
            props.append(("port", port))
        if tls:
            props.append(("tls-port", tls_port))
        if plain or tls:
            props.append(("addr", _listen_address(dev, listen, settings)))
    if dev.mouse is not None:
        props.append(("agent-mouse", dev.mouse.mode == "client"))
    if settings.spice_sasl:
        props.append(("sasl", True))
    if dev.passwd is None and settings.spice_password is None:
        props.append(("disable-ticketing", True))
    if tls:
        props.append(("x509-dir", settings.spice_tls_x509_cert_dir))
    props += _spice_security(dev, plain, tls)
    for key, value in (
        ("image-compression", dev.image.compression if dev.image else None),
        ("jpeg-wan-compression", dev.jpeg.compression if dev.jpeg else None),
        ("zlib-glz-wan-compression", dev.zlib.compression if dev.zlib else None),
        ("playback-compression", dev.playback.compression if dev.playback else None),
        ("streaming-video", dev.streaming.mode if dev.streaming else None),
        ("disable-copy-paste", True if dev.clipboard and not dev.clipboard.copypaste else None),
        ("disable-agent-file-xfer", True if dev.filetransfer and not dev.filetransfer.enable else None),
    ):
        props.append((key, value))
    if dev.gl is not None and dev.gl.enable:
        props += [("gl", True), ("rendernode", _rendernode(dev, ctx))]
    props.append(("seamless-migration", True))
    yield Pairs("spice", props, origin=dev)
    if dev.keymap is not None:
        yield Option("k", dev.keymap, origin=dev)


def _spice_security(dev: Graphics, plain: bool, tls: bool) -> Iterator[tuple[str, JsonValue]]:
    """Yield which channels must or must not be encrypted.

    Raises ConfigUnsupported for what no port offers.
    """
    offered = {"secure": tls, "insecure": plain}
    keys = {"secure": "tls-channel", "insecure": "plaintext-channel"}
    names = {"secure": "TLS", "insecure": "plaintext"}
    mode = dev.default_mode or "any"
    if mode != "any":
        if not offered[mode]:
            raise ConfigUnsupported(
                f"spice defaultMode {mode} requested in XML configuration, but {names[mode]} connection is "
                "not available"
            )
        yield keys[mode], "default"
    for channel in dev.channels:
        if not offered[channel.mode]:
            raise ConfigUnsupported(
                f"spice {channel.mode} channels set in XML configuration, but {names[channel.mode]} "
                "connection is not available"
            )
        yield keys[channel.mode], channel.name


def _dbus(dev: Graphics, ctx: BuildContext) -> Switch:
    props: dict[str, JsonValue] = {}
    if dev.p2p:
        props["p2p"] = True
    else:
        own = f"unix:path={ctx.dirs.run}/dbus/{ctx.folder_name.removeprefix('domain-')}-dbus.sock"
        props["addr"] = dev.bus_address or own
    if dev.gl is not None:
        props["gl"] = dev.gl.enable
        props["rendernode"] = _rendernode(dev, ctx) if dev.gl.enable else dev.gl.rendernode
    if dev.audio is not None:
        props["audiodev"] = audiodev_id(ctx.domain, dev.audio)
    return _display(dev, props)


def _display(dev: Graphics, props: dict[str, JsonValue]) -> Switch:
    return KeyValue("display", {"type": dev.type, **props}, "type", origin=dev)


# ---------------------------------------------------------------------- places


def _default_address(type: str, settings: Settings) -> str:
    return settings.vnc_listen if type == "vnc" else settings.spice_listen


def _listen_address(dev: Graphics, listen: Listen, settings: Settings) -> str:
    if listen.type == "network" and listen.address is None:
        raise NoNetwork(f"no network with matching name '{listen.network}'")
    return listen.address or _default_address(dev.type, settings)


def _auto_socket(type: str, settings: Settings) -> bool:
    return settings.vnc_auto_unix_socket if type == "vnc" else settings.spice_auto_unix_socket


def _socket_path(type: str, ctx: BuildContext) -> str:
    return f"{ctx.domain_dir}/{type}.sock"


def _wants_rendernode(dev: Graphics) -> bool:
    if dev.type == "egl-headless":
        return dev.gl is None or dev.gl.rendernode is None
    return dev.gl is not None and bool(dev.gl.enable) and dev.gl.rendernode is None and dev.type != "sdl"


def _rendernode(dev: Graphics, ctx: Context) -> str:
    if dev.gl is not None and dev.gl.rendernode is not None:
        return dev.gl.rendernode
    if not ctx.host.render_nodes:
        raise SystemError_("cannot open directory '/dev/dri': No such file or directory")
    return ctx.host.render_nodes[0]


def password(dev: Graphics, settings: Settings) -> str | None:
    """Return the password viewers must give, None when there is none; qemu.conf has one for all domains."""
    if dev.passwd is not None:
        return dev.passwd
    if dev.type == "vnc":
        return settings.vnc_password
    return settings.spice_password if dev.type == "spice" else None


def _password(dev: Graphics, settings: Settings) -> tuple[str, dict[str, JsonValue]]:
    arguments: dict[str, JsonValue] = {"protocol": dev.type, "password": password(dev, settings)}
    if dev.connected is not None:
        arguments["connected"] = dev.connected
    return "set_password", arguments


def _validity(dev: Graphics) -> tuple[str, dict[str, JsonValue]]:
    """Return the command that says until when (UTC) the password is good."""
    time = "never"
    if dev.passwd_valid_to is not None:
        time = str(int(datetime.fromisoformat(dev.passwd_valid_to).replace(tzinfo=UTC).timestamp()))
    return "expire_password", {"protocol": dev.type, "time": time}
