"""The host side of character devices in QEMU's words: ``-chardev`` in all its forms, its log and its TLS."""

from collections.abc import Callable, Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, InvalidArg
from qvirt.model.devices.char import Channel
from qvirt.model.devices.chardev import CharSource, HasChardev, Protocol
from qvirt.model.devices.device import Device
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import DirectoryResource, FileResource, ListenResource, Resource
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Chardev, Object, Switch

_CHANNEL_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-._/:")
_NOTHING = CharSource()


def settle(dev: HasChardev) -> None:
    """Give a backend the defaults of a definition, and drop what only a running guest has (a pty's path)."""
    kept: list[CharSource] = []
    for source in dev.sources:
        if dev.type == "pty":
            source.__dict__.pop("path", None)
        if dev.type == "unix" and source.path is None:
            continue
        if not source.is_empty():
            kept.append(source)
    if dev.type == "udp":
        kept.sort(key=lambda source: source.mode != "bind")
    if dev.sources:
        dev.sources = kept
    if dev.type == "tcp":
        if not dev.protocols:
            dev.protocols.append(Protocol(type="raw"))
        elif dev.protocols[0].type is None:
            dev.protocols[0].type = "raw"


def validate(dev: HasChardev, ctx: Context, *, path_generated: bool = False) -> None:
    """Refuse a backend that lacks what its type needs.

    path_generated: the path of a unix socket may be missing, a start makes one up.
    Raises InternalError, ConfigUnsupported, InvalidArg with libvirt's sentences.
    """
    source = dev.sources[0] if dev.sources else _NOTHING
    if dev.type in ("file", "pipe", "dev"):
        _need(source.path, "path")
    elif dev.type == "tcp":
        _need(source.host, "host")
        _need(source.service, "service")
        _dialling(source)
    elif dev.type == "udp":
        _need(_end(dev, "connect").service, "service")
    elif dev.type == "unix":
        if not path_generated:
            _need(source.path, "path")
        _dialling(source)
    elif dev.type in ("spiceport", "dbus"):
        if source.channel is None:
            raise ConfigUnsupported(
                "Missing source channel attribute for char device", domain=ErrorDomain.DOMAIN
            )
        if not _CHANNEL_NAME.issuperset(source.channel):
            raise InvalidArg("Invalid character in source channel for char device", domain=ErrorDomain.DOMAIN)
    if dev.type in ("spicevmc", "spiceport") and not any(
        graphics.type == "spice" for graphics in ctx.domain.devices.graphics
    ):
        raise ConfigUnsupported(f"chardev '{dev.type}' not supported without spice graphics")


def switches(
    dev: HasChardev, origin: Device, ctx: BuildContext, *, id: str, spice_name: str = "vdagent"
) -> Iterator[Switch]:
    """Yield the records of a backend: its TLS credentials, then itself.

    id: the chardev's, ``char`` and the alias of the device. spice_name: what a spicevmc backend talks to.
    Raises ConfigUnsupported for a backend QEMU does not have on this host.
    """
    make = _BACKENDS.get(dev.type)
    if make is None:
        raise ConfigUnsupported(f"unsupported chardev '{dev.type}'")
    source = dev.sources[0] if dev.sources else _NOTHING
    backend, props = make(dev, source)
    if dev.type == "spicevmc":
        props["name"] = spice_name
    elif dev.type == "unix" and ctx.launch.has(id):
        del props["path"]
        props = {"fd": ctx.launch.fds(id)[0], **props}
    elif dev.type == "dev" and origin.tag == "parallel":
        backend = "parallel"
    elif dev.type == "tcp" and (source.tls or (source.tls is None and ctx.settings.chardev_tls)):
        credentials = f"obj{id}_tls0"
        server = source.mode == "bind"
        yield Object(
            {
                "qom-type": "tls-creds-x509",
                "id": credentials,
                "dir": ctx.settings.chardev_tls_x509_cert_dir,
                "endpoint": "server" if server else "client",
                "verify-peer": ctx.settings.chardev_tls_x509_verify if server else True,
            },
            origin=origin,
        )
        props["tls-creds"] = credentials
    if dev.logs:
        props["logfile"] = dev.logs[0].file
        props["logappend"] = dev.logs[0].append
    yield Chardev(backend, {"id": id, **props}, origin=origin)


def resources(dev: HasChardev, origin: Device, ctx: Context) -> Iterable[Resource]:
    """Yield the files, sockets and folders a backend needs."""
    source = dev.sources[0] if dev.sources else _NOTHING
    path = source.path
    labels = source.seclabels
    if path is not None:
        if dev.type == "file":
            yield FileResource(origin, path, create=True, seclabels=labels)
        elif dev.type in ("dev", "pipe"):
            # of a pipe QEMU opens PATH.in and PATH.out, or PATH alone when those are missing
            yield FileResource(origin, path, seclabels=labels)
        elif dev.type == "unix" and source.mode == "connect":
            yield FileResource(origin, path, shared=True, seclabels=labels)
        elif dev.type == "unix":
            folder = path.rpartition("/")[0]
            above, _, name = folder.rpartition("/")
            # another may hold what is others'
            is_own = above == ctx.dirs.channel and name.startswith("domain-")
            if is_own:
                yield DirectoryResource(origin, folder)
            is_private = is_own and isinstance(origin, Channel) and origin.is_agent
            yield ListenResource(origin, path, f"char{origin.alias.name}", private=is_private)
    for log in dev.logs:
        if log.file is not None:
            yield FileResource(origin, log.file, create=True)


# ---------------------------------------------------------------- the backends

Made = tuple[str, dict[str, JsonValue]]


def _plain(name: str) -> Callable[[HasChardev, CharSource], Made]:
    return lambda dev, source: (name, {})


def _path(name: str) -> Callable[[HasChardev, CharSource], Made]:
    return lambda dev, source: (name, {"path": source.path})


def _named(name: str) -> Callable[[HasChardev, CharSource], Made]:
    return lambda dev, source: (name, {"name": source.channel})


def _file(dev: HasChardev, source: CharSource) -> Made:
    return "file", {"path": source.path, "append": source.append}


def _tcp(dev: HasChardev, source: CharSource) -> Made:
    telnet = bool(dev.protocols) and dev.protocols[0].type == "telnet"
    return "socket", {
        "host": source.host,
        "port": source.service,
        "telnet": True if telnet else None,
        **_waiting(source),
    }


def _unix(dev: HasChardev, source: CharSource) -> Made:
    return "socket", {"path": source.path, **_waiting(source)}


def _udp(dev: HasChardev, source: CharSource) -> Made:
    remote, local = _end(dev, "connect"), _end(dev, "bind")
    return "udp", {
        "host": remote.host or "",
        "port": remote.service,
        "localaddr": local.host or "",
        "localport": local.service or "0",
    }


def _vdagent(dev: HasChardev, source: CharSource) -> Made:
    return "qemu-vdagent", {
        "name": "vdagent",
        "clipboard": source.clipboard.copypaste if source.clipboard else None,
        "mouse": source.mouse.mode == "client" if source.mouse else None,
    }


_BACKENDS: dict[str, Callable[[HasChardev, CharSource], Made]] = {
    "null": _plain("null"),
    "vc": _plain("vc"),
    "pty": _plain("pty"),
    "stdio": _plain("stdio"),
    "spicevmc": _plain("spicevmc"),
    "dev": _path("serial"),
    "pipe": _path("pipe"),
    "file": _file,
    "tcp": _tcp,
    "udp": _udp,
    "unix": _unix,
    "spiceport": _named("spiceport"),
    "dbus": _named("dbus"),
    "qemu-vdagent": _vdagent,
}


def _waiting(source: CharSource) -> dict[str, JsonValue]:
    if source.mode == "bind":
        return {"server": True, "wait": False}
    if source.reconnect is None:
        return {}
    return {"reconnect": (source.reconnect.timeout or 0) if source.reconnect.enabled else 0}


def _end(dev: HasChardev, mode: str) -> CharSource:
    return next((source for source in dev.sources if (source.mode or "connect") == mode), _NOTHING)


def _need(value: str | None, name: str) -> None:
    if value is None:
        raise InternalError(f"Missing source {name} attribute for char device", domain=ErrorDomain.DOMAIN)


def _dialling(source: CharSource) -> None:
    if source.reconnect is not None and source.reconnect.enabled and source.mode == "bind":
        raise InternalError("chardev reconnect is possible only for connect mode", domain=ErrorDomain.DOMAIN)
