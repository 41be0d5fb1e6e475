"""An asyncio client of one QEMU monitor.

The socket is read and written here without a transport: a reply is handed to its caller in the same turn of
the loop it arrives in, and descriptors (SCM_RIGHTS) stay with the command they belong to, which no transport
of asyncio can do.
"""

import array
import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path
from typing import Protocol, Self

from qvirt.errors import OperationTimeout, QvirtError, SystemError_
from qvirt.qmp.errors import MonitorClosed, QmpError, WireError
from qvirt.qmp.pace import SHARE, Pace
from qvirt.qmp.wire import Decoder, Event, Greeting, Json, JsonValue, Reply, encode_command

log = logging.getLogger(__name__)

CONNECT_DEADLINE = 30.0
"""Seconds until a monitor must have accepted, greeted and taken our capabilities."""

COMMAND_DEADLINE = 60.0
"""Seconds until a command must be answered, unless the caller says otherwise."""

EVENTS_PER_SECOND = 2000
"""Events a QEMU may send in a second; an honest one limits most kinds to one."""

UNANSWERED = 2000
"""Commands a QEMU may owe answers to. One that hangs is asked on and on, by those who watch it for days."""

_READ_SIZE = 256 << 10
_RETRY = 0.01

EventHandler = Callable[[Event], None]
ClosedHandler = Callable[[QvirtError], None]
Connect = Callable[[socket.socket, str], None]
"""Connects a socket to a path, or raises OSError."""


class Executor(Protocol):
    """Whatever takes a QMP command: a monitor, or something that stands for one."""

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        fds: Sequence[int] = (),
        deadline: float | None = COMMAND_DEADLINE,
        oob: bool = False,
    ) -> Json:
        """Run a command and return what QEMU answers."""
        ...


class Monitor:
    """A QEMU monitor: commands in, answers and events out.

    Any number of commands may be outstanding. Events reach `on_event` in QEMU's order, and before the reply
    of a command that follows them; `on_closed` is called once when the connection has ended without `close`,
    after all outstanding commands have failed. Both run in the event loop's thread and must return at once.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        name: str = "",
        on_event: EventHandler | None = None,
        on_closed: ClosedHandler | None = None,
        trusted: bool = False,
    ) -> None:
        """Take over a connected socket; use `connect`, `from_socket` or `open` to get a ready monitor.

        trusted: the peer may take as much of our time as it likes.
        """
        sock.setblocking(False)
        self.name = name
        self.greeting: Greeting | None = None
        self.on_event = on_event
        self.on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._decoder = Decoder()
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._output: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._greeted: asyncio.Future[Greeting] = self._loop.create_future()
        self._failure: QvirtError | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        allowed, share = (inf, inf) if trusted else (EVENTS_PER_SECOND, SHARE)
        self._pace = Pace(allowed, self._leave_alone, self._listen, share=share)
        self._unasked = 0
        self._has_complained = False
        self._listen()

    @classmethod
    async def connect(
        cls,
        path: str | Path,
        *,
        name: str = "",
        on_event: EventHandler | None = None,
        on_closed: ClosedHandler | None = None,
        deadline: float = CONNECT_DEADLINE,
        wait: bool = False,
        making: AbstractContextManager[None] | None = None,
        by: Connect | None = None,
    ) -> Self:
        """Connect to a monitor's Unix socket and negotiate, within `deadline` seconds.

        wait: keep trying while the socket does not exist yet or nobody listens.
        making: in which the socket is made. by: connects it to the path; None for the plain way.
        Raises SystemError_ when there is nobody to talk to, OperationTimeout, WireError, MonitorClosed.
        """
        start = asyncio.get_running_loop().time()
        sock = await connect_unix(path, deadline=deadline, wait=wait, what="monitor", making=making, by=by)
        left = deadline - (asyncio.get_running_loop().time() - start)
        return await cls.from_socket(sock, name=name, on_event=on_event, on_closed=on_closed, deadline=left)

    @classmethod
    async def from_socket(
        cls,
        sock: socket.socket,
        *,
        name: str = "",
        on_event: EventHandler | None = None,
        on_closed: ClosedHandler | None = None,
        deadline: float = CONNECT_DEADLINE,
        trusted: bool = False,
    ) -> Self:
        """Negotiate on a connected socket (one end of a socketpair, too); it is ours from now on.

        trusted: as in the constructor.
        """
        monitor = cls(sock, name=name, on_event=on_event, on_closed=on_closed, trusted=trusted)
        try:
            await monitor.negotiate(deadline)
        except BaseException:
            monitor.close()
            raise
        return monitor

    async def negotiate(
        self, deadline: float = CONNECT_DEADLINE, then: Callable[[], None] | None = None
    ) -> Greeting:
        """Wait for the greeting and leave the negotiation mode, within `deadline` seconds.

        then: submits what is to be asked next, without a round trip in between.
        """
        # The peer may be a process that is still starting: our half is sent before its greeting comes.
        answer = self.submit("qmp_capabilities")
        if then is not None:
            then()
        try:
            async with asyncio.timeout(deadline):
                greeting = await self._greeted
                reply = await answer
        except TimeoutError:
            raise OperationTimeout(
                f"QEMU monitor{self._of()} did not answer the capability negotiation within {deadline:g} s"
            ) from None
        finally:
            _abandon(answer)
            _abandon(self._greeted)
        if reply.error is not None:
            raise QmpError("qmp_capabilities", *reply.error)
        return greeting

    @property
    def is_closed(self) -> bool:
        """Tell whether the connection has ended."""
        return self._failure is not None

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version as its greeting said it; zeroes before."""
        return self.greeting.version if self.greeting else (0, 0, 0)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        fds: Sequence[int] = (),
        deadline: float | None = COMMAND_DEADLINE,
        oob: bool = False,
    ) -> Json:
        """Run a command and return what QEMU answers.

        fds: descriptors sent along (add-fd, getfd); they stay the caller's.
        deadline: seconds from now; None waits for as long as QEMU lives.
        Raises QmpError (QEMU refused), OperationTimeout (the monitor stays usable, a late answer is dropped),
        MonitorClosed.
        """
        future = self.submit(command, arguments, fds=fds, oob=oob)
        try:
            if deadline is None:
                reply = await future
            else:
                async with asyncio.timeout(deadline):
                    reply = await future
        except TimeoutError:
            raise OperationTimeout(
                f"QEMU monitor{self._of()} did not answer '{command}' within {deadline:g} s"
            ) from None
        if reply.error is not None:
            raise QmpError(command, *reply.error)
        return reply.value

    def submit(
        self,
        command: str,
        arguments: Mapping[str, JsonValue] | None = None,
        *,
        fds: Sequence[int] = (),
        oob: bool = False,
    ) -> asyncio.Future[Reply]:
        """Send a command now; the future brings its reply, an error reply included.

        Commands run in the order they were submitted. Cancel the future to give up; its answer is dropped.
        Raises MonitorClosed, and OperationTimeout where too many were not answered.
        """
        if self._failure is not None:
            raise MonitorClosed(
                f"QEMU monitor{self._of()} is closed; cannot run '{command}'"
            ) from self._failure
        if len(self._waiting) >= UNANSWERED:
            raise OperationTimeout(
                f"QEMU monitor{self._of()} has not answered {UNANSWERED} commands; cannot run '{command}'"
            )
        id = self._next_id
        data = encode_command(command, arguments, id, oob=oob)
        self._next_id += 1
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[id] = future
        self._write(data, fds)
        return future

    def close(self) -> None:
        """End the connection; outstanding commands fail. Harmless when already closed.

        Nobody is told: a QEMU that we leave is not one that has left us.
        """
        self.on_closed = None
        self._fail(MonitorClosed(f"QEMU monitor{self._of()} was closed"))

    def read_rest(self) -> None:
        """Take what a QEMU that has ended has said, to the end of file, and the end itself.

        The loop may not tell of it: that a connection was reset, as QEMU had not read all that was sent,
        libuv tells only once, and then there are last words to be read first.
        """
        while self._failure is None and self._read():
            pass

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, from whichever side."""
        await asyncio.shield(self._closed)

    # ------------------------------------------------------------------ output

    def _write(self, data: bytes, fds: Sequence[int]) -> None:
        view = memoryview(data)
        if not self._output:
            view = self._send(view, fds)
            if not view:
                return
            if len(view) < len(data):
                fds = ()
            if self._failure is not None:
                return
            self._loop.add_writer(self._sock.fileno(), self._writable)
        # The caller may close its descriptors as soon as we return.
        self._output.append((view, tuple(os.dup(fd) for fd in fds)))

    def _send(self, view: memoryview, fds: Sequence[int]) -> memoryview:
        """Send what the kernel takes now and return the rest; descriptors go with the first byte."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return view[self._sock.sendmsg([view], ancillary, socket.MSG_NOSIGNAL) :]
        except (BlockingIOError, InterruptedError):
            return view
        except OSError as e:
            # Unread input may still hold QEMU's last words: let the reader find the end of file.
            if e.errno not in (errno.EPIPE, errno.ECONNRESET):
                self._fail(SystemError_(f"Unable to write to monitor{self._of()}", e))
            return view[len(view) :]

    def _writable(self) -> None:
        while self._output:
            view, fds = self._output[0]
            rest = self._send(view, fds)
            if self._failure is not None:
                return
            if len(rest) == len(view):
                return
            for fd in fds:
                os.close(fd)
            if rest:
                self._output[0] = (rest, ())
                return
            self._output.popleft()
        self._loop.remove_writer(self._sock.fileno())

    # ------------------------------------------------------------------- input

    def _listen(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _leave_alone(self) -> None:
        log.warning("monitor%s: it says more than there is time for, and has to wait", self._of())
        self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        began = time.thread_time()
        self._unasked = 0
        self._read()
        if self._failure is None:
            self._pace.spend(self._unasked, time.thread_time() - began)

    def _read(self) -> bool:
        """Take what is there; tells whether anything was."""
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            data = b""  # it has ended without reading all that was sent
        except OSError as e:
            self._fail(SystemError_(f"Unable to read from monitor{self._of()}", e))
            return False
        if not data:
            self._fail(MonitorClosed(f"End of file from qemu monitor (vm='{self.name}')"))
            return False
        try:
            for message in self._decoder.feed(data):
                match message:
                    case Reply():
                        self._take_reply(message)
                    case Event():
                        self._take_event(message)
                        self._unasked += 1
                    case Greeting():
                        self.greeting = message
                        if not self._greeted.done():
                            self._greeted.set_result(message)
                if self._failure is not None:
                    return False
        except WireError as e:
            log.error("monitor%s: %s", self._of(), e)
            self._fail(e)
            return False
        return True

    def _take_reply(self, reply: Reply) -> None:
        future = self._waiting.pop(reply.id, None) if isinstance(reply.id, int) else None
        if future is None:
            # QEMU answers without an id what it could not parse. The log alone can be told, and only once.
            self._unasked += 1
            if not self._has_complained:
                self._has_complained = True
                log.warning("monitor%s: answer to no command: %.200r", self._of(), reply)
        elif not future.done():  # a done one was given up by its caller: the answer came too late
            future.set_result(reply)

    def _take_event(self, event: Event) -> None:
        if self.on_event is None:
            return
        try:
            self.on_event(event)
        except Exception as e:  # a subscriber's mistake must not cost the domain its monitor
            self._loop.call_exception_handler(
                {"message": f"monitor{self._of()}: handler of event {event.name} failed", "exception": e}
            )

    # --------------------------------------------------------------------- end

    def _fail(self, failure: QvirtError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        self._pace.close()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._output:
            for fd in fds:
                os.close(fd)
        self._output.clear()
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for future in waiting:
            _end(future, failure)
        _end(self._greeted, failure)
        if not self._greeted.cancelled():
            self._greeted.exception()  # nobody may have asked for the greeting yet
        if not self._closed.done():
            self._closed.set_result(None)
        if self.on_closed is not None:
            self.on_closed(failure)

    def _of(self) -> str:
        return f" of '{self.name}'" if self.name else ""


def _end(future: asyncio.Future[Reply] | asyncio.Future[Greeting], failure: QvirtError) -> None:
    """Fail one of several futures; each gets an exception of its own, as each adds its own traceback."""
    if not future.done():
        error = MonitorClosed(failure.detail)
        error.__cause__ = failure
        future.set_exception(error)


def _abandon(future: asyncio.Future[Reply] | asyncio.Future[Greeting]) -> None:
    """Give up on a future; a failure it already holds has been reported through another one."""
    if not future.cancel() and not future.cancelled():
        future.exception()


async def connect_unix(
    path: str | Path,
    *,
    deadline: float,
    wait: bool,
    what: str,
    making: AbstractContextManager[None] | None = None,
    by: Connect | None = None,
) -> socket.socket:
    """Connect to a Unix socket within `deadline` seconds; `what` names the peer in errors.

    by: as in `Monitor.connect`. Else paths longer than the kernel takes (107 bytes) are reached through a
    descriptor of their directory.
    Raises SystemError_ (nobody there) and OperationTimeout.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    with contextlib.ExitStack() as undo:
        try:
            with making or contextlib.nullcontext():
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as e:
            raise SystemError_(f"cannot make a socket for {what} '{path}'", e) from e
        undo.callback(sock.close)
        sock.setblocking(False)
        while True:
            try:
                (by or _connect)(sock, str(path))
                break
            except BlockingIOError:  # the listener's backlog is full; EAGAIN, not a connection under way
                pass
            except (FileNotFoundError, ConnectionRefusedError) as e:
                if not wait:
                    raise SystemError_(f"failed to connect to {what} socket '{path}'", e) from e
            except OSError as e:
                raise SystemError_(f"failed to connect to {what} socket '{path}'", e) from e
            if loop.time() >= end:
                raise OperationTimeout(
                    f"{what} socket '{path}' did not accept a connection within {deadline:g} s"
                )
            await asyncio.sleep(_RETRY)
        undo.pop_all()
    return sock


def _connect(sock: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= 107:
        sock.connect(path)
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)
