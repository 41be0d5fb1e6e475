"""Lines that drip, that are long, go silent or are cut: who has one is slow alone, and nothing piles up."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.daemons import resident
from qvirt.client.aio import Connection
from qvirt.client.reconnect import Reconnect
from qvirt.errors import QvirtError
from qvirt.rpc import packet
from tests.support.daemon import Daemon
from tests.support.raw import Raw
from tests.support.relay import Relay
from tests.support.remote import Pki, Port, listening_daemon

HOW = Reconnect(delay=0.05, longest=0.5, patience=60)


class Site:
    """A daemon by TCP without authentication, and by TLS."""

    def __init__(self, daemon: Daemon, ports: dict[str, int], client: Path) -> None:
        self.daemon, self.ports, self.client = daemon, ports, client

    def uri(self, transport: str, port: int) -> str:
        pki = f"?pkipath={self.client}" if transport == "tls" else ""
        return f"qemu+{transport}://localhost:{port}/system{pki}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    with Port() as tls, Port() as tcp:
        settings = (
            f'tls_port = "{tls.number}"\nlisten_tcp = 1\ntcp_port = "{tcp.number}"\nauth_tcp = "none"\n'
            f"keepalive_interval = 1\nkeepalive_count = 3\n{pki.settings()}"
        )
        with listening_daemon(settings) as daemon:
            yield Site(daemon, {"tls": tls.number, "tcp": tcp.number}, pki.client("admin"))


async def ask(uri: str, times: int) -> None:
    async with asyncio.timeout(60), await Connection.open(uri) as connection:
        for _ in range(times):
            assert await connection.type() == "QEMU"


def test_a_line_that_drips(site: Site) -> None:
    """Megabytes are owed to who can take two KiB a second: they wait outside, and all come in the end."""
    assert site.daemon.process is not None
    pid = site.daemon.process.pid
    count = 150
    with Relay(site.ports["tcp"], rate=None) as relay, Raw(relay.port) as slow:
        slow.call("AUTH_LIST")
        slow.call("CONNECT_OPEN", "qemu:///system", 0)
        size = len(slow.call("CONNECT_GET_CAPABILITIES").payload)
        assert size * count > 4 << 20
        asyncio.run(ask(site.daemon.uri, 100))
        before = resident(pid)
        relay.rate = 2048
        slow.sock.settimeout(120)
        for _ in range(count):
            slow.send("CONNECT_GET_CAPABILITIES")
        for transport, port in site.ports.items():
            asyncio.run(ask(site.uri(transport, port), 200))
        asyncio.run(ask(site.daemon.uri, 200))
        # MiB: what one client may be owed, and what an allocator keeps; all of it would be more.
        assert resident(pid) < before + 3
        relay.rate = None
        answers = [slow.receive() for _ in range(count)]
    assert {answer.status for answer in answers} == {packet.OK}
    assert {len(answer.payload) for answer in answers} == {size}
    assert len({answer.serial for answer in answers}) == count


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_long_line(site: Site, transport: str) -> None:
    """Calls that need not wait for each other share the way; each of our client's is answered."""
    with Relay(site.ports[transport], delay=0.05) as relay:

        async def main() -> None:
            uri = site.uri(transport, relay.port)
            async with asyncio.timeout(60), await Connection.open(uri) as connection:
                answers = await asyncio.gather(*(connection.type() for _ in range(200)))
                assert answers == ["QEMU"] * 200
                assert "<capabilities>" in await connection.capabilities()

        asyncio.run(main())


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("end", ["cut", "silence"])
def test_a_line_that_ends(site: Site, transport: str, end: str) -> None:
    """In the middle of an answer: the call fails, and the next goes another way."""
    with Relay(site.ports[transport]) as relay:

        async def main() -> None:
            uri = site.uri(transport, relay.port)
            async with (
                asyncio.timeout(60),
                await Connection.open(uri, keepalive=(1.0, 2), reconnect=HOW) as connection,
            ):
                assert "<capabilities>" in await connection.capabilities()
                relay.rate = 2048
                under_way = asyncio.ensure_future(connection.capabilities())
                await asyncio.sleep(0)
                getattr(relay, end)()
                with pytest.raises(QvirtError):
                    await under_way
                relay.rate = None
                assert "<capabilities>" in await connection.capabilities()

        asyncio.run(main())
