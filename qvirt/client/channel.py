"""A socket as a channel of bytes and file descriptors on an asyncio loop.

asyncio's transports cannot carry descriptors, so the socket is read and written here directly.
"""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from qvirt.net.layer import Layer, LayerEnd, LayerError

RECEIVE: Final = 65536
HIGH_WATER: Final = 1 << 20
LOW_WATER: Final = 1 << 18
_ANCILLARY: Final = socket.CMSG_SPACE(32 * 4)

Received = Callable[[bytes, list[int]], None]
Lost = Callable[[Exception | None], None]


class Channel(Protocol):
    """What a session needs of a transport."""

    def start(self, received: Received, lost: Lost) -> None:
        """Begin to read; `lost` is called once: with the error, or None for the peer's end of file."""

    def write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Queue bytes, then duplicates of the descriptors, each with a zero byte of its own."""

    async def drain(self) -> None:
        """Wait until little enough is queued; raises ConnectionError when the channel is gone."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Send what can be sent at once and close; `lost` is not called any more."""

    def put_on(self, layer: Layer) -> None:
        """Wrap all that is sent and received from now on."""
        ...

    async def wait_closed(self) -> None:
        """Wait until nothing of it is left, once it is closed."""

    @property
    def is_local(self) -> bool:
        """Tell whether the bytes stay on this machine."""
        ...

    @property
    def is_secure(self) -> bool:
        """Tell whether nobody on the way can read or change them."""
        ...

    @property
    def passes_fds(self) -> bool:
        """Tell whether descriptors can be sent."""
        ...

    @property
    def addresses(self) -> tuple[str, str]:
        """The addresses of both ends, ours first, as "ADDRESS;PORT"; empty for local sockets."""
        ...

    @property
    def cipher_bits(self) -> int:
        """The strength of its own encryption, 0 without one."""
        ...


class SocketChannel:
    """A connected socket; takes ownership of it.

    layer: what wraps its bytes. is_local, passes_fds: as for a unix socket, unless it is said otherwise.
    is_secure: without a layer.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        layer: Layer | None = None,
        is_local: bool = True,
        is_secure: bool = True,
        passes_fds: bool = True,
    ) -> None:
        sock.setblocking(False)
        self.is_local = is_local
        self.is_secure = is_secure or layer is not None
        self.passes_fds = passes_fds
        self._layer = layer
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._queue: deque[memoryview | int] = deque()
        self._queued = 0
        self._writing = False
        self._reading = False
        self._closed = False
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()
        self._received: Received | None = None
        self._lost: Lost | None = None

    def start(self, received: Received, lost: Lost) -> None:
        """Begin to read."""
        self._received, self._lost = received, lost
        self.resume()

    @property
    def addresses(self) -> tuple[str, str]:
        """The addresses of both ends."""
        if self._sock.family == socket.AF_UNIX:
            return "", ""
        ours, theirs = self._sock.getsockname(), self._sock.getpeername()
        return f"{ours[0]};{ours[1]}", f"{theirs[0]};{theirs[1]}"

    @property
    def cipher_bits(self) -> int:
        """The strength of its own encryption."""
        return 0

    def put_on(self, layer: Layer) -> None:
        """Wrap all that is sent and received from now on."""
        self._layer = layer
        self.is_secure = True

    def pause(self) -> None:
        """Stop reading."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def resume(self) -> None:
        """Read again."""
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._received is not None  # noqa: S101 - start() came first
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(RECEIVE, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            self._fail(
                OSError("descriptors were lost: too many came at once, or this process has too many open")
            )
        elif not data:
            self._fail(None)
        elif self._layer is None:
            self._received(data, list(fds))
        else:
            self._unwrap(self._layer, data, self._received)

    def _unwrap(self, layer: Layer, data: bytes, received: Received) -> None:
        try:
            plain = layer.unwrap(data)
        except LayerEnd:
            self._fail(None)
            return
        except LayerError as error:
            self._fail(error)
            return
        if own := layer.pending():
            self._put(own)
        if plain:
            received(plain, [])

    def write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Queue bytes, then the descriptors."""
        if self._closed:
            return
        if self._layer is not None:
            try:
                data = self._layer.wrap(data)
            except LayerError as error:
                self._loop.call_soon(self._fail, error)
                return
        if fds:
            self._queue.append(memoryview(data))
            self._queued += len(data)
            self._queue.extend(os.dup(fd) for fd in fds)
            self._flush()
        else:
            self._put(data)

    def _put(self, data: bytes) -> None:
        if not self._queue:
            sent = self._send(data)
            if sent < 0 or sent == len(data):
                return
            data = data[sent:]
        self._queue.append(memoryview(data))
        self._queued += len(data)
        self._flush()

    def _send(self, data: bytes | memoryview) -> int:
        """Send and give the number of bytes taken, -1 when the channel failed."""
        try:
            return self._sock.send(data, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            # From a fresh stack: the writer is in the middle of something.
            self._loop.call_soon(self._fail, error)
            return -1

    def _send_fd(self, fd: int) -> int:
        try:
            return socket.send_fds(self._sock, [b"\0"], [fd], socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._loop.call_soon(self._fail, error)
            return -1

    def _flush(self) -> None:
        while self._queue:
            item = self._queue[0]
            sent = self._send_fd(item) if isinstance(item, int) else self._send(item)
            if sent < 0:
                return
            if isinstance(item, int):
                if not sent:
                    break
                os.close(item)
                self._queue.popleft()
                continue
            self._queued -= sent
            if sent == len(item):
                self._queue.popleft()
            else:
                self._queue[0] = item[sent:]
                if not sent:
                    break
        if self._queue and not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._flush)
        elif not self._queue and self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
        if self._queued > HIGH_WATER:
            self._room.clear()
        elif self._queued <= LOW_WATER:
            self._room.set()

    async def drain(self) -> None:
        """Wait until little enough is queued."""
        await self._room.wait()
        if self._closed:
            raise ConnectionError("the connection is closed")

    def close(self) -> None:
        """Close, whatever is still queued."""
        if self._closed:
            return
        if self._layer is not None and not self._queue:
            # The peer can tell our end from a cut line.
            self._put(self._layer.farewell())
        self._closed = True
        self.pause()
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
        for item in self._queue:
            if isinstance(item, int):
                os.close(item)
        self._queue.clear()
        self._sock.close()
        self._room.set()

    async def wait_closed(self) -> None:
        """A socket is gone at once."""

    def _fail(self, error: Exception | None) -> None:
        if not self._closed:
            self.close()
            if self._lost:
                self._lost(error)
