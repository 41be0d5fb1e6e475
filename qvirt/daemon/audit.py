"""Audit records about guests: start and stop, the label they run under, what they are given.

The words are libvirt's, so that ``auvirt`` and ``ausearch`` find what they know. ``audit_level`` 0 writes
none, 1 where the kernel keeps an audit log, 2 makes the daemon refuse to start where it does not.
``audit_logging`` copies them to our log.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from qvirt.constants.domain_event import DomainEventStoppedDetailType as Stopped
from qvirt.constants.domain_event import DomainEventType
from qvirt.daemon.config import Config
from qvirt.errors import OperationUnsupported
from qvirt.host.audit import VIRT_CONTROL, VIRT_MACHINE_ID, VIRT_RESOURCE, AuditSocket, encode
from qvirt.runtime.events import DeviceAdded, DeviceRemoved, DomainEvent, Lifecycle

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

_STOPPED: Final = {
    Stopped.SHUTDOWN: "shutdown",
    Stopped.DESTROYED: "destroyed",
    Stopped.CRASHED: "crashed",
    Stopped.MIGRATED: "migrated",
    Stopped.SAVED: "saved",
    Stopped.FAILED: "failed",
    Stopped.FROM_SNAPSHOT: "from-snapshot",
}
_STARTED: Final = ("booted", "migrated", "restored", "from-snapshot", "wakeup")

_COUNTED: Final = ("mem", "vcpu")

Write = Callable[[int, str], None]


class Audit:
    """Writes records of what happens to guests."""

    def __init__(
        self,
        hypervisor: "Hypervisor",
        write: Write,
        close: Callable[[], None] = lambda: None,
        *,
        logged: bool = False,
    ) -> None:
        """write: takes a record's type and words; raises OSError. logged: copy records to the log."""
        self._close = close
        self._hypervisor = hypervisor
        self._write = write
        self._logged = logged
        self._running: set[str] = {domain.uuid for domain in hypervisor.domains if domain.active}
        self._types: dict[str, str] = {}
        """By guest whether it is of type kvm or qemu, for records after its end."""
        self._given: dict[str, dict[str, tuple[str, str]]] = {}
        """By guest and alias what it was given: a device that is gone cannot be asked any more."""
        self._refused = False
        self._order: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._send())
        self._unsubscribe = hypervisor.events.subscribe(self._happened)

    async def close(self) -> None:
        """Write what waits, and no more."""
        self._unsubscribe()
        await self._order.join()
        self._task.cancel()
        self._close()

    def _happened(self, event: DomainEvent) -> None:
        try:
            self._note(event)
        finally:
            if isinstance(event, Lifecycle) and event.event == DomainEventType.STOPPED:
                for kept in (self._types, self._given):
                    kept.pop(event.domain.uuid, None)

    def _note(self, event: DomainEvent) -> None:
        domain = self._hypervisor.domains.find(event.domain.uuid)
        if isinstance(event, Lifecycle):
            self._lifecycle(event, domain)
        elif isinstance(event, DeviceAdded) and domain is not None and domain.active:
            for kind, alias, words in resources(domain):
                if alias == event.dev_alias:
                    self._given.setdefault(event.domain.uuid, {})[event.dev_alias] = (kind, words)
                    self._resource(event, kind, "attach", new=words)
        elif isinstance(event, DeviceRemoved):
            gone = self._given.get(event.domain.uuid, {}).pop(event.dev_alias, None)
            if gone is not None:
                self._resource(event, gone[0], "detach", old=gone[1])

    def _lifecycle(self, event: Lifecycle, domain: "Domain | None") -> None:
        uuid = event.domain.uuid
        if event.event == DomainEventType.STARTED and uuid not in self._running:
            self._running.add(uuid)
            process = domain.need_running().process if domain is not None and domain.active else None
            pid = process.pid if process is not None else 0
            reason = _STARTED[event.detail] if event.detail < len(_STARTED) else "booted"
            if domain is not None and process is not None:
                self._label(event, domain)
                given = self._given[uuid] = {}
                for kind, alias, words in resources(domain):
                    given[alias or kind] = (kind, words)
                    self._resource(event, kind, "start", new=words)
            self._record(
                event, VIRT_CONTROL, f"op=start reason={reason} {_vm(event)} vm-pid={pid}", "success"
            )
        elif event.event == DomainEventType.STOPPED:
            reason = _STOPPED.get(event.detail, "shutdown")
            if uuid in self._running:
                self._running.discard(uuid)
                self._record(event, VIRT_CONTROL, f"op=stop reason={reason} {_vm(event)} vm-pid=0", "success")
            else:
                self._record(event, VIRT_CONTROL, f"op=start reason=booted {_vm(event)} vm-pid=-1", "failed")

    def _label(self, event: DomainEvent, domain: "Domain") -> None:
        for label in domain.live.seclabels:
            context = label.label or "?"
            image = label.imagelabel or context
            words = f"{_vm(event)} vm-ctx={_label(context)} img-ctx={_label(image)} model={label.model}"
            self._record(event, VIRT_MACHINE_ID, words, "success")

    def _resource(
        self, event: DomainEvent, kind: str, reason: str, *, old: str | None = None, new: str | None = None
    ) -> None:
        nothing = "0" if kind in _COUNTED else encode("?")
        words = f"old-{kind}={old or nothing} new-{kind}={new or nothing}"
        self._record(event, VIRT_RESOURCE, f"resrc={kind} reason={reason} {_vm(event)} {words}", "success")

    def _record(self, event: DomainEvent, kind: int, words: str, result: str) -> None:
        domain = self._hypervisor.domains.find(event.domain.uuid)
        if domain is not None and domain.active:
            self._types[event.domain.uuid] = domain.live.type or "kvm"
        virt = self._types.get(event.domain.uuid, "kvm")
        end = f"exe={encode(sys.argv[0])} hostname=? addr=? terminal=? res={result}"
        text = f"virt={virt} {words} {end}"
        if self._logged:
            log.info("audit %d: %s", kind, text)
        self._order.put_nowait((kind, text))

    async def _send(self) -> None:
        while True:
            kind, text = await self._order.get()
            try:
                if not self._refused:
                    await asyncio.to_thread(self._write, kind, text)
            except OSError as error:
                self._refused = True
                log.warning("the kernel takes no audit records, no more are sent: %s", error.strerror)
            finally:
                self._order.task_done()


def _label(text: str) -> str:
    """Return a label as libvirt has it in records: bare, unless it would look like more than one field."""
    encoded = encode(text)
    return text if encoded == f'"{text}"' else encoded


def _vm(event: DomainEvent) -> str:
    return f"vm={encode(event.domain.name)} uuid={event.domain.uuid}"


def resources(domain: "Domain") -> Iterator[tuple[str, str | None, str]]:
    """Give what a running guest has that is recorded: kind, alias of the device, and the record's value."""
    live = domain.live
    for device in live.devices.disks:
        source = device.source
        path = source.file or source.dev if source is not None else None
        yield "disk", _alias(device), encode(path or "?")
    for card in live.devices.interfaces:
        yield "net", _alias(card), encode(card.mac.address or "?")
    yield "mem", None, str(domain.max_memory())
    yield "vcpu", None, str(domain.max_vcpus())


def _alias(device: object) -> str | None:
    alias = getattr(device, "alias", None)
    name: str | None = getattr(alias, "name", None)
    return name


def open_audit(config: Config, hypervisor: "Hypervisor") -> Audit | None:
    """Begin to write records as the settings say; None where there is nobody to write them to.

    Raises OperationUnsupported where `audit_level` 2 asks for an audit log that is not kept.
    """
    if config.audit_level <= 0:
        return None
    sock: AuditSocket | None = None
    try:
        sock = AuditSocket()
        enabled, reason = sock.enabled(), "it is turned off"
    except OSError as error:
        enabled, reason = False, error.strerror or str(error)
    if enabled and sock is not None:
        return Audit(hypervisor, sock.write, sock.close, logged=bool(config.audit_logging))
    if sock is not None:
        sock.close()
    if config.audit_level >= 2:
        raise OperationUnsupported(f"audit_level is 2, and the kernel keeps no audit log: {reason}")
    log.info("no audit records are written: %s", reason)
    return None
