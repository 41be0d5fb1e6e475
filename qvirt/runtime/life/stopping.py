"""A QEMU's end: asked for or noticed, cleared up after once, for whatever reason."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qvirt.constants.domain import DomainShutoffReason, DomainState
from qvirt.constants.domain_event import DomainEventStoppedDetailType, DomainEventType
from qvirt.errors import QvirtError, SystemError_
from qvirt.qmp.errors import MonitorClosed
from qvirt.qmp.wire import Event
from qvirt.runtime import interfaces, monitor_events
from qvirt.runtime.domainlog import DomainLog
from qvirt.runtime.events import Lifecycle
from qvirt.runtime.helpers import processes, swtpm
from qvirt.runtime.life import cgroups, launch, lending, resctrl
from qvirt.runtime.plugging import pci
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import perf

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: seconds a QEMU gets after SIGTERM, and after SIGKILL
TERM_WAIT = 10.0
GRACEFUL_WAIT = 15.0
TERM_STEP = 0.25
KILL_WAIT = 5.0


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
    reason, detail, word = running.stop_reason or _natural_end(running)
    try:
        await cgroups.placed(running)
        perf.stop(running)
        if running.process is not None:
            running.process.close()
        await _clear(domain, running, word)
        hv.checkpoint("cleared")
    finally:
        # whatever has failed, there is no QEMU any more, and somebody waits for the end
        _ended(domain, running, reason, detail, quiet=quiet, keep=keep)
    hv.checkpoint("finished")


def _ended(domain: "Domain", running: Running, reason: int, detail: int, *, quiet: bool, keep: bool) -> None:
    hv = domain.hypervisor
    domain.running = None
    domain.set_state(DomainState.SHUTOFF, reason)
    ref = domain.ref_with(running.id)
    if not keep:
        hv.domain_stopped(domain)
    if not quiet:
        domain.publish(Lifecycle(ref, DomainEventType.STOPPED, detail))
    if not running.ended.done():
        running.ended.set_result(None)


def _natural_end(running: Running) -> tuple[int, int, str]:
    if running.got_shutdown:
        return DomainShutoffReason.SHUTDOWN, DomainEventStoppedDetailType.SHUTDOWN, "shutdown"
    return DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.FAILED, "crashed"


@contextlib.contextmanager
def _noted(domain: "Domain", what: str) -> Iterator[None]:
    """Log what fails: the rest of what a run has left is taken away all the same."""
    try:
        yield
    except (QvirtError, OSError) as error:
        log.error("domain '%s': clearing up %s failed: %s", domain.name, what, error)


async def _clear(domain: "Domain", running: Running, word: str) -> None:
    """Remove what the run has left; the status file goes last, so that a crash here is made good later."""
    hv = domain.hypervisor
    await domain.settle_writes()
    with _noted(domain, "helpers"):
        await processes.stop(domain, running)
    with _noted(domain, "the TPM"):
        await swtpm.stopped(domain, running)
    for interface in running.definition.devices.interfaces:
        with _noted(domain, "interfaces"):
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
        failures += pci.give_back(hv, running.footprint.pci)
        if running.group is not None:
            failures += running.group.remove()
        machine = hv.cgroups.name_of(running.definition, running.id)
        failures += resctrl.give_back(machine, running.definition)
        failures += lending.look_back(running, running.definition.devices.disks)
        failures += lending.close_folders(hv, running.id, running.user)
        failures += launch.sweep(running.guard, running.footprint, hv.own_folders)
        with contextlib.suppress(FileNotFoundError):
            hv.paths.status(domain.name).unlink()
        return failures

    kept = await hv.cgroups.release(running)
    if kept is not None:
        log.error("domain '%s': %s", domain.name, kept)
    with _noted(domain, "files"):
        for failure in await hv.files.run(f"end of '{domain.name}'", work, pci.deadline(running)):
            log.error("domain '%s': %s", domain.name, failure)
