"""The command event: wait for domain events and print them in virsh's words."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from qvirt.cli.command import Command, CommandError, Context, flag, option
from qvirt.cli.output import Output
from qvirt.cli.words import word
from qvirt.client.aio import Connection
from qvirt.client.domain import Domain
from qvirt.client.events import Event, Subscription
from qvirt.constants.domain_event import DomainEventID as Id
from qvirt.errors import QvirtError

NAMES: Final = (
    "lifecycle",
    "reboot",
    "rtc-change",
    "watchdog",
    "io-error",
    "graphics",
    "io-error-reason",
    "control-error",
    "block-job",
    "disk-change",
    "tray-change",
    "pm-wakeup",
    "pm-suspend",
    "balloon-change",
    "pm-suspend-disk",
    "device-removed",
    "block-job-2",
    "tunable",
    "agent-lifecycle",
    "device-added",
    "migration-iteration",
    "job-completed",
    "device-removal-failed",
    "metadata-change",
    "block-threshold",
    "memory-failure",
    "memory-device-size-change",
    "nic-mac-change",
)
"""virsh's names of the events, by their numbers."""

_LIFECYCLE: Final = (
    ("Defined", ("Added", "Updated", "Renamed", "Snapshot")),
    ("Undefined", ("Removed", "Renamed")),
    ("Started", ("Booted", "Migrated", "Restored", "Snapshot", "Event wakeup")),
    (
        "Suspended",
        (
            "Paused",
            "Migrated",
            "I/O Error",
            "Watchdog",
            "Restored",
            "Snapshot",
            "API error",
            "Post-copy",
            "Post-copy Error",
        ),
    ),
    ("Resumed", ("Unpaused", "Migrated", "Snapshot", "Post-copy", "Post-copy Error")),
    ("Stopped", ("Shutdown", "Destroyed", "Crashed", "Migrated", "Saved", "Failed", "Snapshot")),
    ("Shutdown", ("Finished", "Finished after guest request", "Finished after host request")),
    ("PMSuspended", ("Memory", "Disk")),
    ("Crashed", ("Panicked", "Crashloaded")),
)
_WATCHDOG: Final = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi")
_IO_ERROR: Final = ("none", "pause", "report")
_PHASE: Final = ("connect", "initialize", "disconnect")
_FAMILY: Final = ("IPv4", "IPv6", "unix")
_BLOCK_JOB: Final = (
    "Unknown job",
    "Block Pull",
    "Block Copy",
    "Block Commit",
    "Active Block Commit",
    "Backup",
)
_BLOCK_JOB_STATUS: Final = ("completed", "failed", "canceled", "ready")
_DISK_CHANGE: Final = ("changed", "dropped")
_TRAY: Final = ("opened", "closed")
_AGENT_STATE: Final = ("unknown", "connected", "disconnected")
_AGENT_REASON: Final = ("unknown", "domain started", "channel event")
_METADATA: Final = ("description", "title", "element")
_RECIPIENT: Final = ("hypervisor", "guest")
_FAILURE_ACTION: Final = ("ignore", "inject", "fatal", "reset")


def _lifecycle(it: Any) -> str:
    kind, details = _LIFECYCLE[it.event] if 0 <= it.event < len(_LIFECYCLE) else ("unknown", ())
    return f": {kind} {word(details, it.detail)}"


def _graphics(it: Any) -> str:
    ends = [
        f"{name}[{word(_FAMILY, end.family)} {end.node} {end.service}]"
        for name, end in (("local", it.local), ("remote", it.remote))
    ]
    lines = [f": {word(_PHASE, it.phase)} {' '.join(ends)} {it.authScheme}"]
    return "\n".join(lines + [f"\t{name}={value}" for name, value in it.subject])


def _block_job(path: str) -> Callable[[Any], str]:
    def text(it: Any) -> str:
        return f": {word(_BLOCK_JOB, it.type)} for {getattr(it, path)} {word(_BLOCK_JOB_STATUS, it.status)}"

    return text


def _params(it: Any) -> str:
    return ":" + "".join(f"\n\t{name}: {value}" for name, (_, value) in it.params)


def _memory_failure(it: Any) -> str:
    return (
        f":\nrecipient: {word(_RECIPIENT, it.recipient)}\naction: {word(_FAILURE_ACTION, it.action)}\n"
        f"flags:\n\taction required: {it.flags & 1}\n\trecursive: {(it.flags >> 1) & 1}"
    )


_TEXTS: Final[dict[int, Callable[[Any], str]]] = {
    Id.LIFECYCLE: _lifecycle,
    Id.RTC_CHANGE: lambda it: f": {it.offset}",
    Id.WATCHDOG: lambda it: f": {word(_WATCHDOG, it.action)}",
    Id.IO_ERROR: lambda it: f": {it.srcPath} ({it.devAlias}) {word(_IO_ERROR, it.action)}",
    Id.GRAPHICS: _graphics,
    Id.IO_ERROR_REASON: lambda it: (
        f": {it.srcPath} ({it.devAlias}) {word(_IO_ERROR, it.action)} due to {it.reason}"
    ),
    Id.BLOCK_JOB: _block_job("path"),
    Id.DISK_CHANGE: lambda it: (
        f" disk {it.devAlias}: {it.oldSrcPath or ''} -> {it.newSrcPath or ''}:"
        f" {word(_DISK_CHANGE, it.reason)}"
    ),
    Id.TRAY_CHANGE: lambda it: f" disk {it.devAlias}: {word(_TRAY, it.reason)}",
    Id.BALLOON_CHANGE: lambda it: f": {it.actual}KiB",
    Id.DEVICE_REMOVED: lambda it: f": {it.devAlias}",
    Id.BLOCK_JOB_2: _block_job("dst"),
    Id.TUNABLE: _params,
    Id.AGENT_LIFECYCLE: lambda it: (
        f": state: '{word(_AGENT_STATE, it.state)}' reason: '{word(_AGENT_REASON, it.reason)}'"
    ),
    Id.DEVICE_ADDED: lambda it: f": {it.devAlias}",
    Id.MIGRATION_ITERATION: lambda it: f": iteration: '{it.iteration}'",
    Id.JOB_COMPLETED: _params,
    Id.DEVICE_REMOVAL_FAILED: lambda it: f": {it.devAlias}",
    Id.METADATA_CHANGE: lambda it: f": type {word(_METADATA, it.type)}, uri {it.nsuri or 'none'}",
    Id.BLOCK_THRESHOLD: lambda it: f": dev: {it.dev}({it.path or ''}) {it.threshold} {it.excess}",
    Id.MEMORY_FAILURE: _memory_failure,
    Id.MEMORY_DEVICE_SIZE_CHANGE: lambda it: f":\nalias: {it.alias}\nsize: {it.size}",
    Id.NIC_MAC_CHANGE: lambda it: f": {it.alias} {it.oldMAC} -> {it.newMAC}",
}


def describe(event: Event) -> str:
    """Give an event as virsh prints it."""
    name = word(NAMES, event.number, event.name.lower().replace("_", "-"))
    rest = _TEXTS.get(event.number, lambda it: "")(event.values)
    return f"event '{name}' for domain '{event.subject.name}'{rest}"


def timestamp(now: float) -> str:
    """Give a time as virsh stamps events: UTC, milliseconds."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}+0000"


async def run(context: Context) -> None:
    """Wait for events and print them."""
    args, output = context.args, context.output
    if args.list:
        for name in NAMES:
            output.line(name)
        return
    if not args.all and args.event is None:
        raise CommandError("one of --list, --all, or --event <type> is required")
    if args.event is not None and args.event not in NAMES:
        raise CommandError(f"unknown event type {args.event}")
    numbers = range(len(NAMES)) if args.all else (NAMES.index(args.event),)
    domain = await context.domain() if args.domain is not None else None
    waiter = _Waiter(output, loop=args.loop, stamped=args.timestamp)
    subscriptions = await _subscribe(await context.connection(), numbers, domain, waiter)
    why = await waiter.wait(await context.connection(), args.timeout)
    for subscription in subscriptions:
        await subscription.close()
    if why:
        output.notice(why)
    output.line(f"events received: {waiter.count}")
    if not waiter.count:
        raise CommandError("")


async def _subscribe(
    connection: Connection, numbers: "range | tuple[int, ...]", domain: Domain | None, waiter: "_Waiter"
) -> list[Subscription]:
    subscriptions: list[Subscription] = []
    for number in numbers:
        try:
            subscriptions.append(await connection.subscribe("domain", number, domain, waiter.take))
        except QvirtError:
            # A daemon older than the event: the others are still worth waiting for.
            if not subscriptions or not connection.is_alive:
                raise
    return subscriptions


class _Waiter:
    """Prints events and knows when it has seen enough."""

    def __init__(self, output: Output, *, loop: bool, stamped: bool) -> None:
        self.count = 0
        self._output = output
        self._loop = loop
        self._stamped = stamped
        self._enough = asyncio.Event()
        self._interrupted = False

    def take(self, event: Event) -> None:
        if self._enough.is_set():
            return
        self.count += 1
        stamp = f"{timestamp(time.time())}: " if self._stamped else ""
        self._output.line(stamp + describe(event))
        self._output.flush()
        if not self._loop:
            self._enough.set()

    async def wait(self, connection: Connection, seconds: float | None) -> str | None:
        """Wait for the end; gives why there was no more to wait for."""
        loop = asyncio.get_running_loop()
        enough = asyncio.ensure_future(self._enough.wait())
        closed = asyncio.ensure_future(connection.wait_closed())
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            done, _ = await asyncio.wait(
                (enough, closed), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            enough.cancel()
            closed.cancel()
        if closed in done and (reason := closed.result()):
            raise reason
        if not done:
            return "event loop timed out"
        return "event loop interrupted" if self._interrupted else None

    def _interrupt(self) -> None:
        self._interrupted = True
        self._enough.set()


COMMANDS: Final = (
    Command(
        "event",
        "wait for domain events",
        run,
        (
            option("domain", "filter by domain name, id or uuid"),
            option("event", "which event type to wait for"),
            flag("all", "wait for all events instead of just one type"),
            flag("loop", "loop until timeout or interrupt, rather than one-shot"),
            option("timeout", "timeout seconds", float),
            flag("list", "list valid event types"),
            flag("timestamp", "show timestamp for each printed event"),
        ),
    ),
)
