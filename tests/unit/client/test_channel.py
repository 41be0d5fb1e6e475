"""The unix channel: descriptors, backpressure, the end."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from qvirt.client.channel import HIGH_WATER, SocketChannel
from tests.unit.client.fake_daemon import pair


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_descriptors_follow_their_bytes() -> None:
    async def work() -> None:
        ours, theirs = pair()
        reader, writer = os.pipe()
        got: list[tuple[bytes, list[int]]] = []
        arrived = asyncio.Event()

        def receive(data: bytes, fds: list[int]) -> None:
            got.append((data, fds))
            if sum(len(data) for data, _ in got) == 12:
                arrived.set()

        end: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        sender, receiver = SocketChannel(ours), SocketChannel(theirs)
        receiver.start(receive, end.set_result)
        sender.write(b"packet", [writer, reader])
        sender.write(b"next")
        os.close(writer)
        os.close(reader)
        await arrived.wait()
        sender.close()
        assert await end is None
        assert b"".join(data for data, _ in got) == b"packet\0\0next"
        write_end, read_end = [fd for _, fds in got for fd in fds]
        os.write(write_end, b"through")
        assert os.read(read_end, 10) == b"through"
        for fd in (write_end, read_end):
            assert not os.get_inheritable(fd)
            os.close(fd)
        receiver.close()

    run(work())


def test_a_slow_reader_makes_drain_wait() -> None:
    async def work() -> None:
        ours, theirs = pair()
        channel = SocketChannel(ours)
        channel.start(lambda data, fds: None, lambda error: None)
        data = os.urandom(4 * HIGH_WATER)
        channel.write(data)
        channel.write(b"end")
        draining = asyncio.ensure_future(channel.drain())
        await asyncio.sleep(0.02)
        assert not draining.done()
        theirs.setblocking(False)
        received = bytearray()
        while len(received) < len(data) + 3:
            received += await asyncio.get_running_loop().sock_recv(theirs, 1 << 16)
        await draining
        assert received == data + b"end"
        channel.close()
        theirs.close()

    run(work())


def test_drain_of_a_channel_that_ends() -> None:
    async def work() -> None:
        ours, theirs = pair()
        channel = SocketChannel(ours)
        lost: list[Exception | None] = []
        channel.start(lambda data, fds: None, lost.append)
        channel.write(bytes(4 * HIGH_WATER))
        draining = asyncio.ensure_future(channel.drain())
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(ConnectionError):
            await draining
        assert len(lost) == 1
        channel.write(b"after the end")

    run(work())


def test_descriptors_not_sent_are_closed() -> None:
    async def work() -> None:
        ours, theirs = pair()
        channel = SocketChannel(ours)
        with socket.socket(socket.AF_UNIX) as passed:
            before = len(os.listdir("/proc/self/fd"))
            channel.write(bytes(4 * HIGH_WATER), [passed.fileno()])
            assert len(os.listdir("/proc/self/fd")) == before + 1
            channel.close()
            assert len(os.listdir("/proc/self/fd")) == before - 1
        theirs.close()

    run(work())
