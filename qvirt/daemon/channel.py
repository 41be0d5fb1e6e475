"""A client's socket: received bytes and descriptors in, packets out, everything bounded.

What goes over a network may be wrapped by a layer: TLS, or what SASL agreed on.

The socket is read and written without a transport of the event loop, because those drop descriptors.
"""

import array
import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from qvirt.net.layer import Layer, LayerEnd, LayerError

log = logging.getLogger(__name__)

READ_SIZE: Final = 64 << 10
BATCH_SIZE: Final = 128 << 10
"""Bytes collected before they are sent anyway, so that what is owed shows."""

LINGER: Final = 1.0
"""Seconds that a peer who was refused has to see it."""

_ANCILLARY: Final = socket.CMSG_SPACE(32 * array.array("i").itemsize)
_FDS_WAITING_MAX: Final = 64
"""Descriptors kept for packets that have not come yet; a client that sends more is dropped."""

_RECEIVE_FLAGS: Final = socket.MSG_CMSG_CLOEXEC


class Channel:
    """A connected socket, its unsent output and its unclaimed descriptors.

    on_data is called with each chunk received, on_closed once when the peer is gone or `close` was called,
    on_drained when output that was congested has gone out.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_data: Callable[[bytes], None],
        on_closed: Callable[[str], None],
        on_drained: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._recvmsg = sock.recvmsg
        self._fileno = sock.fileno()
        self._on_data = on_data
        self._on_closed = on_closed
        self._on_drained = on_drained
        self._fds: deque[int] = deque()
        self._output: deque[tuple[memoryview, int | None]] = deque()
        self._batch: list[bytes] | None = None
        self._batched = 0
        self._reading = False
        self._writing = False
        self._ending = False
        self._congested = False
        self._layer: Layer | None = None
        self._has_sent = False
        self.takes_fds = False
        """Whether descriptors are taken; the kernel drops them otherwise, and they use up none of ours."""
        self.unsent = 0
        """Bytes of output that the socket has not taken yet."""
        self.closed = False
        self.fault = ""
        """How the peer broke the layer's protocol, or why it is not let in by it."""

    def put_on(self, layer: Layer) -> None:
        """Wrap all that is sent and received from now on; what was written before leaves as it is."""
        self._flush_batch()
        self._layer = layer

    def resume_reading(self) -> None:
        """Take input again."""
        if not self._reading and not self.closed and not self._ending:
            self._reading = True
            self._loop.add_reader(self._fileno, self._readable)

    def pause_reading(self) -> None:
        """Leave input with the kernel, which throttles the peer."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fileno)

    def take_fds(self, count: int) -> list[int]:
        """Give the next descriptors received, in order; fewer when the peer attached fewer."""
        return [self._fds.popleft() for _ in range(min(count, len(self._fds)))]

    def write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send the bytes, then each descriptor on a byte of its own; descriptors are closed when sent."""
        if self.closed or self._ending:
            _close_all(fds)
            return
        batch = self._batch
        if batch is not None and not fds:
            batch.append(data)
            self._batched += len(data)
            if self._batched > BATCH_SIZE:
                self._flush_batch()
            return
        self._flush_batch()
        if not fds:
            self._emit(data)
            return
        self._append(memoryview(data), None)
        for fd in fds:
            self._append(memoryview(b"\0"), fd)
        self._write_some()

    def cork(self) -> None:
        """Collect what is written until `uncork`, so that it leaves in one system call."""
        self._batch = []

    def uncork(self) -> None:
        """Send what was collected."""
        self._flush_batch()
        self._batch = None

    def end(self) -> None:
        """Stop reading and close as soon as all output is sent."""
        self.pause_reading()
        self._flush_batch()
        if self._layer is not None and not self._ending:
            self._push(self._layer.farewell())
        self._ending = True
        if not self._output:
            self.close("ended")

    def close(self, reason: str) -> None:
        """Close now; unsent output and unclaimed descriptors are dropped."""
        if self.closed:
            return
        self.closed = True
        self.pause_reading()
        if self._writing:
            self._loop.remove_writer(self._fileno)
        _close_all(self._fds)
        _close_all([fd for _, fd in self._output if fd is not None])
        self._fds.clear()
        self._output.clear()
        self._batch = None
        self._sock.close()
        self._on_closed(reason)

    def _readable(self) -> None:
        try:
            room = _ANCILLARY if self.takes_fds else 0
            data, ancillary, flags, _ = self._recvmsg(READ_SIZE, room, _RECEIVE_FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"receive failed: {error.strerror}")
            return
        if ancillary:
            self._keep(ancillary)
            if len(self._fds) > _FDS_WAITING_MAX or flags & socket.MSG_CTRUNC:
                self.close("too many descriptors")
                return
        if not data:
            self.close(self.fault or "end of file")
            return
        if self.fault:
            return
        self._has_sent = False
        try:
            if self._layer is not None:
                data = self._unwrap(self._layer, data)
            if data:
                self._on_data(data)
        except BaseException:
            # Nobody knows how much of it was taken in: what comes behind it must not be taken for anything.
            self.close("it was not understood, by a mistake of ours")
            raise
        if self._reading and not self._has_sent:
            # Of a peer that is gone without having read all, the loop (libuv) tells once, together with what
            # it said last, and listens no more. Who answers finds out; nobody else would.
            self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        if self._reading:
            self._readable()

    def _unwrap(self, layer: Layer, data: bytes) -> bytes:
        reason = ""
        try:
            data = layer.unwrap(data)
        except LayerEnd:
            data, reason = b"", "end of file"
        except LayerError as error:
            data, self.fault = b"", str(error)
        if own := layer.pending():
            self._push(own)
        if reason:
            self.close(reason)
        elif self.fault:
            self._ending = True
            if not self._output:
                self._linger()
        return b"" if self.closed else data

    def _linger(self) -> None:
        """End our side, and read on until the peer has seen it: it may be in the middle of its handshake.

        libvirt's clients die of SIGPIPE when they write to a connection that is closed.
        """
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.close(f"{self.fault} ({error.strerror})")
            return
        self._loop.call_later(LINGER, self.close, self.fault)

    def _keep(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds.extend(fds)

    def _flush_batch(self) -> None:
        batch = self._batch
        if not batch:
            return
        self._batch = []
        self._batched = 0
        self._emit(batch[0] if len(batch) == 1 else b"".join(batch))

    def _emit(self, data: bytes) -> None:
        if self._layer is not None:
            try:
                data = self._layer.wrap(data)
            except LayerError as error:
                # The callers of write() are in the middle of something: tell the owner from the loop.
                self._ending = True
                self._loop.call_soon(self.close, str(error))
                return
        self._push(data)

    def _push(self, data: bytes) -> None:
        if self._output:
            self._append(memoryview(data), None)
        else:
            self._send_now(data)

    def _send_now(self, data: bytes) -> None:
        self._has_sent = True
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        if sent < len(data):
            self._append(memoryview(data)[sent:], None)
            self._watch()

    def _append(self, data: memoryview, fd: int | None) -> None:
        self._output.append((data, fd))
        self.unsent += len(data)

    def _watch(self) -> None:
        if not self._writing and not self.closed:
            self._writing = True
            self._congested = True
            self._loop.add_writer(self._fileno, self._write_some)

    def _write_some(self) -> None:
        output = self._output
        while output:
            data, fd = output[0]
            try:
                if fd is None:
                    sent = self._sock.send(data)
                else:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                    sent = self._sock.sendmsg([data], rights)
            except (BlockingIOError, InterruptedError):
                self._watch()
                return
            except OSError as error:
                self._fail(error)
                return
            self.unsent -= sent
            if sent < len(data):
                output[0] = (data[sent:], fd)
                continue
            output.popleft()
            if fd is not None:
                os.close(fd)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fileno)
        if self.fault:
            self._linger()
        elif self._ending:
            self.close("ended")
        elif self._congested:
            self._congested = False
            self._on_drained()

    def _fail(self, error: OSError) -> None:
        # The callers of write() are in the middle of something: tell the owner from the loop.
        self._ending = True
        self._loop.call_soon(self.close, f"send failed: {error.strerror}")


def _close_all(fds: Sequence[int] | deque[int]) -> None:
    for fd in fds:
        os.close(fd)
