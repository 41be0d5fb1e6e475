"""Our client against the system's libvirtd, and against qvirtd."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from qvirt.client import blocking
from qvirt.client.aio import Connection
from qvirt.client.domain import Domain
from qvirt.constants.domain import DomainCreateFlags, DomainState
from qvirt.errors import InvalidArg, NoDomain, OperationInvalid, QvirtError, SystemError_
from tests.wire.guests import guest_xml

LIMIT = 60.0


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LIMIT):
            await work

    asyncio.run(bounded())


@asynccontextmanager
async def defined(connection: Connection, devices: str = "") -> AsyncIterator[Domain]:
    domain = await connection.define_xml(guest_xml(f"qt-{uuid4().hex[:8]}", devices))
    try:
        yield domain
    finally:
        if await domain.is_active():
            await domain.destroy()
        await domain.undefine()


def test_open_ask_close(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri) as connection:
            assert await connection.type() == "QEMU"
            assert await connection.lib_version() >= 9000000
            assert await connection.version() >= 7000000
            assert await connection.hostname()
            assert "<capabilities>" in await connection.capabilities()
            assert (await connection.node_info()).cpus == os.cpu_count()
            assert connection.is_alive
        assert not connection.is_alive
        with pytest.raises(QvirtError, match="client socket is closed"):
            await connection.type()

    run(work())


def test_many_calls_at_once(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri) as connection:
            answers = await asyncio.gather(
                *(connection.lib_version() for _ in range(300)), connection.capabilities()
            )
            assert len(set(answers[:300])) == 1

    run(work())


def test_errors_have_their_class(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri) as connection:
            with pytest.raises(
                NoDomain, match="Domain not found: no domain with matching name 'none'"
            ) as caught:
                await connection.lookup_by_name("none")
            assert (caught.value.code, caught.value.domain) == (42, 10)
            with pytest.raises(InvalidArg, match="DOMAIN_LOOKUP_BY_NAME has no argument nam"):
                await connection.call("DOMAIN_LOOKUP_BY_NAME", nam="x")
            with pytest.raises(InvalidArg, match="needs name"):
                await connection.call("DOMAIN_LOOKUP_BY_NAME")
            with pytest.raises(InvalidArg, match="no procedure 'NOPE'"):
                await connection.call("NOPE")
            assert (await connection.list_all_domains()) is not None

    run(work())


def test_read_only(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri + "-ro", readonly=True) as connection:
            with pytest.raises(QvirtError, match="read only access prevents virDomainDefineXML"):
                await connection.define_xml(guest_xml("never"))

    run(work())


def test_life_of_a_domain_with_its_events(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri) as connection, defined(connection) as domain:
            seen: list[tuple[int, int]] = []
            async with await connection.subscribe("domain", "LIFECYCLE", domain) as events:
                other = await connection.subscribe(
                    "domain", 0, domain, lambda event: seen.append((event.values.event, event.values.detail))
                )
                assert await domain.state() == (DomainState.SHUTOFF, 0)
                await domain.create()
                assert domain.id > 0
                assert (await domain.state())[0] == DomainState.RUNNING
                with pytest.raises(OperationInvalid):
                    await domain.create()
                assert (await domain.info()).vcpus == 1
                assert f"<name>{domain.name}</name>" in await domain.xml_desc()
                await domain.destroy()
                first = await anext(events)
                assert (first.kind, first.name, first.subject.name) == ("domain", "LIFECYCLE", domain.name)
                got = [(first.values.event, first.values.detail)]
                while got[-1] != (5, 1):
                    event = await anext(events)
                    got.append((event.values.event, event.values.detail))
                assert (2, 0) in got
                await asyncio.sleep(0)  # callbacks run in the loop's next turn
                await other.close()
                assert seen == got
            again = await connection.lookup_by_uuid(domain.uuid)
            assert again == domain
            assert again in await connection.list_all_domains()

    run(work())


def test_every_domain_event_can_be_subscribed_to(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri) as connection:
            subscriptions = [await connection.subscribe("domain", number) for number in range(27)]
            subscriptions.append(await connection.subscribe("monitor", ""))
            for subscription in subscriptions:
                await subscription.close()

    run(work())


def test_network_events_can_be_subscribed_to(libvirtd_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(libvirtd_uri) as connection:
            await (await connection.subscribe("network", "LIFECYCLE")).close()

    run(work())


def test_console_stream(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri) as connection, defined(connection) as domain:
            # Nobody keeps what a guest says before its console is open.
            await domain.create(DomainCreateFlags.START_PAUSED)
            async with await domain.open_console() as console:
                await domain.resume()
                text = b""
                while b"SeaBIOS" not in text:
                    text += await console.read()
                await console.write(b"x")

    run(work())


@asynccontextmanager
async def volume(connection: Connection, directory: Path, size: int) -> AsyncIterator[Any]:
    xml = f"<pool type='dir'><name>p{uuid4().hex[:8]}</name><target><path>{directory}</path></target></pool>"
    pool = (await connection.call("STORAGE_POOL_CREATE_XML", xml=xml)).pool
    try:
        xml = f"<volume><name>v</name><capacity>{size}</capacity><allocation>0</allocation></volume>"
        yield (await connection.call("STORAGE_VOL_CREATE_XML", pool=pool, xml=xml)).vol
    finally:
        await connection.call("STORAGE_POOL_DESTROY", pool=pool)


def test_upload_and_download(libvirtd_uri: str, tmp_path: Path) -> None:
    content = os.urandom(3_000_001)

    async def work() -> None:
        async with (
            await Connection.open(libvirtd_uri) as connection,
            volume(connection, tmp_path, len(content)) as vol,
        ):
            async with await connection.stream("STORAGE_VOL_UPLOAD", vol=vol, offset=0, length=0) as stream:
                await stream.write(content)
            assert (tmp_path / "v").read_bytes()[: len(content)] == content
            async with await connection.stream(
                "STORAGE_VOL_DOWNLOAD", vol=vol, offset=0, length=len(content)
            ) as stream:
                received = bytearray()
                while data := await stream.read():
                    received += data
            assert bytes(received) == content

    run(work())


def test_sparse_streams_keep_their_holes(libvirtd_uri: str, tmp_path: Path) -> None:
    size = 8 << 20

    async def work() -> None:
        async with (
            await Connection.open(libvirtd_uri) as connection,
            volume(connection, tmp_path, size) as vol,
        ):
            async with await connection.stream(
                "STORAGE_VOL_UPLOAD", vol=vol, offset=0, length=0, flags=1
            ) as stream:
                await stream.write(b"a" * 65536)
                await stream.write_hole(size - 65536 - 4096)
                await stream.write(b"b" * 4096)
            assert (tmp_path / "v").stat().st_blocks * 512 < size // 2
            pieces: list[Any] = []
            async with await connection.stream(
                "STORAGE_VOL_DOWNLOAD", vol=vol, offset=0, length=0, flags=1
            ) as stream:
                while piece := await stream.receive():
                    pieces.append(piece)
            holes = sum(piece.length for piece in pieces if not isinstance(piece, bytes))
            data = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
            assert holes + data == size
            assert holes >= size // 2

    run(work())


def test_a_stream_that_fails(libvirtd_uri: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            await Connection.open(libvirtd_uri) as connection,
            volume(connection, tmp_path, 4096) as vol,
        ):
            stream = await connection.stream("STORAGE_VOL_UPLOAD", vol=vol, offset=0, length=10)
            await stream.write(b"more than ten bytes")
            with pytest.raises(QvirtError, match="stream"):
                await stream.finish()
            missing = await connection.stream("STORAGE_VOL_DOWNLOAD", vol=vol, offset=0, length=0)
            await missing.abort()
            assert await connection.type() == "QEMU"

    run(work())


def test_a_connection_closed_by_the_daemon_fails_what_waits(tmp_path: Path) -> None:
    async def work() -> None:
        path = str(tmp_path / "sock")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(28)
            writer.close()

        async with await asyncio.start_unix_server(serve, path):
            with pytest.raises(SystemError_, match="End of file while reading data: Input/output error"):
                await Connection.open(f"qemu:///system?socket={path}")

    run(work())


def test_descriptors_travel_both_ways(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri) as connection, defined(connection) as domain:
            await domain.create()
            _, fds = await connection.call_with_fds("DOMAIN_OPEN_GRAPHICS_FD", dom=domain.handle, idx=0)
            (fd,) = fds
            with socket.socket(fileno=fd) as vnc:
                vnc.settimeout(LIMIT)
                assert vnc.recv(12).startswith(b"RFB ")
            ours, theirs = socket.socketpair()
            with ours, theirs:
                await connection.call_with_fds(
                    "DOMAIN_OPEN_GRAPHICS", [theirs.fileno()], dom=domain.handle, idx=0
                )
                ours.settimeout(LIMIT)
                assert ours.recv(12).startswith(b"RFB ")

    run(work())


def test_blocking_face(daemon_uri: str) -> None:
    with blocking.Connection.open(daemon_uri) as connection:
        assert connection.type() == "QEMU"
        domain = connection.define_xml(guest_xml(f"qt-{uuid4().hex[:8]}"))
        try:
            assert isinstance(domain.uuid, UUID)
            assert connection.lookup_by_name(domain.name) == domain
            assert domain in connection.list_all_domains()
            with connection.subscribe("domain", "LIFECYCLE", domain) as events:
                domain.create()
                assert events.next(LIMIT).subject.name == domain.name
            with domain.open_console() as console:
                console.write(b"x")
            domain.destroy()
        finally:
            domain.undefine()
        with pytest.raises(NoDomain):
            connection.lookup_by_name(domain.name)


def test_daemon_by_keepalive_still_there(daemon_uri: str) -> None:
    async def work() -> None:
        async with await Connection.open(daemon_uri, keepalive=(0.05, 3)) as connection:
            # Longer than the client would wait for an unanswered ping.
            ended = asyncio.ensure_future(connection.wait_closed())
            done, _ = await asyncio.wait([ended], timeout=0.6)
            assert not done
            ended.cancel()
            assert await connection.type() == "QEMU"

    run(work())
