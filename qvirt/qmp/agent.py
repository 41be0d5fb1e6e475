"""A client of the QEMU guest agent, over the host's end of its channel.

The guest is not trusted: garbage, old answers and silence are all expected. Every command is preceded by a
guest-sync-delimited exchange, which flushes both parsers and shows within seconds whether anybody listens
(https://www.qemu.org/docs/master/interop/qemu-ga-ref.html).
"""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from qvirt.errors import AgentUnresponsive, OperationTimeout, QvirtError, SystemError_
from qvirt.qmp.client import Connect, connect_unix
from qvirt.qmp.errors import AgentError, AgentTimeout, WireError
from qvirt.qmp.pace import Pace
from qvirt.qmp.wire import (
    DELIMITER,
    MESSAGE_LIMIT,
    Json,
    JsonValue,
    LineBuffer,
    Reply,
    encode_command,
    parse_object,
    parse_reply,
)

SYNC_DEADLINE = 5.0
"""Seconds in which a living agent answers guest-sync; libvirt's default."""

COMMAND_DEADLINE = 60.0
"""Seconds until a command must be answered, unless the caller says otherwise."""

TURN_DEADLINE = 30.0
"""Seconds that a command waits for those before it, one of which may wait for ever; libvirt's for a job."""

BYTES_PER_SECOND = 32 << 20
"""What a guest may write into its agent's channel in a second; serial lines are slower."""

VALUES_LIMIT = 100_000
"""Most values of an answer, counted as those of QEMU's are; two thousand interfaces have a third of that."""

_READ_SIZE = 64 << 10


class GuestAgent:
    """A guest agent: one command at a time, others wait their turn.

    sync_deadline: seconds for the exchange before each command (virDomainAgentSetResponseTimeout changes it).
    `on_closed` is called once when the channel is gone, with the reason.
    """

    def __init__(
        self, sock: socket.socket, *, name: str = "", on_closed: Callable[[QvirtError], None] | None = None
    ) -> None:
        """Take over a connected socket."""
        sock.setblocking(False)
        self.name = name
        self.sync_deadline = SYNC_DEADLINE
        self.on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._lines = LineBuffer(MESSAGE_LIMIT)
        self._turn = asyncio.Lock()
        self._runs = ""
        self._sync_ids = itertools.count(int.from_bytes(os.urandom(4), "little") & 0x3FFFFFFF)
        self._sync_id: int | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._output = b""
        self._failure: QvirtError | None = None
        self._pace = Pace(BYTES_PER_SECOND, self._leave_alone, self._listen)
        self._listen()

    @classmethod
    async def connect(
        cls,
        path: str | Path,
        *,
        name: str = "",
        on_closed: Callable[[QvirtError], None] | None = None,
        deadline: float = SYNC_DEADLINE,
        making: AbstractContextManager[None] | None = None,
        by: Connect | None = None,
    ) -> Self:
        """Connect to the channel's Unix socket; says nothing about the agent in the guest.

        making: in which the socket is made. by: connects it to the path; None for the plain way.
        """
        sock = await connect_unix(path, deadline=deadline, wait=False, what="agent", making=making, by=by)
        return cls(sock, name=name, on_closed=on_closed)

    @property
    def is_closed(self) -> bool:
        """Tell whether the channel has ended."""
        return self._failure is not None

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        deadline: float | None = COMMAND_DEADLINE,
        sync_deadline: float | None = None,
    ) -> Json:
        """Run a command in the guest and return its answer.

        deadline: seconds for the command itself, None for as long as it takes.
        sync_deadline: seconds for the synchronisation before it, else the agent's.
        Raises AgentUnresponsive (nobody there), AgentTimeout (took the command, did not answer), AgentError,
        OperationTimeout (another command is taking too long).
        """
        sync_deadline = self.sync_deadline if sync_deadline is None else sync_deadline
        async with self._taking_turns(command):
            await self._synchronize(sync_deadline)
            try:
                async with asyncio.timeout(deadline):
                    reply = await self._ask(encode_command(command, arguments, None))
            except TimeoutError:
                raise AgentTimeout(
                    f"Guest agent not available for now: no answer to '{command}' within {deadline:g} s"
                ) from None
        if reply.error is not None:
            raise AgentError(command, *reply.error)
        return reply.value

    async def send(self, command: str, arguments: Mapping[str, JsonValue] | None = None) -> None:
        """Run a command that has no answer when it succeeds (guest-shutdown, guest-suspend-*).

        Returns as soon as a living agent has been given the command. Raises as `execute`.
        """
        async with self._taking_turns(command):
            await self._synchronize(self.sync_deadline)
            self._write(encode_command(command, arguments, None))

    @contextlib.asynccontextmanager
    async def _taking_turns(self, command: str) -> AsyncIterator[None]:
        """Have the agent to oneself, after those who came before. Raises OperationTimeout."""
        try:
            async with asyncio.timeout(TURN_DEADLINE):
                await self._turn.acquire()
        except TimeoutError:
            raise OperationTimeout(
                f"cannot acquire state change lock (held by agent={self._runs}); waited {TURN_DEADLINE:g} s"
            ) from None
        self._runs = command
        try:
            yield
        finally:
            self._turn.release()

    def reset(self) -> None:
        """Give up on the outstanding command: the agent in the guest has gone or was restarted."""
        self._lines.clear()
        self._output = b""
        self._abort(AgentUnresponsive("Guest agent disappeared while executing command"))

    def close(self) -> None:
        """End the connection. Harmless when already closed."""
        self._fail(AgentUnresponsive("QEMU guest agent is not connected"))

    async def _synchronize(self, deadline: float) -> None:
        self._sync_id = next(self._sync_ids)
        request = encode_command("guest-sync-delimited", {"id": self._sync_id}, None)
        try:
            async with asyncio.timeout(deadline):
                # The delimiter makes the agent's parser drop what an earlier client left unfinished.
                await self._ask(DELIMITER + request)
        except TimeoutError:
            # Whoever wakes up later must not find a pile of old requests.
            self._output = b""
            raise AgentUnresponsive(
                f"Guest agent not available for now: no answer to synchronization within {deadline:g} s"
            ) from None
        finally:
            self._sync_id = None

    async def _ask(self, data: bytes) -> Reply:
        self._waiting = self._loop.create_future()
        try:
            self._write(data)
            return await self._waiting
        finally:
            self._waiting = None

    def _write(self, data: bytes) -> None:
        if self._failure is not None:
            raise AgentUnresponsive("QEMU guest agent is not connected") from self._failure
        if not self._output:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        self._output += data
        self._writable()

    def _writable(self) -> None:
        try:
            while self._output:
                self._output = self._output[self._sock.send(self._output, socket.MSG_NOSIGNAL) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self._fail(SystemError_("Unable to write to agent", e))
            return
        self._loop.remove_writer(self._sock.fileno())

    def _listen(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _leave_alone(self) -> None:
        self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self._fail(SystemError_("Unable to read from agent", e))
            return
        if not data:
            self._fail(AgentUnresponsive("End of file from agent socket"))
            return
        began = time.thread_time()
        try:
            for line in self._lines.feed(data):
                self._take(line)
        except WireError:
            # A guest that floods the channel gets no memory for it, and no answer is taken from it.
            self._lines.clear()
        self._pace.spend(len(data), time.thread_time() - began)

    def _take(self, line: bytes) -> None:
        waiting = self._waiting
        if waiting is None or waiting.done():
            return  # an answer that came too late
        _, delimiter, tail = line.rpartition(DELIMITER)
        try:
            reply = parse_reply(parse_object(tail, VALUES_LIMIT), tail)
        except WireError:
            return  # garbage from the guest; the deadline decides
        is_sync = bool(delimiter) and reply.error is None and reply.value == self._sync_id
        if self._sync_id is None or is_sync:
            waiting.set_result(reply)

    def _abort(self, failure: QvirtError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(failure)

    def _fail(self, failure: QvirtError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        self._pace.close()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._abort(AgentUnresponsive("Guest agent disappeared while executing command"))
        if self.on_closed is not None:
            self.on_closed(failure)
