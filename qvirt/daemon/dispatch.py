"""Where a packet becomes a call and its result a reply: decode, check, call, encode.

A call that answers at once costs no task. One that waits runs as a task; its reply may overtake others.
Errors of ours travel as they are; anything unexpected is logged and travels as an internal error.
"""

import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from qvirt.api import calls
from qvirt.api.names import public_function
from qvirt.api.registry import CALLS, Call, ProgramName
from qvirt.constants.error import ErrorDomain
from qvirt.daemon.access import read_only_check
from qvirt.daemon.call_log import traced
from qvirt.daemon.guard import Guard
from qvirt.daemon.stream import StreamRequest
from qvirt.errors import InternalError, NoSupport, QvirtError, RpcError
from qvirt.rpc import protocol
from qvirt.rpc.packet import HEADER, OK, REPLY, Packet, pack_error_reply, pack_reply

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)

MAIN: Final[Mapping[int, ProgramName]] = {protocol.REMOTE: "remote", protocol.QEMU: "qemu"}
"""The programs that clients of the hypervisor call."""

ADMIN: Final[Mapping[int, ProgramName]] = {protocol.ADMIN: "admin"}
_HEADER: Final = HEADER.size

_DRIVER_DOMAINS: Final[Mapping[tuple[str, ...], int]] = {
    ("network",): ErrorDomain.NETWORK,
    ("secret",): ErrorDomain.SECRET,
}
"""Whose error it is that a connection does not have a call, by the sub-drivers that have it."""


class Entry:
    """One procedure that is served, with everything a call of it needs looked up beforehand."""

    __slots__ = (
        "before_open",
        "check",
        "decode",
        "drivers",
        "encode",
        "extras",
        "function",
        "high",
        "name",
        "noauth",
        "single",
        "unsupported",
    )

    def __init__(self, procedure: protocol.Procedure, program: ProgramName, call: Call) -> None:
        self.name = procedure.name
        self.function: Callable[..., Any] = call.function
        self.decode: Callable[..., tuple[Any, ...]] | None = None
        self.encode: Callable[..., bytes] | None = None
        if procedure.args:
            # Asking for the type compiles the structure; only then are its functions the final ones.
            _ = procedure.args.type
            self.decode = procedure.args.decode
        if procedure.ret:
            _ = procedure.ret.type
            self.encode = procedure.ret.encode
        self.single = procedure.ret is not None and len(procedure.ret.fields) == 1
        self.check = read_only_check(procedure, program)
        self.high = procedure.high
        self.noauth = procedure.noauth
        self.before_open = call.before_open
        self.drivers = call.drivers
        self.extras = call.extras
        domain = _DRIVER_DOMAINS.get(self.drivers, ErrorDomain.DOMAIN)
        self.unsupported = NoSupport(public_function(procedure.name, program), domain=domain)

    def payload(self, result: Any) -> bytes:
        """Encode what the function returned."""
        if self.encode is None:
            return b""
        return self.encode((result,) if self.single else result)


class Dispatcher:
    """The table of procedures that are served, filled as they are first called."""

    def __init__(self, guard: Guard | None = None, programs: Mapping[int, ProgramName] = MAIN) -> None:
        calls.load()
        self._guard = guard
        self._programs = programs
        self._entries: dict[int, dict[int, Entry | None]] = {number: {} for number in programs}
        self._traced = False

    def trace(self, on: bool) -> None:
        """Log every call, or none, from now on."""
        if on is not self._traced:
            self._traced = on
            for entries in self._entries.values():
                entries.clear()

    def entry(self, packet: Packet) -> Entry:
        """Give the procedure a packet calls; raises RpcError for what is not served."""
        entries = self._entries.get(packet.program)
        if entries is None or packet.version != 1:
            raise RpcError(f"Cannot find program {packet.program} version {packet.version}")
        entry = entries.get(packet.procedure)
        if entry is None:
            entry = self._add(packet.program, packet.procedure)
        return entry

    def _add(self, program: int, number: int) -> Entry:
        procedure = protocol.program(program).by_number.get(number)
        call = CALLS.get((self._programs[program], procedure.name)) if procedure else None
        if procedure is None or call is None:
            # Clients recognise this sentence and turn to an older call.
            raise RpcError(f"unknown procedure: {number}")
        if self._guard is not None:
            call = self._guard.protect(procedure, call)
        if self._traced:
            call = traced(procedure, call)
        entry = Entry(procedure, self._programs[program], call)
        self._entries[program][number] = entry
        return entry

    def call(
        self, client: "Client", entry: Entry, packet: Packet, fds: list[int]
    ) -> Coroutine[Any, Any, None] | None:
        """Serve a call; the reply is written now, or by the coroutine given back.

        fds: the descriptors that came with it; whatever the call does not keep is closed.
        """
        session = client.session
        given_on = False
        try:
            if packet.status != OK:
                raise RpcError(f"Unexpected message status {packet.status}")
            if not client.authenticated and not entry.noauth:
                raise RpcError("authentication required")
            arguments = () if entry.decode is None else entry.decode(packet.payload)
            if not session.driver:
                if not entry.before_open:
                    session.require_open()
            elif session.driver != "QEMU" and session.driver not in entry.drivers:
                raise entry.unsupported.with_traceback(None)
            if session.readonly and entry.check is not None:
                entry.check(arguments)
            if entry.extras:
                given_on = True
                return self._call_with_extras(client, entry, packet, arguments, fds)
            result = entry.function(session, *arguments)
            if type(result) is CoroutineType:
                return self._finish(client, entry, packet, result)
            payload = entry.payload(result)
        except Exception as error:
            client.write(pack_error_reply(packet, as_error(error, entry.name)))
            return None
        finally:
            if fds and not given_on:
                _close(fds)
        client.write(
            HEADER.pack(
                _HEADER + len(payload),
                packet.program,
                packet.version,
                packet.procedure,
                REPLY,
                packet.serial,
                OK,
            )
            + payload
        )
        return None

    async def _finish(
        self, client: "Client", entry: Entry, packet: Packet, waiting: Coroutine[Any, Any, Any]
    ) -> None:
        try:
            reply = pack_reply(packet, entry.payload(await waiting))
        except Exception as error:
            reply = pack_error_reply(packet, as_error(error, entry.name))
        client.write(reply)
        if client.after_reply is not None:
            after, client.after_reply = client.after_reply, None
            after()

    async def _call_with_extras(
        self, client: "Client", entry: Entry, packet: Packet, arguments: tuple[Any, ...], fds: list[int]
    ) -> None:
        extras: dict[str, Any] = {}
        reply_fds: list[int] = []
        stream = StreamRequest(client, packet)
        if "fds" in entry.extras:
            extras["fds"] = fds
        if "reply_fds" in entry.extras:
            extras["reply_fds"] = reply_fds
        if "stream" in entry.extras:
            extras["stream"] = stream
        try:
            result = entry.function(client.session, *arguments, **extras)
            if type(result) is CoroutineType:
                result = await result
            reply = pack_reply(packet, entry.payload(result), len(reply_fds))
        except BaseException as error:
            _close(reply_fds)
            stream.drop()
            if not isinstance(error, Exception):
                raise
            client.write(pack_error_reply(packet, as_error(error, entry.name)))
            return
        finally:
            _close(fds)
        client.write(reply, reply_fds)
        if client.closed:
            stream.drop()
        else:
            stream.begin()


def as_error(error: Exception, name: str) -> QvirtError:
    """Give the error to send: ours as it is, a surprise as an internal error, its traceback in the log."""
    if isinstance(error, QvirtError):
        return error
    log.error("call %s failed unexpectedly", name, exc_info=error)
    return InternalError(f"{name} failed unexpectedly: {type(error).__name__}: {error}")


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
