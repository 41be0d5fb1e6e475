"""Domain: one virtual machine, running or not. What the API calls on it; the work is done beside.

Attributes and methods that are not async answer from memory. Async ones may ask QEMU, the agent or the disk,
each with a deadline. ``flags`` are libvirt's numbers where a method takes them; unknown bits are the API's to
refuse. Every method has libvirt's preconditions and error texts.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from qvirt.constants.domain import DomainModificationImpact, DomainShutoffReason, DomainState, DomainXMLFlags
from qvirt.constants.domain_event import DomainEventDefinedDetailType, DomainEventType
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, NoDomain, OperationInvalid, OperationUnsupported, QvirtError
from qvirt.host.persist import FILE_DEADLINE, write_atomic
from qvirt.model.domain import Domain as Definition
from qvirt.model.domain import parse_domain
from qvirt.model.live import format_domain
from qvirt.qmp import commands
from qvirt.qmp.errors import QmpError
from qvirt.qmp.wire import JsonValue
from qvirt.runtime import manage
from qvirt.runtime.asking import console, display, guest, reading
from qvirt.runtime.asking.console import ConsoleStream
from qvirt.runtime.asking.display import Screenshot
from qvirt.runtime.documents import header
from qvirt.runtime.events import DomainEvent, DomainRef, Lifecycle
from qvirt.runtime.foreign import handback
from qvirt.runtime.jobs import Job, JobQueue
from qvirt.runtime.life import endings, power, starting, stopping
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
from qvirt.runtime.running import COMMAND_DEADLINE, Running
from qvirt.runtime.state import Status, boot_id

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor

__all__ = ["ConsoleStream", "Domain", "Screenshot"]


class Domain:
    """One domain.

    id: -1 when it does not run. persistent: it has a definition on disk. state, reason: DomainState and the
    matching Domain…Reason. updated: a new definition was given while it ran (virDomainIsUpdated).
    """

    __slots__ = (
        "_jobs",
        "_parsed",
        "_text",
        "_text_is_exact",
        "agent_timeout",
        "autostart",
        "autostart_once",
        "hypervisor",
        "name",
        "persistent",
        "reason",
        "running",
        "state",
        "updated",
        "uuid",
    )

    def __init__(self, hypervisor: "Hypervisor", name: str, uuid: str) -> None:
        """Make a domain that does not run and has no definition yet."""
        self.hypervisor = hypervisor
        self.name = name
        self.uuid = uuid
        self.persistent = False
        self.autostart = False
        self.autostart_once = False
        self.updated = False
        self.state: int = DomainState.SHUTOFF
        self.reason: int = DomainShutoffReason.UNKNOWN
        self.running: Running | None = None
        #: seconds, or DomainAgentResponseTimeout
        self.agent_timeout = -2
        self._text = ""
        self._text_is_exact = False
        self._parsed: Definition | None = None
        self._jobs: JobQueue | None = None

    # ---------------------------------------------------------------- what it is

    @property
    def id(self) -> int:
        """The id of the run, -1 when it does not run."""
        return self.running.id if self.running is not None else -1

    @property
    def active(self) -> bool:
        """Tell whether a QEMU runs for it."""
        return self.running is not None

    @property
    def ref(self) -> DomainRef:
        """Name, uuid and id as they are now."""
        return DomainRef(self.name, self.uuid, self.id)

    def ref_with(self, id: int) -> DomainRef:
        """Name and uuid as they are now, with the id of a run that has ended."""
        return DomainRef(self.name, self.uuid, id)

    @property
    def jobs(self) -> JobQueue:
        """The queue of jobs."""
        if self._jobs is None:
            self._jobs = JobQueue(asyncio.get_running_loop().time, self.hypervisor.config.max_queued)
        return self._jobs

    def job(self, kind: Job, owner: str) -> AbstractAsyncContextManager[None]:
        """Hold a job for the length of a block; see `JobQueue.hold`."""
        return self.jobs.hold(kind, owner)

    @property
    def live(self) -> Definition:
        """The running domain's definition. Raises OperationInvalid 'domain is not running'."""
        return self.need_running().definition

    @property
    def config(self) -> Definition:
        """The definition of the next start. Treat as read-only. Raises OperationInvalid when transient."""
        if not self.persistent:
            raise OperationInvalid(
                "transient domains do not have any persistent config", domain=ErrorDomain.DOMAIN
            )
        return self._definition()

    @property
    def current(self) -> Definition:
        """The live definition of a running domain, else the persistent one."""
        return self.running.definition if self.running is not None else self._definition()

    def chosen(self, flags: int) -> Definition:
        """Return the definition that LIVE, CONFIG or neither asks for."""
        if flags & DomainModificationImpact.CONFIG:
            return self.config
        if flags & DomainModificationImpact.LIVE:
            return self.live
        return self.current

    @property
    def has_managed_save(self) -> bool:
        """Tell whether a managed save image is there."""
        return self.hypervisor.paths.managed_save(self.name).exists()

    def need_running(self) -> Running:
        """Return the run. Raises OperationInvalid 'domain is not running'."""
        if self.running is None:
            raise OperationInvalid("domain is not running", domain=ErrorDomain.DOMAIN)
        return self.running

    # --------------------------------------------------------------- definitions

    def _definition(self) -> Definition:
        """Return the kept definition, parsed at need and dropped again when many others were used since."""
        if self._parsed is None:
            self._parsed = parse_domain(self._text)
        self.hypervisor.used(self)
        return self._parsed

    async def definition(self) -> Definition:
        """Return the kept definition, complete. Treat as read-only; copy it to change it."""
        if not self._text_is_exact:
            definition = await self.hypervisor.documents.reread(self._text)
            self.take_definition(definition, self.hypervisor.documents.write(definition, secure=True))
        return self._definition()

    @property
    def text(self) -> str:
        """The kept definition's text, secrets included."""
        return self._text

    def take_definition(self, definition: Definition | None, text: str, *, exact: bool = True) -> None:
        """Take a definition for the next start. exact: the text is what we would write for it."""
        self._text = text
        self._text_is_exact = exact
        self._parsed = definition
        if definition is not None:
            self.hypervisor.used(self)

    def forget_parsed(self) -> None:
        """Drop the parsed form of the definition; the text stays."""
        if self._text_is_exact:
            self._parsed = None

    async def keep(self, definition: Definition, text: str | None = None) -> None:
        """Write a definition to disk and take it; on failure the old one stays. text: as it is written.

        One that could not be read back is refused, as `parse_domain` does.
        """
        hv = self.hypervisor
        if text is None:
            text = hv.documents.write(definition, secure=True)
            parse_domain(text)
        hv.checkpoint("define")
        write = partial(manage.write_definition, hv.paths.definitions, self.name, self.uuid, text)
        await hv.files.run(f"definition of '{self.name}'", write)
        hv.checkpoint("defined")
        self.take_definition(definition, text)

    def publish(self, event: DomainEvent) -> None:
        """Tell everybody."""
        self.hypervisor.events.publish(event)

    def publish_defined(self, *, updated: bool) -> None:
        """Tell everybody of a definition that is new or has changed."""
        details = DomainEventDefinedDetailType
        self.publish(
            Lifecycle(self.ref, DomainEventType.DEFINED, details.UPDATED if updated else details.ADDED)
        )

    # --------------------------------------------------------------- status file

    def set_state(self, state: int, reason: int) -> None:
        """Note a state; the status file follows with the next save."""
        self.state = state
        self.reason = reason

    async def save_status(
        self, then: Callable[[], None] | None = None, deadline: float = FILE_DEADLINE
    ) -> None:
        """Write the status file now. then: blocking work to go on with once it is written."""
        running = self.running
        if running is None or running.finishing:
            return
        path = self.hypervisor.paths.status(self.name)
        text = self._status(running).to_text(header(self.name, self.uuid))
        data = text.encode("utf-8", "surrogateescape")

        def work() -> None:
            write_atomic(path, data, 0o600, sync=False)
            if then is not None:
                then()

        async with running.status_lock:
            if not running.finishing:
                await self.hypervisor.files.run(f"status of '{self.name}'", work, deadline)

    async def note_status(self) -> None:
        """Write the status file after what has happened and stays so: that it cannot be is only logged.

        The next write makes up for it, and a daemon that comes back asks QEMU for its state anyhow.
        """
        try:
            await self.save_status()
        except QvirtError as error:
            log.warning("the state of '%s' is not on disk: %s", self.name, error)

    def save_soon(self) -> None:
        """Write the status file in a moment, once for all changes until then."""
        running = self.running
        if running is None or running.stage != "running" or running.save_pending:
            return
        running.save_pending = True
        self.hypervisor.background(self._save_later(running), f"status of {self.name}")

    async def _save_later(self, running: Running) -> None:
        running.save_pending = False
        if self.running is running:
            await self.save_status()

    async def settle_writes(self) -> None:
        """Wait for a status file that is being written."""
        if self.running is not None:
            async with self.running.status_lock:
                pass

    def _status(self, running: Running) -> Status:
        process = running.process
        return Status(
            name=self.name,
            id=running.id,
            state=self.state,
            reason=self.reason,
            stage=running.stage,
            xml=handback.domain_text(running.definition, running.folder, running.written),
            inactive_xml="" if self.persistent else self._text,
            monitor=running.monitor_path,
            pid=running.pid,
            start_time=process.start_time if process is not None else 0,
            boot_id=boot_id(),
            folder=running.folder,
            vcpu_pids=running.vcpu_threads,
            taints=running.taints,
            extras=list(
                handback.elements(
                    running.definition,
                    running.extras,
                    running.folder,
                    self.hypervisor.paths.dirs.channel,
                    remembers=self.hypervisor.config.remember_owner,
                )
            ),
            footprint=running.footprint,
            fake_reboot=running.fake_reboot,
            autodestroy=running.owner is not None,
            clock_base=running.clock_base,
            vcpus_gone=running.vcpus_gone,
            names=running.names.listed(),
        )

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
        """Start a defined domain (virDomainCreateWithFlags). Raises OperationInvalid when it runs already."""
        async with self.job(Job.MODIFY, "start"):
            if self.active:
                raise OperationInvalid("domain is already running")
            if self.hypervisor.domains.find(self.uuid) is not self:
                # It was undefined while we waited: started now, nobody would know of it.
                raise NoDomain(f"no domain with matching uuid '{self.uuid}' ({self.name})")
            if self.has_managed_save:
                if not force_boot:
                    raise OperationUnsupported(
                        f"domain '{self.name}' has a managed save image, which cannot be restored yet; start "
                        "it with the force-boot flag to discard the image"
                    )
                image = self.hypervisor.paths.managed_save(self.name)
                await self.hypervisor.files.run("managed save image", lambda: image.unlink(missing_ok=True))
            definition = (await self.definition()).copy()
            await starting.start(self, definition, paused=paused, owner=autodestroy, reset_nvram=reset_nvram)

    async def shutdown(self, flags: int = 0) -> None:
        """Ask the guest to shut down; flags: DomainShutdownFlags (agent, ACPI)."""
        await power.shutdown(self, flags)

    async def reboot(self, flags: int = 0) -> None:
        """Ask the guest to reboot; flags: DomainRebootFlags."""
        await power.reboot(self, flags)

    async def reset(self) -> None:
        """Press the reset button."""
        await power.reset(self)

    async def destroy(self, *, graceful: bool = False, remove_logs: bool = False) -> None:
        """End the QEMU. graceful: no SIGKILL; raises SystemError_ when SIGTERM does not do."""
        await stopping.destroy(self, graceful=graceful)
        if remove_logs:
            log = self.hypervisor.paths.logfile(self.name)
            await self.hypervisor.files.run("domain log", lambda: log.unlink(missing_ok=True))

    async def suspend(self) -> None:
        """Stop the vCPUs."""
        await power.suspend(self)

    async def resume(self) -> None:
        """Let the vCPUs run."""
        await power.resume(self)

    async def set_autostart(self, on: bool) -> None:
        """Start it with the daemon, or not."""
        await manage.set_autostart(self, on, once=False)

    async def set_autostart_once(self, on: bool) -> None:
        """Start it the next time the host boots, and only then."""
        await manage.set_autostart(self, on, once=True)

    async def undefine(self, flags: int = 0) -> None:
        """Forget the definition; flags: DomainUndefineFlags."""
        await manage.undefine(self, flags)

    async def rename(self, new_name: str) -> None:
        """Give an inactive domain another name."""
        await manage.rename(self, new_name)

    async def pm_suspend(self, target: int, duration: int = 0) -> None:
        """Put the guest to sleep through its agent; target: NodeSuspendTarget."""
        await power.pm_suspend(self, target, duration)

    async def pm_wakeup(self) -> None:
        """Wake a sleeping guest."""
        await power.pm_wakeup(self)

    async def inject_nmi(self) -> None:
        """Send an NMI."""
        await power.inject_nmi(self)

    async def send_key(self, codeset: int, holdtime: int, keycodes: Sequence[int]) -> None:
        """Press keys together; codeset: KeycodeSet; holdtime: ms, 0 for QEMU's default."""
        await power.send_key(self, codeset, holdtime, keycodes)

    async def set_lifecycle_action(self, type: int, action: int, flags: int = 0) -> None:
        """Change on_poweroff, on_reboot or on_crash; type: DomainLifecycle; action: DomainLifecycleAction."""
        await endings.set_lifecycle_action(self, type, action, flags)

    # -------------------------------------------------------------------- reading

    async def info(self) -> Info:
        """virDomainGetInfo."""
        return reading.info(self)

    def control_info(self) -> ControlInfo:
        """Raises OperationInvalid 'domain is not running'."""
        return reading.control_info(self)

    async def xml_desc(self, flags: int = 0) -> str:
        """Return the document; flags: DomainXMLFlags. Secure data only with SECURE."""
        names = DomainXMLFlags
        secure = bool(flags & names.SECURE)
        documents = self.hypervisor.documents
        running = self.running
        if running is not None and not flags & names.INACTIVE:
            return running.text(flags)
        if flags & names.MIGRATABLE:
            return format_domain(await self.definition(), flags)
        if not self._text_is_exact:
            await self.definition()
        if secure or not documents.has_secrets(self._text):
            return self._text
        return documents.write(self._definition(), secure=False)

    def os_type(self) -> str:
        """virDomainGetOSType."""
        return self.current.os.type.value or "hvm"

    def max_memory(self) -> int:
        """KiB."""
        return reading.memory_kib(self.current)

    def max_vcpus(self) -> int:
        """virDomainGetMaxVcpus. Raises OperationInvalid when it does not run."""
        vcpu = self.live.vcpu
        return vcpu.value if vcpu is not None else 1

    async def vcpu_count(self, flags: int = 0) -> int:
        """virDomainGetVcpusFlags; flags: DomainVcpuFlags (GUEST asks the agent)."""
        return await reading.vcpu_count(self, flags)

    async def vcpus(self) -> list[VcpuInfo]:
        """Raises OperationInvalid when it does not run."""
        return reading.vcpus(self)

    def vcpu_pins(self, flags: int = 0) -> list[frozenset[int]]:
        """Return the host CPUs of each vCPU (virDomainGetVcpuPinInfo)."""
        return reading.vcpu_pins(self, flags)

    def emulator_pin(self, flags: int = 0) -> frozenset[int]:
        """Return the host CPUs of QEMU's other threads."""
        return reading.emulator_pin(self, flags)

    async def iothread_info(self, flags: int = 0) -> list[IothreadInfo]:
        """virDomainGetIOThreadInfo."""
        return await reading.iothread_info(self, flags)

    async def cpu_stats(self) -> tuple[list[Param], dict[int, list[Param]]]:
        """Return the totals and, per host CPU where they are known, ``cpu_time`` and ``vcpu_time``; ns."""
        return reading.cpu_stats(self)

    async def block_stats(self, disk: str) -> BlockStats:
        """disk: target name or source path; empty for the sum of all."""
        return await reading.block_stats(self, disk)

    async def block_info(self, disk: str) -> BlockInfo:
        """disk: target name or source path."""
        return await reading.block_info(self, disk)

    async def disk_errors(self) -> list[DiskError]:
        """List the disks QEMU has stopped on."""
        return await reading.disk_errors(self)

    async def interface_stats(self, device: str) -> InterfaceStats:
        """device: the host's device name or the MAC address."""
        return reading.interface_stats(self, device)

    async def memory_stats(self) -> list[tuple[int, int]]:
        """Return (DomainMemoryStatTags, value) pairs."""
        return await reading.memory_stats(self)

    def job_info(self) -> JobInfo:
        """Raises OperationInvalid 'domain is not running'."""
        self.need_running()
        return JobInfo()

    def messages(self, flags: int = 0) -> list[str]:
        """Return tainting and deprecation messages; flags: DomainMessageType, 0 for all."""
        return reading.messages(self, flags)

    def security_labels(self) -> list[SecurityLabel]:
        """Return the labels QEMU runs under; the first is the one old clients ask for."""
        return reading.security_labels(self)

    # -------------------------------------------------------------- title and such

    async def set_metadata(
        self, type: int, metadata: str | None, key: str | None, uri: str | None, flags: int = 0
    ) -> None:
        """Set title, description or a metadata element; type: DomainMetadataType."""
        await manage.set_metadata(self, type, metadata, key, uri, flags)

    async def metadata(self, type: int, uri: str | None, flags: int = 0) -> str:
        """Raises NoDomainMetadata."""
        return await manage.metadata(self, type, uri, flags)

    # ---------------------------------------------------------------- guest's side

    async def time(self) -> tuple[int, int]:
        """Return the guest's clock: seconds, nanoseconds (agent)."""
        return await guest.time(self)

    async def set_time(self, seconds: int, nseconds: int, *, sync: bool = False) -> None:
        """Set the guest's clock, or let the guest read its hardware clock (agent)."""
        await guest.set_time(self, seconds, nseconds, sync=sync)

    async def fs_info(self) -> list[FsInfo]:
        """List the guest's file systems (agent)."""
        return await guest.fs_info(self)

    async def fs_freeze(self, mountpoints: Sequence[str] = ()) -> int:
        """Freeze file systems; returns how many (agent)."""
        return await guest.fs_freeze(self, mountpoints)

    async def fs_thaw(self, mountpoints: Sequence[str] = ()) -> int:
        """Thaw all file systems; returns how many (agent). The agent knows no list for this."""
        return await guest.fs_thaw(self)

    async def fs_trim(self, mountpoint: str | None, minimum: int) -> None:
        """Give unused blocks back (agent); minimum: bytes."""
        await guest.fs_trim(self, mountpoint, minimum)

    async def hostname(self, flags: int = 0) -> str:
        """flags: DomainGetHostnameFlags."""
        return await reading.hostname(self, flags)

    async def interface_addresses(self, source: int) -> list[GuestInterface]:
        """source: DomainInterfaceAddressesSource (lease, agent, arp)."""
        return await reading.interface_addresses(self, source)

    async def guest_info(self, types: int = 0) -> list[Param]:
        """types: DomainGuestInfoTypes, 0 for all."""
        return await guest.guest_info(self, types)

    async def set_user_password(self, user: str, password: str, *, encrypted: bool = False) -> None:
        """Set a user's password in the guest (agent)."""
        await guest.set_user_password(self, user, password, encrypted=encrypted)

    async def guest_vcpus(self) -> list[Param]:
        """Describe the guest's CPUs (agent)."""
        return await guest.vcpus(self)

    async def set_agent_response_timeout(self, seconds: int) -> None:
        """seconds: or DomainAgentResponseTimeout."""
        self.agent_timeout = seconds

    async def agent_command(self, command: str, seconds: int = -2) -> str:
        """Run a JSON command in the agent; seconds: or DomainQemuAgentCommandTimeout."""
        self.need_running()
        self.taint("custom-ga-command")
        return await guest.command(self, command, seconds)

    # ------------------------------------------------------------- doors to QEMU

    def taint(self, what: str) -> None:
        """Note, once, that somebody did what we cannot vouch for."""
        running = self.need_running()
        if what in running.taints:
            return
        running.taints.append(what)
        self.hypervisor.log_line(self, f"Domain id={running.id} is tainted: {what}")
        self.save_soon()

    async def monitor_command(self, command: str, *, hmp: bool = False, fds: Sequence[int] = ()) -> str:
        """Run a QMP (JSON text) or HMP command; the domain is tainted. A QMP error is an answer, too."""
        async with self.job(Job.MODIFY, "monitor command"):
            running = self.need_running()
            self.taint("custom-monitor")
            if hmp:
                return await commands.human_monitor_command(running, command, deadline=COMMAND_DEADLINE)
            name, arguments = _parse_command(command)
            id = f"libvirt-{running.next_command_id()}"
            answer: dict[str, JsonValue]
            try:
                value = await running.execute(
                    name, arguments, fds=fds, deadline=COMMAND_DEADLINE, verbatim=True
                )
                answer = {"return": value, "id": id}
            except QmpError as error:
                answer = {"id": id, "error": {"class": error.error_class, "desc": error.desc}}
        return json.dumps(answer, separators=(",", ":"))

    async def screenshot(self, screen: int = 0) -> Screenshot:
        """Take a picture of a screen."""
        return await display.screenshot(self, screen)

    async def open_console(self, dev_name: str | None = None, flags: int = 0) -> ConsoleStream:
        """flags: DomainConsoleFlags (force, safe). Raises OperationFailed when somebody else has it."""
        return await console.open_console(self, dev_name, flags)

    async def open_channel(self, name: str | None = None, flags: int = 0) -> ConsoleStream:
        """flags: DomainChannelFlags (force)."""
        return await console.open_channel(self, name, flags)

    async def open_graphics(self, idx: int, fd: int, *, skip_auth: bool = False) -> None:
        """Give the connected socket ``fd`` to a display; it stays the caller's to close."""
        await display.open_graphics(self, idx, fd, skip_auth=skip_auth)

    async def open_graphics_fd(self, idx: int, *, skip_auth: bool = False) -> int:
        """Return a new socket that is connected to a display; the caller closes it."""
        return await display.open_graphics_fd(self, idx, skip_auth=skip_auth)

    def disk_targets(self) -> Mapping[str, str]:
        """Map each disk's target to its source path ('' when empty)."""
        return {
            disk.name: (disk.source.local_path or "") if disk.source is not None else ""
            for disk in self.current.devices.disks
        }


def _parse_command(text: str) -> tuple[str, dict[str, JsonValue] | None]:
    """Read a QMP command: JSON, or a bare name as libvirt takes it."""
    stripped = text.strip()
    if not stripped.startswith("{"):
        words = stripped.split()
        if len(words) != 1:
            raise InternalError(f"cannot parse json {text}: expected an object or a command name")
        return words[0], None
    try:
        value = json.loads(stripped)
    except ValueError as error:
        raise InternalError(f"cannot parse json {text}: {error}") from error
    name = value.get("execute")
    if not isinstance(name, str):
        raise InternalError("the monitor command has no 'execute'")
    arguments = value.get("arguments")
    return name, arguments if isinstance(arguments, dict) else None
