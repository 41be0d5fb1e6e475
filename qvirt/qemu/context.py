"""What the translation may look at beside the document: the emulator's facts, the host's, the configuration.

Built by the layers above; nothing here reads a file or asks a process.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from qvirt.model.domain import Domain
from qvirt.record import Record, field

if TYPE_CHECKING:
    from qvirt.qemu.caps import EmulatorCaps
    from qvirt.qemu.firmware import Firmware


class Settings(Record):
    """The qemu.conf values that change the XML or the command line; defaults are libvirt's."""

    vnc_listen: str = "127.0.0.1"
    vnc_tls: bool = False
    vnc_tls_x509_cert_dir: str = "/etc/pki/qemu"
    vnc_tls_x509_verify: bool = False
    vnc_password: str | None = None
    vnc_sasl: bool = False
    vnc_sasl_dir: str | None = None
    vnc_auto_unix_socket: bool = False
    spice_listen: str = "127.0.0.1"
    spice_tls: bool = False
    spice_tls_x509_cert_dir: str = "/etc/pki/qemu"
    spice_password: str | None = None
    spice_sasl: bool = False
    spice_sasl_dir: str | None = None
    spice_auto_unix_socket: bool = False
    chardev_tls: bool = False
    chardev_tls_x509_cert_dir: str = "/etc/pki/qemu"
    chardev_tls_x509_verify: bool = True
    nbd_tls_x509_cert_dir: str = "/etc/pki/qemu"
    nographics_allow_host_audio: bool = False
    vnc_allow_host_audio: bool = False
    seccomp_sandbox: bool = True
    dump_guest_core: bool = False
    set_process_name: bool = False
    memory_backing_dir: str = "/var/lib/libvirt/qemu/ram"
    deprecation_behavior: str = "none"
    default_cpu_deprecated: bool = True
    log_timestamp: bool = True


class Dirs(Record):
    """Where the instance keeps what a QEMU is told about; ``--root`` and session move them."""

    lib: str = "/var/lib/libvirt/qemu"
    channel: str = "/var/lib/libvirt/qemu/channel/target"
    nvram: str = "/var/lib/libvirt/qemu/nvram"
    run: str = "/run/libvirt/qemu"
    log: str = "/var/log/libvirt/qemu"
    swtpm: str = "/run/libvirt/qemu/swtpm"


def all_express(function: str) -> bool:
    """Stand for a machine whose functions cannot be looked at."""
    return False


def no_group(function: str) -> str | None:
    """Stand for a machine without an IOMMU."""
    return None


class HostFacts(Record):
    """What the translation needs to know of this machine."""

    arch: str = "x86_64"
    kvm: bool = False
    uid: int = 0
    firmwares: tuple["Firmware", ...] = ()
    hugepage_mounts: tuple[tuple[int, str], ...] = ()  # (page size in KiB, mount point)
    default_hugepage: int = 2048  # KiB
    numa_nodes: frozenset[int] = frozenset({0})
    security_models: tuple[str, ...] = ("none", "dac")  # in use, the first stands in where a label names none
    cpu_features: frozenset[str] = frozenset()
    render_nodes: tuple[str, ...] = ()  # DRM nodes a GPU can be used through, the first is the default
    #: whether a PCI function ("0000:06:12.5") is there and not PCI Express: it gets a conventional slot
    is_conventional: Callable[[str], bool] = all_express
    #: generic nodes of SCSI devices ("/dev/sg0") by their place ("0:0:1:0"), as they were just now
    scsi_nodes: Mapping[str, str] = field(default_factory=dict)
    #: IOMMU groups of mediated devices, by uuid
    mdev_groups: Mapping[str, str] = field(default_factory=dict)
    #: the IOMMU group of a PCI function, None without one
    iommu_group: Callable[[str], str | None] = no_group


class Context(Record, frozen=False):
    """Everything a handler may ask while a document is completed and validated.

    generate_mac, generate_uuid: randomness comes in from outside.
    abi_update: the document is new (define, create), so defaults may be today's best; False when an old
    definition is read back, where what the guest sees must not change.
    """

    domain: Domain
    caps: "EmulatorCaps"
    generate_mac: Callable[[], str]
    generate_uuid: Callable[[], str]
    host: HostFacts = field(default_factory=HostFacts)
    settings: Settings = field(default_factory=Settings)
    dirs: Dirs = field(default_factory=Dirs)
    abi_update: bool = True


class Launch:
    """What exists only for one start: the id, and the descriptors QEMU inherits.

    This one stands for a start that does not happen (domxml-to-native): id -1, numbers made up.
    """

    id: int = -1
    monitor_fd: int | None = None
    incoming: str | None = None

    def __init__(self) -> None:
        self._next = 3
        #: QEMU's sets of descriptors, which it opens as ``/dev/fdset/N``, by the file they are for
        self.fdsets: dict[str, int] = {}

    def fdset(self, path: str) -> int:
        """Return the number of a file's set of descriptors: the one it has, or the first that is free."""
        free = next(number for number in range(len(self.fdsets) + 1) if number not in self.fdsets.values())
        return self.fdsets.setdefault(path, free)

    def fd_for_set(self, name: str) -> int:
        """Return the descriptor of a resource that goes into a set: QEMU's number at a start, later ours."""
        (number,) = self.fds(name)
        return int(number)

    def fds(self, name: str, count: int = 1) -> list[str]:
        """Return what QEMU knows the descriptors of a resource by, such as ``net0``.

        Numbers at a start; names for a QEMU that runs already.
        """
        first = self._next
        self._next += count
        return [str(number) for number in range(first, first + count)]

    def has(self, name: str) -> bool:
        """Tell whether descriptors of that name were made."""
        return False

    def secret(self, usage_type: str, uuid: str | None, usage: str | None) -> bytes:
        """Return the value of one of libvirt's secrets. Raises NoSecret where secrets are kept."""
        return b""

    def seal(self, value: bytes) -> tuple[str, str]:
        """Return a value encrypted under the domain's master key, and the vector, both in base64."""
        return "", ""


class BuildContext(Context, frozen=False):
    """A context with the one start that a command line is made for.

    now: seconds since the epoch, for a guest clock that runs beside the host's.
    """

    launch: Launch = field(default_factory=Launch)
    now: float = field(default_factory=time.time)

    @property
    def domain_dir(self) -> str:
        """The domain's own folder: monitor socket, master key."""
        return f"{self.dirs.lib}/{self.folder_name}"

    @property
    def folder_name(self) -> str:
        """``domain-ID-NAME``, the name cut to 20 characters as libvirt does to keep socket paths short."""
        return f"domain-{self.launch.id}-{self.domain.name[:20]}"
