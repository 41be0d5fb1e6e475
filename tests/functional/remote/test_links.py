"""Links that lose packets, or go dead without a word: two namespaces with a cable between them."""

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.daemon import PATIENCE, Daemon, make_root, wait_until
from tests.support.netns import Namespace, namespace
from tests.support.remote import Pki, write_settings

pytestmark = [
    pytest.mark.root,
    pytest.mark.virsh,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(not shutil.which("nft"), reason="nftables is not installed"),
]

HERE, THERE = "10.111.0.1", "10.111.0.2"
PORT = 16514

CLIENT = """
import asyncio, json, sys
from qvirt.client.aio import Connection
from qvirt.errors import QvirtError

def say(word):
    print(json.dumps(word), flush=True)

async def main():
    uri = sys.argv[1]
    loop = asyncio.get_running_loop()
    connection = await Connection.open(uri, keepalive=(1.0, 2))
    say("open")
    say(str(await connection.wait_closed()))
    while True:
        try:
            connection = await asyncio.wait_for(Connection.open(uri), 1)
            break
        except (QvirtError, TimeoutError):
            continue
    say(await connection.type())
    await connection.close()

asyncio.run(main())
"""

CALLS = """
import asyncio, sys
from qvirt.client.aio import Connection

async def main():
    async with await Connection.open(sys.argv[1]) as connection:
        for _ in range(20):
            assert "<capabilities>" in await connection.capabilities()
            await asyncio.gather(*(connection.lib_version() for _ in range(20)))
        print(await connection.type())

asyncio.run(main())
"""


class Site:
    """A daemon in one network, and another network beside it."""

    def __init__(self, daemon: Daemon, near: Namespace, far: Namespace, uri: str) -> None:
        self.daemon, self.near, self.far, self.uri = daemon, near, far, uri

    @contextmanager
    def losing(self, what: str) -> Iterator[None]:
        """Lose packets that come to the far network for a block; what: nft's words for which."""
        self.far.run(
            "nft", "add table ip links; add chain ip links in { type filter hook input priority 0; }"
        )
        self.far.run("nft", f"add rule ip links in {what} drop")
        try:
            yield
        finally:
            self.far.run("nft", "delete table ip links")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    pki.issue_server(hosts=[HERE])
    with namespace() as near, namespace() as far:
        near.cable("cable0", far, "cable0")
        near.ip("addr", "add", f"{HERE}/24", "dev", "cable0")
        far.ip("addr", "add", f"{THERE}/24", "dev", "cable0")
        daemon = Daemon(make_root(), "--listen", "--verbose", prefix=near.prefix)
        try:
            settings = f"keepalive_interval = 1\nkeepalive_count = 2\n{pki.settings()}"
            write_settings(daemon, settings, address=HERE)
            uri = f"qemu://{HERE}:{PORT}/system?pkipath={pki.client('admin')}"
            yield Site(daemon.start(), near, far, uri)
        finally:
            daemon.clean()


def test_a_link_that_loses_packets(site: Site) -> None:
    """All comes through, later; those near by wait for nothing."""
    with (
        site.losing("numgen random mod 100 < 10"),
        site.far.start(sys.executable, "-c", CALLS, site.uri) as process,
    ):
        for _ in range(5):
            assert site.daemon.virsh("uri").strip() == site.daemon.uri
        out, _ = process.communicate(timeout=PATIENCE * 2)
        assert (out, process.returncode) == ("QEMU\n", 0)
        done = site.far.run("virsh", "-q", "-c", site.uri, "capabilities", patience=120)
        assert "<capabilities>" in done.stdout


def test_a_link_that_goes_dead(site: Site) -> None:
    """Both ends find out by themselves, and the client can come again."""
    start = site.daemon.log.stat().st_size
    with site.far.start(sys.executable, "-c", CLIENT, site.uri) as process:
        assert next_word(process) == "open"
        with site.losing("ip saddr " + HERE):
            assert "connection closed due to keepalive timeout" in next_word(process)
            words = f"<Client tls {THERE}"
            wait_until(
                lambda: f"{words}" in site.daemon.log.read_text()[start:]
                and "does not answer keepalive, dropped" in site.daemon.log.read_text()[start:],
                "the daemon gives it up",
            )
        assert next_word(process) == "QEMU"
        assert process.wait(PATIENCE) == 0


def next_word(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    assert ready, "it says nothing"
    line = process.stdout.readline()
    assert line, "it has ended"
    return str(json.loads(line))
