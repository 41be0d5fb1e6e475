"""The console between a stream and descriptors."""

import asyncio
import os
import pty
import termios
from collections import deque
from pathlib import Path

import pytest

from qvirt.cli.console import Input, raw_terminal, run
from qvirt.client.stream import Stream
from qvirt.errors import OperationFailed
from qvirt.rpc import packet
from qvirt.rpc.packet import Framer, Packet

CALL = Packet(0x20008086, 1, 201, 0, 5, 0, b"")


class Owner:
    """Takes what a stream sends."""

    def __init__(self) -> None:
        self.sent: deque[Packet] = deque()
        self.arrived = asyncio.Event()

    async def send(self, data: bytes) -> None:
        self.sent.extend(Framer().feed(data))
        self.arrived.set()

    def forget_stream(self, serial: int) -> None:
        pass

    def unread(self, change: int) -> None:
        pass

    @property
    def text(self) -> bytes:
        return b"".join(item.payload for item in self.sent)


def guest_says(stream: Stream, text: bytes) -> None:
    stream.receive_packet(CALL._replace(type=packet.STREAM, status=packet.CONTINUE, payload=text))


async def with_pipes(typed: bytes, *, keep_open: bool = False, idle: float | None = None, end: bool = False,
                     ) -> tuple[Owner, bytes]:  # fmt: skip
    owner = Owner()
    stream = Stream(owner, CALL)
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    os.write(in_write, typed)
    if not keep_open:
        os.close(in_write)
    guest_says(stream, b"login: ")
    if end:
        asyncio.get_running_loop().call_later(0.05, guest_says, stream, b"")
    async with asyncio.timeout(20):
        await run(stream, in_read, out_write, idle=idle)
    os.close(out_write)
    shown = os.read(out_read, 100)
    for fd in (in_read, out_read, *([in_write] if keep_open else [])):
        os.close(fd)
    return owner, shown


def test_the_escape_key_ends_it() -> None:
    owner, _ = asyncio.run(with_pipes(b"root\n\x1dnot this", keep_open=True))
    assert owner.text == b"root\n"


def test_the_guests_end_ends_it() -> None:
    owner, shown = asyncio.run(with_pipes(b"root\n", keep_open=True, end=True))
    assert (owner.text, shown) == (b"root\n", b"login: ")


def test_the_end_of_input_does_not_end_it_but_silence_after_it_does() -> None:
    owner, shown = asyncio.run(with_pipes(b"root\n", idle=0.05))
    assert (owner.text, shown) == (b"root\n", b"login: ")
    owner, shown = asyncio.run(with_pipes(b"root\n", end=True))
    assert (owner.text, shown) == (b"root\n", b"login: ")


def test_a_stream_that_fails_is_reported() -> None:
    async def work() -> None:
        stream = Stream(Owner(), CALL)
        stream.fail(OperationFailed("console is gone"))
        reader, writer = os.pipe()
        try:
            with pytest.raises(OperationFailed, match="console is gone"):
                await run(stream, reader, writer)
        finally:
            os.close(reader)
            os.close(writer)

    asyncio.run(work())


def test_a_terminal_is_raw_inside_and_as_before_afterwards() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with raw_terminal(slave):
            assert not termios.tcgetattr(slave)[3] & termios.ICANON
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_input_from_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "typed"
    path.write_bytes(b"typed")
    fd = os.open(path, os.O_RDONLY)

    async def work() -> None:
        source = Input(fd)
        assert (await source.read(), await source.read()) == (b"typed", b"")

    try:
        asyncio.run(work())
    finally:
        os.close(fd)
