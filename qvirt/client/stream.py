"""A stream: the bytes of a console, an upload, a download or a screenshot, beside the calls."""

import asyncio
from collections import deque
from enum import Enum
from types import TracebackType
from typing import Final, Protocol

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidStream, QvirtError, RpcError
from qvirt.record import Record
from qvirt.rpc import packet
from qvirt.rpc.packet import Packet

_ZEROS: Final = bytes(65536)


class Hole(Record):
    """Zero bytes of a sparse stream that were not sent: their number."""

    length: int


class _State(Enum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class StreamOwner(Protocol):
    """What a stream needs of its session."""

    async def send(self, data: bytes) -> None:
        """Send a packet and wait for room."""

    def forget_stream(self, serial: int) -> None:
        """Drop the stream."""

    def unread(self, change: int) -> None:
        """Count bytes received and not read."""


class Stream:
    """One open stream. As a context manager: finished at the end of the block, aborted on an exception."""

    def __init__(self, owner: StreamOwner, call: Packet) -> None:
        self._owner = owner
        self._call = call
        self._queue: deque[bytes | Hole] = deque()
        self._ready = asyncio.Event()
        self._held = 0
        self._ended = False
        self._error: QvirtError | None = None
        self._state = _State.OPEN
        self._confirmed = asyncio.Event()

    @property
    def procedure(self) -> int:
        """Number of the procedure that opened the stream."""
        return self._call.procedure

    async def receive(self) -> bytes | Hole:
        """Give the next piece of data or hole, b"" at the end; raises the stream's error."""
        while not self._queue:
            if self._error:
                raise self._error
            if self._ended or self._state is not _State.OPEN:
                return b""
            self._ready.clear()
            await self._ready.wait()
        item = self._queue.popleft()
        if isinstance(item, bytes) and self._held:
            self._hold(-len(item))
        return item

    async def read(self) -> bytes:
        """Give the next piece of data, holes as zeros, b"" at the end; raises the stream's error."""
        item = await self.receive()
        if isinstance(item, bytes):
            return item
        if item.length > len(_ZEROS):
            self._queue.appendleft(Hole(item.length - len(_ZEROS)))
            return _ZEROS
        return _ZEROS[: item.length] or await self.read()

    async def write(self, data: bytes) -> None:
        """Send data, waiting while the daemon is slow; raises the stream's error."""
        view = memoryview(data)
        for start in range(0, len(view), packet.STREAM_CHUNK):
            self._check_open()
            chunk = bytes(view[start : start + packet.STREAM_CHUNK])
            await self._owner.send(packet.pack_stream(self._call, packet.CONTINUE, chunk))

    async def write_hole(self, length: int) -> None:
        """Send a hole of `length` bytes; only on a stream opened as sparse."""
        self._check_open()
        await self._owner.send(packet.pack_hole(self._call, length))

    async def write_end(self) -> None:
        """Say that no more data comes; the other direction stays open."""
        self._check_open()
        await self._owner.send(packet.pack_stream(self._call, packet.CONTINUE))

    async def finish(self) -> None:
        """End the stream and wait for the daemon's word that all is well; raises the stream's error."""
        await self._close(packet.OK)
        if self._error:
            raise self._error

    async def abort(self) -> None:
        """End the stream as failed; an error the daemon had meanwhile changes nothing any more."""
        await self._close(packet.ERROR)

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state is _State.OPEN and self._error is None:
            if kind is None:
                await self.finish()
            else:
                await self.abort()

    def _check_open(self) -> None:
        if self._error:
            raise self._error
        if self._state is not _State.OPEN:
            raise InvalidStream("Stream.write: the stream is closed", domain=ErrorDomain.STREAMS)

    async def _close(self, status: int) -> None:
        self._check_open()
        self._state = _State.CLOSING
        self._queue.clear()
        self._hold(-self._held)
        self._ready.set()
        await self._owner.send(packet.pack_stream(self._call, status))
        await self._confirmed.wait()

    def _hold(self, change: int) -> None:
        self._held += change
        self._owner.unread(change)

    # --- called by the session -----------------------------------------------------------------------

    def receive_packet(self, item: Packet) -> None:
        """Take a packet of this stream; raises RpcError for one that makes no sense."""
        if item.type == packet.STREAM and item.status == packet.ERROR:
            self.fail(
                packet.decode_error(item.payload)
                if item.payload
                else RpcError("the daemon aborted the stream")
            )
        elif item.type == packet.STREAM and item.status == packet.OK:
            if self._state is not _State.CLOSING:
                raise RpcError(f"unexpected end of stream {item.serial}: nobody had finished it")
            self._settle()
        elif item.status != packet.CONTINUE:
            raise RpcError(
                f"stream {item.serial}: unexpected status {item.status} in a packet of type {item.type}"
            )
        elif self._state is _State.OPEN:
            if item.type == packet.STREAM_HOLE:
                self._queue.append(Hole(packet.decode_hole(item.payload)))
            elif item.payload:
                self._queue.append(item.payload)
                self._hold(len(item.payload))
            else:
                self._ended = True
            self._ready.set()

    def fail(self, error: QvirtError) -> None:
        """End the stream with an error; what was received before can still be read."""
        self._error = error
        self._settle()

    def _settle(self) -> None:
        self._state = _State.CLOSED
        # What is still queued comes from memory now and slows nobody down.
        self._hold(-self._held)
        self._owner.forget_stream(self._call.serial)
        self._ready.set()
        self._confirmed.set()
