"""A QEMU's life: started step by step, undone when a step fails; ended once, for whatever reason."""

import asyncio
import contextlib
import logging
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from qvirt import __version__
from qvirt.constants import (
    ConnectDomainEventDiskChangeReason,
    DomainEventStartedDetailType,
    DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainPausedReason,
    DomainRunningReason,
    DomainShutoffReason,
    DomainState,
)
from qvirt.errors import InternalError, OperationFailed, QvirtError, SystemError_
from qvirt.host import images, overlays
from qvirt.model.devices.disk import Disk, DiskDevice
from qvirt.model.domain import Domain as Definition
from qvirt.model.storage_source import SourceType
from qvirt.qemu import vcpu_slots
from qvirt.qemu.build import build
from qvirt.qemu.context import BuildContext
from qvirt.qemu.names import assign_aliases
from qvirt.qemu.switches import CommandLine
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import MonitorClosed
from qvirt.qmp.wire import Event, Json
from qvirt.runtime import (
    cgroups,
    enclosing,
    handback,
    helper_kinds,
    helpers,
    interfaces,
    launch,
    lending,
    limits,
    live,
    monitor_events,
    perf,
    pinning,
    refusals,
    scheduling,
    swtpm,
    takeover,
    usb,
    vcpus,
)
from qvirt.runtime.domainlog import DomainLog
from qvirt.runtime.events import DiskChange, Lifecycle
from qvirt.runtime.process import Maker, Process
from qvirt.runtime.running import COMMAND_DEADLINE, Running
from qvirt.security.denials import Watch
from qvirt.security.launcher import confining

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: seconds a QEMU gets after SIGTERM, and after SIGKILL
TERM_WAIT = 10.0
GRACEFUL_WAIT = 15.0
TERM_STEP = 0.25
KILL_WAIT = 5.0

#: Linux's number of the devices /dev/srN
_SCSI_CDROM_MAJOR = 11

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


async def _start(domain: "Domain", running: Running, *, paused: bool, reset_nvram: bool) -> None:
    hv = domain.hypervisor
    definition = running.definition
    running.guard = await hv.guard(running)
    user = running.user
    scheduling.check_host(definition)
    if hv.private_dev:
        running.give_private_dev()
    hv.background(hv.cgroups.wake(), "control groups")
    running.caps = await hv.documents.start_caps(definition)
    await handback.record(hv, running, running.caps)
    async with contextlib.AsyncExitStack() as stack:
        descriptors = launch.Descriptors(running.id)
        stack.callback(descriptors.close)
        running.master_key = descriptors.master_key
        ctx = hv.documents.build_context(definition, running.caps, descriptors)
        await _drop_missing(domain, ctx)
        await usb.find(domain, definition.devices.hostdevs)
        images.fill_in(
            await hv.files.run(
                f"images of '{domain.name}'",
                partial(
                    images.look_below,
                    definition.devices.disks,
                    user=(user.uid, user.gid) if user is not None else None,
                ),
            )
        )
        made = await _overlays(domain, definition)
        assign_aliases(definition, ctx)
        running.folder = running.guard.guest.folder = ctx.domain_dir
        running.monitor_path = f"{ctx.domain_dir}/monitor.sock"
        mark = running.footprint
        for interface in definition.devices.interfaces:
            await interfaces.reserve(domain, running, interface)
        plan = launch.survey(definition, ctx, made)
        allowed = limits.limits_of(definition, hv.config)
        recipes = helper_kinds.recipes(domain, running, definition.devices.all(), ctx)
        helpers.reserve(running, recipes)
        mark.folders = [running.folder, *dict.fromkeys(plan.folders)]
        mark.files += [
            str(hv.paths.pidfile(domain.name)),
            *(wanted.path for wanted in plan.listeners),
            *(overlay.path for overlay in made),
        ]
        mark.cgroup = hv.cgroups.path_of(definition, running.id)
        running.group = hv.cgroups.group(mark.cgroup)
        ports = launch.take_ports(definition, hv.display_ports, hv.websocket_ports)
        mark.ports = [port for _, port in ports.taken]
        mark.loans = await hv.files.run(
            f"start of '{domain.name}'", partial(lending.prepare, running, plan.files)
        )
        hv.checkpoint("checked")
        maker = Maker(partial(enclosing.make_dev, hv, running, plan) if running.private_dev else None)
        stack.callback(maker.close)
        make = partial(_make, hv, plan, running, descriptors.master_key, reset_nvram)
        await domain.save_status(make, lending.DEADLINE)
        hv.checkpoint("host prepared")
        groups_first = hv.cgroups.machined is None
        grouping = asyncio.ensure_future(enclosing.make_groups(domain, running, plan, wanted=groups_first))
        stack.push_async_callback(asyncio.wait, [grouping])
        for interface in definition.devices.interfaces:
            with await interfaces.connect(domain, running, interface) as connection:
                for name, fds in connection.take().items():
                    descriptors.adopt(name, fds)
        if recipes and groups_first:
            await grouping
            await helpers.start(domain, running, recipes)
        if plan.listeners or plan.handed:
            bind = partial(launch.make_listeners, plan, descriptors, running.guard)
            await hv.files.run(f"sockets of '{domain.name}'", bind)
        listener = launch.listen_unix(running.monitor_path, running.guard, monitor=True)
        running.link = Monitor(
            launch.connect_listener(running.monitor_path, running.guard),
            name=domain.name,
            on_event=partial(monitor_event, domain, running),
            on_closed=partial(monitor_closed, domain, running),
        )
        descriptors.monitor_fd = descriptors.adopt("monitor", [listener.detach()])[0]
        hv.checkpoint("sockets made")
        command = build(definition, ctx)
        running.touch()
        env = environment(ctx, command)
        domain_log = DomainLog(hv.paths.logfile(domain.name), timestamps=hv.config.log_timestamp)
        stack.callback(domain_log.close)
        domain_log.starting(command, env, running.caps, __version__)
        running.process = await Process.spawn(
            command.argv(),
            env=env,
            log_fd=domain_log.fd,
            fds=descriptors.all(),
            wrap=confining(
                user,
                labels=running.guard.words(),
                no_new_privs=running.guard.takes_no_new_privs,
                keep_capabilities=not hv.config.clear_emulator_capabilities,
            ),
            limits=allowed,
            pidfile=str(hv.paths.pidfile(domain.name)),
            maker=maker,
        )
        hv.checkpoint("spawned")
        doors = await grouping
        if not groups_first:
            await hv.cgroups.register(running)
            hv.checkpoint("machine made")
            doors = await enclosing.make_groups(domain, running, plan)
            await helpers.start(domain, running, recipes)
        hv.checkpoint("control groups made")
        if running.being_destroyed:
            raise OperationFailed(f"domain '{domain.name}' was destroyed while it started")
        perf.count_from_start(running, running.pid)
        watch = stack.enter_context(running.guard.watch())
        running.process.go(doors.files)
        hv.checkpoint("executed")
        # until then the launcher's word in the pid file is enough for whoever comes after a crash
        writing = asyncio.ensure_future(domain.save_status())
        stack.push_async_callback(asyncio.wait, [writing])
        descriptors.close()
        joining = asyncio.ensure_future(enclosing.join_groups(domain, running, doors))
        stack.push_async_callback(asyncio.wait, [joining])
        talking = asyncio.ensure_future(_talk(domain, running, joining))
        await _race(domain, running, talking, domain_log, command, watch)
        await writing
    hv.checkpoint("monitor ready")
    running.process.exited.add_done_callback(lambda _: process_ended(domain, running))
    running.stage = "running"
    domain.set_state(DomainState.PAUSED, DomainPausedReason.USER)
    await note_taints(domain, running)
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
    launch.write_master_key(f"{running.folder}/master-key.aes", master_key, guard)
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


async def note_taints(domain: "Domain", running: Running) -> None:
    """Note what somebody who looks into a problem of this guest should know."""
    definition = running.definition
    own = definition.qemu_commandline
    if own is not None and (own.args or own.envs):
        domain.taint("custom-argv")
    overruled = definition.qemu_capabilities
    if overruled is not None and (overruled.adds or overruled.dels):
        domain.taint("custom-hypervisor-feature")
    if definition.qemu_override is not None and definition.qemu_override.devices:
        domain.taint("custom-device")
    user = running.user
    if user is not None and (
        0 in (user.uid, user.gid) or not domain.hypervisor.config.clear_emulator_capabilities
    ):
        domain.taint("high-privileges")
    if definition.cpu is not None and definition.cpu.mode == "host-passthrough":
        domain.taint("host-cpu")
    if any(interface.script is not None for interface in definition.devices.interfaces):
        domain.taint("shell-scripts")
    if definition.os.dtb:
        domain.taint("custom-dtb")
    disks, hostdevs = definition.devices.disks, definition.devices.hostdevs
    if any(disk.rawio for disk in disks) or any(dev.rawio for dev in hostdevs):
        domain.taint("high-privileges")
    drives = [path for disk in disks if (path := _drive(disk)) is not None]
    if drives:
        look = partial(_any_cdrom, drives)
        if await domain.hypervisor.files.run(f"drives of '{domain.name}'", look):
            domain.taint("cdrom-passthrough")
    machine = running.caps.machine(definition.os.type.machine or "") if running.caps is not None else None
    if machine is not None and machine.deprecated:
        domain.taint("deprecated-config")
        running.deprecations.append(f"machine type '{machine.name}'")


def _drive(disk: Disk) -> str | None:
    """Return the host's device in a CD-ROM drive of the guest."""
    is_drive = disk.device == DiskDevice.CDROM and disk.type == SourceType.BLOCK
    return disk.source.dev if is_drive and disk.source is not None else None


def _any_cdrom(paths: list[str]) -> bool:
    """Tell whether one of the devices is a CD-ROM drive. Blocking."""
    for path in paths:
        with contextlib.suppress(OSError):
            if os.major(os.stat(path).st_rdev) == _SCSI_CDROM_MAJOR:
                return True
    return False


def environment(ctx: BuildContext, command: CommandLine) -> dict[str, str]:
    """Return QEMU's whole environment, in libvirt's order."""
    folder = ctx.domain_dir
    env = {
        "LC_ALL": "C",
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": folder,
        "XDG_DATA_HOME": f"{folder}/.local/share",
        "XDG_CACHE_HOME": f"{folder}/.cache",
        "XDG_CONFIG_HOME": f"{folder}/.config",
    }
    return env | command.env


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
    await scheduling.schedule_at_start(running)


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
        if not await process.wait(KILL_WAIT):
            await watcher
        said = _last_words(running, domain_log, command)
        if words := await domain.hypervisor.files.run("helpers", partial(helpers.last_words, running)):
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
        await running.process.wait(KILL_WAIT)
    if running.stop_reason is None:
        running.stop_reason = (DomainShutoffReason.FAILED, DomainEventStoppedDetailType.FAILED, "failed")
    await finish(domain, running, quiet=running.stage == "starting", keep=keep)


# ------------------------------------------------------------------------------ end


async def kill(domain: "Domain", running: Running, *, graceful: bool) -> None:
    """End a QEMU's process: SIGTERM, and unless ``graceful`` SIGKILL. Raises SystemError_ when it stays."""
    process = running.process
    if process is None:
        return  # the start looks for it before it lets QEMU go
    number = signal.SIGTERM
    if not graceful and process.is_stopped():
        number = signal.SIGKILL  # a stopped process takes no other
    process.send(number)
    for _ in range(int((GRACEFUL_WAIT if graceful else TERM_WAIT) / TERM_STEP)):
        if await process.wait(TERM_STEP):
            return
        if not graceful and process.is_stopped():
            break
    if not graceful:
        number = signal.SIGKILL
        process.send(number)
        if await process.wait(KILL_WAIT):
            return
    raise SystemError_(
        f"Failed to terminate process {process.pid} with {number.name}: Device or resource busy"
    )


async def destroy(domain: "Domain", *, graceful: bool = False) -> None:
    """End a running domain. Waits for no job: whoever holds one sees the monitor close."""
    running = domain.need_running()
    hv = domain.hypervisor
    hv.checkpoint("destroy")
    was_destroyed = running.being_destroyed
    running.being_destroyed = True
    before = running.stop_reason
    if before is None:
        running.stop_reason = (
            DomainShutoffReason.DESTROYED,
            DomainEventStoppedDetailType.DESTROYED,
            "destroyed",
        )
    try:
        await kill(domain, running, graceful=graceful)
    except QvirtError:
        running.being_destroyed = was_destroyed
        running.stop_reason = before
        raise
    hv.checkpoint("killed")
    await asyncio.shield(running.ended)


def monitor_event(domain: "Domain", running: Running, event: Event) -> None:
    """Take an event from the monitor. @background: called by the loop."""
    if domain.running is running:
        monitor_events.handle(domain, running, event)


def monitor_closed(domain: "Domain", running: Running, failure: QvirtError) -> None:
    """Note that the monitor is gone; the process usually is, too. @background."""
    if running.stage != "running" or running.process is None or running.process.is_gone:
        return
    if domain.hypervisor.closing:
        return
    if isinstance(failure, MonitorClosed):
        domain.hypervisor.background(_after_monitor(domain, running), f"monitor of {domain.name} closed")
    else:
        # The guest goes on, and so does its QEMU; only nobody can talk to it any more.
        running.monitor_failed = True
        monitor_events.publish_control_error(domain)


async def _after_monitor(domain: "Domain", running: Running) -> None:
    """End a QEMU that has closed its monitor and stays. @background."""
    process = running.qemu
    if await process.wait(KILL_WAIT):
        return
    log.error("domain '%s': QEMU closed its monitor and stays; it is killed", domain.name)
    process.send(signal.SIGKILL)


def process_ended(domain: "Domain", running: Running) -> None:
    """Note that QEMU has ended. @background: called by the loop."""
    domain.hypervisor.background(finish(domain, running), f"end of {domain.name}")


async def finish(domain: "Domain", running: Running, *, quiet: bool = False, keep: bool = False) -> None:
    """Clear up after a QEMU that has ended, tell everybody, once.

    quiet: it never was running. keep: the domain stays known, transient or not, as it is started again.
    Whoever comes second waits for the first.
    """
    if running.finishing:
        await asyncio.shield(running.ended)
        return
    running.finishing = True
    hv = domain.hypervisor
    hv.checkpoint("finish")
    if running.link is not None:
        # the last events are in the buffer; end-of-file follows them, unless somebody else has the socket
        running.link.read_rest()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await running.link.wait_closed()
        running.link.close()
    if running.agent is not None:
        running.agent.close()
        running.agent = None
    for stream in list(running.consoles.values()):
        stream.drop()
    await cgroups.placed(running)
    perf.stop(running)
    reason, detail, word = running.stop_reason or _natural_end(running)
    if running.process is not None:
        running.process.close()
    await _clear(domain, running, word)
    hv.checkpoint("cleared")
    domain.running = None
    domain.set_state(DomainState.SHUTOFF, reason)
    ref = domain.ref_with(running.id)
    if not keep:
        hv.domain_stopped(domain)
    if not quiet:
        domain.publish(Lifecycle(ref, DomainEventType.STOPPED, detail))
    if not running.ended.done():
        running.ended.set_result(None)
    hv.checkpoint("finished")


def _natural_end(running: Running) -> tuple[int, int, str]:
    if running.got_shutdown:
        return DomainShutoffReason.SHUTDOWN, DomainEventStoppedDetailType.SHUTDOWN, "shutdown"
    return DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.FAILED, "crashed"


async def _clear(domain: "Domain", running: Running, word: str) -> None:
    """Remove what the run has left; the status file goes last, so that a crash here is made good later."""
    hv = domain.hypervisor
    await domain.settle_writes()
    await helpers.stop(domain, running)
    await swtpm.stopped(domain, running)
    for interface in running.definition.devices.interfaces:
        await interfaces.disconnect(domain, running, interface)
    for port in running.footprint.ports:
        hv.display_ports.release(port)
        hv.websocket_ports.release(port)

    def work() -> list[str]:
        failures: list[str] = []
        try:
            if running.process is not None:
                DomainLog.append(hv.paths.logfile(domain.name), f"shutting down, reason={word}")
        except OSError as error:
            failures.append(f"cannot write the log: {error.strerror}")
        if running.group is not None:
            failures += running.group.remove()
        if "custom-monitor" not in running.taints:  # else somebody may have told it to
            failures += images.distrust_changed(running.definition.devices.disks)
        failures += lending.close_folders(hv, running.id, running.user)
        failures += launch.sweep(running.guard, running.footprint, hv.own_folders)
        with contextlib.suppress(FileNotFoundError):
            hv.paths.status(domain.name).unlink()
        return failures

    kept = await hv.cgroups.release(running)
    if kept is not None:
        log.error("domain '%s': %s", domain.name, kept)
    try:
        for failure in await hv.files.run(f"end of '{domain.name}'", work):
            log.error("domain '%s': %s", domain.name, failure)
    except (QvirtError, OSError) as error:
        log.error("domain '%s': clearing up failed: %s", domain.name, error)
