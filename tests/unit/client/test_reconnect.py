"""A client that comes back: what becomes of calls, streams and events, and when it gives up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qvirt.client.aio import Connection
from qvirt.client.events import Event
from qvirt.client.reconnect import Reconnect
from qvirt.constants.common import ConnectCloseReason
from qvirt.errors import AuthFailed, InvalidArg, NoDomain, OperationTimeout, QvirtError
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Packet
from tests.unit.client.fake_daemon import FakeDaemon, Peer

REMOTE = protocol.remote()
REGISTER = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
DEREGISTER = "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY"
DOM = ("vm", bytes(16), 3)
SOON = Reconnect(delay=0.01, longest=0.05, patience=10)
EOF = "End of file while reading data"


class Registrar:
    """A daemon's registrations: another number each time, so that an old one means nothing."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.last = 6
        daemon.handlers[REGISTER] = self.register
        daemon.handlers[DEREGISTER] = lambda peer, call, callback: ()
        daemon.handlers["CONNECT_GET_TYPE"] = lambda peer, call: ("QEMU",)

    def register(self, peer: Peer, call: Packet, event: int, dom: Any) -> tuple[int]:
        self.last += 1
        return (self.last,)


def lifecycle(callback: int, event: int) -> bytes:
    procedure = REMOTE.by_number[protocol.event_ids("domain")[0].callback]
    assert procedure.msg
    return packet.pack_event(procedure, procedure.msg.encode((callback, (DOM, event, 0))))


def count(daemon: FakeDaemon, name: str) -> int:
    return sum(called == name for called, _ in daemon.calls)


@asynccontextmanager
async def conversing(daemon: FakeDaemon, directory: Path, how: Reconnect = SOON) -> AsyncIterator[Connection]:
    async with (
        asyncio.timeout(20),
        daemon.listening(directory) as uri,
        await Connection.open(uri, reconnect=how) as connection,
    ):
        yield connection


async def lose(daemon: FakeDaemon, connection: Connection) -> None:
    """Hang up, and wait until the client knows."""
    lost = asyncio.Event()

    def closed(it: Connection, why: int, error: QvirtError | None) -> None:
        lost.set()

    connection.register_close_callback(closed)
    daemon.peers[-1].hang_up()
    await lost.wait()
    connection.unregister_close_callback(closed)


def test_a_call_under_way_fails_and_is_not_made_again(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    Registrar(daemon)
    daemon.handlers["DOMAIN_CREATE"] = lambda peer, call, dom: peer.hang_up()
    daemon.handlers["DOMAIN_OPEN_CONSOLE"] = lambda peer, call, dom, name, flags: ()

    async def main() -> None:
        async with conversing(daemon, tmp_path) as connection:
            stream = await connection.stream("DOMAIN_OPEN_CONSOLE", dom=DOM, dev_name=None)
            for failing in (connection.call("DOMAIN_CREATE", dom=DOM), stream.read()):
                with pytest.raises(QvirtError, match=EOF):
                    await failing
            assert not connection.is_alive
            # Made while there is no daemon, these have run nowhere: they wait.
            answers = await asyncio.gather(*(connection.type() for _ in range(3)))
            assert answers == ["QEMU"] * 3
            assert connection.is_alive

    asyncio.run(main())
    assert count(daemon, "DOMAIN_CREATE") == count(daemon, "DOMAIN_OPEN_CONSOLE") == 1
    assert count(daemon, "CONNECT_OPEN") == 2
    assert count(daemon, "CONNECT_CLOSE") == 1


def test_events_are_registered_again(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    registrar = Registrar(daemon)

    async def main() -> None:
        async with conversing(daemon, tmp_path) as connection:
            told: list[tuple[Any, ...]] = []
            back = asyncio.Event()
            connection.register_close_callback(lambda it, why, error: told.append((it, why, str(error))))
            connection.register_reopen_callback(lambda it: back.set())
            first = await connection.subscribe("domain", "LIFECYCLE")
            second = await connection.subscribe("domain", "LIFECYCLE")
            gone = await connection.subscribe("domain", "REBOOT")
            daemon.peers[0].send(lifecycle(7, 2))
            assert (await anext(first)).values.event == 2
            await lose(daemon, connection)
            # While it is away nobody need be told, and an old number means nothing later.
            await gone.close()
            await back.wait()
            assert [why for _, why, _ in told] == [ConnectCloseReason.EOF]
            assert EOF in told[0][2]
            daemon.peers[1].send(lifecycle(7, 99) + lifecycle(registrar.last, 5))
            assert (await anext(first)).values.event == 5
            assert [(await anext(second)).values.event for _ in range(2)] == [2, 5]
            assert (first.gaps, gone.gaps) == (1, 0)
            await first.close()
            await second.close()
        assert told[-1][1:] == (ConnectCloseReason.CLIENT, "None")

    asyncio.run(main())
    assert [args for name, args in daemon.calls if name == DEREGISTER] == [(registrar.last,)]


def test_a_callback_goes_on(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    registrar = Registrar(daemon)

    async def main() -> None:
        seen: asyncio.Queue[Event] = asyncio.Queue()
        async with conversing(daemon, tmp_path) as connection:
            await connection.subscribe("domain", "LIFECYCLE", callback=seen.put_nowait)
            for _ in range(3):
                await lose(daemon, connection)
                assert await connection.type() == "QEMU"
                daemon.peers[-1].send(lifecycle(registrar.last, 4))
                assert (await seen.get()).values.event == 4

    asyncio.run(main())


def test_who_unsubscribes_or_subscribes_in_between(tmp_path: Path) -> None:
    """Whatever the moment, the daemon ends with what is wanted."""
    daemon = FakeDaemon()
    registrar = Registrar(daemon)
    slow = asyncio.Event()

    async def main() -> None:
        async with conversing(daemon, tmp_path) as connection:
            one = await connection.subscribe("domain", "LIFECYCLE")

            async def register_late(peer: Peer, call: Packet, event: int, dom: Any) -> tuple[int]:
                if event == 0:
                    slow.set()
                    await closed.wait()
                return registrar.register(peer, call, event, dom)

            closed = asyncio.Event()
            daemon.handlers[REGISTER] = register_late
            daemon.peers[0].hang_up()
            await slow.wait()
            await one.close()
            late = asyncio.ensure_future(connection.subscribe("domain", "REBOOT"))
            closed.set()
            await (await late).close()
            assert await connection.type() == "QEMU"

    asyncio.run(main())
    assert [args for name, args in daemon.calls if name == DEREGISTER] == [(8,), (9,)]


def test_a_subscription_the_daemon_refuses_ends_alone(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    Registrar(daemon)

    async def main() -> None:
        async with conversing(daemon, tmp_path) as connection:
            one = await connection.subscribe("domain", "LIFECYCLE", DOM)
            daemon.handlers[REGISTER] = refuse
            daemon.peers[0].hang_up()
            with pytest.raises(NoDomain):
                await anext(one)
            assert await connection.type() == "QEMU"

    def refuse(peer: Peer, call: Packet, event: int, dom: Any) -> None:
        raise NoDomain("no domain with matching name 'vm'")

    asyncio.run(main())


def test_a_daemon_that_does_not_come_back(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    Registrar(daemon)

    async def main() -> None:
        async with asyncio.timeout(20):
            async with daemon.listening(tmp_path) as uri:
                how = Reconnect(delay=0.01, longest=0.02, patience=0.2)
                connection = await Connection.open(uri, reconnect=how)
                events = await connection.subscribe("domain", "LIFECYCLE")
                (tmp_path / "sock").unlink()
                await lose(daemon, connection)
            sentence = r"did not come back within 0.2 s: .*Failed to connect socket to "
            for failing in (connection.type(), anext(events), connection.type()):
                with pytest.raises(OperationTimeout, match=sentence):
                    await failing
            assert isinstance(await connection.wait_closed(), OperationTimeout)
            await connection.close()

    asyncio.run(main())


def test_a_daemon_that_says_no(tmp_path: Path) -> None:
    """It is asked once."""
    daemon = FakeDaemon()

    async def main() -> None:
        async with conversing(daemon, tmp_path) as connection:
            daemon.handlers["AUTH_LIST"] = lambda peer, call: ([7],)
            daemon.peers[0].hang_up()
            assert isinstance(await connection.wait_closed(), AuthFailed)

    asyncio.run(main())
    assert count(daemon, "AUTH_LIST") == 2


def test_a_daemon_that_takes_the_connection_and_says_nothing(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    Registrar(daemon)

    async def main() -> None:
        how = Reconnect(delay=0.01, longest=0.02, attempt=0.1, patience=10)
        async with conversing(daemon, tmp_path, how) as connection:
            mute: list[Peer] = []

            def nothing(peer: Peer, call: Packet) -> tuple[list[int]] | None:
                mute.append(peer)
                return None if len(mute) < 3 else ([0],)

            daemon.handlers["AUTH_LIST"] = nothing
            await lose(daemon, connection)
            assert await connection.type() == "QEMU"
            assert len(mute) == 3
            for peer in mute[:2]:
                # Those attempts are gone.
                await peer._writer.wait_closed()

    asyncio.run(main())


def test_closed_while_it_is_away(tmp_path: Path) -> None:
    daemon = FakeDaemon()
    Registrar(daemon)

    async def main() -> None:
        async with asyncio.timeout(20):
            async with daemon.listening(tmp_path) as uri:
                connection = await Connection.open(uri, reconnect=SOON)
                events = await connection.subscribe("domain", "LIFECYCLE")
                await lose(daemon, connection)
            waiting = asyncio.ensure_future(connection.type())
            await asyncio.sleep(0)
            await connection.close()
            assert await connection.wait_closed() is None
            with pytest.raises(QvirtError, match="client socket is closed"):
                await waiting
            assert await events.next() is None
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_without_it_the_end_is_the_end(tmp_path: Path) -> None:
    daemon = FakeDaemon()

    async def main() -> None:
        async with asyncio.timeout(20), daemon.listening(tmp_path) as uri:
            connection = await Connection.open(uri)
            told: asyncio.Queue[int] = asyncio.Queue()

            def closed(it: Connection, why: int, error: QvirtError | None) -> None:
                told.put_nowait(why)

            connection.register_close_callback(closed)
            daemon.peers[0].hang_up()
            assert await told.get() == ConnectCloseReason.EOF
            with pytest.raises(QvirtError, match=EOF):
                await connection.type()
            connection.unregister_close_callback(closed)
            with pytest.raises(InvalidArg, match="this close callback is not registered"):
                connection.unregister_close_callback(closed)
            await connection.close()
        assert len(daemon.peers) == 1

    asyncio.run(main())


@pytest.mark.parametrize("flaw", ["delay", "longest", "attempt", "patience"])
def test_values_that_make_no_sense(flaw: str) -> None:
    with pytest.raises(InvalidArg, match=f"reconnect: {flaw} is 0, expected more than 0 seconds"):
        asyncio.run(Connection.open("qemu:///system", reconnect=Reconnect(**{flaw: 0.0})))


def test_attempts_become_rarer() -> None:
    times: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def attempt() -> None:
            times.append(loop.time())
            raise QvirtError("away")

        with pytest.raises(OperationTimeout):
            await Reconnect(delay=0.01, longest=0.16, patience=0.6).again(attempt, "it")

    asyncio.run(main())
    assert 4 <= len(times) <= 10
    assert times[-1] - times[-2] > times[1] - times[0]
