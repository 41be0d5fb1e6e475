"""A client that comes back to a daemon which was killed, whatever carried the connection."""

import asyncio
import os
import signal
from collections.abc import Iterator
from uuid import uuid4

import pytest

from qvirt.client.aio import Connection
from qvirt.client.reconnect import Reconnect
from qvirt.errors import NoDomain, QvirtError
from tests.support.daemon import Daemon
from tests.support.remote import Pki, Port, listening_daemon
from tests.wire.guests import guest_xml

HOW = Reconnect(delay=0.05, longest=0.5, patience=60)


class Site:
    """A daemon that is killed as often as tests want, and where it is found."""

    def __init__(self, daemon: Daemon, uris: dict[str, str]) -> None:
        self.daemon, self.uris = daemon, uris


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    with Port() as tls:
        settings = f'tls_port = "{tls.number}"\n{pki.settings()}'
        with listening_daemon(settings) as daemon:
            by_tls = f"qemu://localhost:{tls.number}/system?pkipath={pki.client('admin')}"
            yield Site(daemon, {"unix": daemon.uri, "tls": by_tls})


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_a_daemon_that_is_killed(site: Site, transport: str) -> None:
    name = f"back-{uuid4().hex[:8]}"

    async def main() -> None:
        back, lost = asyncio.Event(), asyncio.Event()
        async with (
            asyncio.timeout(90),
            await Connection.open(site.uris[transport], reconnect=HOW) as connection,
            await connection.subscribe("domain", "LIFECYCLE") as events,
        ):
            connection.register_close_callback(lambda it, why, error: lost.set())
            connection.register_reopen_callback(lambda it: back.set())
            domain = await connection.define_xml(guest_xml(name))
            assert (await anext(events)).subject.name == name

            # Stopped, it has the call and never runs it; the client cannot know and must not ask again.
            assert site.daemon.process is not None
            os.kill(site.daemon.process.pid, signal.SIGSTOP)
            under_way = asyncio.ensure_future(domain.undefine())
            await asyncio.sleep(0)
            await asyncio.to_thread(site.daemon.kill)
            with pytest.raises(QvirtError, match=r"End of file|Connection reset|Broken pipe"):
                await under_way
            await lost.wait()
            waiting = asyncio.ensure_future(connection.type())
            await asyncio.to_thread(site.daemon.start)
            await back.wait()

            assert await waiting == "QEMU"
            assert (await connection.lookup_by_name(name)).uuid == domain.uuid
            assert events.gaps == 1
            await domain.undefine()
            assert (await anext(events)).subject.name == name
            with pytest.raises(NoDomain):
                await connection.lookup_by_name(name)

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_a_daemon_that_is_restarted_again_and_again(site: Site, transport: str) -> None:
    """Many callers at once: each of their calls is answered or fails, and all are there at the end."""

    async def main() -> None:
        over = asyncio.Event()
        answered = failed = 0

        async def ask(connection: Connection) -> None:
            nonlocal answered, failed
            while not over.is_set():
                try:
                    assert await connection.type() == "QEMU"
                    answered += 1
                except QvirtError:
                    failed += 1

        async with (
            asyncio.timeout(90),
            await Connection.open(site.uris[transport], reconnect=HOW) as connection,
            asyncio.TaskGroup() as callers,
        ):
            opened = 0

            def reopened(it: Connection) -> None:
                nonlocal opened
                opened += 1
                back.set()

            connection.register_reopen_callback(reopened)
            for _ in range(5):
                callers.create_task(ask(connection))
            for _ in range(3):
                back = asyncio.Event()
                before = answered
                await asyncio.to_thread(site.daemon.stop)
                await asyncio.to_thread(site.daemon.start)
                await back.wait()
                while answered < before + 10:
                    await connection.type()
            over.set()
        assert opened == 3
        # Whoever had a call under way, and no more: the others waited.
        assert failed <= 3 * 5

    asyncio.run(main())
