"""Running: what exists of a domain only while its QEMU does."""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from qvirt.constants.domain import DomainXMLFlags
from qvirt.errors import OperationTimeout
from qvirt.host.cgroup import Group
from qvirt.host.config import QemuUser
from qvirt.host.perf import Counter
from qvirt.model.cpu import Cpu
from qvirt.model.devices import KINDS
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain as Definition
from qvirt.model.live import format_domain
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import MonitorClosed
from qvirt.qmp.wire import Json, JsonObject, JsonValue, Reply
from qvirt.record import Record, field, replace
from qvirt.runtime.foreign.renaming import Names
from qvirt.runtime.life.process import Process
from qvirt.runtime.state import Footprint, Written
from qvirt.security.stack import Guard
from qvirt.xml.document import parse_element

if TYPE_CHECKING:
    from qvirt.qmp.agent import GuestAgent
    from qvirt.runtime.asking.console import ConsoleStream
    from qvirt.runtime.helpers.helper_watch import Returns
    from qvirt.runtime.helpers.processes import Helper

#: seconds QEMU gets for a question, and for something it has to do
QUERY_DEADLINE = 15.0
COMMAND_DEADLINE = 60.0


PRIVATE_DEV = "<namespaces><mount/></namespaces>"


class Running(Record, frozen=False, eq=False):
    """A domain's QEMU and what we know of it.

    stage: "starting" until the first status file that says running. stop_reason: set by whoever ends the
    QEMU on purpose, (shutoff reason, detail of the stopped event, word for the log). paused_reason,
    running_reason: why the next STOP or RESUME event will come, None when it was not us.
    """

    id: int
    definition: Definition
    folder: str
    monitor_path: str
    stage: str = "starting"
    #: what the security models do for it
    guard: Guard = field(default_factory=Guard)
    #: its control groups, None without
    group: Group | None = None
    #: puts threads into groups of their own, while the guest runs already
    placing: "asyncio.Task[None] | None" = None
    #: what secrets are encrypted with on their way; None for a QEMU found again, until somebody needs it
    master_key: bytes | None = None
    #: None for a QEMU found again, until somebody needs it
    caps: EmulatorCaps | None = None
    process: Process | None = None
    link: Monitor | None = None
    footprint: Footprint = field(default_factory=Footprint)
    #: processes beside QEMU, by name
    helpers: "dict[str, Helper]" = field(default_factory=dict)
    #: when those that ended were started again, by name
    returns: "dict[str, Returns]" = field(default_factory=dict)
    vcpu_threads: list[int] = field(default_factory=list)
    #: id of a device -> done with True when the guest has let go of it, False when it will not
    unplugs: dict[str, "asyncio.Future[bool]"] = field(default_factory=dict)
    #: alias of a drive -> done when its tray is open
    trays: dict[str, "asyncio.Future[None]"] = field(default_factory=dict)
    #: the live document as the status file has it
    written: Written = field(default_factory=Written)
    #: what libvirt's status file said beside, kept for the day it takes over again
    extras: list[str] = field(default_factory=list)
    taints: list[str] = field(default_factory=list)
    owner: object | None = None
    fake_reboot: bool = False
    got_shutdown: bool = False
    being_destroyed: bool = False
    stop_reason: tuple[int, int, str] | None = None
    paused_reason: int | None = None
    running_reason: int | None = None
    #: alias of a disk -> DomainDiskErrorCode, while QEMU is stopped on it
    disk_errors: dict[str, int] = field(default_factory=dict)
    agent: "GuestAgent | None" = None
    agent_connected: bool = False
    agent_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: the clock's adjustment that QEMU was started with, seconds
    clock_base: int = 0
    #: vCPUs that were unplugged since QEMU started
    vcpus_gone: int = 0
    consoles: "dict[str, ConsoleStream]" = field(default_factory=dict)
    #: done when QEMU has let the vCPUs run for the first time
    resumed: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    #: done when the domain has ended and everything of it is gone
    ended: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    #: what the balloon's driver said when it was loaded, and when we asked; see stats.py
    balloon_sample: JsonObject | None = None
    balloon_asked: float = 0.0
    deprecations: list[str] = field(default_factory=list)
    #: performance events that are counted, by libvirt's name
    counters: dict[str, Counter] = field(default_factory=dict)
    monitor_failed: bool = False
    #: what a QEMU that somebody else started calls things
    names: Names = field(default_factory=Names)
    #: what is being done about events -> whether such an event came meanwhile; see monitor_events
    following: dict[str, bool] = field(default_factory=dict)
    status_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    save_pending: bool = False
    finishing: bool = False
    _asked: int = 0
    _since: float = 0.0
    _commands: int = 0
    _texts: dict[int, str] = field(default_factory=dict)

    @property
    def user(self) -> QemuUser | None:
        """Whom QEMU runs as; None for the daemon's own user."""
        return self.guard.user

    @property
    def private_dev(self) -> bool:
        """Tell whether QEMU has a /dev of its own; libvirt's status file says so with the same words."""
        return PRIVATE_DEV in map("".join, map(str.split, self.extras))

    def give_private_dev(self) -> None:
        """Note that QEMU is going to have a /dev of its own."""
        self.extras.append(PRIVATE_DEV)

    @property
    def pid(self) -> int:
        """The process's id, 0 before there is one."""
        return self.process.pid if self.process is not None else 0

    def has_thread(self, thread: int) -> bool:
        """Tell whether a thread is QEMU's. What QEMU says is no reason to move or bind somebody else's."""
        return os.path.exists(f"/proc/{self.pid}/task/{thread}")

    @property
    def qemu(self) -> Process:
        """The process. Raises MonitorClosed before there is one."""
        if self.process is None:
            raise MonitorClosed(f"QEMU of '{self.definition.name}' is not there yet")
        return self.process

    @property
    def monitor(self) -> Monitor:
        """The monitor. Raises MonitorClosed before it is connected."""
        if self.link is None:
            raise MonitorClosed(f"QEMU monitor of '{self.definition.name}' is not connected")
        return self.link

    @property
    def waiting_since(self) -> float | None:
        """When the oldest command that is unanswered was sent, by the loop's clock; None without one."""
        return self._since if self._asked else None

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        fds: Sequence[int] = (),
        deadline: float | None = QUERY_DEADLINE,
        oob: bool = False,
        verbatim: bool = False,
    ) -> Json:
        """Run a monitor command and keep count of what is unanswered; an Executor for `qmp.commands`.

        verbatim: names are QEMU's own, in the command and in the answer.
        """
        if not verbatim and self.names:
            if self.names.goes_by_itself(command, arguments):
                return {}
            arguments = self.names.outward(command, arguments)
        if not self._asked:
            self._since = asyncio.get_running_loop().time()
        self._asked += 1
        try:
            answer = await self.monitor.execute(command, arguments, fds=fds, deadline=deadline, oob=oob)
        except OperationTimeout as error:
            raise OperationTimeout(
                f"{error.detail}; the process (pid {self.pid}) may be stopped or stuck"
            ) from error
        finally:
            self._asked -= 1
        return answer if verbatim else self.names.inward(answer, command)

    def submit(
        self, command: str, arguments: Mapping[str, JsonValue] | None = None
    ) -> "asyncio.Future[Reply]":
        """Send a monitor command now; the future brings its reply, an error reply included."""
        if not self.names:
            return self.monitor.submit(command, arguments)
        answer = self.monitor.submit(command, self.names.outward(command, arguments))
        return asyncio.ensure_future(self._renamed(command, answer))

    async def _renamed(self, command: str, answer: "asyncio.Future[Reply]") -> Reply:
        reply = await answer
        return replace(reply, value=self.names.inward(reply.value, command))

    def next_command_id(self) -> int:
        """Number a command whose answer shows its id."""
        self._commands += 1
        return self._commands

    def text(self, flags: int) -> str:
        """Return the live document; flags: DomainXMLFlags."""
        text = self._texts.get(flags)
        if text is None:
            shown = self.definition
            if flags & DomainXMLFlags.MIGRATABLE and (asked := self.asked_cpu()) is not None:
                shown = shown.copy()
                shown.cpu = asked
            text = self._texts[flags] = format_domain(shown, flags)
        return text

    def note_cpu(self, live: Cpu) -> None:
        """Show the CPU the guest has; what was asked for is kept where libvirt's status file has it."""
        asked = self.definition.cpu
        if asked is not None:
            others = [extra for extra in self.extras if not extra.startswith("<cpu")]
            self.extras = [*others, asked.to_xml().strip()]
        self.definition.cpu = live

    def asked_cpu(self) -> Cpu | None:
        """Return the CPU the guest was asked for, where it is known to have another one."""
        found = next((extra for extra in self.extras if extra.startswith("<cpu")), None)
        return Cpu.from_xml(parse_element(found, "(status)")) if found is not None else None

    def touch(self, come_or_gone: Iterable[Device] = ()) -> None:
        """Forget documents written from the definition, which has changed.

        come_or_gone: nothing else is another than before.
        """
        self._texts.clear()
        self.written.forget({KINDS[dev.tag][0] for dev in come_or_gone})
