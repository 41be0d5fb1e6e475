"""Events for clients: who asked for what, and what each kind of event says.

A connection registers an event number for one domain or all. The hub hears every event of the runtime and
hands each registration that matches one message, in the order of publication, before publish returns.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal

from qvirt.api.handle import handle, uuid_bytes
from qvirt.api.patterns import PRICE_MAX, Pattern, pattern
from qvirt.constants.domain_event import DomainEventID
from qvirt.constants.qemu import ConnectDomainQemuMonitorEventRegisterFlags as MonitorFlags
from qvirt.drivers.network.events import (
    NetworkEvent,
    NetworkEvents,
    NetworkLifecycle,
    NetworkMetadataChange,
)
from qvirt.drivers.secret.events import SecretEvent, SecretEvents, SecretLifecycle
from qvirt.errors import InternalError, InvalidArg, OperationFailed
from qvirt.record import Record, field
from qvirt.runtime import events as happened

LEGACY_IDS: Final = 16
"""Event numbers below this one may be registered without a callback id."""

RAW_MAX: Final = 1024
"""Registrations of raw monitor events one connection may have."""

KNOWN_IDS: Final = 28
"""Event numbers below this one can be registered, whether they ever fire or not."""

Values = tuple[Any, ...]

EventKind = Literal["domain", "network", "secret"]
ObjectKind = Literal["network", "secret"]
"""Kinds of objects beside the domains."""

KNOWN_OBJECT_IDS: Final[dict[ObjectKind, int]] = {"network": 2, "secret": 2}
"""Event numbers of each kind of object below this one can be registered."""


class Message(Record, frozen=False):
    """One event under one number, ready to be encoded.

    event_id: None for a raw monitor event. prefix: what the callback message has between the callback id and
    the legacy structure. encoded: the encoder's memory, so that many receivers cost one encoding.
    """

    event_id: int | None
    values: Values
    prefix: Values = ()
    kind: EventKind = "domain"
    encoded: dict[str, bytes] = field(default_factory=dict)


Sink = Callable[[Message, int | None], None]
"""Takes a message and the callback id it goes to, None for the legacy style."""


class Registration(Record):
    """One registered event: number, domain (uuid, None for all), and whether in the legacy style."""

    callback_id: int
    event_id: int
    uuid: str | None
    legacy: bool


class ObjectRegistration(Record):
    """One registered event of networks or secrets: number, object (uuid, None for all)."""

    callback_id: int
    event_id: int
    uuid: str | None


class MonitorRegistration(Record):
    """Registered raw monitor events; pattern: None for all."""

    callback_id: int
    uuid: str | None
    pattern: Pattern | None


def _io_error(event: happened.IoError) -> Iterator[Message]:
    base = (handle_of(event), event.src_path, event.dev_alias, event.action)
    yield Message(DomainEventID.IO_ERROR, base)
    yield Message(DomainEventID.IO_ERROR_REASON, (*base, event.reason))


def _block_job(event: happened.BlockJob) -> Iterator[Message]:
    dom = handle_of(event)
    yield Message(DomainEventID.BLOCK_JOB, (dom, event.path, event.type, event.status))
    yield Message(DomainEventID.BLOCK_JOB_2, (dom, event.dst, event.type, event.status))


def _graphics(event: happened.Graphics) -> Iterator[Message]:
    ends = ((end.family, end.node, end.service) for end in (event.local, event.remote))
    yield Message(
        DomainEventID.GRAPHICS,
        (handle_of(event), event.phase, *ends, event.auth_scheme, list(event.subject)[:20]),
    )


def _tunable(event: happened.Tunable) -> Iterator[Message]:
    params = [(name, (type_, value)) for name, type_, value in event.params]
    yield Message(DomainEventID.TUNABLE, (handle_of(event), params))


def _power(
    event: happened.PmWakeup | happened.PmSuspend | happened.PmSuspendDisk,
) -> Iterator[Message]:
    yield Message(event.event_id, (handle_of(event),), (event.reason,))


def handle_of(event: happened.DomainEvent) -> Values:
    """Make the handle of the domain an event is about."""
    return handle(event.domain)


_SPECIAL: Final[dict[type[happened.DomainEvent], Callable[[Any], Iterator[Message]]]] = {
    happened.IoError: _io_error,
    happened.BlockJob: _block_job,
    happened.Graphics: _graphics,
    happened.Tunable: _tunable,
    happened.PmWakeup: _power,
    happened.PmSuspend: _power,
    happened.PmSuspendDisk: _power,
}

_FIELDS: Final[dict[type[happened.DomainEvent], tuple[str, ...]]] = {
    happened.Lifecycle: ("event", "detail"),
    happened.Reboot: (),
    happened.RtcChange: ("utcoffset",),
    happened.Watchdog: ("action",),
    happened.ControlError: (),
    happened.DiskChange: ("old_src_path", "new_src_path", "dev_alias", "reason"),
    happened.TrayChange: ("dev_alias", "reason"),
    happened.BalloonChange: ("actual",),
    happened.DeviceAdded: ("dev_alias",),
    happened.DeviceRemoved: ("dev_alias",),
    happened.DeviceRemovalFailed: ("dev_alias",),
    happened.AgentLifecycle: ("state", "reason"),
    happened.MetadataChange: ("type", "nsuri"),
    happened.BlockThreshold: ("dev", "path", "threshold", "excess"),
    happened.MemoryFailure: ("recipient", "action", "flags"),
    happened.MemoryDeviceSizeChange: ("dev_alias", "size"),
}


def messages(event: happened.DomainEvent) -> list[Message]:
    """Give the messages an event makes: most one, some two under different numbers, a few none."""
    special = _SPECIAL.get(type(event))
    if special:
        return list(special(event))
    fields = _FIELDS.get(type(event))
    if fields is None:
        return []
    return [Message(event.event_id, (handle_of(event), *(getattr(event, name) for name in fields)))]


def network_message(event: NetworkEvent) -> Message:
    """Give the message an event of a network makes."""
    name = (event.name, uuid_bytes(event.uuid))
    rest: Values = ()
    if isinstance(event, NetworkLifecycle):
        rest = (event.event, event.detail)
    elif isinstance(event, NetworkMetadataChange):
        rest = (event.type, event.nsuri)
    return Message(event.event_id, (name, *rest), kind="network")


def secret_message(event: SecretEvent) -> Message:
    """Give the message an event of a secret makes."""
    name = (uuid_bytes(event.uuid), event.usage_type, event.usage_id)
    rest: Values = (event.event, event.detail) if isinstance(event, SecretLifecycle) else ()
    return Message(event.event_id, (name, *rest), kind="secret")


class EventHub:
    """All connections that want events, and the counter of callback ids they share."""

    def __init__(
        self,
        bus: happened.EventBus,
        networks: NetworkEvents | None = None,
        secrets: SecretEvents | None = None,
    ) -> None:
        self._next = 0
        self._next_of_objects: dict[ObjectKind, int] = dict.fromkeys(KNOWN_OBJECT_IDS, 0)
        self._waiting: dict[Subscriptions, None] = {}
        self._unsubscribe = [bus.subscribe(self.publish)]
        if networks is not None:
            self._unsubscribe.append(networks.subscribe(self.publish_network))
        if secrets is not None:
            self._unsubscribe.append(secrets.subscribe(self.publish_secret))

    def close(self) -> None:
        """Hear no more events."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    def object_number(self, kind: ObjectKind) -> int:
        """Give the next callback id for events of a kind of object."""
        self._next_of_objects[kind] += 1
        return self._next_of_objects[kind] - 1

    def publish_network(self, event: NetworkEvent) -> None:
        """Hand an event of the networks to every registration that matches."""
        self._publish_object("network", event.uuid, partial(network_message, event))

    def publish_secret(self, event: SecretEvent) -> None:
        """Hand an event of the secrets to every registration that matches."""
        self._publish_object("secret", event.uuid, partial(secret_message, event))

    def _publish_object(self, kind: ObjectKind, uuid: str, make: Callable[[], Message]) -> None:
        if self._waiting:
            message = make()
            for subscriptions in list(self._waiting):
                subscriptions.deliver_object(kind, uuid, message)

    def number(self) -> int:
        """Give the next callback id; libvirt numbers them per driver, not per connection."""
        self._next += 1
        return self._next - 1

    def listen(self, subscriptions: "Subscriptions") -> None:
        """Keep sending events to a connection."""
        self._waiting[subscriptions] = None

    def forget(self, subscriptions: "Subscriptions") -> None:
        """Send no more."""
        self._waiting.pop(subscriptions, None)

    def publish(self, event: happened.DomainEvent) -> None:
        """Hand an event of the runtime to every registration that matches."""
        if not self._waiting:
            return
        waiting = list(self._waiting)
        if isinstance(event, happened.MonitorEvent):
            message = Message(
                None, (handle_of(event), event.event, event.seconds, event.micros, event.details)
            )
            for subscriptions in waiting:
                subscriptions.deliver_raw(event, message)
            return
        for message in messages(event):
            for subscriptions in waiting:
                subscriptions.deliver(event.domain.uuid, message)


class Subscriptions:
    """What one connection has registered."""

    def __init__(self, hub: EventHub, sink: Sink) -> None:
        self._hub = hub
        self._sink = sink
        self._registered: dict[int, Registration] = {}
        self._raw: dict[int, MonitorRegistration] = {}
        self._objects: dict[ObjectKind, dict[int, ObjectRegistration]] = {
            kind: {} for kind in KNOWN_OBJECT_IDS
        }

    def close(self) -> None:
        """Forget everything; the connection is gone."""
        self._registered.clear()
        for registered in self._objects.values():
            registered.clear()
        self._raw.clear()
        self._hub.forget(self)

    def has(self, message: Message, callback_id: int | None) -> bool:
        """Tell whether somebody still waits for a message under a callback id (None: in the legacy style)."""
        if message.event_id is None:
            return callback_id in self._raw
        if message.kind != "domain":
            return callback_id in self._objects[message.kind]
        if callback_id is not None:
            return callback_id in self._registered
        return any(r.legacy and r.event_id == message.event_id for r in self._registered.values())

    def register(self, event_id: int, uuid: str | None, *, legacy: bool = False) -> int:
        """Register an event number and give its callback id.

        Raises InternalError for an unknown number, InvalidArg when it is registered already.
        """
        if not 0 <= event_id < (LEGACY_IDS if legacy else KNOWN_IDS):
            raise InternalError(f"unsupported event ID {event_id}", domain=7)
        if any((r.event_id, r.uuid) == (event_id, uuid) for r in self._registered.values()):
            raise InvalidArg("event callback already tracked", domain=0)
        number = self._hub.number()
        self._registered[number] = Registration(number, event_id, uuid, legacy)
        self._hub.listen(self)
        return number

    def deregister(self, callback_id: int) -> None:
        """End a registration; raises InternalError for one that is not there."""
        registration = self._registered.get(callback_id)
        if registration is None or registration.legacy:
            raise InternalError(f"domain event callback {callback_id} not registered", domain=7)
        self._drop(callback_id)

    def deregister_legacy(self, event_id: int) -> None:
        """End the legacy registration of an event number; raises InternalError when there is none."""
        if not 0 <= event_id < LEGACY_IDS:
            raise InternalError(f"unsupported event ID {event_id}", domain=7)
        for registration in self._registered.values():
            if registration.legacy and registration.event_id == event_id:
                self._drop(registration.callback_id)
                return
        raise InternalError(f"domain event {event_id} not registered", domain=7)

    def register_raw(self, uuid: str | None, event: str | None, flags: int) -> int:
        """Register raw monitor events by name, or by regular expression; give the callback id.

        Raises InvalidArg for an expression that is none or costs too much, OperationFailed where all of the
        connection's together do.
        """
        wanted = None
        if event is not None:
            wanted = pattern(
                event,
                is_regex=bool(flags & MonitorFlags.REGEX),
                ignores_case=bool(flags & MonitorFlags.NOCASE),
            )
        price = sum(one.pattern.price for one in self._raw.values() if one.pattern is not None)
        if len(self._raw) >= RAW_MAX or price + (wanted.price if wanted is not None else 0) > 2 * PRICE_MAX:
            raise OperationFailed("too many events of QEMU monitors are registered for this connection")
        number = self._hub.number()
        self._raw[number] = MonitorRegistration(number, uuid, wanted)
        self._hub.listen(self)
        return number

    def deregister_raw(self, callback_id: int) -> None:
        """End a registration of monitor events; raises InternalError for one that is not there."""
        if self._raw.pop(callback_id, None) is None:
            raise InternalError(f"qemu monitor event callback {callback_id} not registered", domain=7)
        self._sleep()

    def deliver(self, uuid: str, message: Message) -> None:
        """Send a message to each registration that matches."""
        for registration in list(self._registered.values()):
            if registration.event_id == message.event_id and registration.uuid in (None, uuid):
                self._sink(message, None if registration.legacy else registration.callback_id)

    def deliver_raw(self, event: happened.MonitorEvent, message: Message) -> None:
        """Send a raw monitor event to each registration that matches."""
        for registration in list(self._raw.values()):
            if registration.uuid in (None, event.domain.uuid) and (
                registration.pattern is None or registration.pattern.fits(event.event)
            ):
                self._sink(message, registration.callback_id)

    def register_object(self, kind: ObjectKind, event_id: int, uuid: str | None) -> int:
        """Register an event number of a kind of object and give its callback id.

        Raises InternalError for an unknown number, InvalidArg when it is registered already.
        """
        registered = self._objects[kind]
        if not 0 <= event_id < KNOWN_OBJECT_IDS[kind]:
            raise InternalError(f"unsupported {kind} event ID {event_id}", domain=7)
        if any((r.event_id, r.uuid) == (event_id, uuid) for r in registered.values()):
            raise InvalidArg("event callback already tracked", domain=0)
        number = self._hub.object_number(kind)
        registered[number] = ObjectRegistration(number, event_id, uuid)
        self._hub.listen(self)
        return number

    def deregister_object(self, kind: ObjectKind, callback_id: int) -> None:
        """End a registration; raises InternalError for one that is not there."""
        if self._objects[kind].pop(callback_id, None) is None:
            raise InternalError(f"{kind} event callback {callback_id} not registered", domain=7)
        self._sleep()

    def deliver_object(self, kind: ObjectKind, uuid: str, message: Message) -> None:
        """Send a message about an object to each registration that matches."""
        for registration in list(self._objects[kind].values()):
            if registration.event_id == message.event_id and registration.uuid in (None, uuid):
                self._sink(message, registration.callback_id)

    def _drop(self, callback_id: int) -> None:
        del self._registered[callback_id]
        self._sleep()

    def _sleep(self) -> None:
        if not self._registered and not self._raw and not any(self._objects.values()):
            self._hub.forget(self)
