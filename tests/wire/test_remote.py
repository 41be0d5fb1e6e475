"""Our client and the system's libvirtd over networks: TLS, SASL, ssh."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.client.aio import Connection
from qvirt.errors import AuthFailed, QvirtError
from tests.support import sshd
from tests.support.remote import Pki, Port, days_from_now
from tests.support.sasl import add_user, auth_file, write_conf
from tests.support.sshd import our_helper, running_sshd
from tests.wire import libvirtd

pytestmark = pytest.mark.root


class Site:
    """A libvirtd that listens everywhere."""

    def __init__(self, tree: libvirtd.Tree, pki: Pki, tls: int, tcp: int) -> None:
        self.tree, self.pki, self.tls, self.tcp = tree, pki, tls, tcp

    def by_tls(self, client: Path, more: str = "") -> str:
        return f"qemu://localhost:{self.tls}/system?pkipath={client}{more}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    reason = libvirtd.missing() or (None if shutil.which("saslpasswd2") else "sasl2-bin is not installed")
    if reason:
        pytest.skip(reason)
    pki = Pki(tmp_path_factory.mktemp("pki"))
    folder = tmp_path_factory.mktemp("libvirtd")
    (folder / "sasl2").mkdir()
    add_user(folder / "passwd.db", "fred", socket.gethostname())
    write_conf(folder / "sasl2", "digest-md5 scram-sha-256", folder / "passwd.db")
    with libvirtd.private_tree(folder) as tree, Port() as tls, Port() as tcp:
        subprocess.run(
            tree.inside("mount", "--bind", str(folder / "sasl2"), "/etc/sasl2"), check=True, timeout=60
        )
        with (folder / "etc/libvirtd.conf").open("a") as conf:
            conf.write(
                f'\nlisten_addr = "127.0.0.1"\nlisten_tcp = 1\ntls_port = "{tls.number}"\n'
                f'tcp_port = "{tcp.number}"\n{pki.settings()}'
            )
        tree.serve(libvirtd.LIBVIRTD, "--listen", "-p", str(folder / "libvirtd.pid"))
        yield Site(tree, pki, tls.number, tcp.number)


async def ask(uri: str) -> str:
    async with asyncio.timeout(60), await Connection.open(uri) as connection:
        assert "<capabilities>" in await connection.capabilities()
        await asyncio.gather(*(connection.lib_version() for _ in range(50)))
        return await connection.type()


def test_tls(site: Site) -> None:
    good = site.pki.client("admin")
    for more in ("", "&tls_priority=NORMAL:-VERS-TLS1.3", "&tls_priority=NORMAL:-VERS-TLS1.2"):
        assert asyncio.run(ask(site.by_tls(good, more))) == "QEMU"


def test_tls_refused(site: Site) -> None:
    late = site.pki.client("late", days=1, begin=days_from_now(-3))
    for client in (late, site.pki.nobody()):
        with pytest.raises(QvirtError, match="Unable to read TLS confirmation: Input/output error"):
            asyncio.run(ask(site.by_tls(client, "&no_sanity=1")))
    with pytest.raises(QvirtError, match=r"The client certificate .* has expired"):
        asyncio.run(ask(site.by_tls(late)))


def test_sasl(site: Site, tmp_path: Path) -> None:
    uri = f"qemu+tcp://localhost:{site.tcp}/system?authfile="
    assert asyncio.run(ask(f"{uri}{auth_file(tmp_path / 'right', 'localhost', 'fred')}")) == "QEMU"
    with pytest.raises(AuthFailed, match="authentication failed"):
        asyncio.run(ask(f"{uri}{auth_file(tmp_path / 'wrong', 'localhost', 'fred', 'wrong')}"))
    with pytest.raises(AuthFailed, match=r"SASL mechanism SCRAM-SHA-256 not supported by server"):
        asyncio.run(ask(f"{uri}{auth_file(tmp_path / 'right', 'localhost', 'fred')}&auth=sasl.SCRAM-SHA-256"))


@pytest.mark.skipif(sshd.missing() is not None, reason=str(sshd.missing()))
@pytest.mark.parametrize("helper", ["netcat", "libvirt's", "ours"])
def test_ssh(site: Site, tmp_path: Path, helper: str) -> None:
    program = {"netcat": None, "libvirt's": Path("/usr/bin/virt-ssh-helper"), "ours": our_helper()}[helper]
    needed = program or Path(shutil.which("nc") or "/usr/bin/nc")
    if not os.path.exists(needed):
        pytest.skip(f"{needed} is not installed")
    os.makedirs("/run/sshd", exist_ok=True)
    with running_sshd(tmp_path, site.tree.directory, program, site.tree.inside()) as host:
        assert asyncio.run(ask(host.uri())) == "QEMU"
