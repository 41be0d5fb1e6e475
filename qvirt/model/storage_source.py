"""Where an image's bytes come from: ``<source>``, and what opens it; what is below an image: `storage_chain`.

The type of a source stands on the element around it (``<disk type='network'>``), so one class holds what all
types may say, and ``keep`` leaves what the type has.
"""

import re
from enum import StrEnum

from qvirt.errors import ConfigUnsupported, InvalidArg, XmlError
from qvirt.model.memory import UNITS
from qvirt.model.seclabel import DeviceSecLabel, settled
from qvirt.xml.codecs import hex1, hex2, hex4, one_of, string, uint, ulong, uuid, words, yes_no
from qvirt.xml.fields import attr, child, children, content
from qvirt.xml.node import Node


class SourceType(StrEnum):
    """What kind of place a source is."""

    FILE = "file"
    BLOCK = "block"
    DIR = "dir"
    NETWORK = "network"
    VOLUME = "volume"
    NVME = "nvme"
    VHOSTUSER = "vhostuser"


class Protocol(StrEnum):
    """The protocol of a network source."""

    NONE = "none"
    NBD = "nbd"
    RBD = "rbd"
    SHEEPDOG = "sheepdog"
    GLUSTER = "gluster"
    ISCSI = "iscsi"
    HTTP = "http"
    HTTPS = "https"
    FTP = "ftp"
    FTPS = "ftps"
    TFTP = "tftp"
    SSH = "ssh"
    VXHS = "vxhs"
    NFS = "nfs"


#: the port a protocol uses when the host names none
DEFAULT_PORTS: dict[str, int] = {
    Protocol.SSH: 22,
    Protocol.HTTP: 80,
    Protocol.HTTPS: 443,
    Protocol.FTP: 21,
    Protocol.FTPS: 990,
    Protocol.TFTP: 69,
    Protocol.SHEEPDOG: 7000,
    Protocol.NBD: 10809,
    Protocol.ISCSI: 3260,
    Protocol.GLUSTER: 24007,
    Protocol.VXHS: 9999,
}

#: image formats; what libvirt reads and probes, not what an emulator can open
FORMATS = (
    "none",
    "raw",
    "dir",
    "bochs",
    "cloop",
    "dmg",
    "iso",
    "vpc",
    "vdi",
    "fat",
    "vhd",
    "ploop",
    "cow",
    "qcow",
    "qcow2",
    "qed",
    "vmdk",
)

#: formats that can have an image below them
BACKING_FORMATS = frozenset({"cow", "qcow", "qcow2", "qed", "vmdk"})


def check_format(name: str | None) -> None:
    """Refuse a format nobody knows. Raises ConfigUnsupported."""
    if name is not None and (name not in FORMATS or name == "none"):
        raise ConfigUnsupported(f"unknown driver format value '{name}'")


#: the secret a server's login needs, by protocol
_SECRET_TYPES = {
    Protocol.RBD: "ceph",
    Protocol.ISCSI: "iscsi",
    Protocol.SSH: "",
    Protocol.HTTP: "",
    Protocol.HTTPS: "",
}


class SecretUse(Node, tag="secret"):
    """Which of libvirt's secrets to use, by UUID or by usage."""

    type: str | None = attr(string)
    usage: str | None = attr(string)
    uuid: str | None = attr(string)

    def check(self) -> None:
        if self.uuid is None and self.usage is None:
            raise XmlError("missing secret uuid or usage attribute")
        if self.uuid is not None and self.usage is not None:
            raise XmlError("either secret uuid or usage expected")
        if self.uuid is not None:
            try:
                self.uuid = uuid.parse(self.uuid)
            except ValueError:
                raise XmlError(f"invalid secret uuid '{self.uuid}'") from None


class Auth(Node, tag="auth"):
    """Who we are to the storage server."""

    type: str | None = attr(string)
    username: str | None = attr(string)
    secret: SecretUse | None = child(SecretUse)

    def check(self) -> None:
        if self.username is None:
            raise XmlError("missing username for auth")
        if self.secret is None:
            raise XmlError("Missing <secret> element in auth")

    def check_protocol(self, protocol: str) -> None:
        """Refuse a secret that is not of the protocol's kind. Raises ConfigUnsupported."""
        said = self.secret.type if self.secret is not None else None
        if said not in ("none", "volume", "ceph", "iscsi", "tls", "vtpm"):
            raise ConfigUnsupported(f"unknown secret type '{said or '<null>'}'")
        wanted = _SECRET_TYPES.get(Protocol(protocol))
        if wanted and said != wanted:
            raise ConfigUnsupported(f"invalid secret type '{said}'")


class Cipher(Node, tag="cipher"):
    name: str = attr(string, required=True)
    size: int = attr(uint, required=True)
    mode: str | None = attr(string)
    hash: str | None = attr(string)


class Ivgen(Node, tag="ivgen"):
    name: str = attr(string, required=True)
    hash: str | None = attr(string)


class EncryptionSecret(SecretUse, tag="secret"):
    """A passphrase of an encrypted image."""

    def check(self) -> None:
        super().check()
        if self.type is None:
            raise XmlError("unknown volume encryption secret type")
        if self.type != "passphrase":
            raise ConfigUnsupported(f"unknown volume encryption secret type {self.type}")


class Encryption(Node, tag="encryption"):
    """How the image is encrypted, and what opens it; for librbd one secret per layer."""

    format: str | None = attr(string)
    engine: str | None = attr(words("qemu", "librbd"))
    secrets: list[EncryptionSecret] = children(EncryptionSecret)
    cipher: Cipher | None = child(Cipher)
    ivgen: Ivgen | None = child(Ivgen)

    def check(self) -> None:
        if self.format is None:
            raise XmlError("unknown volume encryption format")
        if self.format not in ("default", "qcow", "luks", "luks2"):
            raise ConfigUnsupported(f"unknown volume encryption format type {self.format}")


class Host(Node, tag="host"):
    """A server of a network source; ``port`` is text, as it is in the document."""

    name: str | None = attr(string)
    port: str | None = attr(string)
    transport: str | None = attr(string)
    socket: str | None = attr(string)

    def check(self) -> None:
        if self.transport not in (None, "tcp", "unix", "rdma"):
            raise ConfigUnsupported(f"unknown protocol transport type '{self.transport}'")
        if self.transport == "unix" and self.socket is None:
            raise XmlError("missing socket for unix transport")
        if self.transport != "unix" and self.socket is not None:
            raise XmlError(f"transport '{self.transport or '(null)'}' does not support socket attribute")
        if self.transport == "unix":
            self.name = self.port = None
        else:
            if self.name is None:
                raise XmlError("missing name for host")
            if self.port is not None and not self.port.isdigit():
                raise InvalidArg(f"failed to parse port number '{self.port}'")
            if self.transport == "tcp":
                self.transport = None


class Named(Node):
    """An element that is a name: ``<snapshot name='…'/>``."""

    name: str | None = attr(string)


class ConfigFile(Node, tag="config"):
    """The client configuration file of a Ceph cluster."""

    file: str | None = attr(string)


class Initiator(Node, tag="initiator"):
    iqn: Named | None = child(Named, "iqn")


class Ssl(Node, tag="ssl"):
    verify: bool | None = attr(yes_no)


class Cookie(Node, tag="cookie"):
    name: str = attr(string, required=True)
    value: str | None = content(string)

    def check(self) -> None:
        # RFC 6265's token and cookie-octet; QEMU gets all cookies as one header line
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", self.name):
            raise XmlError(f"cookie name '{self.name}' contains invalid characters")
        if self.value is None:
            raise XmlError(f"missing value for cookie '{self.name}'")
        bare = (
            self.value[1:-1] if len(self.value) > 1 and self.value[0] == self.value[-1] == '"' else self.value
        )
        if not re.fullmatch(r"[!#-+\--:<-\[\]-~]*", bare):
            raise XmlError(f"value of cookie '{self.name}' contains invalid characters")


class Cookies(Node, tag="cookies"):
    cookies: list[Cookie] = children(Cookie)


class Readahead(Node, tag="readahead"):
    size: int | None = attr(ulong)


class Timeout(Node, tag="timeout"):
    seconds: int | None = attr(ulong)


class Identity(Node, tag="identity"):
    """The user and group an NFS server sees; ``+N`` is a number, anything else a name."""

    user: str | None = attr(string)
    group: str | None = attr(string)


class HostPciAddress(Node, tag="address"):
    """The PCI function of a host's NVMe controller; carries no type."""

    domain: int = attr(hex4, default=0)
    bus: int = attr(hex2, default=0)
    slot: int = attr(hex2, default=0)
    function: int = attr(hex1, default=0)


class Reconnect(Node, tag="reconnect"):
    """Whether QEMU connects again when the socket's other end goes away; seconds."""

    enabled: bool | None = attr(yes_no)
    timeout: int | None = attr(uint)


class Slice(Node, tag="slice"):
    """The part of the storage that holds the image; bytes."""

    type: str | None = attr(string)
    offset: int | None = attr(ulong)
    size: int | None = attr(ulong)

    def check(self) -> None:
        if self.type == "storage" and (self.offset is None or self.size is None):
            raise XmlError("missing offset or size attribute of slice")


class Slices(Node, tag="slices"):
    slices: list[Slice] = children(Slice)

    def check(self) -> None:
        # slices of the format layer are nothing yet
        self.slices = [part for part in self.slices if part.type == "storage"]


class ReservationsSource(Node, tag="source"):
    type: str = attr(string, required=True)
    path: str | None = attr(string)
    mode: str | None = attr(string)


class Reservations(Node, tag="reservations"):
    """Persistent SCSI reservations; managed: the helper is started with the domain."""

    managed: bool | None = attr(yes_no)
    source: ReservationsSource | None = child(ReservationsSource)

    def check(self) -> None:
        if self.managed is None:
            raise XmlError("missing 'managed' attribute for <reservations/>")
        if self.managed:
            self.source = None
            return
        if self.source is None:
            raise XmlError("missing connection type for <reservations/>")
        if self.source.type != "unix":
            raise ConfigUnsupported(f"unsupported connection type for <reservations/>: {self.source.type}")
        if self.source.path is None:
            raise XmlError("missing path for <reservations/>")
        if self.source.mode is None:
            raise XmlError("missing connection mode for <reservations/>")
        if self.source.mode != "client":
            raise ConfigUnsupported(f"unsupported connection mode for <reservations/>: {self.source.mode}")


class MaxSize(Node, tag="max_size"):
    """A size; bytes once read."""

    unit: str | None = attr(string)
    value: int = content(ulong, required=True)

    def check(self) -> None:
        factor = UNITS.get((self.unit or "bytes").lower())
        if factor is None:
            raise InvalidArg(f"unknown suffix '{self.unit}'")
        self.value *= factor
        self.unit = "bytes"


class MetadataCache(Node, tag="metadata_cache"):
    """How much of a qcow2 image's metadata QEMU keeps in memory."""

    max_size: MaxSize | None = child(MaxSize)

    @property
    def bytes(self) -> int | None:
        """The size, None when it is not said."""
        return self.max_size.value if self.max_size is not None else None


#: what a source of each type may say; what every type may say is not listed
TYPE_FIELDS: dict[str, frozenset[str]] = {
    SourceType.FILE: frozenset({"file", "fdgroup", "seclabels"}),
    SourceType.BLOCK: frozenset({"dev", "seclabels"}),
    SourceType.DIR: frozenset({"dir", "seclabels"}),
    SourceType.NETWORK: frozenset(
        {
            "protocol",
            "name",
            "query",
            "tls",
            "tls_hostname",
            "hosts",
            "snapshot",
            "config",
            "initiator",
            "ssl",
            "cookies",
            "readahead",
            "timeout",
            "identity",
        }
    ),
    SourceType.VOLUME: frozenset({"pool", "volume", "mode", "seclabels"}),
    SourceType.NVME: frozenset({"type", "managed", "namespace", "address", "seclabels"}),
    SourceType.VHOSTUSER: frozenset({"type", "path", "reconnect", "seclabels"}),
}
_HTTP = frozenset({Protocol.HTTP, Protocol.HTTPS})
_CURL = _HTTP | {Protocol.FTP, Protocol.FTPS}
#: what only some protocols may say
_PROTOCOL_FIELDS: dict[str, frozenset[Protocol]] = {
    "query": _HTTP,
    "ssl": frozenset({Protocol.HTTPS, Protocol.FTPS}),
    "cookies": _HTTP,
    "readahead": _CURL,
    "timeout": _CURL,
    "identity": frozenset({Protocol.NFS}),
}
_TYPED = frozenset().union(*TYPE_FIELDS.values())


class StorageSource(Node, tag="source"):
    """``<source>`` of a disk or of an image below it."""

    file: str | None = attr(string)
    fdgroup: str | None = attr(string)
    dev: str | None = attr(string)
    dir: str | None = attr(string)
    protocol: Protocol | None = attr(one_of(Protocol))
    name: str | None = attr(string)
    query: str | None = attr(string)
    tls: bool | None = attr(yes_no)
    tls_hostname: str | None = attr(string, "tlsHostname")
    pool: str | None = attr(string)
    volume: str | None = attr(string)
    mode: str | None = attr(string)
    type: str | None = attr(string)
    managed: bool | None = attr(yes_no)
    namespace: int | None = attr(ulong)
    path: str | None = attr(string)
    startup_policy: str | None = attr(
        words("default", "mandatory", "requisite", "optional"), "startupPolicy", omit="default"
    )
    index: int | None = attr(uint)
    address: HostPciAddress | None = child(HostPciAddress)
    reconnect: Reconnect | None = child(Reconnect)
    hosts: list[Host] = children(Host)
    snapshot: Named | None = child(Named, "snapshot")
    config: ConfigFile | None = child(ConfigFile)
    initiator: Initiator | None = child(Initiator)
    ssl: Ssl | None = child(Ssl)
    cookies: Cookies | None = child(Cookies)
    readahead: Readahead | None = child(Readahead)
    timeout: Timeout | None = child(Timeout)
    identity: Identity | None = child(Identity)
    slices: Slices | None = child(Slices)
    seclabels: list[DeviceSecLabel] = children(DeviceSecLabel)
    auth: Auth | None = child(Auth)
    encryption: Encryption | None = child(Encryption)
    reservations: Reservations | None = child(Reservations)

    def keep(self, kind: str) -> None:
        """Drop what a source of this type does not have, and fill in the ports that its protocol implies.

        Raises XmlError for what the type needs and is not there.
        """
        for name in _TYPED - TYPE_FIELDS[kind]:
            self.__dict__.pop(name, None)
        for name in ("file", "dev", "dir"):
            if getattr(self, name) == "":
                self.__dict__.pop(name)
        if kind == SourceType.NETWORK:
            self._check_network()
        elif kind == SourceType.VOLUME:
            self.auth = None  # the pool's own is used
            if (self.pool is None) != (self.volume is None):
                raise XmlError("'pool' and 'volume' must be specified together for 'pool' type source")
            if self.mode not in (None, "host", "direct"):
                raise ConfigUnsupported(f"unknown source mode '{self.mode}' for volume type disk")
        elif kind == SourceType.NVME:
            self._check_nvme()
        elif kind == SourceType.VHOSTUSER:
            self._check_vhostuser()
        if self.slices is not None and not self.slices.slices:
            self.slices = None
        if "seclabels" in self.__dict__:
            self.seclabels = settled(self.seclabels)

    def _check_network(self) -> None:
        if self.protocol is None:
            raise XmlError("Missing required attribute 'protocol' in element 'source'")
        nameless = (Protocol.NONE, Protocol.NBD)
        if self.name is None and self.protocol not in nameless:
            raise XmlError("missing name for disk source")
        for name, protocols in _PROTOCOL_FIELDS.items():
            if self.protocol not in protocols:
                self.__dict__.pop(name, None)
        if self.protocol in (Protocol.GLUSTER, Protocol.RBD):
            volume, slash, _ = (self.name or "").partition("/")
            if not slash or not volume:
                raise XmlError(f"can't split path '{self.name}' into pool name and image name")
        if self.protocol == Protocol.ISCSI and self.name is not None and "/" not in self.name:
            self.name += "/0"
        if self.auth is not None:
            self.auth.check_protocol(self.protocol)
        port = DEFAULT_PORTS.get(self.protocol)
        for host in self.hosts:
            if self.protocol == Protocol.NFS and host.port is not None:
                raise ConfigUnsupported("port cannot be specified in 'nfs' protocol host")
            if port is not None and host.port is None and host.transport is None:
                host.port = str(port)

    def _check_nvme(self) -> None:
        if self.type is None:
            raise XmlError("missing 'type' attribute to disk source")
        if self.type != "pci":
            raise XmlError(f"unsupported source type '{self.type}'")
        if self.namespace is None:
            raise XmlError("missing 'namespace' attribute to disk source")
        if self.namespace == 0:
            raise ConfigUnsupported("NVMe namespace can't be zero")
        if self.address is None:
            raise XmlError("NVMe disk source is missing address")
        self.managed = bool(self.managed)

    def _check_vhostuser(self) -> None:
        if self.type is None:
            raise XmlError("missing 'type' attribute for vhostuser disk source")
        if self.type != "unix":
            raise XmlError(f"invalid 'type' attribute '{self.type}' for vhostuser disk source")
        if self.path is None:
            raise XmlError("missing 'path' attribute for vhostuser disk source")

    @property
    def local_path(self) -> str | None:
        """The path on this machine, when the source has one that is opened by name."""
        return self.file or self.dev or self.dir
