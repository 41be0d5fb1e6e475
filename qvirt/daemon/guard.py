"""Access control on every call, by the protocol table's access column: which permissions, on which object.

Without `access_drivers` there is no guard, and calls go where they always go. With it the dispatcher is given
each call wrapped: the permissions are asked for in the table's order, then the call is made. Calls that list
are given a session that shows only what the client may see. Events wait in a queue of their client while they
are decided.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from qvirt.api.connect import driver_of
from qvirt.api.events import Message
from qvirt.api.objects import (
    DOCUMENT_PARAMETERS,
    DOCUMENTS,
    EVENTS,
    HANDLES,
    LISTS,
    Arguments,
    Attributes,
)
from qvirt.api.registry import Call
from qvirt.api.session import Identity, Session
from qvirt.daemon.policy import Policy, Question, Undecided
from qvirt.errors import AccessDenied
from qvirt.record import Record, replace
from qvirt.rpc.protocol import AccessRule, Procedure
from qvirt.rpc.types import Fields

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)

DRIVER_NAMES: Final = {"nwfilter": "NWFilter"}
"""What libvirt calls a driver in ``connect_driver`` where its URI has another word."""

EVENTS_WAITING: Final = 4096
"""Events of one client that may wait for a decision; one that lets more gather is dropped."""

_BY_RPC: Final = frozenset((8, 10, 14, 15))
"""Features of a connection that are not the driver's: no permission is needed to ask for them."""

FREE: Final = frozenset(("CONNECT_REGISTER_CLOSE_CALLBACK", "CONNECT_UNREGISTER_CLOSE_CALLBACK"))
"""Calls about the client's own connection that no driver sees, though the table names a permission."""

_REGISTERS = re.compile(r"EVENT\w*_REGISTER")


class Plan(Record):
    """How a procedure is guarded.

    before: permissions that its arguments tell the object of; after: those whose object its result is, found
    by looking it up. locate: finds the object. filtered: by what each object of a list is shown; listed: its
    kind.
    """

    before: tuple[AccessRule, ...]
    after: tuple[AccessRule, ...]
    locate: Callable[[Session, Arguments], Attributes]
    filtered: tuple[AccessRule, ...]


def plan(procedure: Procedure) -> Plan:
    """Work out from the table how a procedure is guarded."""
    rules = procedure.acl or ()
    found = _result_locator(procedure) if "_LOOKUP_" in procedure.name else None
    if found is not None:
        # the object is known once it is found
        return Plan((), rules, found, ())
    kind = next((rule.object for rule in rules), "connect")
    locate = _nameless if kind == "connect" else _locator(procedure, kind)
    # what is registered for is decided event by event
    filtered = () if _REGISTERS.search(procedure.name) else procedure.aclfilter
    return Plan(rules, (), locate, filtered)


def _nameless(_: Session, __: Arguments) -> Attributes:
    return {}


def _locator(procedure: Procedure, kind: str) -> Callable[[Session, Arguments], Attributes]:
    """Give what finds the object of a call from its arguments: a handle, else the document of a new one."""
    finders: list[tuple[str, Callable[[Session, Any], Attributes]]] = []
    for name, type_ in procedure.args.layout.fields if procedure.args else ():
        if isinstance(type_, Fields) and type_.name in HANDLES:
            finders.append((name, HANDLES[type_.name]))
        elif name in DOCUMENT_PARAMETERS and kind in DOCUMENTS and (not finders or kind == "network_port"):
            # a port is told by its network and its document, anything else that has a handle by that alone
            finders.append((name, _reader(kind)))
    if not finders:
        return _nameless

    def locate(session: Session, named: Arguments) -> Attributes:
        found: Attributes = {}
        for name, find in finders:
            found |= find(session, named[name])
        return found

    return locate


def _reader(kind: str) -> Callable[[Session, Any], Attributes]:
    read = DOCUMENTS[kind]
    return lambda _, text: read(text)


def _result_locator(procedure: Procedure) -> Callable[[Session, Arguments], Attributes] | None:
    """Give what names the object that a call has looked up; None when its result is no object known here."""
    shape = procedure.ret
    if shape is None:
        return None
    type_ = shape.layout.fields[0][1]
    if not isinstance(type_, Fields) or type_.name not in HANDLES:
        return None
    find = HANDLES[type_.name]
    # encoded and decoded it is a handle as clients send them
    return lambda session, named: find(session, shape.decode(shape.encode((named["result"],)))[0])


class Guard:
    """Asks the policies; all of them must say yes."""

    def __init__(self, policies: Sequence[Policy], started: Callable[[int], int | None]) -> None:
        """started: tells when a process began."""
        self.policies = policies
        self._started = started
        self.deciding: set[asyncio.Task[None]] = set()
        """What sends clients their events, while any wait."""

    def close(self) -> None:
        """Decide no more events; the daemon ends."""
        for task in self.deciding:
            task.cancel()

    def reload(self) -> None:
        """Let the policies read their rules again; raises ConfigSyntax and leaves those that are wrong."""
        for policy in self.policies:
            policy.reload()

    def identify(self, who: Identity) -> Identity:
        """Add to what the kernel says of a client what is asked for by policies."""
        if who.pid is None:
            return who
        return replace(who, started=self._started(who.pid))

    def answer(self, who: Identity, question: Question) -> bool | None:
        """Tell whether every policy says yes; None where one has to ask somebody."""
        unknown = False
        for policy in self.policies:
            said = policy.answer(who, question)
            if said is None:
                unknown = True
            elif not said:
                return False
        return None if unknown else True

    async def allows(self, who: Identity, question: Question) -> bool:
        """Tell whether every policy says yes."""
        for policy in self.policies:
            try:
                said = policy.answer(who, question)
                if said is None:
                    said = await policy.allows(who, question)
            except Undecided as error:
                log.error("%s counts as refused to %s: %s", question.name, _words(who), error)
                return False
            if not said:
                log.info("%s of %s is refused to %s", question.name, question.attributes, _words(who))
                return False
        return True

    async def check(self, session: Session, rule: AccessRule, attributes: Attributes, driver: str) -> None:
        """Raise AccessDenied unless the client has the permission."""
        question = Question(rule.object, rule.permission, {"connect_driver": driver, **attributes})
        if not await self.allows(session.identity, question):
            raise AccessDenied(f"'{driver}' denied access (permission {question.name})")

    # ----------------------------------------------------------------------------------------------- calls

    def protect(self, procedure: Procedure, call: Call) -> Call:
        """Give the call guarded; those that need no permission as they are."""
        if procedure.name in FREE or not (procedure.acl or procedure.aclfilter):
            return call
        steps = plan(procedure)
        function = call.function
        parameters = procedure.args.fields if procedure.args else ()

        async def guarded(session: Session, *arguments: Any, **extras: Any) -> Any:
            named = dict(zip(parameters, arguments, strict=True))
            driver = _driver(session, named)
            if steps.before and named.get("feature") not in _BY_RPC:
                flags = named.get("flags", 0)
                attributes = steps.locate(session, named)
                for rule in steps.before:
                    if rule.applies(flags, named):
                        await self.check(session, rule, attributes, driver)
            if steps.filtered:
                session = replace(session, shown=await self._shown(session, steps.filtered, named, driver))
            result = function(session, *arguments, **extras)
            if type(result) is CoroutineType:
                result = await result
            if steps.after:
                attributes = steps.locate(session, {"result": result})
                for rule in steps.after:
                    await self.check(session, rule, attributes, driver)
            return result

        return replace(call, function=guarded)

    async def _shown(
        self, session: Session, rules: Sequence[AccessRule], named: Arguments, driver: str
    ) -> frozenset[str]:
        """Give the keys of the objects that a call which lists may show."""
        who = session.identity

        async def decide(key: str, question: Question) -> str | None:
            return key if await self.allows(who, question) else None

        shown: set[str] | None = None
        for rule in rules:
            lists = LISTS.get(rule.object)
            found: set[str] = set()
            waiting = []
            for key, attributes in lists(session, named) if lists is not None else ():
                question = Question(rule.object, rule.permission, {"connect_driver": driver, **attributes})
                said = self.answer(who, question)
                if said is None:
                    waiting.append(decide(key, question))
                elif said:
                    found.add(key)
            if waiting:
                found.update(key for key in await asyncio.gather(*waiting) if key is not None)
            shown = found if shown is None else shown & found
        return frozenset(shown or ())

    # ---------------------------------------------------------------------------------------------- events

    def sink(self, client: "Client") -> Callable[[Message, int | None], None]:
        """Give where events for a client go: to it, once they are decided, in their order."""
        return EventGate(self, client).receive


class EventGate:
    """The events of one client that wait until it is decided whether it may see them."""

    def __init__(self, guard: Guard, client: "Client") -> None:
        self._guard = guard
        self._client = client
        self._waiting: deque[tuple[Message, int | None]] = deque()
        self._task: asyncio.Task[None] | None = None

    def receive(self, message: Message, callback_id: int | None) -> None:
        """Take an event."""
        if not self._waiting:
            said = self._guard.answer(self._client.session.identity, self._question(message))
            if said is not None:
                if said:
                    self._client.send_event(message, callback_id)
                return
        self._waiting.append((message, callback_id))
        if len(self._waiting) > EVENTS_WAITING:
            self._waiting.clear()
            self._client.loop.call_soon(self._client.close, "its events are decided too slowly")
        elif self._task is None:
            self._task = self._client.loop.create_task(self._send())
            self._guard.deciding.add(self._task)
            self._task.add_done_callback(self._guard.deciding.discard)

    def _question(self, message: Message) -> Question:
        attributes = EVENTS[message.kind](message.values[0])
        driver = _driver(self._client.session, {})
        return Question(message.kind, "getattr", {"connect_driver": driver, **attributes})

    async def _send(self) -> None:
        client, waiting = self._client, self._waiting
        said: tuple[Message, bool] | None = None
        try:
            while waiting and not client.closed:
                message, callback_id = waiting[0]
                if said is None or said[0] is not message:
                    question = self._question(message)
                    said = message, await self._guard.allows(client.session.identity, question)
                if waiting and waiting[0][0] is message:
                    waiting.popleft()
                    if said[1] and client.session.subscriptions.has(message, callback_id):
                        client.send_event(message, callback_id)
        finally:
            self._task = None


def _driver(session: Session, named: Arguments) -> str:
    """Give the driver's name; of a connection that is just being opened, the one it would get."""
    driver = session.driver
    if not driver:
        uri = named.get("name") or session.instance.default_uri
        driver = driver_of(uri, privileged=session.instance.privileged)
    return DRIVER_NAMES.get(driver, driver)


def _words(who: Identity) -> str:
    """Name a client in the log."""
    if who.sasl_user or who.x509_dn:
        return f"'{who.sasl_user or who.x509_dn}'"
    return f"uid {who.uid} (process {who.pid})" if who.uid is not None else "an unknown client"
