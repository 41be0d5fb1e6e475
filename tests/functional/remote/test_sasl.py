"""SASL with passwords: on plain TCP with encryption of its own, inside TLS, on local sockets."""

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.client.aio import Connection
from qvirt.errors import AuthFailed, QvirtError
from qvirt.net.sasl import ClientExchange, Prompt, Properties, from_wire, to_wire
from qvirt.rpc import packet, protocol
from tests.support.carried import carry_all
from tests.support.daemon import Daemon, make_root, virsh, wait_until
from tests.support.raw import Raw
from tests.support.remote import Pki, Port, wait_for_log, write_settings
from tests.support.sasl import PASSWORD, add_user, auth_file, set_up_sasl

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.skipif(shutil.which("saslpasswd2") is None, reason="sasl2-bin is not installed"),
]

FAILED = "authentication failed: authentication failed"


class Site:
    """A daemon that wants passwords everywhere."""

    def __init__(self, daemon: Daemon, tcp: int, tls: int, client: Path) -> None:
        self.daemon, self.tcp = daemon, tcp
        self.uris = {
            "tcp": f"qemu+tcp://localhost:{tcp}/system",
            "tls": f"qemu://localhost:{tls}/system?pkipath={client}",
            "unix": daemon.uri,
        }

    def uri(self, transport: str, more: str) -> str:
        uri = self.uris[transport]
        return f"{uri}{'&' if '?' in uri else '?'}{more}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    daemon = Daemon(make_root(), "--listen", "--verbose")
    try:
        with Port() as tcp, Port() as tls:
            set_up_sasl(daemon, "scram-sha-256 digest-md5 plain")
            for name in ("fred", "joe"):
                add_user(daemon.root / "passwd.db", name, socket.gethostname())
            write_settings(
                daemon,
                f'listen_tcp = 1\ntcp_port = "{tcp.number}"\ntls_port = "{tls.number}"\nauth_tls = "sasl"\n'
                f'auth_unix_rw = "sasl"\nsasl_allowed_username_list = [ "fr*" ]\n{pki.settings()}',
            )
            yield Site(daemon.start(), tcp.number, tls.number, pki.client("admin"))
    finally:
        daemon.clean()


async def ask(uri: str) -> str:
    async with asyncio.timeout(60), await Connection.open(uri) as connection:
        assert "<capabilities>" in await connection.capabilities()
        return await connection.type()


CASES = [
    ("tcp", "DIGEST-MD5"),
    ("tls", "SCRAM-SHA-256"),
    ("tls", "DIGEST-MD5"),
    ("tls", "PLAIN"),
    ("unix", "SCRAM-SHA-256"),
    ("unix", "PLAIN"),
]


@pytest.mark.parametrize(("transport", "mechanism"), CASES)
def test_a_user_comes_in(site: Site, tmp_path: Path, transport: str, mechanism: str) -> None:
    start = site.daemon.log.stat().st_size
    file = auth_file(tmp_path / "auth.conf", "localhost", "fred")
    uri = site.uri(transport, f"auth=sasl.{mechanism}&authfile={file}")
    done = virsh(uri, "capabilities")
    assert (done.returncode, done.stderr) == (0, "")
    assert "<capabilities>" in done.stdout
    assert asyncio.run(ask(uri)) == "QEMU"
    bits = 128 if transport == "tcp" else 0
    wait_for_log(site.daemon, start, f"is 'fred', encryption of {bits} bits", 2)


@pytest.mark.qemu
def test_one_connection_carries_all(site: Site, tmp_path: Path) -> None:
    file = auth_file(tmp_path / "auth.conf", "localhost", "fred")
    asyncio.run(carry_all(site.uri("tcp", f"authfile={file}")))


@pytest.mark.parametrize("transport", ["tcp", "tls", "unix"])
def test_who_does_not_come_in(site: Site, tmp_path: Path, transport: str) -> None:
    for name, password, reason in (
        ("fred", "wrong", "SASL negotiation failed"),
        ("nobody", PASSWORD, "SASL negotiation failed"),
        ("joe", PASSWORD, "SASL client identity 'joe' not allowed by sasl_allowed_username_list"),
    ):
        start = site.daemon.log.stat().st_size
        file = auth_file(tmp_path / "auth.conf", "localhost", name, password)
        uri = site.uri(transport, f"authfile={file}")
        done = virsh(uri, "uri")
        assert done.returncode == 1
        assert "authentication failed" in done.stderr
        with pytest.raises(AuthFailed):
            asyncio.run(ask(uri))
        wait_for_log(site.daemon, start, reason, 2)


def test_plain_tcp_needs_encryption(site: Site, tmp_path: Path) -> None:
    file = auth_file(tmp_path / "auth.conf", "localhost", "fred")
    for mechanism in ("PLAIN", "SCRAM-SHA-256"):
        uri = site.uri("tcp", f"auth=sasl.{mechanism}&authfile={file}")
        words = f"SASL mechanism {mechanism} not supported by server"
        assert words in virsh(uri, "uri").stderr
        with pytest.raises(AuthFailed, match=words):
            asyncio.run(ask(uri))


def test_nobody_to_ask(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(AuthFailed, match="nobody knows the authname"):
        asyncio.run(ask(site.uris["tcp"]))
    asked = []

    async def work() -> str:
        def answer(prompt: object) -> str:
            asked.append(prompt)
            return {"authname": "fred", "password": PASSWORD}[prompt.name]  # type: ignore[attr-defined]

        async with await Connection.open(site.uris["tcp"], ask=answer) as connection:
            return await connection.type()

    assert asyncio.run(work()) == "QEMU"
    assert len(asked) == 2


def test_calls_out_of_order(site: Site) -> None:
    with Raw(site.tcp) as raw:
        assert raw.error("CONNECT_GET_TYPE") == "authentication required"
        assert raw.error("AUTH_SASL_STEP", 1, b"") == FAILED
        assert raw.error("AUTH_SASL_START", "DIGEST-MD5", 1, b"") == FAILED
        assert raw.error("AUTH_POLKIT") == "authentication failed: client tried invalid polkit init request"
        assert raw.call("AUTH_SASL_INIT").status == packet.OK
        assert raw.error("AUTH_SASL_STEP", 0, b"x") == FAILED
        assert raw.call("AUTH_SASL_INIT").status == packet.OK
        assert raw.error("AUTH_SASL_START", "NO-SUCH", 1, b"") == FAILED
        assert raw.call("AUTH_SASL_INIT").status == packet.OK
        assert raw.error("AUTH_SASL_INIT") == FAILED
        # Too often: dropped.
        raw.send("AUTH_SASL_INIT")
        wait_until(raw.is_closed, "the daemon closes")


def test_two_steps_at_once_are_one_too_many(site: Site) -> None:
    with Raw(site.tcp) as raw:
        for _ in range(3):
            raw.send("AUTH_SASL_INIT")
        answers = [raw.receive().status for _ in range(3)]
        assert sorted(answers) in ([0, 1, 1], [0, 0, 1])


@pytest.mark.parametrize("size", [1, 20000, 65536])
def test_garbage(site: Site, size: int) -> None:
    with Raw(site.tcp) as raw:
        raw.call("AUTH_SASL_INIT")
        raw.call("AUTH_SASL_START", "DIGEST-MD5", 1, b"")
        assert raw.error("AUTH_SASL_STEP", 0, os.urandom(size)) == FAILED


def test_an_authentication_larger_than_there_is(site: Site) -> None:
    with Raw(site.tcp) as raw:
        raw.sock.sendall((600 << 10).to_bytes(4) + bytes(600 << 10 >> 2))
        assert raw.is_closed()


def word(answer: packet.Packet, name: str) -> tuple[int, bytes | None]:
    """Read an answer of START or STEP: whether it is complete, and the word."""
    complete, nil, data = protocol.program(protocol.REMOTE).by_name[name].decode_ret(answer.payload)
    return complete, from_wire(nil, data)


def log_in(raw: Raw, last: bytes = b"") -> ClientExchange:
    """Log in with DIGEST-MD5; last: what is sent right behind the last word."""
    raw.call("AUTH_SASL_INIT")
    answers = {"authname": "fred", "password": PASSWORD}

    def answer(prompt: Prompt) -> str | None:
        return answers.get(prompt.name)

    client = ClientExchange("localhost", Properties.bare(56), answer, local="", remote="", external_ssf=0)
    name, _, first = client.start("DIGEST-MD5")
    _, challenge = word(raw.call("AUTH_SASL_START", name, *to_wire(first)), "AUTH_SASL_START")
    _, response = client.step(challenge)
    raw.sock.sendall(raw.pack("AUTH_SASL_STEP", *to_wire(response)) + last)
    complete, proof = word(raw.receive(), "AUTH_SASL_STEP")
    assert complete == 1
    client.step(proof)
    return client


def test_what_breaks_the_layer(site: Site) -> None:
    for bad in (b"\xff\xff\xff\xff", b"\0\0\0\x20" + bytes(32), (1 << 20).to_bytes(4) + bytes(100)):
        start = site.daemon.log.stat().st_size
        with Raw(site.tcp) as raw:
            client = log_in(raw)
            raw.sock.sendall(client.encode(raw.pack("CONNECT_OPEN", "qemu:///system", 0)))
            assert client.decode(raw.sock.recv(65536))
            raw.sock.sendall(bad)
            assert raw.is_closed()
        wait_for_log(site.daemon, start, "is refused: SASL")


def test_bytes_in_clear_behind_the_last_word(site: Site) -> None:
    """Somebody on the way may have put them there: they are not taken for the user's."""
    start = site.daemon.log.stat().st_size
    with Raw(site.tcp) as raw:
        half = raw.pack("CONNECT_OPEN", "qemu:///system", 0)[:20]
        log_in(raw, half)
        assert raw.is_closed()
    wait_for_log(site.daemon, start, "sent data in clear behind the end of its authentication")


def test_who_waits_for_nobody_elses_password(site: Site, tmp_path: Path) -> None:
    """Half-done exchanges from outside keep nobody in here from coming in."""
    file = auth_file(tmp_path / "auth.conf", "localhost", "fred")
    crowd = [Raw(site.tcp) for _ in range(40)]
    try:
        assert asyncio.run(ask(site.uri("unix", f"authfile={file}"))) == "QEMU"
        # and as soon as they are dropped, for having taken too long, others come in from outside
        assert asyncio.run(ask(site.uri("tcp", f"authfile={file}"))) == "QEMU"
    finally:
        for raw in crowd:
            raw.sock.close()


def test_a_daemon_without_passwords_still_says_no(tmp_path: Path) -> None:
    daemon = Daemon(make_root(), "--listen", "--verbose")
    try:
        with Port() as tcp:
            set_up_sasl(daemon, "scram-sha-256")
            write_settings(daemon, f'listen_tcp = 1\nlisten_tls = 0\ntcp_port = "{tcp.number}"\n')
            daemon.start()
            with pytest.raises(QvirtError, match="authentication failed"):
                asyncio.run(ask(f"qemu+tcp://localhost:{tcp.number}/system"))
            assert "authentication failed" in virsh(f"qemu+tcp://localhost:{tcp.number}/system", "uri").stderr
    finally:
        daemon.clean()
