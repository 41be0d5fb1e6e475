"""A console stream tied to standard input and output, a terminal or pipes."""

import asyncio
import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from qvirt.client.stream import Stream

ESCAPE: Final = b"\x1d"
_CHUNK: Final = 4096


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Pass every key to the guest while inside; does nothing where `fd` is no terminal."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        # TCSADRAIN, not FLUSH: what was typed ahead is for the guest.
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Input:
    """Reads a descriptor without blocking the loop: terminals, pipes, sockets, regular files."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Give what can be read, b"" at the end."""
        ready: asyncio.Future[None] = self._loop.create_future()
        try:
            self._loop.add_reader(self._fd, _set, ready)
        except PermissionError:
            # epoll refuses regular files, which are always ready.
            return os.read(self._fd, _CHUNK)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._fd)
        return os.read(self._fd, _CHUNK)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, waiting as long as the reader does."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # The other end of a terminal shared with a program that made it non-blocking.
            os.set_blocking(fd, True)


class _Screen:
    """Shows what the guest says, and knows when it last said something."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self.last = self._loop.time()

    async def show(self, stream: Stream) -> None:
        while data := await stream.read():
            await asyncio.to_thread(write_all, self._fd, data)
            self.last = self._loop.time()


async def run(
    stream: Stream, fd_in: int, fd_out: int, *, escape: bytes = ESCAPE, idle: float | None = None
) -> None:
    """Copy both ways until the escape key, the guest's end, or the reader's.

    The end of input does not end the console; after it, `idle` seconds without output do.
    """
    screen = _Screen(fd_out)
    typing = asyncio.create_task(_send(stream, Input(fd_in), escape))
    showing = asyncio.create_task(screen.show(stream))
    try:
        await asyncio.wait((typing, showing), return_when=asyncio.FIRST_COMPLETED)
        if typing.done() and typing.exception() is None and not typing.result():
            await _outlast(showing, screen, idle)
    finally:
        for task in (typing, showing):
            task.cancel()
        results = await asyncio.gather(typing, showing, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


async def _send(stream: Stream, source: Input, escape: bytes) -> bool:
    """Send what is typed; True when the escape key ended it, False at the end of input."""
    while data := await source.read():
        typed, found, _ = data.partition(escape)
        if typed:
            await stream.write(typed)
        if found:
            return True
    return False


async def _outlast(showing: "asyncio.Task[None]", screen: _Screen, idle: float | None) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.time()
    while not showing.done():
        left = None if idle is None else max(screen.last, ended) + idle - loop.time()
        if left is not None and left <= 0:
            return
        await asyncio.wait((showing,), timeout=left)
