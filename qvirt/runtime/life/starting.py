"""A QEMU's start: step by step, undone when a step fails."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from qvirt import __version__
from qvirt.constants.domain import DomainPausedReason, DomainRunningReason, DomainShutoffReason, DomainState
from qvirt.constants.domain_event import (
    ConnectDomainEventDiskChangeReason,
    DomainEventStartedDetailType,
    DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
)
from qvirt.errors import InternalError, OperationFailed, OperationUnsupported, QvirtError
from qvirt.host import images, overlays
from qvirt.model.domain import Domain as Definition
from qvirt.qemu import vcpu_slots
from qvirt.qemu.build import build
from qvirt.qemu.context import BuildContext
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.switches import CommandLine
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import MonitorClosed
from qvirt.qmp.wire import Json
from qvirt.runtime import interfaces, live
from qvirt.runtime.domainlog import DomainLog
from qvirt.runtime.events import DiskChange, Lifecycle
from qvirt.runtime.foreign import handback, takeover
from qvirt.runtime.helpers import helper_kinds, helper_watch, processes
from qvirt.runtime.life import (
    cgroups,
    cores,
    enclosing,
    launch,
    launch_security,
    lending,
    limits,
    refusals,
    resctrl,
    stopping,
    taints,
)
from qvirt.runtime.life.process import Maker, Process
from qvirt.runtime.plugging import pci, usb
from qvirt.runtime.running import COMMAND_DEADLINE, Running
from qvirt.runtime.tuning import perf, pinning, scheduling, vcpus
from qvirt.security.denials import Watch
from qvirt.security.launcher import confining

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

T = TypeVar("T")

#: how often a start is tried when the ports chosen for it are taken
PORT_TRIES = 8


async def start(
    domain: "Domain",
    definition: Definition,
    *,
    paused: bool = False,
    owner: object | None = None,
    reset_nvram: bool = False,
) -> None:
    """Start a QEMU for a definition, which becomes the live one. The caller holds a modify job.

    Raises whatever keeps it from starting; then nothing is left behind. Where a port we chose was taken by
    somebody else before QEMU had it, the start is tried again with others.
    """
    takeover.refuse_untaken(domain.hypervisor.untaken, domain.name, domain.uuid)
    _refuse_unlocked(domain.hypervisor.config.lock_manager)
    tries = PORT_TRIES if any(graphics.autoport for graphics in definition.devices.graphics) else 1
    lost = launch.PortPlan()
    try:
        for left in range(tries - 1, -1, -1):
            again = definition.copy() if left else definition
            try:
                await _start_once(
                    domain, definition, paused=paused, owner=owner, reset_nvram=reset_nvram, last=not left
                )
            except PortTaken as error:
                if not left:
                    raise
                log.info("start of '%s': port taken by another program, trying others", domain.name)
                for port in error.ports:
                    lost.reserve(domain.hypervisor.display_ports, port)
                definition = again
            else:
                return
    finally:
        launch.release_ports(lost)


def _refuse_unlocked(manager: str) -> None:
    """Raise OperationUnsupported where disks are to be locked, which another host may rely on."""
    if manager not in ("", "nop"):
        raise OperationUnsupported(
            f"lock_manager '{manager}' of qemu.conf is not known here; without its locks a guest may write "
            'to a disk that another host writes to; set it to "nop" to start guests without'
        )


class PortTaken(InternalError):
    """QEMU could not listen where it was told to. ports: those chosen for it."""

    def __init__(self, detail: str, ports: list[int]) -> None:
        super().__init__(detail)
        self.ports = ports


async def _start_once(
    domain: "Domain",
    definition: Definition,
    *,
    paused: bool,
    owner: object | None,
    reset_nvram: bool,
    last: bool,
) -> None:
    hv = domain.hypervisor
    hv.checkpoint("start")
    running = Running(id=hv.next_id(), definition=definition, folder="", monitor_path="", owner=owner)
    definition.id = running.id
    domain.running = running
    domain.set_state(DomainState.PAUSED, DomainPausedReason.STARTING_UP)
    try:
        await _start(domain, running, paused=paused, reset_nvram=reset_nvram)
    except BaseException as error:
        comes_again = isinstance(error, PortTaken) and not last
        if isinstance(error, QvirtError) and not comes_again:
            await refusals.explain(domain, running, error)
        await asyncio.shield(_undo_start(domain, running, error, keep=comes_again))
        raise
    domain.publish(Lifecycle(domain.ref, DomainEventType.STARTED, DomainEventStartedDetailType.BOOTED))
    if paused:
        domain.publish(
            Lifecycle(domain.ref, DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.PAUSED)
        )
    hv.checkpoint("started")


class _Start:
    """One try at a start: its phases in order, over what they share. What is on the stack ends with it."""

    def __init__(self, domain: "Domain", running: Running, stack: contextlib.AsyncExitStack) -> None:
        self.domain = domain
        self.hv = domain.hypervisor
        self.running = running
        self.definition = running.definition
        self.stack = stack
        self.descriptors = launch.Descriptors(running.id, self.hv.secrets)
        stack.callback(self.descriptors.close)
        running.master_key = self.descriptors.master_key

    async def check(self) -> None:
        """Find out what the machine needs and what may keep it from that; only what is ours changes."""
        hv, domain, running, definition = self.hv, self.domain, self.running, self.definition
        assert running.caps is not None  # noqa: S101 - for the type checker
        self.ctx = hv.documents.build_context(definition, running.caps, self.descriptors)
        await _drop_missing(domain, self.ctx)
        await usb.find(domain, definition.devices.hostdevs)
        look = partial(enclosing.look_around, running, self.ctx)
        images.fill_in(await hv.files.run(f"images of '{domain.name}'", look))
        made = await _overlays(domain, definition)
        for interface in definition.devices.interfaces:
            interfaces.take_place(domain, interface)
        assign_aliases(definition, self.ctx)
        running.folder = running.guard.guest.folder = self.ctx.domain_dir
        running.monitor_path = f"{running.folder}/monitor.sock"
        for interface in definition.devices.interfaces:
            await interfaces.reserve(domain, running, interface)
        await pci.reserve(domain, running, definition.devices.all())
        self.plan = plan = launch.survey(definition, self.ctx, made)
        self.limits = limits.limits_of(definition, hv.config)
        self.recipes = helper_kinds.recipes(domain, running, definition.devices.all(), self.ctx)
        processes.reserve(running, self.recipes)
        plan.others += processes.resources(definition, self.recipes)
        if plan.listeners:
            places = partial(launch.check_places, plan, hv.folders_of_others(domain))
            await hv.files.run(f"sockets of '{domain.name}'", places)
        mark = running.footprint
        mark.folders = [running.folder, *dict.fromkeys(plan.folders)]
        mark.files += [
            str(hv.paths.pidfile(domain.name)),
            *(wanted.path for wanted in plan.listeners),
            *(overlay.path for overlay in made),
        ]
        mark.cgroup = hv.cgroups.path_of(definition, running.id)
        running.group = hv.cgroups.group(mark.cgroup)
        if running.group is None:
            cgroups.refuse_unlimited(definition, session=hv.paths.kind == "session")
        ports = launch.take_ports(definition, self.ctx.settings, hv.display_ports, hv.websocket_ports)
        mark.ports = [port for _, port in ports.taken]
        lend = partial(lending.prepare, running, plan.files)
        mark.loans = await hv.files.run(f"start of '{domain.name}'", lend)
        hv.checkpoint("checked")

    async def prepare(self, *, reset_nvram: bool) -> None:
        """Write down what is going to be made on the host, and make it: what is slow, side by side."""
        hv, domain, running, plan = self.hv, self.domain, self.running, self.plan
        # what a helper is refused may show only when QEMU comes to it
        self.watch = self.stack.enter_context(running.guard.watch())
        enclose = partial(enclosing.make_dev, hv, running, plan) if running.private_dev else None
        make = partial(_make, hv, plan, running, self.descriptors.master_key, reset_nvram)
        if running.footprint.pci:
            await domain.save_status(make, lending.DEADLINE)  # only then are all nodes there
        self.maker = Maker(enclose)
        self.stack.callback(self.maker.close)
        if not running.footprint.pci:
            await domain.save_status(make, lending.DEADLINE)
        hv.checkpoint("host prepared")
        #: where systemd makes the groups, it wants a process to put there
        self.groups_first = hv.cgroups.machined is None
        self.grouping = self._beside(enclosing.make_groups(domain, running, plan, wanted=self.groups_first))
        for interface in self.definition.devices.interfaces:
            with await interfaces.connect(domain, running, interface) as connection:
                for name, fds in connection.take().items():
                    self.descriptors.adopt(name, fds)
        if plan.listeners or plan.handed:
            bind = partial(launch.make_listeners, plan, self.descriptors, running.guard)
            await hv.files.run(f"sockets of '{domain.name}'", bind)
        if self.recipes and self.groups_first:
            await self.grouping
            await helper_watch.start(domain, running, self.recipes, self.descriptors)
        listener = launch.listen_unix(running.monitor_path, running.guard, private=True)
        running.link = Monitor(
            launch.connect_listener(running.monitor_path, running.guard),
            name=domain.name,
            on_event=partial(stopping.monitor_event, domain, running),
            on_closed=partial(stopping.monitor_closed, domain, running),
        )
        self.descriptors.monitor_fd = self.descriptors.adopt("monitor", [listener.detach()])[0]
        hv.checkpoint("sockets made")

    async def spawn(self) -> None:
        """Make the process, which waits, and all that confines it."""
        hv, domain, running = self.hv, self.domain, self.running
        assert running.caps is not None  # noqa: S101 - for the type checker
        self.command = build(self.definition, self.ctx)
        running.touch()
        env = launch.environment(self.ctx, self.command)
        self.log = DomainLog(hv.paths.logfile(domain.name))
        self.stack.callback(self.log.close)
        self.log.starting(self.command, env, running.caps, __version__)
        running.process = await Process.spawn(
            self.command.argv(),
            env=env,
            log_fd=self.log.fd,
            fds=self.descriptors.all(),
            wrap=confining(
                running.user,
                labels=running.guard.words(),
                no_new_privs=running.guard.takes_no_new_privs,
                keep_capabilities=not hv.config.clear_emulator_capabilities,
            ),
            limits=self.limits,
            pidfile=str(hv.paths.pidfile(domain.name)),
            maker=self.maker,
        )
        hv.checkpoint("spawned")
        await cores.settle(hv, partial(cores.separate_qemu, running))
        self.doors = await self.grouping
        if not self.groups_first:
            await hv.cgroups.register(running)
            hv.checkpoint("machine made")
            self.doors = await enclosing.make_groups(domain, running, self.plan)
            await helper_watch.start(domain, running, self.recipes, self.descriptors)
        hv.checkpoint("control groups made")

    async def go(self) -> None:
        """Let QEMU execute, and wait until it talks. Raises what it had to say when it does not."""
        domain, running = self.domain, self.running
        if running.being_destroyed:
            raise OperationFailed(f"domain '{domain.name}' was destroyed while it started")
        perf.count_from_start(running, running.pid)
        running.qemu.go(self.doors.files)
        self.hv.checkpoint("executed")
        # until then the launcher's word in the pid file is enough for whoever comes after a crash
        writing = self._beside(domain.save_status())
        self.descriptors.close()
        joining = self._beside(enclosing.join_groups(domain, running, self.doors))
        talking = asyncio.ensure_future(_talk(domain, running, joining))
        await _race(domain, running, talking, self.log, self.command, self.watch)
        if running.group is not None:
            calm = partial(cgroups.calm, running.group, self.definition)
            await self.hv.files.run(f"control groups of '{domain.name}'", calm)
        await writing
        self.hv.checkpoint("monitor ready")

    def _beside(self, work: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Let work go on beside the start, which does not end before it."""
        future = asyncio.ensure_future(work)
        self.stack.push_async_callback(_settled, future)
        return future


async def _settled(future: "asyncio.Future[T]") -> None:
    """Wait for work whose failure, if it is not told already, comes second to another."""
    await asyncio.wait([future])
    if not future.cancelled():
        future.exception()


async def _start(domain: "Domain", running: Running, *, paused: bool, reset_nvram: bool) -> None:
    hv, definition = domain.hypervisor, running.definition
    running.guard = await hv.guard(running)
    await resctrl.check(hv, definition)
    if hv.private_dev:
        running.give_private_dev()
    hv.background(hv.cgroups.wake(), "control groups")
    running.caps = await hv.documents.start_caps(definition)
    await handback.record(hv, running, running.caps)
    async with contextlib.AsyncExitStack() as stack:
        it = _Start(domain, running, stack)
        await it.check()
        await it.prepare(reset_nvram=reset_nvram)
        await it.spawn()
        await it.go()
    running.qemu.exited.add_done_callback(lambda _: stopping.process_ended(domain, running))
    running.stage = "running"
    domain.set_state(DomainState.PAUSED, DomainPausedReason.USER)
    await taints.note(domain, running)
    if paused:
        await domain.save_status()
    else:
        await _first_resume(domain, running)
    if not cgroups.has_limits(definition):
        cgroups.place_soon(domain, running)
    hv.checkpoint("running")


def _make(
    hv: "Hypervisor", plan: launch.Plan, running: Running, master_key: bytes, reset_nvram: bool
) -> None:
    hv.checkpoint("status written")
    guard = running.guard
    lending.open_folders(hv, guard.user)
    launch.make_folders(running.footprint.folders, guard)
    pci.take(hv, running.footprint.pci)
    lending.dress_late(running, plan.files)
    launch.write_master_key(running.folder, master_key, guard)
    launch_security.write_files(running.definition, running.folder, guard)
    launch.write_overlays(plan, guard)
    if plan.nvram is not None:
        launch.prepare_nvram(*plan.nvram, guard, reset=reset_nvram)
    guard.give(running.footprint.loans, plan.opened)


async def _drop_missing(domain: "Domain", ctx: BuildContext) -> None:
    """Do without the media and disks that may be missing, and are."""
    definition = ctx.domain
    if not any(launch.may_be_missing(disk) for disk in definition.devices.disks):
        return
    dropped = await domain.hypervisor.files.run(
        f"images of '{domain.name}'", partial(launch.missing_disks, definition)
    )
    if dropped:
        assign_aliases(definition, ctx)
    for disk in dropped:
        path = launch.drop_source(definition, disk)
        reasons = ConnectDomainEventDiskChangeReason
        reason = reasons.CHANGE_MISSING_ON_START if disk.is_removable else reasons.DROP_MISSING_ON_START
        domain.publish(DiskChange(domain.ref, path, None, disk.alias.name or "", reason))


async def _overlays(domain: "Domain", definition: Definition) -> list[overlays.Overlay]:
    """Put a file of this run on top of each transient disk; returns those that have to be made."""
    transient = [disk for disk in definition.devices.disks if disk.transient is not None]
    if not transient:
        return []
    cover = partial(overlays.cover, transient, domain.name)
    return await domain.hypervisor.files.run(f"images of '{domain.name}'", cover)


async def _talk(domain: "Domain", running: Running, joining: "asyncio.Future[None]") -> None:
    """Negotiate, and bring what only a running QEMU knows into the live definition."""
    asked: list[live.Asked] = []

    def ask() -> None:
        asked.append(live.ask(domain, running))

    has_late = bool(vcpu_slots.booted_late(running.definition))
    try:
        # asked while QEMU loads, answered in one go; vCPUs that are plugged in count, too
        await running.monitor.negotiate(domain.hypervisor.start_deadline, None if has_late else ask)
        await asyncio.shield(joining)
        domain.hypervisor.checkpoint("monitor connected")
        await vcpus.plug_at_start(running)
        if has_late:
            ask()
        await live.after_start(domain, running, asked[0])
    finally:
        for questions in asked:
            questions.cancel()
    if cgroups.has_limits(running.definition):
        await cgroups.place_threads(domain, running)
    await pinning.pin_at_start(running)
    await cores.settle(domain.hypervisor, partial(cores.separate_vcpus, running))
    await scheduling.schedule_at_start(running)
    await resctrl.take(domain, running)


async def _race(
    domain: "Domain",
    running: Running,
    watcher: "asyncio.Future[None]",
    domain_log: DomainLog,
    command: CommandLine,
    watch: Watch,
) -> None:
    """Wait until QEMU talks, or has died; then raise what it had to say."""
    process = running.qemu
    exited = process.exited
    try:
        await asyncio.wait([watcher, exited], return_when=asyncio.FIRST_COMPLETED)
        if watcher.done() and watcher.exception() is None:
            return
        # A monitor that closes belongs to a QEMU that is ending: its last words are the reason.
        if watcher.done() and not isinstance(watcher.exception(), MonitorClosed):
            await watcher
        if not await process.wait(stopping.KILL_WAIT):
            await watcher
        said = _last_words(running, domain_log, command)
        if words := await domain.hypervisor.files.run("helpers", partial(processes.last_words, running)):
            said += f"\n{words}"
        said += await refusals.said_of(domain, running, watch, said)
        if "Address already in use" in said and running.footprint.ports:
            raise PortTaken(said, list(running.footprint.ports))
        raise InternalError(said)
    finally:
        watcher.cancel()
        with contextlib.suppress(QvirtError, asyncio.CancelledError):
            await watcher


def _last_words(running: Running, domain_log: DomainLog, command: CommandLine) -> str:
    """Say why QEMU ended: what it printed, and the element of the document that is about."""
    said = domain_log.tail()
    greeted = running.link is not None and running.link.greeting is not None
    opening = (
        "qemu unexpectedly closed the monitor" if greeted else "process exited while connecting to monitor"
    )
    if running.being_destroyed:
        return f"{opening}: domain was destroyed while it started"
    if not said:
        return f"{opening}: QEMU {running.qemu.ending} and printed nothing"
    origin = blame(said, command)
    return f"{opening}: {said}" + (f"\nThis comes from {origin} of the domain's document." if origin else "")


def blame(said: str, command: CommandLine) -> str | None:
    """Return the element whose switch QEMU complains about, None when it does not say."""
    best: tuple[int, str] | None = None
    for words, source in command.explain():
        text = " ".join(words)
        if len(words) == 2 and text in said and (best is None or len(text) > best[0]):
            best = (len(text), source)
    return best[1] if best is not None and best[1] != "the machine" else None


async def _first_resume(domain: "Domain", running: Running) -> None:
    """Let the guest run for the first time; its RESUME event comes before the answer."""
    running.running_reason = DomainRunningReason.BOOTED
    # A daemon that dies from here on must not take the QEMU for half started; the state is written after the
    # event. Written first, as busy vCPUs slow everything down on a small machine.
    await domain.save_status()
    answer = asyncio.ensure_future(running.execute("cont", deadline=COMMAND_DEADLINE))
    # The event is sent before the vCPUs are let loose, which then keep QEMU from answering for a while.
    waited: list[asyncio.Future[Any]] = [answer, running.resumed]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if running.resumed.done():
        answer.add_done_callback(_take_note)
    else:
        await answer
        running.running_reason = None
        if running.stop_reason is None and domain.running is running and domain.state == DomainState.PAUSED:
            domain.set_state(DomainState.RUNNING, DomainRunningReason.BOOTED)
            domain.save_soon()


def _take_note(answer: "asyncio.Future[Json]") -> None:
    """Look at an answer nobody waits for: the guest runs, or its end is told by other means."""
    if not answer.cancelled() and answer.exception() is not None:
        log.debug("the answer to the first resume: %s", answer.exception())


async def _undo_start(domain: "Domain", running: Running, error: BaseException, *, keep: bool) -> None:
    log.info("start of '%s' failed: %s", domain.name, error)
    if running.process is not None and not running.process.is_gone:
        running.process.close_gate()
        running.process.send(signal.SIGKILL)
        await running.process.wait(stopping.KILL_WAIT)
    if running.stop_reason is None:
        running.stop_reason = (DomainShutoffReason.FAILED, DomainEventStoppedDetailType.FAILED, "failed")
    await stopping.finish(domain, running, quiet=running.stage == "starting", keep=keep)
