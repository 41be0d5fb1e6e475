"""Authorities below an authority: chains of certificates, and who of them was revoked, by whose list.

Refused are those whom libvirtd refuses, and whoever a list is about that was not renewed.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.client.aio import Connection
from qvirt.errors import QvirtError
from tests.support.daemon import Daemon, wait_until
from tests.support.remote import Pki, Port, listening_daemon, wait_for_log

pytestmark = pytest.mark.virsh

REFUSED = "Unable to read TLS confirmation: Input/output error"
OLD = "revocation data are old and have been superseded: for 'O=Tests,CN=good' the list of 'CN=middle' counts"


class Site:
    """A daemon that knows the root alone; authorities below it have issued its certificate, and clients'."""

    def __init__(self, folder: Path) -> None:
        self.pki = Pki(folder)
        self.middle, self.fallen = self.pki.below("middle"), self.pki.below("fallen")
        self.pki.issue_server(by=self.middle)
        self.clients = {
            "good": self.pki.client("good", by=self.middle),
            "bad": self.pki.client("bad", by=self.middle, revoked=True),
            "orphan": self.pki.client("orphan", by=self.fallen),
            "near": self.pki.client("near"),
        }
        self.pki.authority.revoke(self.fallen.cert)
        self.lists = folder / "lists.pem"
        self.write_lists()
        self.daemon: Daemon
        self.port = 0

    def write_lists(self) -> None:
        """Write the lists of all authorities into the one file that libvirt reads."""
        folders = (self.pki.authority.folder, self.middle.folder, self.fallen.folder)
        self.lists.write_bytes(b"".join((folder / "cacrl.pem").read_bytes() for folder in folders))

    def reload(self) -> None:
        """Have the daemon read its files again."""
        start = self.daemon.log.stat().st_size
        assert self.daemon.process is not None
        self.daemon.process.send_signal(signal.SIGHUP)
        wait_for_log(self.daemon, start, "certificates were read again")

    def uri(self, client: str) -> str:
        return f"qemu://localhost:{self.port}/system?no_sanity=1&pkipath={self.clients[client]}"

    def refusal(self, start: int, words: str) -> str:
        """Wait for a line that tells of a refusal with these words, behind a place in the log.

        Those of earlier clients may still come.
        """

        def lines() -> list[str]:
            found = self.daemon.log.read_text()[start:].splitlines()
            return [line for line in found if "is refused" in line and words in line]

        wait_until(lambda: bool(lines()), f"the refusal is in the log: {words}")
        return lines()[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("pki"))
    with Port() as port:
        site.port = port.number
        settings = f'tls_port = "{port.number}"\n{site.pki.settings(crl=False)}crl_file = "{site.lists}"\n'
        with listening_daemon(settings) as site.daemon:
            yield site


def virsh(uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["virsh", "-q", "-c", uri, "uri"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},
    )


async def ask(uri: str) -> str:
    async with asyncio.timeout(60), await Connection.open(uri) as connection:
        return await connection.type()


@pytest.mark.parametrize("client", ["good", "near"])
def test_who_comes_in(site: Site, client: str) -> None:
    done = virsh(site.uri(client))
    assert (done.returncode, done.stderr) == (0, "")
    assert asyncio.run(ask(site.uri(client))) == "QEMU"


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ("bad", "The certificate has been revoked: 'O=Tests,CN=bad', serial "),
        ("orphan", ", which vouches for 'O=Tests,CN=orphan'"),
    ],
)
def test_who_does_not(site: Site, client: str, words: str) -> None:
    start = site.daemon.log.stat().st_size
    done = virsh(site.uri(client))
    assert done.returncode == 1
    assert REFUSED in done.stderr
    assert "<Client tls 127.0.0.1:" in site.refusal(start, words)
    with pytest.raises(QvirtError, match=REFUSED):
        asyncio.run(ask(site.uri(client)))


def test_a_list_that_was_not_renewed(site: Site) -> None:
    """It keeps those out whom it is about, and nobody else, until there is a new one."""
    site.middle.revoke(days=-0.001)
    site.write_lists()
    site.reload()
    start = site.daemon.log.stat().st_size
    assert REFUSED in virsh(site.uri("good")).stderr
    assert "<Client tls 127.0.0.1:" in site.refusal(start, OLD)
    assert virsh(site.uri("near")).returncode == 0
    site.middle.revoke()
    site.write_lists()
    site.reload()
    assert virsh(site.uri("good")).returncode == 0


def test_our_client_looks_at_the_servers_chain(site: Site, tmp_path: Path) -> None:
    folder = site.clients["near"]
    lists = folder / "cacrl.pem"
    old = (site.middle.folder / "cacrl.pem").read_bytes()
    try:
        lists.write_bytes(old)
        assert asyncio.run(ask(site.uri("near"))) == "QEMU"
        site.pki.authority.revoke(site.middle.cert)
        lists.write_bytes(old + (site.pki.authority.folder / "cacrl.pem").read_bytes())
        with pytest.raises(QvirtError, match=r"revoked: 'CN=middle', .*, which vouches for 'CN=localhost'"):
            asyncio.run(ask(site.uri("near")))
    finally:
        lists.unlink()
