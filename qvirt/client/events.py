"""Events: one registration with the daemon per kind, id and object, shared by all who subscribe to it."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Final, Literal, Protocol

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg, QvirtError
from qvirt.record import Record, field
from qvirt.rpc import protocol
from qvirt.rpc.packet import Packet
from qvirt.rpc.protocol import Procedure

log = logging.getLogger(__name__)

Kind = Literal["domain", "network", "storage_pool", "node_device", "secret", "monitor"]

MONITOR_EVENT: Final = 6
_ANY: Final = -1
"""Event id of a monitor event: QEMU names them, libvirt does not number them."""


class _Registrar(Record):
    register: str
    deregister: str
    program: int = protocol.REMOTE


_REGISTRARS: Final[dict[Kind, _Registrar]] = {
    "domain": _Registrar(
        "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY"
    ),
    "network": _Registrar("CONNECT_NETWORK_EVENT_REGISTER_ANY", "CONNECT_NETWORK_EVENT_DEREGISTER_ANY"),
    "storage_pool": _Registrar(
        "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY", "CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY"
    ),
    "node_device": _Registrar(
        "CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY", "CONNECT_NODE_DEVICE_EVENT_DEREGISTER_ANY"
    ),
    "secret": _Registrar("CONNECT_SECRET_EVENT_REGISTER_ANY", "CONNECT_SECRET_EVENT_DEREGISTER_ANY"),
    "monitor": _Registrar(
        "CONNECT_DOMAIN_MONITOR_EVENT_REGISTER", "CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER", protocol.QEMU
    ),
}


class Event(Record):
    """Something that happened.

    kind, number, name: which, e.g. "domain", 0, "LIFECYCLE"; a monitor event has -1 and QEMU's name.
    subject: the object as the wire names it (for a domain: name, uuid, id).
    values: the message's fields, subject included, without the callback id.
    """

    kind: Kind
    number: int
    name: str
    subject: Any
    values: Any


class Caller(Protocol):
    """What events need of a session."""

    async def call(
        self,
        procedure: Procedure,
        values: Sequence[Any],
        *,
        on_reply: Callable[[tuple[Any, ...]], None] | None = None,
    ) -> Any:
        """Call."""
        ...

    @property
    def is_alive(self) -> bool:
        """Tell whether calls can still be made."""
        ...


class Subscription:
    """Events as an asynchronous iterator, or given to a callback; ends with the connection.

    As a context manager it is closed at the end of the block. gaps: how often the connection was lost and
    made anew meanwhile; what happened between is not told.
    """

    def __init__(
        self, close: Callable[["Subscription"], Awaitable[None]], callback: Callable[[Event], None] | None
    ) -> None:
        self._close = close
        self._callback = callback
        self._queue: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._ended = False
        self._error: QvirtError | None = None
        self.gaps = 0

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._error:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._queue.popleft()

    async def next(self, within: float | None = None) -> Event | None:
        """Give the next event, None after `within` seconds or at the end; raises why the connection ended."""
        try:
            return await asyncio.wait_for(anext(self), within)
        except (TimeoutError, StopAsyncIteration):
            return None

    async def close(self) -> None:
        """Stop; nothing is delivered any more."""
        if not self._ended:
            self._ended = True
            self._ready.set()
            await self._close(self)

    async def __aenter__(self) -> "Subscription":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def deliver(self, event: Event) -> None:
        """Take an event; called by the connection."""
        if self._ended:
            return
        if self._callback:
            # Not from here: what the callback raises is the loop's to report, and must not end the session.
            asyncio.get_running_loop().call_soon(self._callback, event)
        else:
            self._queue.append(event)
            self._ready.set()

    def end(self, error: QvirtError | None) -> None:
        """Take note of the connection's end."""
        self._ended, self._error = True, error
        self._ready.set()


class _Registration(Record, frozen=False):
    """What the daemon was asked for. caller: the session where `callback_id` is valid, None without one."""

    kind: Kind
    values: tuple[Any, ...]
    caller: Caller | None = None
    callback_id: int = -1
    subscriptions: list[Subscription] = field(default_factory=list)


_Key = tuple[Kind, int, Any, str | None]


class Events:
    """All registrations of one connection.

    ready: gives the session to call on, once there is one.
    """

    def __init__(self, ready: Callable[[], Awaitable[Caller]]) -> None:
        self._ready = ready
        self._registrations: dict[_Key, _Registration] = {}
        self._by_id: dict[tuple[Kind, int], _Registration] = {}
        self._lock = asyncio.Lock()

    async def subscribe(
        self,
        kind: Kind,
        event: int | str,
        subject: Any = None,
        callback: Callable[[Event], None] | None = None,
    ) -> Subscription:
        """Subscribe to an event id (number or name) of all objects or of one; raises the daemon's error.

        For kind "monitor" the event is QEMU's name for it, "" for all.
        """
        name: str | None = None
        if kind == "monitor":
            number, name = _ANY, str(event) or None
        else:
            number = event if isinstance(event, int) else event_number(kind, event)
        key: _Key = (kind, number, subject, name)
        subscription = Subscription(lambda it: self._unsubscribe(key, it), callback)
        async with self._lock:
            registration = self._registrations.get(key)
            if registration is None:
                values = (subject, name, 0) if kind == "monitor" else (number, subject)
                registration = _Registration(kind, values, subscriptions=[subscription])
                await self._register(registration, await self._ready())
                self._registrations[key] = registration
            else:
                registration.subscriptions.append(subscription)
        return subscription

    async def _register(self, registration: _Registration, caller: Caller) -> None:
        def registered(reply: tuple[Any, ...]) -> None:
            # At once: the first event may be in the same packet of bytes as the reply.
            registration.caller, registration.callback_id = caller, reply[0]
            self._by_id[registration.kind, reply[0]] = registration

        registrar = _REGISTRARS[registration.kind]
        procedure = protocol.program(registrar.program).by_name[registrar.register]
        await caller.call(procedure, registration.values, on_reply=registered)

    async def _deregister(self, registration: _Registration) -> None:
        caller, number = registration.caller, registration.callback_id
        if caller is None:
            return
        registrar = _REGISTRARS[registration.kind]
        procedure = protocol.program(registrar.program).by_name[registrar.deregister]
        try:
            await caller.call(procedure, (number,))
        except QvirtError:
            # A session that has ended took its registrations along.
            if caller.is_alive:
                raise
        finally:
            if registration.caller is caller:
                registration.caller = None
                self._by_id.pop((registration.kind, number), None)

    async def _unsubscribe(self, key: _Key, subscription: Subscription) -> None:
        async with self._lock:
            registration = self._registrations.get(key)
            if registration is None or subscription not in registration.subscriptions:
                return
            registration.subscriptions.remove(subscription)
            if registration.subscriptions:
                return
            del self._registrations[key]
            await self._deregister(registration)

    def lost(self) -> None:
        """Take note that the session has ended, and with it what was registered there; another may come."""
        self._by_id.clear()
        for registration in self._registrations.values():
            registration.caller = None

    async def register_again(self, caller: Caller) -> None:
        """Register all there is on a new session; raises why that session ended, if it does.

        A subscription the new daemon refuses, as that to a domain that is gone, ends with the refusal.
        """
        for key, registration in list(self._registrations.items()):
            # Who unsubscribes meanwhile finds no session to ask.
            if self._registrations.get(key) is not registration:
                continue
            try:
                await self._register(registration, caller)
            except QvirtError as error:
                if not caller.is_alive:
                    raise
                self._registrations.pop(key, None)
                for subscription in registration.subscriptions:
                    subscription.end(error)
                continue
            for subscription in registration.subscriptions:
                subscription.gaps += 1
            if self._registrations.get(key) is not registration:
                await self._deregister(registration)

    def receive(self, message: Packet) -> None:
        """Deliver a message; one that is no event we know is ignored, as libvirt's client does."""
        found = _carriers().get((message.program, message.procedure))
        if found is None:
            log.debug("ignoring message %d of program %#x", message.procedure, message.program)
            return
        kind, number, name = found
        procedure = protocol.program(message.program).by_number[message.procedure]
        assert procedure.msg is not None  # noqa: S101 - the tables give every event a message
        values = procedure.msg.decode(message.payload)
        registration = self._by_id.get((kind, values[0]))
        if registration is None:
            return
        last = values[-1]
        # The numbers that once had a message without callback id wrap it whole.
        content = last if procedure.msg.fields[-1] == "msg" else _Tail(procedure.msg.fields[1:], values[1:])
        event = Event(kind, number, content.event if kind == "monitor" else name, content[0], content)
        for subscription in list(registration.subscriptions):
            subscription.deliver(event)

    def end(self, error: QvirtError | None) -> None:
        """End all subscriptions with the connection."""
        for registration in self._registrations.values():
            for subscription in registration.subscriptions:
                subscription.end(error)
        self._registrations.clear()
        self._by_id.clear()


class _Tail(tuple[Any, ...]):
    """The fields of a message after its callback id, by position and by name."""

    _fields: tuple[str, ...]

    def __new__(cls, fields: tuple[str, ...], values: tuple[Any, ...]) -> "_Tail":
        self = super().__new__(cls, values)
        self._fields = fields
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return self[self._fields.index(name)]
        except ValueError:
            raise AttributeError(f"the event has no field '{name}', only {', '.join(self._fields)}") from None


def event_number(kind: Kind, name: str) -> int:
    """Give the number of an event's name; raises InvalidArg."""
    if kind != "monitor":
        wanted = name.upper().replace("-", "_")
        for event in protocol.event_ids(kind).values():
            if event.name == wanted:
                return event.number
    raise InvalidArg(f"unknown {kind} event '{name}'", domain=ErrorDomain.EVENT)


@cache
def _carriers() -> dict[tuple[int, int], tuple[Kind, int, str]]:
    """Map the program and procedure of a message to the event it carries."""
    kinds: tuple[Literal["domain", "network", "storage_pool", "node_device", "secret"], ...] = (
        "domain",
        "network",
        "storage_pool",
        "node_device",
        "secret",
    )
    carriers: dict[tuple[int, int], tuple[Kind, int, str]] = {
        (protocol.REMOTE, event.callback): (kind, event.number, event.name)
        for kind in kinds
        for event in protocol.event_ids(kind).values()
    }
    carriers[protocol.QEMU, MONITOR_EVENT] = ("monitor", _ANY, "")
    return carriers
