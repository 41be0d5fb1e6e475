"""TLS: who is let in, by which client; certificates renewed under way; bad company that nobody notices."""

import asyncio
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.client import tls
from qvirt.client import uri as uris
from qvirt.client.aio import Connection
from qvirt.errors import AuthFailed, QvirtError
from qvirt.net.authority import Authority
from tests.support.carried import carry_all
from tests.support.daemon import Daemon, make_root, virsh, wait_until
from tests.support.remote import Pki, Port, days_from_now, listening_daemon, write_settings

pytestmark = pytest.mark.virsh

REFUSED = "Unable to read TLS confirmation: Input/output error"
"""What libvirt's client says when its certificate was not liked, by libvirtd and by us."""


class Site:
    """A daemon that listens for TLS, and the certificates of all who come."""

    def __init__(self, daemon: Daemon, pki: Pki, port: int) -> None:
        self.daemon, self.pki, self.port = daemon, pki, port

    def uri(self, client: Path, host: str = "localhost", more: str = "") -> str:
        return f"qemu://{host}:{self.port}/system?pkipath={client}{more}"

    def log_from(self, start: int) -> str:
        return self.daemon.log.read_text()[start:]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def site(pki: Pki) -> Iterator[Site]:
    with Port() as port, listening_daemon(f'tls_port = "{port.number}"\n' + pki.settings()) as daemon:
        yield Site(daemon, pki, port.number)


@pytest.fixture(scope="module")
def good(pki: Pki) -> Path:
    return pki.client("admin")


async def ask(uri: str) -> str:
    async with asyncio.timeout(60), await Connection.open(uri) as connection:
        return await connection.type()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_virsh_works_as_at_home(site: Site, good: Path, host: str) -> None:
    done = virsh(site.uri(good, host), "list", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert "<capabilities>" in virsh(site.uri(good, host), "capabilities").stdout


@pytest.mark.parametrize(
    "more", ["", "&tls_priority=NORMAL:-VERS-TLS1.3", "&tls_priority=NORMAL:-VERS-TLS1.2"]
)
def test_our_client_works_as_at_home(site: Site, good: Path, more: str) -> None:
    assert asyncio.run(ask(site.uri(good, more=more))) == "QEMU"


@pytest.mark.qemu
def test_one_connection_carries_all(site: Site, good: Path) -> None:
    asyncio.run(carry_all(site.uri(good)))


def test_one_version_of_tls_only(pki: Pki, good: Path) -> None:
    with Port() as port:
        settings = f'tls_port = "{port.number}"\ntls_priority = "NORMAL:-VERS-TLS1.2"\n' + pki.settings()
        with listening_daemon(settings) as daemon:
            site = Site(daemon, pki, port.number)
            assert virsh(site.uri(good), "uri").returncode == 0
            older = site.uri(good, more="&tls_priority=NORMAL:-VERS-TLS1.3")
            assert virsh(older, "uri").returncode == 1
            with pytest.raises(QvirtError, match="protocol version"):
                asyncio.run(ask(older))


KINDS = {
    "nobody": "it has presented no certificate",
    "late": "certificate has expired",
    "early": "certificate is not yet valid",
    "alien": "unable to get local issuer certificate|presented no certificate",
    "server-only": "unsuitable certificate purpose",
    "revoked": "The certificate has been revoked: 'O=Tests,CN=revoked'",
}


@pytest.fixture(scope="module")
def clients(pki: Pki) -> dict[str, Path]:
    return {
        "nobody": pki.nobody(),
        "late": pki.client("late", days=1, begin=days_from_now(-3)),
        "early": pki.client("early", days=1, begin=days_from_now(3)),
        "alien": pki.client("alien", by=pki.stranger()),
        "server-only": pki.client("server-only", purpose="server", critical=True),
        "revoked": pki.client("revoked", revoked=True),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", ["virsh", "ours"])
def test_who_is_refused(pki: Pki, clients: dict[str, Path], site: Site, kind: str, client: str) -> None:
    # the list of the revoked may be newer than the daemon
    start = site.daemon.log.stat().st_size
    uri = site.uri(clients[kind], more="&no_sanity=1")
    assert site.daemon.process is not None
    site.daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "certificates were read again" in site.log_from(start), "the list is read")
    if client == "virsh":
        done = virsh(uri, "uri")
        assert done.returncode == 1
        assert REFUSED in done.stderr
    else:
        with pytest.raises(QvirtError, match=REFUSED):
            asyncio.run(ask(uri))
    wait_until(lambda: "is refused" in site.log_from(start), "the refusal is in the log")
    (line,) = [line for line in site.log_from(start).splitlines() if "is refused" in line]
    assert "<Client tls 127.0.0.1:" in line
    assert any(reason in line for reason in KINDS[kind].split("|")), line


def test_a_client_looks_at_the_server(site: Site, good: Path, pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match=r"Failed to verify peer's certificate: .*127\.0\.0\.2"):
        asyncio.run(ask_by(site, good, "127.0.0.2"))
    for name in ("clientcert.pem", "clientkey.pem"):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    other = Authority.create(tmp_path / "ca", "Another authority")
    (tmp_path / "cacert.pem").write_bytes((other.folder / "cacert.pem").read_bytes())
    with pytest.raises(QvirtError, match=r"Our own certificate .* failed validation"):
        asyncio.run(ask(site.uri(tmp_path)))
    with pytest.raises(AuthFailed, match="Failed to verify peer's certificate"):
        asyncio.run(ask(site.uri(tmp_path, more="&no_sanity=1")))
    assert asyncio.run(ask(site.uri(tmp_path, more="&no_sanity=1&no_verify=1"))) == "QEMU"


async def ask_by(site: Site, client: Path, host: str) -> None:
    """Reach the daemon under a name its certificate does not have, by a relay."""
    target = uris.parse(site.uri(client, host))
    sock = socket.create_connection(("127.0.0.1", site.port))
    sock.setblocking(False)
    await tls.secure(sock, target, *tls.prepare(target, None))


def test_names_on_a_list(pki: Pki, good: Path) -> None:
    stranger = pki.client("somebody")
    with Port() as port:
        settings = f'tls_port = "{port.number}"\ntls_allowed_dn_list = ["O=Tests,CN=ad*"]\n' + pki.settings()
        with listening_daemon(settings) as daemon:
            site = Site(daemon, pki, port.number)
            assert virsh(site.uri(good), "uri").returncode == 0
            assert REFUSED in virsh(site.uri(stranger), "uri").stderr
            words = "Distinguished Name is not on the list of allowed clients: 'O=Tests,CN=somebody'"
            wait_until(lambda: words in daemon.log.read_text(), words)


def test_nobody_is_verified_where_it_is_said_so(pki: Pki) -> None:
    folder = pki.folder / "unverified"
    folder.mkdir()
    (folder / "cacert.pem").write_bytes((pki.authority.folder / "cacert.pem").read_bytes())
    with Port() as port:
        settings = f'tls_port = "{port.number}"\ntls_no_verify_certificate = 1\n' + pki.settings()
        with listening_daemon(settings) as daemon:
            assert virsh(Site(daemon, pki, port.number).uri(folder), "uri").returncode == 0


def test_certificates_are_renewed_without_a_restart(pki: Pki, good: Path) -> None:
    def serial() -> bytes:
        context = ssl.create_default_context(cafile=str(pki.authority.folder / "cacert.pem"))
        context.load_cert_chain(good / "clientcert.pem", good / "clientkey.pem")
        with (
            socket.create_connection(("127.0.0.1", port.number)) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as session,
        ):
            assert session.recv(1) == b"\1"
            return session.getpeercert(binary_form=True) or b""

    async def stays(uri: str) -> None:
        async with await Connection.open(uri) as connection:
            before = await asyncio.to_thread(serial)
            pki.issue_server()
            await asyncio.to_thread(hang_up, "certificates were read")
            assert await asyncio.to_thread(serial) != before
            good_pem = (pki.server / "servercert.pem").read_bytes()
            now = await asyncio.to_thread(serial)
            pki.issue_server(days=1, begin=days_from_now(-3))
            await asyncio.to_thread(hang_up, "certificates stay as they were: The server certificate")
            assert await asyncio.to_thread(serial) == now
            (pki.server / "servercert.pem").write_bytes(good_pem)
            assert await connection.type() == "QEMU"

    def hang_up(words: str) -> None:
        start = daemon.log.stat().st_size
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: words in daemon.log.read_text()[start:], words)

    with Port() as port, listening_daemon(f'tls_port = "{port.number}"\n' + pki.settings()) as daemon:
        asyncio.run(stays(Site(daemon, pki, port.number).uri(good)))
    pki.issue_server()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('cert_file = "/x"\n', r"libvirtd.conf:2: cert_file: .*ca_file|No CA certificate path set"),
        ('tls_priority = "SECURE256"\n', r"libvirtd.conf:2: .*SECURE256"),
        ('tls_port = "no-such-service"\n', r"libvirtd.conf:2: tls_port: 'no-such-service' is neither"),
        ('auth_tls = "polkit"\n', r"libvirtd.conf:2: auth_tls: unsupported auth 'polkit'"),
        (
            "tls_allowed_dn_lst = []\n",
            r"libvirtd.conf:2: unknown setting .*did you mean 'tls_allowed_dn_list'",
        ),
        ("tcp_min_ssf = 1\n", r"libvirtd.conf:2: minimum SSF levels lower than 56"),
    ],
)
def test_settings_that_make_no_sense(settings: str, words: str) -> None:
    daemon = Daemon(make_root(), "--listen")
    try:
        write_settings(daemon, settings)
        done = daemon.run_to_the_end()
        assert done.returncode == 1
        assert re.search(words, done.stderr), done.stderr
    finally:
        daemon.clean()


@pytest.mark.parametrize("flaw", ["missing", "expired", "key", "plain"])
def test_a_daemon_that_cannot_be_reached_does_not_start(tmp_path: Path, flaw: str) -> None:
    pki = Pki(tmp_path)
    words = {
        "missing": "Cannot read server certificate",
        "expired": "has expired",
        "key": "Unable to set x509 key and certificate",
        "plain": "Unable to import CA certificate /",
    }[flaw]
    if flaw == "missing":
        (pki.server / "servercert.pem").unlink()
    elif flaw == "expired":
        pki.issue_server(days=1, begin=days_from_now(-3))
    elif flaw == "key":
        other = pki.client("other")
        (pki.server / "serverkey.pem").write_bytes((other / "clientkey.pem").read_bytes())
    else:
        (pki.server / "cacert.pem").write_text("nothing of use\n")
    with Port() as port:
        daemon = Daemon(make_root(), "--listen")
        try:
            write_settings(daemon, f'tls_port = "{port.number}"\n' + pki.settings())
            done = daemon.run_to_the_end()
            assert done.returncode == 1
            assert words in done.stderr
        finally:
            daemon.clean()


def test_a_certificate_nobody_looks_at(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    client = pki.client("admin")
    pki.issue_server(days=1, begin=days_from_now(-3))
    with Port() as port:
        settings = f'tls_port = "{port.number}"\ntls_no_sanity_certificate = 1\n' + pki.settings()
        with listening_daemon(settings) as daemon:
            uri = Site(daemon, pki, port.number).uri(client)
            assert "authentication failed: Failed to verify peer's certificate" in virsh(uri, "uri").stderr
            with pytest.raises(AuthFailed, match=r"Failed to verify peer's certificate: .*has expired"):
                asyncio.run(ask(uri))
            assert virsh(f"{uri}&no_verify=1", "uri").returncode == 0
            assert asyncio.run(ask(f"{uri}&no_verify=1")) == "QEMU"


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6")
def test_the_other_family(pki: Pki, good: Path) -> None:
    pki.issue_server(hosts=["127.0.0.1", "::1"])
    daemon = Daemon(make_root(), "--listen", "--verbose")
    try:
        with Port("::1") as port:
            write_settings(daemon, f'tls_port = "{port.number}"\n' + pki.settings(), address="::1")
            daemon.start()
            uri = f"qemu://[::1]:{port.number}/system?pkipath={good}"
            assert virsh(uri, "uri").stdout.strip() == uri
            assert asyncio.run(ask(uri)) == "QEMU"
            assert virsh(uri.replace(str(good), "/no/such"), "uri").returncode == 1
            # the log tells addresses and ports apart
            with socket.create_connection(("::1", port.number)) as sock:
                sock.sendall(bytes(28))
                words = f"<Client tls [::1]:{sock.getsockname()[1]}> is refused"
                wait_until(lambda: words in daemon.log.read_text(), words)
    finally:
        daemon.clean()
