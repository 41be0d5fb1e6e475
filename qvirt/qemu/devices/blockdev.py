"""Block nodes: an image chain in QEMU's words, from the lowest image up to the node a disk is plugged into.

Every image becomes a storage node (how to reach the bytes), sometimes a slice node, and a format node (what
the bytes mean). Node names come from the image's index, which the live document shows, so nothing else has to
be remembered. What the images need beside (secrets, TLS, reservation helpers) comes before the node using it.
"""

from collections.abc import Iterator
from urllib.parse import quote

from qvirt.errors import ConfigUnsupported, InternalError, InvalidArg
from qvirt.model.devices.disk import Disk, DiskDevice
from qvirt.model.storage_chain import Image
from qvirt.model.storage_source import (
    BACKING_FORMATS,
    Host,
    HostPciAddress,
    Protocol,
    SourceType,
    StorageSource,
)
from qvirt.qemu.context import BuildContext
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Blockdev, Object, Switch
from qvirt.record import Record
from qvirt.xml.node import Node

Props = dict[str, JsonValue]

#: libvirt's names of formats that QEMU calls otherwise
DRIVERS = {"fat": "raw", "ploop": "parallels", "vhd": "vhdx"}


class CacheMode(Record):
    """What a cache mode means: does the guest see a write cache, is the host's bypassed, are flushes lost."""

    write_back: bool
    direct: bool
    no_flush: bool


CACHE_MODES: dict[str, CacheMode] = {
    "none": CacheMode(True, True, False),
    "writethrough": CacheMode(False, False, False),
    "writeback": CacheMode(True, False, False),
    "directsync": CacheMode(False, True, False),
    "unsafe": CacheMode(True, False, True),
}


def effective_cache(disk: Disk) -> str | None:
    """Return the cache mode that is used: a disk shared for writing never goes through the host's cache."""
    said = disk.driver.cache
    if said in (None, "default"):
        return "none" if disk.shareable and not disk.readonly else None
    return said


def uses_blockdev(disk: Disk) -> bool:
    """Tell whether the disk's images are block nodes; SD cards and vhost-user disks are not."""
    return disk.target.bus != "sd" and disk.type != SourceType.VHOSTUSER


def number_images(disks: list[Disk], first: int = 1) -> int:
    """Give every image that has none its index, and return the next free one.

    libvirt counts from the last disk to the first, each chain from the top down, an empty drive as well.
    A number that is in use is not given again.
    """
    chains = [(disk, list(disk.images())) for disk in disks]
    used = [image.index for _, images in chains for image in images if image.index is not None]
    first = max(first, max(used, default=0) + 1)
    for disk, images in reversed(chains):
        if not uses_blockdev(disk) or disk.type == SourceType.VOLUME:
            continue
        if not disk.has_medium:
            first += 1
        for image in images:
            if image.index is None:
                image.index = first
                first += 1
    return first


def storage_node(image: Image) -> str:
    """Return the name of the image's storage node."""
    return f"libvirt-{_index(image)}-storage"


def format_node(image: Image) -> str:
    """Return the name of the image's format node, which stands for the image."""
    return f"libvirt-{_index(image)}-format"


def copy_on_read_node(disk: Disk) -> str:
    """Return the name of the filter node that copies what is read."""
    return f"libvirt-CoR-{disk.name}"


def top_node(disk: Disk) -> str | None:
    """Return the node the disk's device is plugged into; None for an empty drive."""
    top = disk.top
    if top is None or disk.type == SourceType.VOLUME:
        return None
    return copy_on_read_node(disk) if disk.driver.copy_on_read else format_node(top)


def _index(image: Image) -> int:
    if image.index is None:
        raise InternalError(f"image {image.source.local_path or image.type} has no node name yet")
    return image.index


def chain_switches(disk: Disk, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the nodes of the disk's images, the lowest first. Raises ConfigUnsupported."""
    images = list(disk.images())
    for position in range(len(images) - 1, -1, -1):
        below = images[position + 1] if position + 1 < len(images) else None
        yield from image_switches(images[position], below, disk, ctx)
    if images and disk.driver.copy_on_read:
        yield Blockdev(
            {
                "driver": "copy-on-read",
                "node-name": copy_on_read_node(disk),
                "file": format_node(images[0]),
                "discard": "unmap",
            },
            origin=disk,
        )


def image_switches(image: Image, below: Image | None, disk: Disk, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the nodes of one image, on top of ``below``; what they need comes before them."""
    node = image.node
    source = image.source
    needs = Needs(image, ctx)
    storage = needs.storage_props(disk)
    cache = _cache_props(disk)
    common: Props = {"cache": cache, "auto-read-only": True, "discard": "unmap"}
    above = storage_node(image)
    slice_props: Props = {}
    slices: list[Switch] = []
    if source.slices is not None and source.slices.slices:
        part = source.slices.slices[0]
        slice_props = {"offset": part.offset, "size": part.size}
        if _driver(image) != "raw":
            above = f"libvirt-{image.index}-slice-sto"
            slices.append(
                Blockdev(
                    {
                        "driver": "raw",
                        "node-name": above,
                        **slice_props,
                        "file": storage_node(image),
                        **common,
                    },
                    origin=node,
                )
            )
            slice_props = {}
    format_props = needs.format_props()
    yield from needs.objects
    yield Blockdev({**storage, "node-name": storage_node(image), **common}, origin=node)
    yield from slices
    props: Props = {
        "node-name": format_node(image),
        "read-only": image.readonly,
        "cache": cache,
        "discard": disk.driver.discard,
        "detect-zeroes": detect_zeroes(disk) if image.depth == 0 else None,
        **format_props,
        **slice_props,
        "file": above,
        "backing": format_node(below) if below is not None else None,
    }
    if below is not None and image.format not in BACKING_FORMATS:
        raise ConfigUnsupported(f"storage format '{image.format}' does not support backing store")
    ended = image.below is not None and image.below.is_end and image.format in BACKING_FORMATS
    yield Blockdev(props, explicit_null=frozenset({"backing"}) if ended else frozenset(), origin=node)


def _cache_props(disk: Disk) -> JsonValue:
    mode = CACHE_MODES.get(effective_cache(disk) or "")
    return {"direct": mode.direct, "no-flush": mode.no_flush} if mode is not None else None


def detect_zeroes(disk: Disk) -> str | None:
    """Return what is done with zeroes that are written."""
    # QEMU refuses to turn detected zeroes into discards on a node that does not discard
    said = disk.driver.detect_zeroes
    return "on" if said == "unmap" and disk.driver.discard != "unmap" else said


def _driver(image: Image) -> str:
    name = image.format or "raw"
    if name == "raw" and image.encryption is not None and image.encryption.engine != "librbd":
        return "luks"
    return DRIVERS.get(name, name)


def secret_object(id: str, value: bytes, ctx: BuildContext, origin: Node | None = None) -> Object:
    """Return a secret object; the value leaves this process only under the domain's master key."""
    data, iv = ctx.launch.seal(value)
    props: Props = {
        "qom-type": "secret",
        "id": id,
        "data": data,
        "keyid": "masterKey0",
        "iv": iv,
        "format": "base64",
    }
    return Object(props, origin=origin)


def iscsi_props(name: str, host: str, port: str, user: str | None, password: str | None) -> Props:
    """Return how a unit is reached. name: target, slash, unit. user, password: by CHAP; the secret's id.

    Raises InternalError for a unit that is no number.
    """
    target, _, unit = name.rpartition("/")
    if not unit.isdigit():
        raise InternalError(f"cannot parse target for lunStr '{target}'")
    return {
        "driver": "iscsi",
        "portal": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "target": target,
        "lun": int(unit),
        "transport": "tcp",
        "user": user,
        "password-secret": password,
    }


class Needs:
    """One image's properties, and the objects they mention.

    objects: secrets, TLS credentials and reservation helpers, in the order they were asked for.
    """

    def __init__(self, image: Image, ctx: BuildContext) -> None:
        self.image = image
        self.ctx = ctx
        self.objects: list[Switch] = []

    # ------------------------------------------------------------ objects

    def secret(self, id: str, value: bytes) -> str:
        """Add a secret object and return its id; the value leaves this process only under the master key."""
        self.objects.append(secret_object(id, value, self.ctx, self.image.node))
        return id

    def _auth(self) -> tuple[str | None, str | None]:
        auth = self.image.auth
        if auth is None or auth.secret is None:
            return None, None
        value = self.ctx.launch.secret(auth.secret.type or "", auth.secret.uuid, auth.secret.usage)
        return auth.username, self.secret(f"{storage_node(self.image)}-auth-secret0", value)

    def _passphrase(self) -> str | None:
        encryption = self.image.encryption
        if encryption is None or not encryption.secrets:
            return None
        use = encryption.secrets[0]
        value = self.ctx.launch.secret("volume", use.uuid, use.usage)
        return self.secret(f"{format_node(self.image)}-encryption-secret0", value)

    def _tls(self) -> str | None:
        if not self.image.source.tls:
            return None
        id = f"obj{storage_node(self.image)}_tls0"
        props: Props = {
            "qom-type": "tls-creds-x509",
            "id": id,
            "dir": self.ctx.settings.nbd_tls_x509_cert_dir,
            "endpoint": "client",
            "verify-peer": True,
        }
        self.objects.append(Object(props, origin=self.image.node))
        return id

    def _reservations(self) -> str | None:
        said = self.image.source.reservations
        if said is None:
            return None
        if said.managed or said.source is None:
            return "pr-helper0"
        id = f"pr-helper-{storage_node(self.image)}"
        self.objects.append(
            Object(
                {"qom-type": "pr-manager-helper", "id": id, "path": said.source.path}, origin=self.image.node
            )
        )
        return id

    # ------------------------------------------------------------ format

    def format_props(self) -> Props:
        """Return what only the format node's driver takes."""
        image = self.image
        driver = _driver(image)
        props: Props = {"driver": driver}
        encryption = image.encryption
        if encryption is not None and encryption.secrets and encryption.engine != "librbd":
            key = self._passphrase()
            if driver == "luks":
                props["key-secret"] = key
            elif driver in ("qcow2", "qcow"):
                kind = "aes" if driver == "qcow" or encryption.format == "qcow" else "luks"
                props["encrypt"] = {"format": kind, "key-secret": key}
        if driver == "qcow2" and image.cache_size is not None:
            props["cache-size"] = image.cache_size
        return props

    # ------------------------------------------------------------ storage

    def storage_props(self, disk: Disk) -> Props:
        """Return the storage node's driver and what says where the bytes are."""
        image = self.image
        source = image.source
        if image.type == SourceType.FILE:
            return self._file("file", source.file, disk)
        if image.type == SourceType.BLOCK:
            return self._file("host_device", source.dev, disk)
        if image.type == SourceType.DIR:
            return {
                "driver": "vvfat",
                "dir": source.dir,
                "floppy": disk.device == DiskDevice.FLOPPY,
                "rw": False,
            }
        if image.type == SourceType.NVME:
            where = source.address or HostPciAddress()
            return {
                "driver": "nvme",
                "device": f"{where.domain:04x}:{where.bus:02x}:{where.slot:02x}.{where.function:x}",
                "namespace": source.namespace,
            }
        if image.type == SourceType.NETWORK and source.protocol is not None and source.protocol in _NETWORK:
            if source.tls and source.protocol not in (Protocol.NBD, Protocol.VXHS):
                raise ConfigUnsupported(
                    f"TLS transport is not supported for disk protocol '{source.protocol}'"
                )
            return _NETWORK[source.protocol](self, source)
        raise ConfigUnsupported(f"storage source type '{image.type}' cannot be opened by QEMU directly")

    def _file(self, driver: str, path: str | None, disk: Disk) -> Props:
        if self.image.source.fdgroup is not None:
            raise InvalidArg(
                f"file descriptor group '{self.image.source.fdgroup}' was not associated with the domain"
            )
        return {
            "driver": driver,
            "filename": path,
            "aio": disk.driver.io,
            "pr-manager": self._reservations(),
        }

    def _gluster(self, source: StorageSource) -> Props:
        volume, _, path = (source.name or "").partition("/")
        servers = [_server(host, source, typed=True) for host in source.hosts]
        return {"driver": "gluster", "volume": volume, "path": path, "server": list(servers), "debug": 4}

    def _curl(self, source: StorageSource) -> Props:
        host = _only_host(source)
        name = f"[{host.name}]" if host.name and ":" in host.name else host.name or ""
        path = quote((source.name or "").lstrip("/"), safe="/~!$&'()*+,;=:@")
        url = f"{source.protocol}://{name}:{host.port}/{path}"
        if source.query is not None:
            url += f"?{source.query}"
        user, password = self._auth()
        cookies = source.cookies.cookies if source.cookies is not None else []
        secret = None
        if cookies:
            value = "; ".join(f"{cookie.name}={cookie.value or ''}" for cookie in cookies)
            secret = self.secret(f"{storage_node(self.image)}-httpcookie-secret0", value.encode())
        return {
            "driver": str(source.protocol),
            "url": url,
            "username": user,
            "password-secret": password,
            "sslverify": source.ssl.verify if source.ssl is not None else None,
            "cookie-secret": secret,
            "timeout": source.timeout.seconds if source.timeout is not None else None,
            "readahead": source.readahead.size if source.readahead is not None else None,
        }

    def _iscsi(self, source: StorageSource) -> Props:
        host = _only_host(source)
        initiator = source.initiator.iqn if source.initiator is not None else None
        return {
            **iscsi_props(source.name or "", host.name or "", str(host.port), *self._auth()),
            "initiator-name": initiator.name if initiator is not None else None,
        }

    def _nbd(self, source: StorageSource) -> Props:
        return {
            "driver": "nbd",
            "server": _server(_only_host(source), source, typed=True),
            "export": source.name,
            "tls-creds": self._tls(),
            "tls-hostname": source.tls_hostname,
        }

    def _rbd(self, source: StorageSource) -> Props:
        pool, _, name = (source.name or "").partition("/")
        servers = [_server(host, source, typed=False) for host in source.hosts]
        user, key = self._auth()
        encryption = self.image.encryption
        encrypt: JsonValue = None
        if encryption is not None and encryption.engine == "librbd":
            encrypt = {"format": encryption.format, "key-secret": self._passphrase()}
        return {
            "driver": "rbd",
            "pool": pool,
            "image": name,
            "snapshot": source.snapshot.name if source.snapshot is not None else None,
            "conf": source.config.file if source.config is not None else None,
            "server": list(servers) or None,
            "encrypt": encrypt,
            "user": user,
            "auth-client-required": ["cephx", "none"] if key is not None else None,
            "key-secret": key,
        }

    def _sheepdog(self, source: StorageSource) -> Props:
        return {
            "driver": "sheepdog",
            "server": _server(_only_host(source), source, typed=True),
            "vdi": source.name,
        }

    def _ssh(self, source: StorageSource) -> Props:
        user, _ = self._auth()
        server = _server(_only_host(source), source, typed=False)
        return {"driver": "ssh", "path": source.name, "server": server, "user": user}

    def _nfs(self, source: StorageSource) -> Props:
        who = source.identity
        return {
            "driver": "nfs",
            "server": {"host": _only_host(source).name, "type": "inet"},
            "path": source.name,
            "user": _number(who.user, "user") if who is not None else None,
            "group": _number(who.group, "group") if who is not None else None,
        }

    def _vxhs(self, source: StorageSource) -> Props:
        raise ConfigUnsupported("VxHS protocol is not supported with this QEMU binary")


_NETWORK = {
    Protocol.GLUSTER: Needs._gluster,
    Protocol.HTTP: Needs._curl,
    Protocol.HTTPS: Needs._curl,
    Protocol.FTP: Needs._curl,
    Protocol.FTPS: Needs._curl,
    Protocol.TFTP: Needs._curl,
    Protocol.ISCSI: Needs._iscsi,
    Protocol.NBD: Needs._nbd,
    Protocol.RBD: Needs._rbd,
    Protocol.SHEEPDOG: Needs._sheepdog,
    Protocol.SSH: Needs._ssh,
    Protocol.NFS: Needs._nfs,
    Protocol.VXHS: Needs._vxhs,
}


def _only_host(source: StorageSource) -> Host:
    if len(source.hosts) != 1:
        is_curl = source.protocol in ("http", "https", "ftp", "ftps", "tftp")
        whose = f"protocol '{source.protocol}'" if is_curl else f"{source.protocol} protocol"
        raise InternalError(f"{whose} accepts only one host")
    return source.hosts[0]


def _server(host: Host, source: StorageSource, *, typed: bool) -> Props:
    if host.transport == "unix":
        return {"type": "unix", "path": host.socket}
    if host.transport == "rdma":
        raise InternalError("transport protocol 'rdma' is not yet supported")
    address: Props = {"host": host.name, "port": host.port or "0"}
    return {"type": "inet", **address} if typed else address


def _number(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    digits = text.removeprefix("+")
    if not digits.isdigit():
        raise ConfigUnsupported(f"NFS {what} '{text}' is a name; write its number as '+N'")
    return int(digits)
