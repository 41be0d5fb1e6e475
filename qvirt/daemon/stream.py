"""Data streams: bytes between a client's stream packets and a descriptor, throttled both ways.

A stream is opened by a call and named by that call's serial. Data flows once the call is answered. The end
of our data is an empty packet; only the client finishes a stream, and we confirm. Our error ends it at once.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from qvirt.errors import InternalError, QvirtError, RpcError, SystemError_
from qvirt.rpc.packet import (
    CONTINUE,
    ERROR,
    OK,
    STREAM_CHUNK,
    STREAM_HOLE,
    Packet,
    pack_stream,
    pack_stream_error,
)

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)

OUTPUT_HIGH: Final = 512 << 10
"""Bytes waiting for a client to read; above this its streams are not read from."""

INPUT_HIGH: Final = 1 << 20
"""Bytes waiting for a descriptor to take; above this the client's socket is not read."""


class ServerStream:
    """Base of a running stream: its place in the client's table, its end. ``on_end`` is called once."""

    def __init__(self, client: "Client", call: Packet, on_end: Callable[[], None]) -> None:
        self._client = client
        self._call = call
        self._on_end = on_end
        self.ended = False

    def start(self) -> None:
        """Let data flow; the opening call has been answered."""

    def received(self, packet: Packet) -> None:
        """Take a packet of the client; raises RpcError for one that breaks the protocol."""
        if packet.type == STREAM_HOLE:
            raise RpcError("a hole came in a stream that has none")
        if packet.status == CONTINUE:
            self.data(packet.payload)
        elif packet.status == OK:
            self.finish()
        elif packet.status == ERROR:
            self.confirm()
        else:
            raise RpcError(f"Unexpected message status {packet.status}")

    def data(self, payload: bytes) -> None:
        """Take the client's data; a stream of one direction refuses it."""
        if payload:
            self.fail(InternalError("the stream does not take data"))

    def finish(self) -> None:
        """The client is done: confirm when everything it sent has arrived."""
        self.confirm()

    def confirm(self) -> None:
        """Answer a finish or an abort, and end."""
        if not self.ended:
            self._client.write(pack_stream(self._call, OK))
            self.end()

    def fail(self, error: QvirtError) -> None:
        """Tell the client what went wrong, and end."""
        if not self.ended:
            self._client.write(pack_stream_error(self._call, error))
            self.end()

    def drained(self) -> None:
        """The client has read what was waiting for it."""

    def end(self) -> None:
        """Let go of everything, sending nothing."""
        if self.ended:
            return
        self.ended = True
        self._client.streams.pop(self._call.serial, None)
        self.release()
        self._on_end()

    def release(self) -> None:
        """Stop watching descriptors."""


class PipeStream(ServerStream):
    """Both ways between the client and a non-blocking descriptor."""

    def __init__(self, client: "Client", call: Packet, fd: int, on_end: Callable[[], None]) -> None:
        super().__init__(client, call, on_end)
        self._loop = client.loop
        self._fd = fd
        self._reading = False
        self._exhausted = False
        self._input: deque[memoryview] = deque()
        self._input_size = 0
        self._writing = False
        self._throttling = False
        self._finishing = False

    def start(self) -> None:
        """Watch the descriptor."""
        if self.ended:
            return
        if self._exhausted:
            self._client.write(pack_stream(self._call, CONTINUE))
        else:
            self._read_on()

    def close_from_here(self) -> None:
        """End our data; the client sees the end of file and finishes the stream."""
        if self.ended or self._exhausted:
            return
        self._exhausted = True
        started = self._reading or self._client.streams.get(self._call.serial) is self
        self.release()
        self._input.clear()
        if started:
            self._client.write(pack_stream(self._call, CONTINUE))
        if self._finishing:
            self.confirm()  # what has not arrived by now never will, and the client waits for us

    def drained(self) -> None:
        """Read the descriptor again."""
        if not self._exhausted and not self.ended:
            self._read_on()

    def data(self, payload: bytes) -> None:
        """Write the client's data, or keep it until the descriptor takes it."""
        if self._exhausted or not payload:
            return
        self._input.append(memoryview(payload))
        self._input_size += len(payload)
        if not self._writing:
            self._write_some()
        if self._input_size > INPUT_HIGH and not self._throttling and not self.ended:
            self._throttling = True
            self._client.throttle(self, True)

    def finish(self) -> None:
        """Confirm once the descriptor has taken everything."""
        if self._input and not self._exhausted:
            self._finishing = True
        else:
            self.confirm()

    def release(self) -> None:
        """Stop watching the descriptor."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        if self._throttling:
            self._throttling = False
            self._client.throttle(self, False)

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, STREAM_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # A pty whose other side closed answers EIO: that is its end of file.
            data = b""
        if not data:
            self.close_from_here()
            return
        self._client.write(pack_stream(self._call, CONTINUE, data))
        if self._client.unsent > OUTPUT_HIGH and self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _write_some(self) -> None:
        pending = self._input
        while pending:
            chunk = pending[0]
            try:
                written = os.write(self._fd, chunk)
            except (BlockingIOError, InterruptedError):
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._fd, self._write_some)
                return
            except OSError as error:
                self.fail(SystemError_("unable to write to stream", error))
                return
            self._input_size -= written
            if written < len(chunk):
                pending[0] = chunk[written:]
            else:
                pending.popleft()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        if self._throttling:
            self._throttling = False
            self._client.throttle(self, False)
        if self._finishing:
            self.confirm()


class FileStream(ServerStream):
    """All of a regular file to the client, read in a thread because disks block."""

    def __init__(self, client: "Client", call: Packet, fd: int, on_end: Callable[[], None]) -> None:
        super().__init__(client, call, on_end)
        self._fd = fd
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._busy = False

    def start(self) -> None:
        """Send the file."""
        if not self.ended:
            self._task = self._client.loop.create_task(self._send())

    def drained(self) -> None:
        """Go on sending."""
        self._room.set()

    def end(self) -> None:
        """Let go of everything; the descriptor is closed when no thread reads it any more."""
        self._room.set()
        if self._busy and not self.ended:
            self.ended = True
            self._client.streams.pop(self._call.serial, None)
            return
        super().end()

    async def _send(self) -> None:
        while not self.ended:
            self._busy = True
            try:
                data = await asyncio.to_thread(os.read, self._fd, STREAM_CHUNK)
            except OSError as error:
                self._busy = False
                self.fail(SystemError_("unable to read from stream", error))
                return
            finally:
                self._busy = False
            if self.ended:
                self._on_end()
                return
            self._client.write(pack_stream(self._call, CONTINUE, data))
            if not data:
                return
            if self._client.unsent > OUTPUT_HIGH:
                self._room.clear()
                await self._room.wait()


class StreamRequest:
    """What a call is given to open its stream with."""

    def __init__(self, client: "Client", call: Packet) -> None:
        self._client = client
        self._call = call
        self.stream: ServerStream | None = None

    def pipe(self, fd: int, on_end: Callable[[], None]) -> Callable[[], None]:
        """Carry bytes both ways between the client and a non-blocking descriptor, until either side ends."""
        stream = PipeStream(self._client, self._call, fd, on_end)
        self.stream = stream
        return stream.close_from_here

    def send_file(self, fd: int, on_end: Callable[[], None]) -> None:
        """Send all of an open regular file, from its current offset."""
        self.stream = FileStream(self._client, self._call, fd, on_end)

    def begin(self) -> None:
        """Let the data flow, after the reply."""
        if self.stream:
            self._client.streams[self._call.serial] = self.stream
            self.stream.start()

    def drop(self) -> None:
        """The call failed after all, or its client is gone."""
        if self.stream:
            self.stream.end()
