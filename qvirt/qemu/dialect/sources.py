"""Where an image is, in one word: what ``-drive file=`` took before block nodes had properties."""

import base64
from collections.abc import Callable
from urllib.parse import quote

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.disk import Disk, DiskDevice
from qvirt.model.storage_source import DEFAULT_PORTS, Auth, Host, Protocol, SourceType, StorageSource
from qvirt.qemu.context import BuildContext
from qvirt.qemu.dialect.facts import DialectCaps


def disk_source(disk: Disk, ctx: BuildContext) -> str | None:
    """Return the word of the disk's image, None for an empty drive. Raises ConfigUnsupported."""
    source = disk.source
    if source is None or not disk.has_medium:
        return None
    if disk.type == SourceType.FILE:
        return source.file
    if disk.type == SourceType.BLOCK:
        return source.dev
    if disk.type == SourceType.DIR:
        return f"fat:{'floppy:' if disk.device == DiskDevice.FLOPPY else ''}{source.dir}"
    if disk.type == SourceType.NETWORK and source.protocol is not None:
        return network_source(source, source.auth or disk.auth, ctx)
    raise ConfigUnsupported(f"disk '{disk.name}' of type '{disk.type}' cannot be named to this emulator")


def network_source(source: StorageSource, auth: Auth | None, ctx: BuildContext) -> str:
    """Return the word of an image on a server. Raises ConfigUnsupported."""
    protocol = source.protocol or Protocol.NONE
    make = _NETWORK.get(protocol) or (_NEWER.get(protocol) if _is_typed(ctx) else None)
    if make is None:
        raise ConfigUnsupported(f"storage protocol '{source.protocol}' is not supported by this emulator")
    return make(source, auth, ctx)


def _secret(auth: Auth | None, ctx: BuildContext) -> bytes | None:
    if auth is None or auth.secret is None:
        return None
    return ctx.launch.secret(auth.secret.type or "", auth.secret.uuid, auth.secret.usage)


def _is_typed(ctx: BuildContext) -> bool:
    """Tell whether the word is one somebody types, without what is the default."""
    return isinstance(ctx.caps, DialectCaps) and ctx.caps.says("@typed")


def _place(host: Host, usual: int | None = None) -> str:
    """Return a server's name and port; usual: the one that needs no word."""
    name = f"[{host.name}]" if host.name and ":" in host.name else host.name or ""
    return f"{name}:{host.port}" if host.port and host.port != str(usual) else name


def _nbd(source: StorageSource, auth: Auth | None, ctx: BuildContext) -> str:
    host = source.hosts[0]
    where = f"unix:{host.socket}" if host.transport == "unix" else _place(host)
    return f"nbd:{where}" + (f":exportname={source.name}" if source.name else "")


def _rbd_word(text: str) -> str:
    """Put a backslash before what ends a value in an rbd word."""
    return "".join(f"\\{char}" if char in ":;@\\" else char for char in text)


def _rbd(source: StorageSource, auth: Auth | None, ctx: BuildContext) -> str:
    text = f"rbd:{source.name}"
    if source.snapshot is not None:
        text += f"@{source.snapshot.name}"
    key = _secret(auth, ctx)
    if auth is not None and auth.username:
        text += f":id={auth.username}"
        if key is not None:
            encoded = base64.b64encode(key).decode()
            text += f":key={encoded}:auth_supported=cephx\\;none"
    elif not _is_typed(ctx):
        text += ":auth_supported=none"
    if source.hosts:
        text += ":mon_host=" + "\\;".join(
            _place(host).replace(":", "\\:") if host.name and ":" in host.name else _rbd_word(_place(host))
            for host in source.hosts
        )
    if source.config is not None:
        text += f":conf={source.config.file}"
    return text


def _sheepdog(source: StorageSource, auth: Auth | None, ctx: BuildContext) -> str:
    return ":".join(["sheepdog", *(f"{_place(host)}" for host in source.hosts[:1]), source.name or ""])


def _url(source: StorageSource, auth: Auth | None, ctx: BuildContext) -> str:
    host = source.hosts[0]
    scheme = str(source.protocol)
    if source.protocol == Protocol.GLUSTER and host.transport is not None:
        scheme += f"+{host.transport}"
    name = source.name or ""
    if source.protocol == Protocol.ISCSI:
        target, _, lun = name.rpartition("/")
        safe = "/.-_~:" if _is_typed(ctx) else "/.-_~"
        name = f"{quote(target, safe=safe)}/{lun}" if target else quote(name, safe=safe)
    login = ""
    if auth is not None and auth.username:
        key = _secret(auth, ctx)
        login = auth.username + (f":{key.decode(errors='replace')}" if key is not None else "") + "@"
    usual = DEFAULT_PORTS.get(source.protocol or Protocol.NONE) if _is_typed(ctx) else None
    place = "" if host.transport == "unix" else _place(host, usual)
    text = f"{scheme}://{login}{place}/{name.lstrip('/')}"
    if source.query:
        text += f"?{source.query}"
    return text + (f"?socket={host.socket}" if host.transport == "unix" else "")


_NETWORK: dict[Protocol, Callable[[StorageSource, Auth | None, BuildContext], str]] = {
    Protocol.NBD: _nbd,
    Protocol.RBD: _rbd,
    Protocol.SHEEPDOG: _sheepdog,
    Protocol.ISCSI: _url,
    Protocol.GLUSTER: _url,
    Protocol.HTTP: _url,
    Protocol.HTTPS: _url,
    Protocol.FTP: _url,
    Protocol.FTPS: _url,
    Protocol.TFTP: _url,
}
#: those that libvirt had no word for before block nodes
_NEWER = {Protocol.SSH: _url, Protocol.NFS: _url}
