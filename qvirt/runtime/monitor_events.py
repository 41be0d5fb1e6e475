"""QEMU's events, turned into the domain's state and libvirt's events, in libvirt's order.

Each handler takes (domain, running, data) and runs in the event loop without waiting; what takes time is
started as a task of the hypervisor.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from qvirt.constants.domain import (
    DomainBlockJobType,
    DomainCrashedReason,
    DomainDiskErrorCode,
    DomainPausedReason,
    DomainPMSuspendedReason,
    DomainRunningReason,
    DomainShutdownReason,
    DomainShutoffReason,
    DomainState,
)
from qvirt.constants.domain_event import (
    ConnectDomainEventAgentLifecycleReason,
    ConnectDomainEventBlockJobStatus,
    DomainEventCrashedDetailType,
    DomainEventGraphicsAddressType,
    DomainEventGraphicsPhase,
    DomainEventIOErrorAction,
    DomainEventPMSuspendedDetailType,
    DomainEventResumedDetailType,
    DomainEventShutdownDetailType,
    DomainEventStartedDetailType,
    DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventTrayChangeReason,
    DomainEventType,
    DomainEventWatchdogAction,
    DomainMemoryFailureActionType,
    DomainMemoryFailureFlags,
    DomainMemoryFailureRecipientType,
)
from qvirt.model.devices.disk import Disk
from qvirt.qmp.wire import Event, JsonObject, unsigned
from qvirt.runtime import events, interfaces, live
from qvirt.runtime.helpers import helper_watch
from qvirt.runtime.life import endings
from qvirt.runtime.plugging import hotplug, unplug
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import vcpus

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: seconds; a clock of a guest cannot be farther from the host's
_FARTHEST = 1 << 40

#: seconds between two rounds of what follows an event
_PAUSE = 0.2
#: letters of an event, and of one word of it, that are handed on; those of QEMU's have fewer
_MOST_DETAILS = 1 << 20
_MOST_LETTERS = 4096

Handler = Callable[["Domain", Running, JsonObject], None]

#: why a domain paused -> detail of the suspended event
_SUSPENDED_DETAIL = {
    DomainPausedReason.MIGRATION: DomainEventSuspendedDetailType.MIGRATED,
    DomainPausedReason.FROM_SNAPSHOT: DomainEventSuspendedDetailType.FROM_SNAPSHOT,
    DomainPausedReason.IOERROR: DomainEventSuspendedDetailType.IOERROR,
    DomainPausedReason.WATCHDOG: DomainEventSuspendedDetailType.WATCHDOG,
    DomainPausedReason.API_ERROR: DomainEventSuspendedDetailType.API_ERROR,
    DomainPausedReason.POSTCOPY: DomainEventSuspendedDetailType.POSTCOPY,
    DomainPausedReason.POSTCOPY_FAILED: DomainEventSuspendedDetailType.POSTCOPY_FAILED,
}
_RESUMED_DETAIL = {
    DomainRunningReason.MIGRATED: DomainEventResumedDetailType.MIGRATED,
    DomainRunningReason.FROM_SNAPSHOT: DomainEventResumedDetailType.FROM_SNAPSHOT,
    DomainRunningReason.POSTCOPY: DomainEventResumedDetailType.POSTCOPY,
    DomainRunningReason.POSTCOPY_FAILED: DomainEventResumedDetailType.POSTCOPY_FAILED,
}
_WATCHDOG_ACTIONS = {
    "none": DomainEventWatchdogAction.NONE,
    "pause": DomainEventWatchdogAction.PAUSE,
    "reset": DomainEventWatchdogAction.RESET,
    "poweroff": DomainEventWatchdogAction.POWEROFF,
    "shutdown": DomainEventWatchdogAction.SHUTDOWN,
    "debug": DomainEventWatchdogAction.DEBUG,
    "inject-nmi": DomainEventWatchdogAction.INJECTNMI,
}
_IO_ACTIONS = {
    "ignore": DomainEventIOErrorAction.NONE,
    "stop": DomainEventIOErrorAction.PAUSE,
    "report": DomainEventIOErrorAction.REPORT,
}
_FAMILIES = {
    "ipv4": DomainEventGraphicsAddressType.IPV4,
    "ipv6": DomainEventGraphicsAddressType.IPV6,
    "unix": DomainEventGraphicsAddressType.UNIX,
}
_FAILURE_RECIPIENTS = {
    "hypervisor": DomainMemoryFailureRecipientType.HYPERVISOR,
    "guest": DomainMemoryFailureRecipientType.GUEST,
}
_FAILURE_ACTIONS = {
    "ignore": DomainMemoryFailureActionType.IGNORE,
    "inject": DomainMemoryFailureActionType.INJECT,
    "fatal": DomainMemoryFailureActionType.FATAL,
    "reset": DomainMemoryFailureActionType.RESET,
}
_JOB_TYPES = {
    "stream": DomainBlockJobType.PULL,
    "commit": DomainBlockJobType.COMMIT,
    "mirror": DomainBlockJobType.COPY,
    "backup": DomainBlockJobType.BACKUP,
}


def handle(domain: "Domain", running: Running, event: Event) -> None:
    """Take one event: the raw one first to whoever asked for it, then what it means."""
    details = json.dumps(event.data, separators=(",", ":")) if event.data else None
    if len(event.name) + len(details or "") <= _MOST_DETAILS:  # else no client could be told
        domain.publish(
            events.MonitorEvent(domain.ref, event.name, event.seconds, event.microseconds, details)
        )
    handler = HANDLERS.get(event.name)
    if handler is not None:
        handler(domain, running, running.names.event(event.name, event.data))


def publish_control_error(domain: "Domain") -> None:
    """Tell that the monitor is of no use any more."""
    domain.publish(events.ControlError(domain.ref))


def _lifecycle(domain: "Domain", event: int, detail: int) -> None:
    domain.publish(events.Lifecycle(domain.ref, event, detail))


def _follow(
    domain: "Domain", running: Running, what: str, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Do in the background what an event asks for; however many there are, not twice at a time."""
    if what in running.following:
        running.following[what] = True
        return
    running.following[what] = False
    domain.hypervisor.background(_until_followed(running, what, work), what)


async def _until_followed(running: Running, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Work, and once more when an event came meanwhile. @background."""
    try:
        while True:
            running.following[what] = False
            await work()
            if not running.following[what]:
                return
            await asyncio.sleep(_PAUSE)  # a guest may cause such events without end
    finally:
        del running.following[what]


# ----------------------------------------------------------------- run and power


def _stop(domain: "Domain", running: Running, data: JsonObject) -> None:
    reason = running.paused_reason
    running.paused_reason = None
    if running.got_shutdown or domain.state != DomainState.RUNNING:
        return  # what stopped it has been told already
    reason = DomainPausedReason.UNKNOWN if reason is None else reason
    domain.set_state(DomainState.PAUSED, reason)
    _lifecycle(
        domain,
        DomainEventType.SUSPENDED,
        _SUSPENDED_DETAIL.get(reason, DomainEventSuspendedDetailType.PAUSED),
    )
    domain.save_soon()


def _resume(domain: "Domain", running: Running, data: JsonObject) -> None:
    reason = running.running_reason
    running.running_reason = None
    running.disk_errors.clear()
    if not running.resumed.done():
        running.resumed.set_result(None)
    if domain.state == DomainState.RUNNING or running.got_shutdown:
        return
    reason = DomainRunningReason.UNPAUSED if reason is None else reason
    domain.set_state(DomainState.RUNNING, reason)
    _lifecycle(
        domain,
        DomainEventType.RESUMED,
        _RESUMED_DETAIL.get(reason, DomainEventResumedDetailType.UNPAUSED),
    )
    domain.save_soon()


def _shutdown(domain: "Domain", running: Running, data: JsonObject) -> None:
    if running.got_shutdown:
        return
    running.got_shutdown = True
    # A reboot we fake is a reset to everybody else: its power-off is nobody's business.
    if not running.fake_reboot:
        domain.set_state(DomainState.SHUTDOWN, DomainShutdownReason.UNKNOWN)
        guest = data.get("guest")
        if guest is None:
            detail = DomainEventShutdownDetailType.FINISHED
        elif guest:
            detail = DomainEventShutdownDetailType.GUEST
        else:
            detail = DomainEventShutdownDetailType.HOST
        _lifecycle(domain, DomainEventType.SHUTDOWN, detail)
        domain.save_soon()
    if running.stage == "running" and not running.being_destroyed:
        endings.power_off(domain, running)


def _reset(domain: "Domain", running: Running, data: JsonObject) -> None:
    domain.publish(events.Reboot(domain.ref))
    running.balloon_sample = None
    if running.agent is not None:
        running.agent.reset()
    if running.definition.on_reboot == "destroy" and data.get("guest") and running.stage == "running":
        # only reached where QEMU could not be told to power off instead
        endings.end(
            domain,
            running,
            DomainShutoffReason.DESTROYED,
            DomainEventStoppedDetailType.DESTROYED,
            "destroyed",
        )


def _panicked(domain: "Domain", running: Running, data: JsonObject) -> None:
    if domain.state == DomainState.CRASHED:
        return  # what follows is under way
    domain.set_state(DomainState.CRASHED, DomainCrashedReason.PANICKED)
    _lifecycle(domain, DomainEventType.CRASHED, DomainEventCrashedDetailType.PANICKED)
    domain.save_soon()
    endings.crashed(domain, running)


def _watchdog(domain: "Domain", running: Running, data: JsonObject) -> None:
    action = _WATCHDOG_ACTIONS.get(str(data.get("action")), DomainEventWatchdogAction.NONE)
    domain.publish(events.Watchdog(domain.ref, action))
    if action == DomainEventWatchdogAction.PAUSE and domain.state == DomainState.RUNNING:
        domain.set_state(DomainState.PAUSED, DomainPausedReason.WATCHDOG)
        _lifecycle(domain, DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.WATCHDOG)
        domain.save_soon()
    if any(watchdog.action == "dump" for watchdog in running.definition.devices.watchdogs):
        dump = partial(endings.watchdog_dump, domain, running)
        _follow(domain, running, f"watchdog dump of {domain.name}", dump)


def _suspend(domain: "Domain", running: Running, data: JsonObject) -> None:
    _asleep(domain, events.PmSuspend(domain.ref), DomainEventPMSuspendedDetailType.MEMORY)


def _suspend_disk(domain: "Domain", running: Running, data: JsonObject) -> None:
    _asleep(domain, events.PmSuspendDisk(domain.ref), DomainEventPMSuspendedDetailType.DISK)


def _asleep(domain: "Domain", event: events.DomainEvent, detail: int) -> None:
    domain.publish(event)
    if domain.state == DomainState.RUNNING:
        domain.set_state(DomainState.PMSUSPENDED, DomainPMSuspendedReason.UNKNOWN)
        _lifecycle(domain, DomainEventType.PMSUSPENDED, detail)
        domain.save_soon()


def _wakeup(domain: "Domain", running: Running, data: JsonObject) -> None:
    domain.publish(events.PmWakeup(domain.ref))
    if domain.state == DomainState.PMSUSPENDED:
        domain.set_state(DomainState.RUNNING, DomainRunningReason.WAKEUP)
        _lifecycle(domain, DomainEventType.STARTED, DomainEventStartedDetailType.WAKEUP)
        domain.save_soon()


# ----------------------------------------------------------------------- devices


def find_disk(running: Running, data: JsonObject) -> Disk | None:
    """Return the disk an event is about, by device, QOM path or node name."""
    names = {_word(data, key) for key in ("device", "qom-path", "id", "node-name") if data.get(key)}
    for disk in running.definition.devices.disks:
        alias = disk.alias.name
        if alias and any(alias in name.split("/") or name == f"drive-{alias}" for name in names):
            return disk
        source = disk.source
        index = getattr(source, "index", None)
        if index and names & {f"libvirt-{index}-format", f"libvirt-{index}-storage"}:
            return disk
    return None


def source_path(disk: Disk | None) -> str:
    """Return the local path behind a disk, or nothing."""
    if disk is None or disk.source is None:
        return ""
    return disk.source.local_path or ""


def _io_error(domain: "Domain", running: Running, data: JsonObject) -> None:
    disk = find_disk(running, data)
    action = _IO_ACTIONS.get(str(data.get("action")), DomainEventIOErrorAction.NONE)
    full = data.get("nospace") is True
    reason = "enospc" if full else ""
    alias = (disk.alias.name if disk is not None else None) or ""
    if alias:
        running.disk_errors[alias] = DomainDiskErrorCode.NO_SPACE if full else DomainDiskErrorCode.UNSPEC
    domain.publish(events.IoError(domain.ref, source_path(disk), alias, action, reason))
    if action == DomainEventIOErrorAction.PAUSE and domain.state == DomainState.RUNNING:
        domain.set_state(DomainState.PAUSED, DomainPausedReason.IOERROR)
        _lifecycle(domain, DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.IOERROR)
        domain.save_soon()


def _balloon(domain: "Domain", running: Running, data: JsonObject) -> None:
    actual = data.get("actual")
    if not isinstance(actual, int) or actual < 0:
        return
    live.set_balloon(running.definition, actual)
    running.touch()
    domain.publish(events.BalloonChange(domain.ref, -(-actual // 1024)))
    domain.save_soon()


def _device_deleted(domain: "Domain", running: Running, data: JsonObject) -> None:
    vcpu = vcpus.alias_of(data)
    id = vcpu if vcpu is not None else data.get("device")
    if not isinstance(id, str) or unplug.answered(running, id, gone=True):
        return
    if vcpu is not None:
        _follow(
            domain, running, f"vCPUs of {domain.name} unplugged", partial(vcpus.take_late, domain, running)
        )
    elif any(dev.alias.name == id for dev in running.definition.devices.all()):
        late = partial(hotplug.take_late, domain, running, id)
        _follow(domain, running, f"'{id}' of {domain.name} unplugged", late)


def _unplug_failed(domain: "Domain", running: Running, data: JsonObject) -> None:
    id = data.get("device")
    if isinstance(id, str):
        _keeps(domain, running, id)


def _acpi_ost(domain: "Domain", running: Running, data: JsonObject) -> None:
    id = unplug.refusal(data)
    if id is not None:
        _keeps(domain, running, id)


def _keeps(domain: "Domain", running: Running, id: str) -> None:
    unplug.answered(running, id, gone=False)
    domain.publish(events.DeviceRemovalFailed(domain.ref, id[:_MOST_LETTERS]))


def _tray(domain: "Domain", running: Running, data: JsonObject) -> None:
    disk = find_disk(running, data)
    if disk is None:
        return
    is_open = data.get("tray-open") is True
    disk.target.tray = "open" if is_open else "closed"
    running.touch()
    unplug.tray_moved(running, disk.alias.name or "", is_open=is_open)
    reasons = DomainEventTrayChangeReason
    domain.publish(
        events.TrayChange(domain.ref, disk.alias.name or "", reasons.OPEN if is_open else reasons.CLOSE)
    )
    domain.save_soon()


def _vserport(domain: "Domain", running: Running, data: JsonObject) -> None:
    live.set_channel_state(
        domain,
        running,
        str(data.get("id")),
        connected=data.get("open") is True,
        reason=ConnectDomainEventAgentLifecycleReason.CHANNEL,
    )
    domain.save_soon()


def _rtc(domain: "Domain", running: Running, data: JsonObject) -> None:
    offset = data.get("offset")
    if not isinstance(offset, int) or abs(offset) > _FARTHEST:
        return
    clock = running.definition.clock
    if clock is not None and clock.offset == "variable":
        offset += running.clock_base
        clock.adjustment = str(offset)
        running.touch()
        domain.save_soon()
    domain.publish(events.RtcChange(domain.ref, offset))


def _rx_filter(domain: "Domain", running: Running, data: JsonObject) -> None:
    alias = str(data.get("name"))
    if interfaces.follows_guest(running, alias) is not None:
        follow = partial(interfaces.follow_filter, domain, running, alias)
        _follow(domain, running, f"filter of '{alias}' of {domain.name}", follow)


def _memory_failure(domain: "Domain", running: Running, data: JsonObject) -> None:
    recipient = _FAILURE_RECIPIENTS.get(str(data.get("recipient")))
    action = _FAILURE_ACTIONS.get(str(data.get("action")))
    if recipient is None or action is None:
        return
    flags = data.get("flags")
    number = 0
    if isinstance(flags, dict):
        number |= DomainMemoryFailureFlags.ACTION_REQUIRED if flags.get("action-required") else 0
        number |= DomainMemoryFailureFlags.RECURSIVE if flags.get("recursive") else 0
    domain.publish(events.MemoryFailure(domain.ref, recipient, action, number))


def _memory_size(domain: "Domain", running: Running, data: JsonObject) -> None:
    size = data.get("size")
    if isinstance(size, int) and size >= 0:
        live.set_module(running.definition, str(data.get("id")), size)
        running.touch()
        domain.publish(events.MemoryDeviceSizeChange(domain.ref, _word(data, "id"), -(-size // 1024)))


def _threshold(domain: "Domain", running: Running, data: JsonObject) -> None:
    disk = find_disk(running, data)
    if disk is None:
        return
    domain.publish(
        events.BlockThreshold(
            domain.ref,
            disk.name,
            source_path(disk) or None,
            unsigned(data.get("write-threshold")),
            unsigned(data.get("amount-exceeded")),
        )
    )


def _block_job(status: int | None) -> Handler:
    def handler(domain: "Domain", running: Running, data: JsonObject) -> None:
        disk = find_disk(running, data)
        kind = _JOB_TYPES.get(str(data.get("type")))
        if disk is None or kind is None:
            return
        outcome = status
        if outcome is None:
            statuses = ConnectDomainEventBlockJobStatus
            outcome = statuses.FAILED if data.get("error") else statuses.COMPLETED
        domain.publish(events.BlockJob(domain.ref, source_path(disk), disk.name, kind, outcome))

    return handler


def _reservations(domain: "Domain", running: Running, data: JsonObject) -> None:
    """A guest wants to reserve a disk, and QEMU does not reach who does it."""
    name = data.get("id")
    if data.get("connected") is False and any(mark.name == name for mark in running.footprint.helpers):
        back = partial(helper_watch.bring_back, domain, running, str(name))
        _follow(domain, running, f"{name} of {domain.name}", back)


# ---------------------------------------------------------------------- displays


def _display(phase: int, default_scheme: str) -> Handler:
    def handler(domain: "Domain", running: Running, data: JsonObject) -> None:
        server, client = data.get("server"), data.get("client")
        if not isinstance(server, dict) or not isinstance(client, dict):
            return
        subject = tuple(
            (name, _word(client, key))
            for key, name in (("x509_dname", "x509dname"), ("sasl_username", "saslUsername"))
            if client.get(key)
        )
        domain.publish(
            events.Graphics(
                domain.ref,
                phase,
                _address(server),
                _address(client),
                _word(server, "auth") or default_scheme,
                subject,
            )
        )

    return handler


def _address(end: JsonObject) -> events.GraphicsAddress:
    return events.GraphicsAddress(
        _FAMILIES.get(str(end.get("family")), DomainEventGraphicsAddressType.IPV4),
        _word(end, "host"),
        _word(end, "service" if "service" in end else "port"),
    )


def _word(data: JsonObject, key: str) -> str:
    """Return a word of QEMU's, '' where it says none."""
    value = data.get(key)
    return "" if value is None else str(value)[:_MOST_LETTERS]


HANDLERS: dict[str, Handler] = {
    "STOP": _stop,
    "RESUME": _resume,
    "SHUTDOWN": _shutdown,
    "RESET": _reset,
    "GUEST_PANICKED": _panicked,
    "WATCHDOG": _watchdog,
    "SUSPEND": _suspend,
    "SUSPEND_DISK": _suspend_disk,
    "WAKEUP": _wakeup,
    "BLOCK_IO_ERROR": _io_error,
    "BALLOON_CHANGE": _balloon,
    "DEVICE_DELETED": _device_deleted,
    "DEVICE_UNPLUG_GUEST_ERROR": _unplug_failed,
    "ACPI_DEVICE_OST": _acpi_ost,
    "DEVICE_TRAY_MOVED": _tray,
    "VSERPORT_CHANGE": _vserport,
    "RTC_CHANGE": _rtc,
    "NIC_RX_FILTER_CHANGED": _rx_filter,
    "MEMORY_FAILURE": _memory_failure,
    "MEMORY_DEVICE_SIZE_CHANGE": _memory_size,
    "BLOCK_WRITE_THRESHOLD": _threshold,
    "BLOCK_JOB_COMPLETED": _block_job(None),
    "BLOCK_JOB_CANCELLED": _block_job(ConnectDomainEventBlockJobStatus.CANCELED),
    "BLOCK_JOB_READY": _block_job(ConnectDomainEventBlockJobStatus.READY),
    "PR_MANAGER_STATUS_CHANGED": _reservations,
    "VNC_CONNECTED": _display(DomainEventGraphicsPhase.CONNECT, ""),
    "VNC_INITIALIZED": _display(DomainEventGraphicsPhase.INITIALIZE, ""),
    "VNC_DISCONNECTED": _display(DomainEventGraphicsPhase.DISCONNECT, ""),
    "SPICE_CONNECTED": _display(DomainEventGraphicsPhase.CONNECT, "spice"),
    "SPICE_INITIALIZED": _display(DomainEventGraphicsPhase.INITIALIZE, "spice"),
    "SPICE_DISCONNECTED": _display(DomainEventGraphicsPhase.DISCONNECT, "spice"),
}
