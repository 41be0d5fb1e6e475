"""``<os>``: what boots, and how."""

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.xml.codecs import integer, string, uint, words, yes_no
from qvirt.xml.fields import attr, child, children, content, opaque, part, text, texts
from qvirt.xml.node import Node, Raw, complain

NBD_PORT = "10809"
MAX_BOOT_DEVICES = 4
OS_TYPES = ("hvm", "xen", "linux", "exe", "uml", "xenpvh")
BOOT_DEVICES = ("fd", "hd", "cdrom", "network")


class OsType(Node, tag="type"):
    """``<type>``: kind of guest, architecture, machine type."""

    arch: str | None = attr(string)
    machine: str | None = attr(string)
    value: str | None = content(string)

    def check(self) -> None:
        self.arch = self.arch or None
        self.machine = self.machine or None
        if self.value is not None and self.value not in OS_TYPES:
            raise ConfigUnsupported(f"unknown OS type '{self.value}'{_at(self)}")


class FirmwareFeature(Node, tag="feature"):
    enabled: bool = attr(yes_no, required=True)
    name: str = attr(words("enrolled-keys", "secure-boot"), required=True)


class FirmwareChoice(Node, tag="firmware"):
    """``<firmware>`` in ``<os>``: features the automatic selection must honour."""

    features: list[FirmwareFeature] = children(FirmwareFeature)


class InitEnv(Node, tag="initenv"):
    name: str = attr(string, required=True)
    value: str | None = content(string)


class Loader(Node, tag="loader"):
    """``<loader>``: a firmware image."""

    readonly: bool | None = attr(yes_no)
    secure: bool | None = attr(yes_no)
    type: str | None = attr(words("rom", "pflash"))
    stateless: bool | None = attr(yes_no)
    path: str | None = content(string)

    def check(self) -> None:
        # a loader of white space only is no path
        if self.path is not None and not self.path.strip():
            self.path = None


class NvramHost(Node, tag="host"):
    transport: str | None = attr(string)
    name: str | None = attr(string)
    port: str | None = attr(string)
    socket: str | None = attr(string)


class NvramReconnect(Node, tag="reconnect"):
    delay: int | None = attr(uint)


class NvramSource(Node, tag="source"):
    """``<source>`` of ``<nvram>``: the same forms as a disk's, fewer of them."""

    protocol: str | None = attr(string)
    name: str | None = attr(string)
    query: str | None = attr(string)
    tls: bool | None = attr(yes_no)
    file: str | None = attr(string)
    dev: str | None = attr(string)
    dir: str | None = attr(string)
    startupPolicy: str | None = attr(string)
    hosts: list[NvramHost] = children(NvramHost)
    reconnect: NvramReconnect | None = child(NvramReconnect)
    seclabels: list[Raw] = opaque("seclabel")
    initiator: list[Raw] = opaque("initiator")
    auth: list[Raw] = opaque("auth")
    snapshot: list[Raw] = opaque("snapshot")
    config: list[Raw] = opaque("config")
    cookies: list[Raw] = opaque("cookies")
    ssl: list[Raw] = opaque("ssl")
    reservations: list[Raw] = opaque("reservations")


class Nvram(Node, tag="nvram"):
    """``<nvram>``: where the firmware keeps its variables; a path, or a source as a disk has."""

    type: str | None = attr(words("file", "block", "dir", "network", "volume", "nvme", "vhostuser"))
    template: str | None = attr(string)
    source: NvramSource | None = child(NvramSource)
    path: str | None = content(string)

    def check(self) -> None:
        if self.path is not None and (not self.path.strip() or self.type is not None):
            self.path = None
        if self.type is None:
            self.source = None
        elif self.source is None:
            raise XmlError(f"missing source element for nvram{_at(self)}")
        elif self.source.protocol == "nbd":
            for host in self.source.hosts:
                if host.socket is None and host.port is None:
                    host.port = NBD_PORT

    @property
    def file(self) -> str | None:
        """Path of a local file that holds the variables."""
        if self.source is not None:
            return self.source.file or self.source.dev
        return self.path


class OsBoot(Node, tag="boot"):
    dev: str = attr(words(*BOOT_DEVICES), required=True)


class BootMenu(Node, tag="bootmenu"):
    """``<bootmenu>``; timeout in milliseconds."""

    enable: bool | None = attr(yes_no)
    timeout: int | None = attr(uint)

    def check(self) -> None:
        if self.timeout is not None and self.timeout > 65535:
            raise ConfigUnsupported(
                f"invalid value for boot menu timeout, must be in range [0,65535]: {self.timeout}{_at(self)}"
            )


class SmbiosMode(Node, tag="smbios"):
    complaints = complain({"mode": (ConfigUnsupported, "unknown smbios mode '{}'")})
    mode: str | None = attr(words("none", "emulate", "host", "sysinfo"))


class Bios(Node, tag="bios"):
    """``<bios>``; rebootTimeout in milliseconds, -1 stays down."""

    useserial: bool | None = attr(yes_no)
    reboot_timeout: int | None = attr(integer, "rebootTimeout")

    def check(self) -> None:
        if self.reboot_timeout is not None and not -1 <= self.reboot_timeout <= 65535:
            raise ConfigUnsupported(
                "invalid value for rebootTimeout, must be in range [-1,65535]"
                f": {self.reboot_timeout}{_at(self)}"
            )


class AcpiTable(Node, tag="table"):
    complaints = complain({"type": (XmlError, "Unknown acpi table type: {}")})
    type: str = attr(words("slic"), required=True)
    path: str | None = content(string)

    def check(self) -> None:
        self.path = self.path or ""


class OsAcpi(Node, tag="acpi"):
    """``<acpi>`` in ``<os>``: tables handed to the guest."""

    table: AcpiTable | None = child(AcpiTable)


class Os(Node, tag="os"):
    """The operating system booting of a domain."""

    complaints = complain(
        {
            "!type": (XmlError, "an os <type> must be specified"),
            "firmware": (XmlError, "unknown firmware value {}"),
        }
    )
    firmware: str | None = attr(words("bios", "efi"))
    type: OsType = child(OsType, required=True)
    firmware_choice: FirmwareChoice | None = child(FirmwareChoice, "firmware")
    init: str | None = text(string)
    initargs: list[str] = texts(string, "initarg")
    initenvs: list[InitEnv] = children(InitEnv)
    initdir: str | None = text(string)
    inituser: str | None = text(string)
    initgroup: str | None = text(string)
    loader: Loader | None = child(Loader)
    nvram: Nvram | None = child(Nvram)
    kernel: str | None = text(string)
    initrd: str | None = text(string)
    cmdline: str | None = text(string)
    dtb: str | None = text(string)
    root: str | None = text(string)
    acpi: OsAcpi | None = child(OsAcpi)
    boots: list[OsBoot] = children(OsBoot)
    bootmenu: BootMenu | None = child(BootMenu)
    bios: Bios = part(Bios)
    smbios: SmbiosMode | None = child(SmbiosMode)

    def check(self) -> None:
        for name in ("kernel", "initrd", "cmdline", "dtb", "root", "init"):
            if self.__dict__.get(name) == "":
                del self.__dict__[name]
        del self.boots[MAX_BOOT_DEVICES:]
        if self.bootmenu is not None and not self.bootmenu.enable:
            self.bootmenu.timeout = None
        for name, empty in (
            ("bootmenu", self.bootmenu is not None and self.bootmenu.enable is None),
            ("smbios", self.smbios is not None and self.smbios.mode in (None, "none")),
            ("acpi", self.acpi is not None and self.acpi.table is None),
        ):
            if empty:
                del self.__dict__[name]


def _at(node: Node) -> str:
    return f" (line {node.line})" if node.line else ""
