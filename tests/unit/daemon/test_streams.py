"""Streams between a raw client and one end of a socket pair; descriptors with calls and replies."""

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest

from qvirt.daemon.stream import OUTPUT_HIGH, FileStream
from qvirt.errors import QvirtError
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Packet
from tests.unit.daemon.fakes import PATIENCE, FakeConsole, RawClient, Running, running
from tests.unit.daemon.test_sessions import until

CONSOLE = protocol.remote().by_name["DOMAIN_OPEN_CONSOLE"]
GRAPHICS = protocol.remote().by_name["DOMAIN_OPEN_GRAPHICS"]
VERSION = protocol.remote().by_name["CONNECT_GET_LIB_VERSION"]


async def opened(it: Running, client: RawClient) -> tuple[Packet, FakeConsole]:
    """Open a console; gives a packet that names the stream, and the guest's side."""
    domain = it.hypervisor.domains.add("one")
    dom = (await client.call("DOMAIN_LOOKUP_BY_NAME", "one"))[0]
    serial = await client.start("DOMAIN_OPEN_CONSOLE", dom, None, 0)
    reply = await client.get()
    assert (reply.status, reply.serial) == (packet.OK, serial)
    return reply, domain.consoles[0]


def test_bytes_go_both_ways_until_the_client_finishes(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            loop = asyncio.get_running_loop()
            call, console = await opened(it, client)
            await client.send(packet.pack_stream(call, packet.CONTINUE, b"ls\n"))
            assert await loop.sock_recv(console.guest, 100) == b"ls\n"
            await loop.sock_sendall(console.guest, b"bin dev")
            data = await client.get()
            assert (data.type, data.status, data.payload) == (packet.STREAM, packet.CONTINUE, b"bin dev")
            assert (data.serial, data.procedure) == (call.serial, CONSOLE.number)
            await client.send(packet.pack_stream(call, packet.OK))
            end = await client.get()
            assert (end.type, end.status, end.payload) == (packet.STREAM, packet.OK, b"")
            assert console.closed
            # What comes late for a stream that has ended goes nowhere.
            await client.send(packet.pack_stream(call, packet.CONTINUE, b"late"))
            assert await client.call("CONNECT_GET_LIB_VERSION") == (9000000,)

    asyncio.run(run())


def test_the_end_of_the_guests_data_is_an_empty_packet(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            call, console = await opened(it, client)
            console.guest.close()
            end = await client.get()
            assert (end.type, end.status, end.payload) == (packet.STREAM, packet.CONTINUE, b"")
            await client.send(packet.pack_stream(call, packet.OK))
            assert (await client.get()).status == packet.OK
            assert console.closed

    asyncio.run(run())


def test_an_abort_is_confirmed(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            call, console = await opened(it, client)
            await client.send(packet.pack_stream(call, packet.ERROR))
            end = await client.get()
            assert (end.type, end.status, end.payload) == (packet.STREAM, packet.OK, b"")
            assert console.closed

    asyncio.run(run())


def test_somebody_else_takes_the_console(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            call, console = await opened(it, client)
            console.on_closed()
            end = await client.get()
            assert (end.status, end.payload) == (packet.CONTINUE, b"")
            await client.send(packet.pack_stream(call, packet.OK))
            assert (await client.get()).status == packet.OK

    asyncio.run(run())


def test_a_client_that_goes_closes_its_streams(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it:
            async with it.connect() as client:
                _, console = await opened(it, client)
            await until(lambda: console.closed)

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 262120, 3_000_000])
def test_much_data_arrives_whole(tmp_path: Path, size: int) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            loop = asyncio.get_running_loop()
            call, console = await opened(it, client)
            data = os.urandom(size)
            sending = asyncio.ensure_future(loop.sock_sendall(console.guest, data))
            got = b""
            while len(got) < size:
                part = (await client.get()).payload
                assert 0 < len(part) <= packet.STREAM_CHUNK
                got += part
            await sending
            assert got == data

            async def up() -> None:
                for start in range(0, size, 262144):
                    chunk = data[start : start + 262144]
                    await client.send(packet.pack_stream(call, packet.CONTINUE, chunk))
                await client.send(packet.pack_stream(call, packet.OK))

            sending = asyncio.ensure_future(up())
            got = b""
            while len(got) < size:
                got += await loop.sock_recv(console.guest, 1 << 20)
            assert got == data
            await sending
            assert (await client.get()).status == packet.OK

    asyncio.run(run())


def test_a_guest_that_does_not_read_throttles_its_client(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client, it.connect() as other:
            call, console = await opened(it, client)
            chunk = packet.pack_stream(call, packet.CONTINUE, bytes(200_000))
            sending = asyncio.ensure_future(client.send(chunk * 200))
            (busy,) = (each for each in it.server.clients if each.streams)
            await until(lambda: busy._throttling)
            assert await other.call("CONNECT_GET_LIB_VERSION") == (9000000,)
            assert not sending.done()
            got = 0
            while got < 200 * 200_000:
                got += len(await asyncio.get_running_loop().sock_recv(console.guest, 1 << 20))
            await sending
            assert await client.call("CONNECT_GET_LIB_VERSION") == (9000000,)

    asyncio.run(run())


def test_a_console_taken_while_its_client_finishes(tmp_path: Path) -> None:
    """What the guest has not read by then is lost, and the client is told that it is done all the same."""

    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            call, console = await opened(it, client)
            await client.send(packet.pack_stream(call, packet.CONTINUE, bytes(900_000)))
            await client.send(packet.pack_stream(call, packet.OK))
            (stream,) = (stream for each in it.server.clients for stream in each.streams.values())
            await until(lambda: getattr(stream, "_finishing", False))
            console.on_closed()
            assert (await client.get()).status == packet.CONTINUE
            assert (await client.get()).status == packet.OK
            assert console.closed

    asyncio.run(run())


def test_a_file_whose_client_goes_before_it_has_read_it(tmp_path: Path) -> None:
    async def run() -> None:
        big = tmp_path / "file"
        big.write_bytes(bytes(4 << 20))
        ended: list[bool] = []
        async with running(tmp_path) as it:
            async with it.connect() as client:
                call, _ = await opened(it, client)
                (busy,) = it.server.clients
                fd = os.open(big, os.O_RDONLY)
                stream = FileStream(busy, call, fd, lambda: ended.append(True))
                busy.streams[call.serial + 1] = stream
                stream.start()
                await until(lambda: busy.unsent > OUTPUT_HIGH)
                task = stream._task
            assert task is not None
            stream.end()
            async with asyncio.timeout(PATIENCE):
                await task
            assert ended == [True]
            os.close(fd)

    asyncio.run(run())


def test_a_hole_in_a_stream_without_holes_ends_the_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            call, console = await opened(it, client)
            await client.send(packet.pack_hole(call, 4096))
            assert await client.eof()
            assert console.closed

    asyncio.run(run())


def _with_fds(program: int, procedure: int, type_: int = packet.CALL_WITH_FDS) -> bytes:
    return packet.pack(program, 1, procedure, type_, 50, packet.OK, packet.pack_fd_count(1))


@pytest.mark.parametrize(("ready", "readonly"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize(
    "unwanted",
    [
        pytest.param(packet.pack_call(VERSION, 50, b"", fds=1), id="call without descriptors"),
        pytest.param(packet.pack_call(GRAPHICS, 50, b"", fds=1), id="arguments that are none"),
        pytest.param(_with_fds(protocol.REMOTE, 9999), id="no such call"),
        pytest.param(_with_fds(protocol.KEEPALIVE, packet.PING_PROCEDURE), id="ping"),
        pytest.param(_with_fds(protocol.REMOTE, 1, packet.REPLY_WITH_FDS), id="reply"),
    ],
)
def test_descriptors_nobody_wants_are_closed(
    tmp_path: Path, unwanted: bytes, ready: bool, readonly: bool
) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect(ready=ready, readonly=readonly) as client:
            readable, writable = os.pipe()
            client.sock.setblocking(True)
            client.sock.send(unwanted)
            socket.send_fds(client.sock, [b"\0"], [writable])
            client.sock.setblocking(False)
            os.close(writable)
            if ready and not readonly:
                assert await client.receive() is not None
            else:  # none is taken from a stranger, nor from one who only reads
                assert await client.eof()
            # The daemon had the only other end; with that closed the pipe is at its end.
            os.set_blocking(readable, False)
            assert os.read(readable, 1) == b""
            os.close(readable)

    asyncio.run(run())


def test_promised_descriptors_that_do_not_come(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            procedure = protocol.remote().by_name["CONNECT_GET_LIB_VERSION"]
            await client.send(packet.pack_call(procedure, 50, b"", fds=1) + b"\0")
            assert await client.eof()

    asyncio.run(run())


@pytest.mark.parametrize(("ready", "readonly"), [(False, False), (True, True)])
def test_who_may_change_nothing_takes_no_descriptors_of_the_daemons(
    tmp_path: Path, ready: bool, readonly: bool
) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect(ready=ready, readonly=readonly) as client:
            readable, writable = os.pipe()
            client.sock.setblocking(True)
            socket.send_fds(client.sock, [b"\0"], [writable] * 30)
            client.sock.setblocking(False)
            os.close(writable)
            async with asyncio.timeout(10):
                ended = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().add_reader(readable, ended.set_result, None)
                await ended
            asyncio.get_running_loop().remove_reader(readable)
            assert os.read(readable, 1) == b""
            os.close(readable)

    asyncio.run(run())


def test_a_packet_that_is_long_and_only_reads(tmp_path: Path) -> None:
    """Anybody may connect there, and an unfinished packet is kept."""

    async def run() -> None:
        async with running(tmp_path) as it, it.connect(readonly=True) as client:
            call = packet.pack_call(protocol.remote().by_name["CONNECT_COMPARE_CPU"], 50)
            await client.send(struct.pack(">I", 2 << 20) + call[4:])
            assert await client.eof()
        async with running(tmp_path) as it, it.connect() as client:
            with pytest.raises(QvirtError):
                await client.call("CONNECT_COMPARE_CPU", "x" * (2 << 20), 0)

    asyncio.run(run())
