"""Those who come to harm: floods, half-done connections, garbage, old protocols; nobody else notices."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.daemons import resident
from qvirt.client.aio import Connection
from tests.support.daemon import Daemon, wait_until
from tests.support.raw import Raw
from tests.support.remote import Pki, Port, listening_daemon

STRANGER = "127.0.0.66"
"""Another host, as far as the daemon can see."""


class Site:
    """A daemon that listens for TLS, and for TCP without any authentication."""

    def __init__(self, daemon: Daemon, tls: int, tcp: int, client: Path, pki: Pki) -> None:
        self.daemon, self.tls, self.tcp, self.client, self.pki = daemon, tls, tcp, client, pki

    @property
    def uri(self) -> str:
        return f"qemu://localhost:{self.tls}/system?pkipath={self.client}"

    def said(self, start: int) -> str:
        return self.daemon.log.read_text()[start:]

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.client / "cacert.pem"))
        context.load_cert_chain(self.client / "clientcert.pem", self.client / "clientkey.pem")
        return context


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    with Port() as tls, Port() as tcp:
        settings = (
            f'tls_port = "{tls.number}"\nlisten_tcp = 1\ntcp_port = "{tcp.number}"\nauth_tcp = "none"\n'
            f"max_clients = 200\n{pki.settings()}"
        )
        with listening_daemon(settings) as daemon:
            yield Site(daemon, tls.number, tcp.number, pki.client("admin"), pki)


async def ask(uri: str, times: int = 1) -> None:
    async with asyncio.timeout(60), await Connection.open(uri) as connection:
        for _ in range(times):
            assert await connection.type() == "QEMU"


@contextlib.contextmanager
def crowd(port: int, count: int, first: bytes = b"") -> Iterator[None]:
    """Keep connections of another host half done for a block, each one made anew when it is dropped."""
    over = threading.Event()

    def come() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), Raw(port, STRANGER) as raw:
                raw.sock.settimeout(0.2)
                raw.sock.sendall(first)
                while not over.is_set():
                    with contextlib.suppress(TimeoutError):
                        if raw.sock.recv(100) == b"":
                            break

    threads = [threading.Thread(target=come) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00"], ids=["silent", "half a handshake"])
def test_a_crowd_at_the_door(site: Site, first: bytes) -> None:
    assert site.daemon.process is not None
    for uri in (site.uri, site.daemon.uri):
        asyncio.run(ask(uri))
    before = resident(site.daemon.process.pid)
    start = site.daemon.log.stat().st_size
    with crowd(site.tls, 60, first):
        wait_until(
            lambda: f"{STRANGER} lets connections lie about half done" in site.said(start), "it is noticed"
        )
        for uri in (site.uri, site.daemon.uri) * 5:
            asyncio.run(ask(uri, 20))
    assert resident(site.daemon.process.pid) < before + 16


def test_a_flood_of_refused_certificates(site: Site) -> None:
    """Each is in the log with its reason, while others work on."""
    start = site.daemon.log.stat().st_size
    context = ssl.create_default_context(cafile=str(site.client / "cacert.pem"))
    count = 100

    def flood() -> None:
        for _ in range(count):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", site.tls), 60, (STRANGER, 0)) as sock,
                context.wrap_socket(sock, server_hostname="localhost") as session,
            ):
                session.recv(1)

    thread = threading.Thread(target=flood)
    thread.start()
    for uri in (site.uri, site.daemon.uri) * 3:
        asyncio.run(ask(uri, 20))
    thread.join()
    words = re.compile(rf"<Client tls {re.escape(STRANGER)}:\d+> is refused: it has presented no certificate")
    wait_until(lambda: len(words.findall(site.said(start))) == count, "all are in the log")


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "handshake failed: http request"),
        (bytes(28), "handshake failed"),
        (b"\x16\x03\x01\xff\xff" + bytes(200), "handshake failed"),
    ],
    ids=["http", "no TLS", "a record that is too long"],
)
def test_plain_text_where_tls_is_spoken(site: Site, first: bytes, words: str) -> None:
    start = site.daemon.log.stat().st_size
    with Raw(site.tls) as raw:
        raw.sock.sendall(first)
        raw.sock.settimeout(60)
        while not raw.is_closed():
            pass
    wait_until(lambda: words in site.said(start), "it is in the log")
    assert "<Client tls 127.0.0.1:" in site.said(start)


def test_a_version_nobody_should_speak(site: Site) -> None:
    start = site.daemon.log.stat().st_size
    context = site.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", site.tls), 60) as sock,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol version|no protocols"),
    ):
        context.wrap_socket(sock, server_hostname="localhost")
    wait_until(lambda: "unsupported protocol" in site.said(start), "it is in the log")


@pytest.mark.parametrize("bad", [b"\xff\xff\xff\xff" + bytes(24), bytes(28), os.urandom(4096)])
def test_garbage_inside_tls(site: Site, bad: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", site.tls), 60) as sock,
        site.context().wrap_socket(sock, server_hostname="localhost") as session,
    ):
        assert session.recv(1) == b"\1"
        session.sendall(bad)
        with contextlib.suppress(OSError):
            while session.recv(65536):
                pass
    asyncio.run(ask(site.uri))


def test_a_cut_line_inside_tls(site: Site) -> None:
    """Bytes changed on the way end the connection."""
    start = site.daemon.log.stat().st_size
    sock = socket.create_connection(("127.0.0.1", site.tls), 60)
    session = site.context().wrap_socket(sock, server_hostname="localhost")
    assert session.recv(1) == b"\1"
    with socket.socket(fileno=os.dup(session.fileno())) as under:
        under.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with contextlib.suppress(OSError):
        while session.recv(65536):
            pass
    session.close()
    wait_until(lambda: "is refused: TLS: " in site.said(start), "it is in the log")


def test_a_client_that_does_not_read(site: Site) -> None:
    """It asks for much and takes nothing: what it is owed is bounded, and it waits alone."""
    assert site.daemon.process is not None
    asyncio.run(ask(site.daemon.uri))
    with Raw(site.tcp, STRANGER) as raw:
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.call("AUTH_LIST")
        raw.call("CONNECT_OPEN", "qemu:///system", 0)
        raw.call("CONNECT_GET_CAPABILITIES")
        before = resident(site.daemon.process.pid)
        raw.sock.setblocking(False)
        request, sent = raw.pack("CONNECT_GET_CAPABILITIES") * 200, 0
        with contextlib.suppress(BlockingIOError):
            while sent < 50 << 20:
                sent += raw.sock.send(request)
        asyncio.run(ask(site.daemon.uri, 100))
        asyncio.run(ask(site.uri, 100))
        assert resident(site.daemon.process.pid) < before + 24


def test_as_many_as_there_may_be(tmp_path: Path) -> None:
    with Port() as tcp:
        settings = (
            f'listen_tls = 0\nlisten_tcp = 1\ntcp_port = "{tcp.number}"\nauth_tcp = "none"\nmax_clients = 3\n'
        )
        with listening_daemon(settings):
            uri = f"qemu+tcp://localhost:{tcp.number}/system"

            async def work() -> None:
                async with asyncio.timeout(60):
                    inside = [await Connection.open(uri) for _ in range(3)]
                    waiting = asyncio.ensure_future(Connection.open(uri))
                    for _ in range(3):
                        assert await inside[0].type() == "QEMU"
                    assert not waiting.done()
                    await inside.pop().close()
                    inside.append(await waiting)
                    for connection in inside:
                        assert await connection.type() == "QEMU"
                        await connection.close()

            asyncio.run(work())
