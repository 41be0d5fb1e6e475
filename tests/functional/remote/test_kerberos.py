"""Kerberos: tickets of a real realm, with its encryption on plain TCP and without it inside TLS."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import kdc
from tests.support.daemon import Daemon, make_root
from tests.support.kdc import Realm, running_realm
from tests.support.remote import Pki, Port, wait_for_log, write_settings

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.skipif(kdc.missing() is not None, reason=str(kdc.missing())),
]

ASK = """
import asyncio, sys
from qvirt.client.aio import Connection
async def main():
    async with asyncio.timeout(60), await Connection.open(sys.argv[1]) as connection:
        assert "<capabilities>" in await connection.capabilities()
        await asyncio.gather(*(connection.lib_version() for _ in range(100)))
        print(await connection.type())
asyncio.run(main())
"""


class Site:
    """A daemon of the realm."""

    def __init__(self, daemon: Daemon, realm: Realm, uris: dict[str, str]) -> None:
        self.daemon, self.realm, self.uris = daemon, realm, uris

    def virsh(self, transport: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return self._run("virsh", "-q", "-c", self.uris[transport], *words)

    def ours(self, transport: str) -> "subprocess.CompletedProcess[str]":
        return self._run(sys.executable, "-c", ASK, self.uris[transport])

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env=self.realm.all_environment(),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    with (
        running_realm(tmp_path_factory.mktemp("realm"), "fred", "joe") as realm,
        Port() as tcp,
        Port() as tls,
    ):
        words = [f"{name}={value}" for name, value in realm.environment.items()]
        daemon = Daemon(make_root(), "--listen", "--verbose", prefix=("env", *words))
        try:
            folder = daemon.root / "etc/sasl2"
            folder.mkdir(parents=True)
            (folder / "libvirt.conf").write_text(f"mech_list: gssapi\nkeytab: {realm.keytab}\n")
            write_settings(
                daemon,
                f'listen_tcp = 1\ntcp_port = "{tcp.number}"\ntls_port = "{tls.number}"\nauth_tls = "sasl"\n'
                f'sasl_allowed_username_list = [ "fred" ]\ntcp_min_ssf = 112\n{pki.settings()}',
            )
            uris = {
                "tcp": f"qemu+tcp://localhost:{tcp.number}/system",
                "tls": f"qemu://localhost:{tls.number}/system?pkipath={pki.client('admin')}",
            }
            yield Site(daemon.start(), realm, uris)
        finally:
            daemon.clean()


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_ticket_is_enough(site: Site, transport: str) -> None:
    site.realm.log_in("fred")
    start = site.daemon.log.stat().st_size
    done = site.virsh(transport, "capabilities")
    assert (done.returncode, done.stderr) == (0, "")
    assert "<capabilities>" in done.stdout
    done = site.ours(transport)
    assert (done.stdout, done.stderr) == ("QEMU\n", "")
    bits = 256 if transport == "tcp" else 0
    wait_for_log(site.daemon, start, f"is 'fred', encryption of {bits} bits", 2)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_no_ticket_and_another_ones(site: Site, transport: str) -> None:
    site.realm.log_out()
    for done in (site.virsh(transport, "uri"), site.ours(transport)):
        assert done.returncode == 1
        assert "Failed to start SASL negotiation" in done.stderr
    site.realm.log_in("joe")
    start = site.daemon.log.stat().st_size
    for done in (site.virsh(transport, "uri"), site.ours(transport)):
        assert done.returncode == 1
        assert "authentication failed" in done.stderr
    words = "SASL client identity 'joe' not allowed by sasl_allowed_username_list"
    wait_for_log(site.daemon, start, words, 2)


MUTE = """
import asyncio, os, sys
from qvirt.client.aio import Connection

async def beat(beats):
    while True:
        beats.append(1)
        await asyncio.sleep(0.01)

async def main():
    beats = []
    task = asyncio.ensure_future(beat(beats))
    try:
        async with asyncio.timeout(3):
            await Connection.open(sys.argv[1])
    except TimeoutError:
        print("late", len(beats) > 20, flush=True)
    # the library itself gives up much later
    os._exit(0)

asyncio.run(main())
"""


def test_a_realm_that_does_not_answer_holds_up_nobody(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The client's other work goes on while Kerberos waits for its servers."""
    site.realm.log_in("fred")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        config = site.realm.folder / "krb5.conf"
        text = config.read_text()
        folder = tmp_path_factory.mktemp("mute")
        port = mute.getsockname()[1]
        (folder / "krb5.conf").write_text(re.sub(r"kdc = 127\.0\.0\.1:\d+", f"kdc = 127.0.0.1:{port}", text))
        done = subprocess.run(
            [sys.executable, "-c", MUTE, site.uris["tcp"]],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**site.realm.all_environment(), "KRB5_CONFIG": str(folder / "krb5.conf")},
        )
    assert (done.stdout, done.stderr) == ("late True\n", "")
