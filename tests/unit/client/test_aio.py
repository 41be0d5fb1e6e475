"""The asyncio client against a daemon that answers as told."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from qvirt.client.aio import Connection
from qvirt.client.events import Event
from qvirt.client.session import STREAM_HIGH_WATER
from qvirt.errors import AuthFailed, InternalError, NoSupport, OperationFailed, QvirtError, RpcError
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Packet
from tests.unit.client.fake_daemon import FakeDaemon, Peer

REMOTE = protocol.remote()
DOM = ("vm", bytes(16), 3)


def converse(
    daemon: FakeDaemon, directory: Path, work: Callable[[Connection], Awaitable[None]], **options: Any
) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(20),
            daemon.listening(directory) as uri,
            await Connection.open(uri, **options) as connection,
        ):
            await work(connection)

    asyncio.run(main())


def lifecycle(callback: int, event: int, detail: int) -> bytes:
    procedure = REMOTE.by_number[protocol.event_ids("domain")[0].callback]
    assert procedure.msg
    return packet.pack_event(procedure, procedure.msg.encode((callback, (DOM, event, detail))))


def test_open_sequence(tmp_path: Path) -> None:
    daemon = FakeDaemon()

    async def work(connection: Connection) -> None:
        assert connection.uri.startswith("qemu:///system?socket=")

    converse(daemon, tmp_path, work, readonly=True)
    assert daemon.calls == [
        ("AUTH_LIST", ()),
        ("CONNECT_SUPPORTS_FEATURE", (10,)),
        ("CONNECT_OPEN", ("qemu:///system", 1)),
        ("CONNECT_SUPPORTS_FEATURE", (14,)),
        ("CONNECT_CLOSE", ()),
    ]


def test_polkit(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["AUTH_LIST"] = lambda peer, call: ([2],)
    daemon.handlers["AUTH_POLKIT"] = lambda peer, call: (1,)

    async def work(connection: Connection) -> None:
        assert connection.is_alive

    converse(daemon, tmp_path, work)
    assert daemon.calls[1][0] == "AUTH_POLKIT"


def test_an_authentication_we_do_not_have(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["AUTH_LIST"] = lambda peer, call: ([7],)

    async def work(connection: Connection) -> None:
        raise AssertionError("opened")

    with pytest.raises(AuthFailed, match="unsupported authentication type 7"):
        converse(daemon, tmp_path, work)


def test_replies_may_overtake(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    held: list[Packet] = []

    def hold(peer: Peer, call: Packet) -> None:
        held.append(call)
        if len(held) == 2:
            for number, late in enumerate(reversed(held)):
                peer.send(
                    packet.pack_reply(late, REMOTE.by_number[late.procedure].encode_ret((f"host{number}",)))
                )

    daemon.handlers["CONNECT_GET_HOSTNAME"] = hold

    async def work(connection: Connection) -> None:
        first, second = await asyncio.gather(connection.hostname(), connection.hostname())
        assert (first, second) == ("host1", "host0")

    converse(daemon, tmp_path, work)


def test_an_unknown_procedure_is_not_supported(tmp_path: Path) -> None:
    async def work(connection: Connection) -> None:
        with pytest.raises(NoSupport, match="unknown procedure: 6"):
            await connection.node_info()

    converse(FakeDaemon(), tmp_path, work)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\1",
        b"\xff\xff\xff\xff",
        packet.pack(protocol.REMOTE, 1, 59, packet.REPLY, 999, packet.OK),
        packet.pack(protocol.REMOTE, 1, 59, packet.CALL, 0, packet.OK),
        packet.pack_event(REMOTE.by_number[318], b"short"),
    ],
)
def test_a_daemon_that_breaks_the_protocol_is_left(tmp_path: Path, data: bytes) -> None:
    daemon = FakeDaemon()
    daemon.handlers["CONNECT_GET_HOSTNAME"] = lambda peer, call: peer.send(data)

    async def work(connection: Connection) -> None:
        with pytest.raises(RpcError):
            await connection.hostname()
        assert not connection.is_alive
        assert isinstance(await connection.wait_closed(), RpcError)

    converse(daemon, tmp_path, work)


def test_a_malformed_reply_fails_its_call_alone(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["CONNECT_GET_HOSTNAME"] = lambda peer, call: peer.send(
        packet.pack_reply(call, b"\xff\xff\xff\xff")
    )

    async def work(connection: Connection) -> None:
        with pytest.raises(RpcError, match="Unable to decode message payload"):
            await connection.hostname()
        assert await connection.supports_feature(8)

    converse(daemon, tmp_path, work)


def test_a_cancelled_call_disturbs_nobody(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    held: list[tuple[Peer, Packet]] = []
    daemon.handlers["CONNECT_GET_HOSTNAME"] = lambda peer, call: held.append((peer, call))
    daemon.handlers["CONNECT_GET_TYPE"] = lambda peer, call: ("QEMU",)

    async def work(connection: Connection) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.hostname(), 0.05)
        peer, call = held[0]
        peer.send(packet.pack_reply(call, REMOTE.by_number[call.procedure].encode_ret(("late",))))
        assert await connection.type() == "QEMU"

    converse(daemon, tmp_path, work)


def test_the_end_fails_calls_streams_and_events(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"] = lambda peer, call, event, dom: (7,)
    daemon.handlers["DOMAIN_OPEN_CONSOLE"] = lambda peer, call, dom, name, flags: ()
    daemon.handlers["CONNECT_GET_HOSTNAME"] = lambda peer, call: peer.hang_up()

    async def work(connection: Connection) -> None:
        events = await connection.subscribe("domain", "LIFECYCLE")
        stream = await connection.stream("DOMAIN_OPEN_CONSOLE", dom=DOM, dev_name=None)
        waiting = asyncio.ensure_future(stream.read())
        for failing in (connection.hostname(), anext(events), waiting, stream.write(b"x"), stream.finish()):
            with pytest.raises(QvirtError, match="End of file while reading data"):
                await failing

    converse(daemon, tmp_path, work)


def test_an_event_right_behind_the_registrations_reply(tmp_path: Path) -> None:
    daemon = FakeDaemon()

    def register(peer: Peer, call: Packet, event: int, dom: Any) -> None:
        reply = packet.pack_reply(call, REMOTE.by_number[call.procedure].encode_ret((7,)))
        peer.send(reply + lifecycle(7, 2, 0) + lifecycle(99, 5, 5) + lifecycle(7, 5, 1))

    daemon.handlers["CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"] = register
    daemon.handlers["CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY"] = lambda peer, call, callback: ()

    async def work(connection: Connection) -> None:
        async with await connection.subscribe("domain", "LIFECYCLE") as events:
            first, second = await anext(events), await anext(events)
            assert (first.name, first.subject.name, first.values.event) == ("LIFECYCLE", "vm", 2)
            assert (second.values.event, second.values.detail) == (5, 1)
            assert await events.next(0.01) is None
            again = await connection.subscribe("domain", 0)
            await again.close()
        assert await events.next() is None

    converse(daemon, tmp_path, work)
    names = [name for name, _ in daemon.calls]
    assert names.count("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY") == 1
    assert ("CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", (7,)) in daemon.calls


def test_a_callback_that_raises_harms_nobody(tmp_path: Path) -> None:
    daemon = FakeDaemon()

    def register(peer: Peer, call: Packet, event: int, dom: Any) -> None:
        reply = packet.pack_reply(call, REMOTE.by_number[call.procedure].encode_ret((7,)))
        peer.send(reply + lifecycle(7, 2, 0) + lifecycle(7, 5, 1))

    daemon.handlers["CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"] = register

    async def work(connection: Connection) -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reported.append(context["exception"])
        )

        def fail(event: Event) -> None:
            raise ZeroDivisionError(event.values.event)

        await connection.subscribe("domain", "LIFECYCLE", callback=fail)
        assert await connection.supports_feature(8)
        assert [str(error) for error in reported] == ["2", "5"]

    converse(daemon, tmp_path, work)


def test_newer_events_have_their_fields_by_name(tmp_path: Path) -> None:
    daemon = FakeDaemon()

    def register(peer: Peer, call: Packet, event: int, dom: Any) -> tuple[int]:
        procedure = REMOTE.by_number[protocol.event_ids("domain")[event].callback]
        assert procedure.msg
        peer_data = packet.pack_event(procedure, procedure.msg.encode((1, DOM, "vda", None, 10, 20)))
        asyncio.get_running_loop().call_soon(peer.send, peer_data)
        return (1,)

    daemon.handlers["CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"] = register

    async def work(connection: Connection) -> None:
        events = await connection.subscribe("domain", "block-threshold")
        event = await anext(events)
        assert (event.values.dev, event.values.path, event.values.excess) == ("vda", None, 20)
        assert event.values[1:] == ("vda", None, 10, 20)
        with pytest.raises(AttributeError, match="no field 'detail', only dom, dev, path, threshold, excess"):
            _ = event.values.detail

    converse(daemon, tmp_path, work)


def test_pings_are_answered_unasked(tmp_path: Path) -> None:
    daemon = FakeDaemon()

    async def work(connection: Connection) -> None:
        daemon.peers[0].send(packet.PING)
        pong = await daemon.peers[0].until(lambda item: item.program == protocol.KEEPALIVE)
        assert pong.procedure == packet.PONG_PROCEDURE

    converse(daemon, tmp_path, work, keepalive=None)
    assert ("CONNECT_SUPPORTS_FEATURE", (10,)) not in daemon.calls


def test_a_daemon_that_answers_no_ping_is_given_up(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["CONNECT_GET_HOSTNAME"] = lambda peer, call: None

    async def work(connection: Connection) -> None:
        with pytest.raises(InternalError, match="connection closed due to keepalive timeout"):
            await connection.hostname()
        pings = [item for item in daemon.peers[0].received if item.program == protocol.KEEPALIVE]
        assert len(pings) == 2

    converse(daemon, tmp_path, work, keepalive=(0.05, 2))


def test_stream_both_ways(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["DOMAIN_OPEN_CONSOLE"] = lambda peer, call, dom, name, flags: ()

    async def work(connection: Connection) -> None:
        peer = daemon.peers[0]
        stream = await connection.stream("DOMAIN_OPEN_CONSOLE", dom=DOM, dev_name=None)
        call = next(item for item in peer.received if item.procedure == 201)
        peer.send(packet.pack_stream(call, packet.CONTINUE, b"hello") + packet.pack_hole(call, 70000))
        peer.send(packet.pack_stream(call, packet.CONTINUE))
        assert await stream.read() == b"hello"
        assert len(await stream.read()) + len(await stream.read()) == 70000
        assert await stream.read() == b""
        data = os.urandom(700000)
        await stream.write(data)
        await stream.write_hole(5)
        finishing = asyncio.ensure_future(stream.finish())
        finish = await peer.until(lambda item: item.type == packet.STREAM and item.status == packet.OK)
        assert finish.serial == call.serial
        sent = [
            item for item in peer.received if item.type == packet.STREAM and item.status == packet.CONTINUE
        ]
        assert b"".join(item.payload for item in sent) == data
        assert max(len(item.payload) for item in sent) <= 262120
        assert not finishing.done()
        peer.send(packet.pack_stream(call, packet.OK))
        await finishing
        peer.send(packet.pack_stream(call, packet.CONTINUE, b"late data of a closed stream"))
        with pytest.raises(QvirtError, match="closed"):
            await stream.write(b"x")
        assert await connection.supports_feature(8)

    converse(daemon, tmp_path, work)


def test_a_stream_that_fails_gives_what_came_before(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["DOMAIN_OPEN_CONSOLE"] = lambda peer, call, dom, name, flags: ()

    async def work(connection: Connection) -> None:
        peer = daemon.peers[0]
        stream = await connection.stream("DOMAIN_OPEN_CONSOLE", dom=DOM, dev_name=None)
        call = next(item for item in peer.received if item.procedure == 201)
        peer.send(packet.pack_stream(call, packet.CONTINUE, b"before"))
        peer.send(packet.pack_stream_error(call, OperationFailed("broken")))
        assert await stream.read() == b"before"
        for failing in (stream.read(), stream.write(b"x"), stream.finish()):
            with pytest.raises(OperationFailed, match="broken"):
                await failing

    converse(daemon, tmp_path, work)


def test_an_exception_in_the_block_aborts_the_stream(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["DOMAIN_OPEN_CONSOLE"] = lambda peer, call, dom, name, flags: ()

    async def work(connection: Connection) -> None:
        peer = daemon.peers[0]

        async def confirm() -> None:
            abort = await peer.until(lambda item: item.type == packet.STREAM and item.status == packet.ERROR)
            peer.send(packet.pack_stream(abort, packet.OK))

        confirming = asyncio.ensure_future(confirm())
        with pytest.raises(ZeroDivisionError):
            async with await connection.stream("DOMAIN_OPEN_CONSOLE", dom=DOM, dev_name=None):
                raise ZeroDivisionError
        await confirming

    converse(daemon, tmp_path, work)


def test_a_stream_nobody_reads_stops_the_socket_and_not_the_calls(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    daemon.handlers["STORAGE_VOL_DOWNLOAD"] = lambda peer, call, *args: ()
    daemon.handlers["CONNECT_GET_TYPE"] = lambda peer, call: ("QEMU",)
    chunk = bytes(262120)
    count = 4 * STREAM_HIGH_WATER // len(chunk)

    async def work(connection: Connection) -> None:
        peer = daemon.peers[0]
        vol = ("pool", "vol", "key")
        stream = await connection.stream("STORAGE_VOL_DOWNLOAD", vol=vol, offset=0, length=0)
        call = next(item for item in peer.received if item.procedure == 209)
        for _ in range(count):
            peer.send(packet.pack_stream(call, packet.CONTINUE, chunk))
        peer.send(packet.pack_stream(call, packet.CONTINUE))
        session = connection._session
        while session._resume is None:  # noqa: ASYNC110 - the pause is nothing anybody is told of
            await asyncio.sleep(0.01)
        assert session._unread < 2 * STREAM_HIGH_WATER
        assert await connection.type() == "QEMU"
        received = 0
        while data := await stream.read():
            received += len(data)
        assert received == count * len(chunk)

    converse(daemon, tmp_path, work)


def test_the_client_needs_no_compiled_package() -> None:
    script = (
        "import sys\n"
        "for name in ('lxml', 'uvloop'): sys.modules[name] = None\n"
        "import qvirt.client.aio, qvirt.client.blocking, qvirt.cli.main, qvirt.cli.ssh_helper\n"
        "allowed = ('client', 'cli', 'rpc', 'net', 'errors', 'constants', 'record')\n"
        "print([it for it in sys.modules if it.startswith('qvirt.') and it.split('.')[1] not in allowed])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
