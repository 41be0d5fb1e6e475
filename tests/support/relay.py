"""A bad line in user space: a relay of TCP that is slow, far away, silent or cut, as a test says."""

import asyncio
import contextlib
import socket
import threading
from typing import Final

PIECE: Final = 2048
"""Bytes that are passed on at a time, and that are read ahead at most."""
SEGMENT: Final = 1400
"""Bytes of a segment; the loopback's own would not fit what is kept."""
KEPT: Final = 16384
"""Bytes the kernel keeps of each way."""
TICK: Final = 0.02
"""Seconds after which a line that stands still looks whether it still has to."""


class Relay:
    """Carries connections from a port of its own to another of the loopback, for a block.

    delay: seconds each piece takes on its way; rate: bytes a second, None for as fast as can be. Both may be
    changed under way. Nothing is read that cannot be passed on, and the kernel is asked to keep little, so
    whoever sends finds the line full.
    """

    def __init__(self, port: int, *, delay: float = 0.0, rate: float | None = None) -> None:
        self.delay, self.rate = delay, rate
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")
        self._lines: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.port = 0

    def __enter__(self) -> "Relay":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Cut all lines there are; new ones may come."""
        self._loop.call_soon_threadsafe(lambda: [line.cancel() for line in self._lines])

    def silence(self) -> None:
        """Let nothing more through on all lines there are, without a word to either end."""
        self._loop.call_soon_threadsafe(lambda: self._silent.update(self._lines))

    async def _listen(self) -> None:
        sock = _narrow_socket()
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._carry, sock=sock, limit=PIECE)

    async def _end(self) -> None:
        self._server.close()
        for line in self._lines:
            line.cancel()
        if self._lines:
            await asyncio.wait(self._lines)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        sock = _narrow_socket()
        await self._loop.sock_connect(sock, ("127.0.0.1", self._target))
        far_reader, far_writer = await asyncio.open_connection(sock=sock, limit=PIECE)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._pump(line, reader, far_writer))
                    ways.create_task(self._pump(line, far_reader, writer))
        finally:
            writer.transport.abort()
            far_writer.transport.abort()
            self._lines.discard(line)
            self._silent.discard(line)

    async def _pump(
        self, line: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.transport.set_write_buffer_limits(0)
        while data := await reader.read(PIECE):
            left = self.delay + (len(data) / self.rate if self.rate else 0)
            # In steps, so that a line that is made faster is so at once.
            while left > 0 or line in self._silent:
                await asyncio.sleep(min(TICK, left) if left > 0 else TICK)
                left = min(left - TICK, self.delay + (len(data) / self.rate if self.rate else 0))
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def _narrow_socket() -> socket.socket:
    """Make a socket for which the kernel keeps little, in segments small enough for that."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KEPT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)
    sock.setblocking(False)
    return sock
