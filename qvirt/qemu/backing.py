"""Backing strings: what an image's header says of the image below, in QEMU's words, as a storage source.

Four spellings exist: a path (absolute, or relative to the image above), an URI, QEMU's older
``protocol:arguments`` and ``json:`` with the options of a block node.
"""

import json
import os.path
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from qvirt.errors import ConfigUnsupported
from qvirt.model.storage_source import Host, Named, Protocol, Slice, Slices, SourceType, Ssl, StorageSource
from qvirt.qemu.keyval import JsonValue
from qvirt.xml.fields import fits

Found = tuple[SourceType, StorageSource]
Options = Mapping[str, JsonValue]

_URI_PROTOCOLS = {
    "nbd": Protocol.NBD,
    "http": Protocol.HTTP,
    "https": Protocol.HTTPS,
    "ftp": Protocol.FTP,
    "ftps": Protocol.FTPS,
    "tftp": Protocol.TFTP,
    "gluster": Protocol.GLUSTER,
    "iscsi": Protocol.ISCSI,
    "ssh": Protocol.SSH,
    "sheepdog": Protocol.SHEEPDOG,
    "nfs": Protocol.NFS,
}


def parse_backing(text: str, above: str | None) -> Found:
    """Return the source a backing string names; ``above`` is the path of the image that names it.

    A path is called a file whatever it is; the caller, who can look, knows better.
    Raises ConfigUnsupported for strings that cannot be understood: a guest may have written them.
    """
    try:
        found = _parse(text, above)
        if not fits(found[1].to_xml()):
            raise ValueError("it has characters that no document can hold")
    except (ValueError, RecursionError) as error:
        raise ConfigUnsupported(f"backing store {text!a} cannot be understood: {error}") from None
    return found


def _parse(text: str, above: str | None) -> Found:
    if text.startswith("json:"):
        return _from_json(text)
    scheme, colon, rest = text.partition(":")
    if colon and rest.startswith("//") and scheme.partition("+")[0] in _URI_PROTOCOLS:
        return _from_uri(text)
    if colon and scheme in ("nbd", "rbd"):
        return (_from_nbd if scheme == "nbd" else _from_rbd)(rest)
    if colon and scheme == "file":
        text = rest.removeprefix("//")
    if above is not None and not text.startswith("/"):
        text = os.path.normpath(os.path.join(os.path.dirname(above), text))
    return SourceType.FILE, StorageSource(file=text)


def _network(protocol: Protocol, name: str | None, hosts: list[Host]) -> StorageSource:
    return StorageSource(protocol=protocol, name=name, hosts=hosts)


def _host(name: str, port: str | int | None) -> Host:
    return Host(name=name, port=str(port) if port else None)


def _unix(path: str) -> Host:
    return Host(transport="unix", socket=path)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _from_uri(text: str) -> Found:
    uri = urlsplit(text)
    scheme, _, transport = uri.scheme.partition("+")
    protocol = _URI_PROTOCOLS[scheme]
    name: str | None = unquote(uri.path).removeprefix("/")
    query = dict(map(_pair, uri.query.split("&"))) if uri.query else {}
    if transport == "unix" and "socket" in query:
        hosts = [_unix(unquote(query["socket"]))]
    else:
        hosts = [_host(uri.hostname or "", uri.port)]
    if protocol == Protocol.NFS:
        name = f"/{name}"
    source = _network(protocol, name or None, hosts)
    if protocol in (Protocol.HTTP, Protocol.HTTPS) and uri.query:
        source.query = uri.query
    return SourceType.NETWORK, source


def _from_nbd(rest: str) -> Found:
    where, _, export = rest.partition(":exportname=")
    if where.startswith("unix:"):
        hosts = [_unix(where.removeprefix("unix:"))]
    else:
        name, _, port = where.rpartition(":")
        hosts = [_host(name.strip("[]"), port)]
    return SourceType.NETWORK, _network(Protocol.NBD, export or None, hosts)


def _from_rbd(rest: str) -> Found:
    name, *options = rest.replace("\\:", "\0").split(":")
    said = dict(_pair(option.replace("\0", ":")) for option in options)
    name = name.replace("\0", ":")
    image, _, snapshot = name.partition("@")
    hosts = []
    for host in said.get("mon_host", "").replace("\\;", ";").split(";"):
        if host:
            server, _, port = host.rpartition(":")
            hosts.append(_host(server.strip("[]"), port) if server else _host(port, None))
    source = _network(Protocol.RBD, image, hosts)
    if snapshot:
        source.snapshot = Named(name=snapshot)
    return SourceType.NETWORK, source


# ------------------------------------------------------------ json:


def _from_json(text: str) -> Found:
    try:
        options = json.loads(text.removeprefix("json:"))
    except ValueError as error:
        raise ConfigUnsupported(f"backing store '{text}' is not valid JSON: {error}") from None
    if not isinstance(options, dict):
        raise ConfigUnsupported(f"backing store '{text}' is not a JSON object")
    return _from_options(_nest(options), text)


def _nest(options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Turn dotted keys into nested objects; QEMU writes both."""
    nested: dict[str, JsonValue] = {}
    for key, value in options.items():
        into = nested
        *path, last = key.split(".")
        for step in path:
            below = into.setdefault(step, {})
            if not isinstance(below, dict):
                below = into[step] = {}
            into = below
        into[last] = _nest(value) if isinstance(value, dict) else value
    return nested


def _text(options: Options, name: str, whole: str) -> str:
    value = options.get(name)
    if not isinstance(value, (str, int)):
        raise ConfigUnsupported(f"missing '{name}' in JSON backing definition '{whole}'")
    return str(value)


def _object(options: Options, name: str) -> dict[str, JsonValue]:
    value = options.get(name)
    return value if isinstance(value, dict) else {}


def _from_options(options: Options, whole: str) -> Found:
    driver = options.get("driver")
    file = options.get("file")
    if driver == "raw" and isinstance(file, dict):
        return _from_raw(options, file, whole)
    if isinstance(file, dict) and (driver is None or driver not in _JSON_DRIVERS):
        return _from_options(file, whole)
    read = _JSON_DRIVERS.get(str(driver))
    if read is None:
        raise ConfigUnsupported(f"missing parser implementation for JSON backing volume driver '{driver}'")
    return read(options, whole)


def _from_raw(options: Options, file: Options, whole: str) -> Found:
    type, source = _from_options(file, whole)
    if "offset" in options or "size" in options:
        source.slices = Slices(
            slices=[
                Slice(
                    type="storage",
                    offset=int(_text(options, "offset", whole)),
                    size=int(_text(options, "size", whole)),
                )
            ]
        )
    return type, source


def _file(options: Options, whole: str) -> Found:
    return SourceType.FILE, StorageSource(file=_text(options, "filename", whole))


def _block(options: Options, whole: str) -> Found:
    return SourceType.BLOCK, StorageSource(dev=_text(options, "filename", whole))


def _curl(options: Options, whole: str) -> Found:
    type, source = _from_uri(_text(options, "url", whole))
    if options.get("sslverify") in (False, "off"):
        source.ssl = Ssl(verify=False)
    return type, source


def _server(options: Options, whole: str) -> Host:
    if options.get("type") == "unix":
        return _unix(str(options.get("path") or _text(options, "socket", whole)))
    return _host(_text(options, "host", whole), _text(options, "port", whole) if "port" in options else None)


def _nbd(options: Options, whole: str) -> Found:
    server = _object(options, "server") or options
    if "path" in options and "server" not in options:
        host = _unix(_text(options, "path", whole))
    else:
        host = _server(server, whole)
    export = options.get("export")
    return SourceType.NETWORK, _network(Protocol.NBD, export if isinstance(export, str) else None, [host])


def _gluster(options: Options, whole: str) -> Found:
    servers = options.get("server")
    listed = list(servers.values()) if isinstance(servers, dict) else servers
    hosts = (
        [_server(item, whole) for item in listed or [] if isinstance(item, dict)]
        if isinstance(listed, list)
        else []
    )
    name = f"{_text(options, 'volume', whole)}/{_text(options, 'path', whole)}"
    return SourceType.NETWORK, _network(Protocol.GLUSTER, name, hosts)


def _iscsi(options: Options, whole: str) -> Found:
    portal, _, port = _text(options, "portal", whole).rpartition(":")
    name = f"{_text(options, 'target', whole)}/{options.get('lun') or 0}"
    host = _host(portal.strip("[]"), port) if portal else _host(port, None)
    return SourceType.NETWORK, _network(Protocol.ISCSI, name, [host])


def _ssh(options: Options, whole: str) -> Found:
    host = _server(_object(options, "server") or options, whole)
    return SourceType.NETWORK, _network(Protocol.SSH, _text(options, "path", whole), [host])


def _rbd(options: Options, whole: str) -> Found:
    servers = options.get("server")
    hosts = (
        [_server(item, whole) for item in servers if isinstance(item, dict)]
        if isinstance(servers, list)
        else []
    )
    name = f"{_text(options, 'pool', whole)}/{_text(options, 'image', whole)}"
    source = _network(Protocol.RBD, name, hosts)
    if "snapshot" in options:
        source.snapshot = Named(name=_text(options, "snapshot", whole))
    return SourceType.NETWORK, source


def _nfs(options: Options, whole: str) -> Found:
    host = _server(_object(options, "server"), whole)
    return SourceType.NETWORK, _network(Protocol.NFS, _text(options, "path", whole), [host])


_JSON_DRIVERS: dict[str, Callable[[Options, str], Found]] = {
    "file": _file,
    "host_device": _block,
    "host_cdrom": _block,
    "http": _curl,
    "https": _curl,
    "ftp": _curl,
    "ftps": _curl,
    "tftp": _curl,
    "nbd": _nbd,
    "gluster": _gluster,
    "iscsi": _iscsi,
    "ssh": _ssh,
    "rbd": _rbd,
    "nfs": _nfs,
}
