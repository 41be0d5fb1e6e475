"""Domain: one virtual machine, running or not. What the API calls on it; the work is done in the files beside.

Attributes and methods that are not async answer from memory. Async ones may ask QEMU, the agent or the disk,
each with a deadline. ``flags`` are libvirt's numbers where a method takes them; unknown bits are the API's to
refuse. Every method has libvirt's preconditions and error texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from qvirt.model.domain import Domain as Definition
from qvirt.runtime.console import ConsoleStream
from qvirt.runtime.events import DomainRef
from qvirt.runtime.records import (
    BlockInfo,
    BlockStats,
    ControlInfo,
    DiskError,
    FsInfo,
    GuestInterface,
    Info,
    InterfaceStats,
    IothreadInfo,
    JobInfo,
    Param,
    SecurityLabel,
    VcpuInfo,
)


@dataclass(frozen=True, slots=True)
class Screenshot:
    """A picture of a display; the caller closes ``file``, which has no name any more."""

    mime: str
    file: BinaryIO


class Domain:
    """One domain.

    id: -1 when it does not run. persistent: it has a definition on disk.
    state, reason: DomainState and the matching Domain…Reason.
    """

    uuid: str
    name: str
    id: int
    persistent: bool
    autostart: bool
    autostart_once: bool
    state: int
    reason: int
    #: a new definition was given while it ran (virDomainIsUpdated)
    updated: bool

    @property
    def active(self) -> bool:
        """Tell whether a QEMU runs for it."""
        raise NotImplementedError

    @property
    def ref(self) -> DomainRef:
        """Name, uuid and id as they are now."""
        raise NotImplementedError

    @property
    def live(self) -> Definition:
        """The running domain's definition. Raises OperationInvalid 'domain is not running'."""
        raise NotImplementedError

    @property
    def config(self) -> Definition:
        """The definition of the next start. Treat as read-only. Raises OperationInvalid when transient."""
        raise NotImplementedError

    @property
    def current(self) -> Definition:
        """The live definition of a running domain, else the persistent one."""
        raise NotImplementedError

    @property
    def has_managed_save(self) -> bool:
        """Tell whether a managed save image is there."""
        raise NotImplementedError

    # ------------------------------------------------------------------ lifecycle

    async def start(
        self,
        *,
        paused: bool = False,
        autodestroy: object | None = None,
        bypass_cache: bool = False,
        force_boot: bool = False,
        reset_nvram: bool = False,
    ) -> None:
        """Start a defined domain (virDomainCreateWithFlags). Raises OperationInvalid 'domain is already running'."""
        raise NotImplementedError

    async def shutdown(self, flags: int = 0) -> None:
        """Ask the guest to shut down; flags: DomainShutdownFlags (agent, ACPI)."""
        raise NotImplementedError

    async def reboot(self, flags: int = 0) -> None:
        """Ask the guest to reboot; flags: DomainRebootFlags."""
        raise NotImplementedError

    async def reset(self) -> None:
        """Press the reset button."""
        raise NotImplementedError

    async def destroy(self, *, graceful: bool = False, remove_logs: bool = False) -> None:
        """End the QEMU. graceful: no SIGKILL; raises OperationFailed when SIGTERM does not do."""
        raise NotImplementedError

    async def suspend(self) -> None:
        """Stop the vCPUs."""
        raise NotImplementedError

    async def resume(self) -> None:
        """Let the vCPUs run."""
        raise NotImplementedError

    async def set_autostart(self, on: bool) -> None:
        """Start it with the daemon, or not."""
        raise NotImplementedError

    async def set_autostart_once(self, on: bool) -> None:
        """Start it the next time the host boots, and only then."""
        raise NotImplementedError

    async def undefine(self, flags: int = 0) -> None:
        """Forget the definition; flags: DomainUndefineFlags."""
        raise NotImplementedError

    async def rename(self, new_name: str) -> None:
        """Give an inactive domain another name."""
        raise NotImplementedError

    async def pm_suspend(self, target: int, duration: int = 0) -> None:
        """Put the guest to sleep through its agent; target: NodeSuspendTarget."""
        raise NotImplementedError

    async def pm_wakeup(self) -> None:
        """Wake a sleeping guest."""
        raise NotImplementedError

    async def inject_nmi(self) -> None:
        """Send an NMI."""
        raise NotImplementedError

    async def send_key(self, codeset: int, holdtime: int, keycodes: Sequence[int]) -> None:
        """Press keys together; codeset: KeycodeSet; holdtime: ms, 0 for QEMU's default."""
        raise NotImplementedError

    async def set_lifecycle_action(self, type: int, action: int, flags: int = 0) -> None:
        """Change on_poweroff, on_reboot or on_crash; type: DomainLifecycle; action: DomainLifecycleAction."""
        raise NotImplementedError

    # -------------------------------------------------------------------- reading

    async def info(self) -> Info:
        raise NotImplementedError

    def control_info(self) -> ControlInfo:
        """Raises OperationInvalid 'domain is not running'."""
        raise NotImplementedError

    async def xml_desc(self, flags: int = 0) -> str:
        """Return the document; flags: DomainXMLFlags. Secure data only with SECURE."""
        raise NotImplementedError

    def os_type(self) -> str:
        raise NotImplementedError

    def max_memory(self) -> int:
        """KiB."""
        raise NotImplementedError

    def max_vcpus(self) -> int:
        raise NotImplementedError

    async def vcpu_count(self, flags: int = 0) -> int:
        """virDomainGetVcpusFlags; flags: DomainVcpuFlags (GUEST asks the agent)."""
        raise NotImplementedError

    async def vcpus(self) -> list[VcpuInfo]:
        """Raises OperationInvalid when it does not run."""
        raise NotImplementedError

    def vcpu_pins(self, flags: int = 0) -> list[frozenset[int]]:
        """Return the host CPUs of each vCPU (virDomainGetVcpuPinInfo)."""
        raise NotImplementedError

    def emulator_pin(self, flags: int = 0) -> frozenset[int]:
        raise NotImplementedError

    async def iothread_info(self, flags: int = 0) -> list[IothreadInfo]:
        raise NotImplementedError

    async def cpu_stats(self) -> tuple[list[Param], dict[int, list[Param]]]:
        """Return the totals and, per host CPU, ``cpu_time`` and ``vcpu_time`` in ns (virDomainGetCPUStats)."""
        raise NotImplementedError

    async def block_stats(self, disk: str) -> BlockStats:
        """disk: target name or source path; empty for the sum of all."""
        raise NotImplementedError

    async def block_info(self, disk: str) -> BlockInfo:
        raise NotImplementedError

    async def disk_errors(self) -> list[DiskError]:
        raise NotImplementedError

    async def interface_stats(self, device: str) -> InterfaceStats:
        """device: the host's device name or the MAC address."""
        raise NotImplementedError

    async def memory_stats(self) -> list[tuple[int, int]]:
        """Return (DomainMemoryStatTags, value) pairs."""
        raise NotImplementedError

    def job_info(self) -> JobInfo:
        """Raises OperationInvalid 'domain is not running'."""
        raise NotImplementedError

    def messages(self, flags: int = 0) -> list[str]:
        """Return tainting and deprecation messages; flags: DomainMessageType, 0 for all."""
        raise NotImplementedError

    def security_labels(self) -> list[SecurityLabel]:
        raise NotImplementedError

    # -------------------------------------------------------------- title and such

    async def set_metadata(
        self, type: int, metadata: str | None, key: str | None, uri: str | None, flags: int = 0
    ) -> None:
        """Set title, description or a metadata element; type: DomainMetadataType."""
        raise NotImplementedError

    async def metadata(self, type: int, uri: str | None, flags: int = 0) -> str:
        """Raises NoDomainMetadata."""
        raise NotImplementedError

    # ---------------------------------------------------------------- guest's side

    async def time(self) -> tuple[int, int]:
        """Return the guest's clock: seconds, nanoseconds (agent)."""
        raise NotImplementedError

    async def set_time(self, seconds: int, nseconds: int, *, sync: bool = False) -> None:
        raise NotImplementedError

    async def fs_info(self) -> list[FsInfo]:
        raise NotImplementedError

    async def fs_freeze(self, mountpoints: Sequence[str] = ()) -> int:
        raise NotImplementedError

    async def fs_thaw(self, mountpoints: Sequence[str] = ()) -> int:
        raise NotImplementedError

    async def fs_trim(self, mountpoint: str | None, minimum: int) -> None:
        raise NotImplementedError

    async def hostname(self, flags: int = 0) -> str:
        """flags: DomainGetHostnameFlags."""
        raise NotImplementedError

    async def interface_addresses(self, source: int) -> list[GuestInterface]:
        """source: DomainInterfaceAddressesSource (lease, agent, arp)."""
        raise NotImplementedError

    async def guest_info(self, types: int = 0) -> list[Param]:
        """types: DomainGuestInfoTypes, 0 for all."""
        raise NotImplementedError

    async def set_user_password(self, user: str, password: str, *, encrypted: bool = False) -> None:
        raise NotImplementedError

    async def guest_vcpus(self) -> list[Param]:
        raise NotImplementedError

    async def set_agent_response_timeout(self, timeout: int) -> None:
        """timeout: seconds, or DomainAgentResponseTimeout."""
        raise NotImplementedError

    async def agent_command(self, command: str, timeout: int = -2) -> str:
        """Run a JSON command in the agent; timeout: seconds or DomainQemuAgentCommandTimeout."""
        raise NotImplementedError

    # ------------------------------------------------------------- doors to QEMU

    async def monitor_command(self, command: str, *, hmp: bool = False, fds: Sequence[int] = ()) -> str:
        """Run a QMP (JSON text) or HMP command; the domain is tainted."""
        raise NotImplementedError

    async def screenshot(self, screen: int = 0) -> Screenshot:
        raise NotImplementedError

    async def open_console(self, dev_name: str | None = None, flags: int = 0) -> ConsoleStream:
        """flags: DomainConsoleFlags (force, safe). Raises OperationFailed 'Active console session exists…'."""
        raise NotImplementedError

    async def open_channel(self, name: str | None = None, flags: int = 0) -> ConsoleStream:
        raise NotImplementedError

    async def open_graphics(self, idx: int, fd: int, *, skip_auth: bool = False) -> None:
        """Give the connected socket ``fd`` to a display; it stays the caller's to close."""
        raise NotImplementedError

    async def open_graphics_fd(self, idx: int, *, skip_auth: bool = False) -> int:
        """Return a new socket that is connected to a display; the caller closes it."""
        raise NotImplementedError

    def disk_targets(self) -> Mapping[str, str]:
        """Map each disk's target to its source path ('' when empty)."""
        raise NotImplementedError
