"""Many calls at once, calls that wait, peers that do not read, keepalive, limits on clients, goodbyes."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from qvirt.daemon.auth import Authentication
from qvirt.daemon.client import Client
from qvirt.daemon.config import Config, Limits
from qvirt.daemon.server import Server
from qvirt.rpc import packet, protocol
from qvirt.runtime.events import Reboot
from tests.unit.daemon.fakes import PATIENCE, RawClient, running

VERSION = protocol.remote().by_name["CONNECT_GET_LIB_VERSION"]


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110 - what is waited for announces nothing
            await asyncio.sleep(0.005)


def test_replies_overtake_and_only_five_calls_run(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            slow = it.hypervisor.domains.add("slow")
            dom = (await client.call("DOMAIN_LOOKUP_BY_NAME", "slow"))[0]
            serials = [await client.start("DOMAIN_GET_XML_DESC", dom, 0) for _ in range(4)]
            await until(lambda: slow.waiting == 4)
            assert await client.call("CONNECT_GET_LIB_VERSION") == (9000000,)
            slow.gate.set()
            replies = sorted([(await client.get()).serial for _ in serials])
            assert replies == serials

    asyncio.run(run())


def test_pipelined_calls_are_all_answered(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            for count in (1, 2, 3000):
                calls = [packet.pack_call(VERSION, serial) for serial in range(1000, 1000 + count)]
                await client.send(b"".join(calls))
                serials = [(await client.get()).serial for _ in calls]
                assert serials == list(range(1000, 1000 + count))

    asyncio.run(run())


def test_a_call_in_pieces_is_answered_once_whole(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            for byte in packet.pack_call(VERSION, 77):
                await client.send(bytes([byte]))
            assert (await client.get()).serial == 77

    asyncio.run(run())


def test_a_client_that_never_reads_waits_for_itself_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as greedy, it.connect() as other:
            for number in range(2000):
                it.hypervisor.domains.add(f"domain-number-{number}")
            call = packet.pack_call(
                protocol.remote().by_name["CONNECT_LIST_ALL_DOMAINS"], 5, b"\0\0\0\1\0\0\0\0"
            )
            sending = asyncio.ensure_future(greedy.send(call * 100_000))
            await until(lambda: any(client.unsent for client in it.server.clients))
            for _ in range(20):
                assert await other.call("CONNECT_GET_LIB_VERSION") == (9000000,)
            owed = max(client.unsent for client in it.server.clients)
            assert owed < 2 << 20, "what is owed to it is bounded"
            assert not sending.done(), "its own calls are left with the kernel"
            # Once it reads, it gets on.
            for _ in range(50):
                assert (await greedy.get()).serial == 5
            sending.cancel()

    asyncio.run(run())


def test_events_nobody_reads_end_the_connection(tmp_path: Path) -> None:
    limits = Limits(output_max=1 << 20)

    async def run() -> None:
        async with running(tmp_path, limits=limits) as it, it.connect() as deaf, it.connect() as other:
            domain = it.hypervisor.domains.add("busy")
            await deaf.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", 1, None)
            for _ in range(100_000):
                it.hypervisor.events.publish(Reboot(domain.ref))
            await until(lambda: len(it.server.clients) == 1)
            assert await other.call("CONNECT_GET_LIB_VERSION") == (9000000,)

    asyncio.run(run())


def test_keepalive_is_answered_even_when_calls_wait(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, it.connect() as client:
            slow = it.hypervisor.domains.add("slow")
            dom = (await client.call("DOMAIN_LOOKUP_BY_NAME", "slow"))[0]
            for _ in range(20):
                await client.start("DOMAIN_GET_XML_DESC", dom, 0)
            await client.send(packet.PING)
            reply = await client.get()
            assert (reply.program, reply.procedure) == (protocol.KEEPALIVE, packet.PONG_PROCEDURE)
            slow.gate.set()
            for _ in range(20):
                assert (await client.get()).status == packet.OK

    asyncio.run(run())


def test_a_silent_client_is_pinged_and_given_up(tmp_path: Path) -> None:
    async def run() -> None:
        config = Config(keepalive_interval=1, keepalive_count=1)
        async with running(tmp_path, config) as it, it.connect(ready=False) as client:
            await client.call("AUTH_LIST")
            await client.call("CONNECT_SUPPORTS_FEATURE", 10)
            ping = await client.get()
            assert (ping.program, ping.procedure) == (protocol.KEEPALIVE, packet.PING_PROCEDURE)
            assert await client.eof()

    asyncio.run(run())


def test_close_is_answered_and_goodbye_is_said(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it:
            async with it.connect() as client:
                await client.call("CONNECT_CLOSE")
                assert await client.eof()
            async with it.connect() as told, it.connect() as untold:
                await told.call("CONNECT_REGISTER_CLOSE_CALLBACK")
                closing = asyncio.ensure_future(it.server.close())
                goodbye = await told.get()
                assert (goodbye.procedure, goodbye.type) == (362, packet.MESSAGE)
                assert goodbye.payload == b"\0\0\0\1"
                assert await told.eof()
                assert await untold.eof()
                await closing

    asyncio.run(run())


def test_a_thousand_connections(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it, contextlib.AsyncExitStack() as stack:
            clients = []
            for _ in range(1000):
                client = await RawClient.connect(tmp_path / "libvirt-sock")
                stack.callback(client.close)
                await client.start("AUTH_LIST")
                clients.append(client)
            for client in clients:
                assert (await client.get()).status == packet.OK
            assert len(it.server.clients) == 1000

    asyncio.run(run())


class StrictServer(Server):
    """Asks everybody on the ordinary socket to prove who they are, the superuser too."""

    def authentication_for(self, client: Client) -> Authentication:
        authentication = super().authentication_for(client)
        if not client.service.readonly:
            authentication.mode = "polkit"
        return authentication


def test_strangers_do_not_lock_the_door(tmp_path: Path) -> None:
    async def run() -> None:
        config = Config(max_anonymous_clients=3)
        limits = Limits(auth_crowded=0.2)
        async with running(tmp_path, config, limits, StrictServer) as it:
            strangers = [await RawClient.connect(tmp_path / "libvirt-sock") for _ in range(10)]
            async with it.connect(readonly=True) as client:
                assert await client.call("CONNECT_GET_LIB_VERSION") == (9000000,)
            for stranger in strangers:
                stranger.close()

    asyncio.run(run())


def test_the_limit_of_clients_holds_newcomers_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path, Config(max_clients=2)) as it:
            async with it.connect(), it.connect():
                third = await RawClient.connect(tmp_path / "libvirt-sock")
                await third.start("AUTH_LIST")
                await asyncio.sleep(0)
                assert len(it.server.clients) == 2
            assert (await third.get()).status == packet.OK
            third.close()

    asyncio.run(run())


def test_a_client_that_goes_takes_its_domains_along(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it:
            async with it.connect():
                (client,) = it.server.clients
                client.session.owns_domains = True
            await until(lambda: it.hypervisor.dropped)
            assert it.hypervisor.dropped == [client.session]

    asyncio.run(run())


def test_a_start_that_outlives_its_client_is_undone(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as it:
            slow = it.hypervisor.domains.add("slow")
            async with it.connect() as client:
                dom = (await client.call("DOMAIN_LOOKUP_BY_NAME", "slow"))[0]
                await client.start("DOMAIN_GET_XML_DESC", dom, 0)
                await until(lambda: slow.waiting)
                (served,) = it.server.clients
                served.session.owns_domains = True
            await until(lambda: len(it.hypervisor.dropped) == 1)
            slow.gate.set()
            await until(lambda: len(it.hypervisor.dropped) == 2)

    asyncio.run(run())
