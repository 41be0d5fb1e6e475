"""An RPC session over a channel: calls by serial, messages, streams, keepalive. Knows no libvirt call.

Calls may be made from any number of tasks at once; replies may come in any order.
"""

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from qvirt.client.channel import Channel
from qvirt.client.stream import Stream
from qvirt.constants.common import ConnectCloseReason
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, QvirtError, RpcError, SystemError_
from qvirt.record import Record
from qvirt.rpc import keepalive, packet
from qvirt.rpc.packet import Framer, Packet
from qvirt.rpc.protocol import Procedure

log = logging.getLogger(__name__)

STREAM_HIGH_WATER: Final = 8 << 20
"""Bytes of unread stream data above which the socket is left unread while no call is waiting."""
STREAM_PAUSE: Final = 3.0
"""Seconds of pause after which a little is read all the same, so that the daemon's pings are answered."""

Values = tuple[Any, ...]
OnReply = Callable[[Values], None]


class Answer(Record):
    """A call's reply: its values, and the descriptors that came with it, now the caller's."""

    values: Values
    fds: tuple[int, ...] = ()


class _Pending(Record, frozen=False):
    procedure: Procedure
    future: "asyncio.Future[Answer]"
    on_reply: OnReply | None


class Session:
    """Calls and streams over one channel; `on_message` gets every event packet."""

    def __init__(self, channel: Channel, on_message: Callable[[Packet], None]) -> None:
        self._channel = channel
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._framer = Framer()
        self._fds: deque[int] = deque()
        self._serial = 0
        self._calls: dict[int, _Pending] = {}
        self._streams: dict[int, Stream] = {}
        self._unread = 0
        self._resume: asyncio.TimerHandle | None = None
        self._alive: keepalive.Keepalive | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._end: asyncio.Future[QvirtError | None] = self._loop.create_future()
        self.close_reason: int = ConnectCloseReason.CLIENT
        channel.start(self._received, self._lost)

    @property
    def is_alive(self) -> bool:
        """Tell whether calls can still be made."""
        return not self._end.done()

    @property
    def channel(self) -> Channel:
        """The channel underneath."""
        return self._channel

    async def wait_closed(self) -> QvirtError | None:
        """Wait for the session's end; gives why, None when it was closed here."""
        return await asyncio.shield(self._end)

    async def call(
        self,
        procedure: Procedure,
        values: Sequence[Any] = (),
        *,
        fds: Sequence[int] = (),
        on_reply: OnReply | None = None,
    ) -> Answer:
        """Call and wait for the reply; raises the daemon's error, or SystemError_ when the connection ends.

        on_reply: called with the reply's values before any later packet is looked at.
        """
        return await self._start(procedure, values, fds, on_reply)

    async def open_stream(
        self, procedure: Procedure, values: Sequence[Any], *, on_reply: OnReply | None = None
    ) -> Stream:
        """Call a procedure that opens a stream; raises the daemon's error."""
        serial = self._serial
        stream = Stream(
            self, Packet(procedure.program, procedure.version, procedure.number, 0, serial, 0, b"")
        )
        self._streams[serial] = stream
        try:
            await self._start(procedure, values, (), on_reply)
        except BaseException:
            self._streams.pop(serial, None)
            raise
        return stream

    def _start(
        self, procedure: Procedure, values: Sequence[Any], fds: Sequence[int], on_reply: OnReply | None
    ) -> "asyncio.Future[Answer]":
        if self._end.done():
            raise self._end.result() or closed()
        if fds and not self._channel.passes_fds:
            raise InternalError(
                "File descriptor passing is not supported over this transport", domain=ErrorDomain.RPC
            )
        payload = procedure.encode_args(values)
        data = packet.pack_call(procedure, self._serial, payload, len(fds))
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._calls[self._serial] = _Pending(procedure, future, on_reply)
        self._serial = (self._serial + 1) & 0xFFFFFFFF
        self._channel.write(data, fds)
        self._balance()
        return future

    def close(self, reason: QvirtError | None = None, why: int = ConnectCloseReason.ERROR) -> None:
        """Close the channel; every waiting call and stream fails with `reason`, None when it is meant."""
        if self._end.done():
            return
        self.close_reason = ConnectCloseReason.CLIENT if reason is None else why
        self._end.set_result(reason)
        self._channel.close()
        for timer in (self._resume, self._tick):
            if timer:
                timer.cancel()
        error = reason or closed()
        for pending in self._calls.values():
            if not pending.future.done():
                pending.future.set_exception(error)
        self._calls.clear()
        for stream in list(self._streams.values()):
            stream.fail(error)
        self._streams.clear()
        while self._fds:
            os.close(self._fds.popleft())

    # --- what comes in -------------------------------------------------------------------------------

    def _lost(self, error: Exception | None) -> None:
        if error is None:
            self.close(_system_error("End of file while reading data", errno.EIO), ConnectCloseReason.EOF)
        elif isinstance(error, QvirtError):
            self.close(error)
        elif isinstance(error, OSError):
            self.close(_system_error("Cannot recv data", error.errno or errno.EIO))
        else:
            self.close(InternalError(str(error), domain=ErrorDomain.RPC))

    def _received(self, data: bytes, fds: list[int]) -> None:
        self._fds.extend(fds)
        try:
            for item in self._framer.feed(data):
                if not self.is_alive:
                    break
                self._dispatch(item)
        except QvirtError as error:
            self.close(error)
            return
        if self._alive:
            self._alive.received(self._loop.time())
        self._balance()

    def _dispatch(self, item: Packet) -> None:
        if keepalive.is_keepalive(item):
            pong = keepalive.answer(item)
            if pong:
                self._channel.write(pong)
        elif item.type in (packet.REPLY, packet.REPLY_WITH_FDS):
            self._reply(item)
        elif item.type == packet.MESSAGE:
            self._on_message(item)
        elif item.type in (packet.STREAM, packet.STREAM_HOLE):
            stream = self._streams.get(item.serial)
            # Data of a stream already closed here may still be on its way.
            if stream is not None and item.procedure == stream.procedure:
                stream.receive_packet(item)
        else:
            raise RpcError(
                f"got unexpected RPC call prog {item.program} vers {item.version} proc {item.procedure} "
                f"type {item.type}"
            )

    def _reply(self, item: Packet) -> None:
        pending = self._calls.get(item.serial)
        if pending is None or (item.program, item.procedure) != (
            pending.procedure.program,
            pending.procedure.number,
        ):
            raise RpcError(
                f"no call waiting for reply with prog {item.program} vers {item.version} serial {item.serial}"
            )
        # Not before: a call that is answered with another's reply fails with the session.
        del self._calls[item.serial]
        fds = tuple(self._fds.popleft() for _ in range(min(item.fds, len(self._fds))))
        if pending.future.cancelled():
            _close_all(fds)
            if pending.procedure.stream and item.status == packet.OK:
                self._channel.write(packet.pack_stream(item, packet.ERROR))
            return
        try:
            if len(fds) != item.fds:
                raise RpcError(f"a reply announced {item.fds} descriptors, {len(fds)} came")
            if item.status == packet.ERROR:
                raise packet.decode_error(item.payload)
            if item.status != packet.OK:
                raise RpcError(f"got unexpected RPC status {item.status} in a reply")
            answer = Answer(pending.procedure.decode_ret(item.payload), fds)
            if pending.on_reply:
                pending.on_reply(answer.values)
        except QvirtError as error:
            _close_all(fds)
            pending.future.set_exception(error)
        else:
            pending.future.set_result(answer)

    # --- for streams ---------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Send a packet of a stream and wait until there is room for the next."""
        if self._end.done():
            raise self._end.result() or closed()
        self._channel.write(data)
        try:
            await self._channel.drain()
        except ConnectionError as error:
            reason = self._end.result() if self._end.done() else None
            raise reason or closed() from error

    def forget_stream(self, serial: int) -> None:
        """Drop a stream that has ended; what still comes for it is ignored."""
        self._streams.pop(serial, None)

    def unread(self, change: int) -> None:
        """Count bytes of stream data that came in and were not read yet."""
        self._unread += change
        if change < 0:
            self._balance()

    def _balance(self) -> None:
        """Leave the socket unread while streams hold much and no call waits for its reply."""
        full = self._unread > STREAM_HIGH_WATER and not self._calls and self.is_alive
        if full and self._resume is None:
            self._channel.pause()
            self._resume = self._loop.call_later(STREAM_PAUSE, self._read_on)
        elif not full and self._resume is not None:
            self._read_on()

    def _read_on(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self.is_alive:
            self._channel.resume()

    # --- keepalive -----------------------------------------------------------------------------------

    def start_keepalive(self, interval: float, count: int) -> None:
        """Ping a silent daemon, give it up after `count` unanswered pings; interval in seconds, 0 stops."""
        if self._tick:
            self._tick.cancel()
            self._tick = None
        if interval <= 0:
            self._alive = None
            return
        self._alive = keepalive.Keepalive(interval, count, self._loop.time())
        self._tick = self._loop.call_at(self._alive.due, self._check_alive)

    def _check_alive(self) -> None:
        if self._alive is None or not self.is_alive:
            return
        action = self._alive.tick(self._loop.time())
        if action == "dead":
            dead = InternalError("connection closed due to keepalive timeout", domain=ErrorDomain.RPC)
            self.close(dead, ConnectCloseReason.KEEPALIVE)
            return
        if action == "ping":
            self._channel.write(packet.PING)
        self._tick = self._loop.call_at(self._alive.due, self._check_alive)


def closed() -> QvirtError:
    """Give the error of a call on a connection that was closed here."""
    return InternalError("client socket is closed", domain=ErrorDomain.RPC)


def _system_error(detail: str, number: int) -> QvirtError:
    return SystemError_(detail, OSError(number, os.strerror(number)), domain=ErrorDomain.RPC)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
