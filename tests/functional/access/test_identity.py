"""Who a client is where it is no process of this machine: a certificate's name, or who it speaks for."""

import os
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.access import people
from tests.functional.access.test_rules import DOCUMENT
from tests.functional.admin.test_virt_admin import run as virt_admin
from tests.support.daemon import Daemon, make_root, virsh
from tests.support.remote import Pki, Port, write_settings

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

RULES = f"""
allow  dn=*CN=alice      domain:@read  domain_name=web-*
allow  dn=*CN=alice      connect:@read
allow  user={people.UID} connect:@read,write
allow  user={people.UID} domain:@read  domain_name=db
"""


class Site:
    """A daemon with three domains that listens for TLS, and its certificates."""

    def __init__(self, daemon: Daemon, pki: Pki, port: int) -> None:
        self.daemon, self.pki, self.port = daemon, pki, port
        self.alice, self.bob = pki.client("alice"), pki.client("bob")
        self.admin = daemon.root / "run/libvirt/libvirt-admin-sock"

    def virsh(self, client: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run virsh over TLS with a client's certificate."""
        return virsh(f"qemu://localhost:{self.port}/system?pkipath={client}", *words)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    daemon = Daemon(make_root(), "--listen")
    try:
        with Port() as port:
            write_settings(
                daemon,
                f'tls_port = "{port.number}"\naccess_drivers = [ "rules" ]\nunix_sock_rw_perms = "0777"\n'
                f'auth_unix_rw = "none"\n{pki.settings()}',
            )
            (daemon.root / "etc/libvirt/access.rules").write_text(RULES)
            daemon.start()
            for name in ("web-1", "db"):
                document = daemon.root / f"{name}.xml"
                document.write_text(DOCUMENT.format(name))
                daemon.virsh("define", str(document))
            yield Site(daemon, pki, port.number)
    finally:
        daemon.clean()


def test_certificates_names_are_known_to_rules(site: Site) -> None:
    assert site.virsh(site.alice, "list", "--all", "--name").stdout.split() == ["web-1"]
    assert "denied access" in site.virsh(site.alice, "start", "web-1").stderr
    assert "denied access (permission connect:getattr)" in site.virsh(site.bob, "list").stderr


def test_a_trusted_client_speaks_for_another(site: Site) -> None:
    code = f"""
print(sorted(d.name() for d in conn.listAllDomains()))
conn.setIdentity({{libvirt.VIR_CONNECT_IDENTITY_UNIX_USER_ID: {people.UID}}})
print(sorted(d.name() for d in conn.listAllDomains()))
try:
    conn.lookupByName('db').create()
except libvirt.libvirtError as error:
    print(error.get_error_code())
"""
    assert site.daemon.python(code).splitlines() == ["['db', 'web-1']", "['db']", "88"]


def test_nobody_else_speaks_for_another(site: Site) -> None:
    code = """
try:
    conn.setIdentity({libvirt.VIR_CONNECT_IDENTITY_UNIX_USER_ID: 0})
except libvirt.libvirtError as error:
    print(error.get_error_code(), sorted(d.name() for d in conn.listAllDomains()))
"""
    assert people.python(site.daemon, code) == "88 ['db']\n"


def served(site: Site) -> bytes:
    """Give the certificate the daemon shows."""
    context = ssl.create_default_context(cafile=str(site.pki.authority.folder / "cacert.pem"))
    context.load_cert_chain(site.alice / "clientcert.pem", site.alice / "clientkey.pem")
    with (
        socket.create_connection(("127.0.0.1", site.port)) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as session,
    ):
        assert session.recv(1) == b"\1"
        return session.getpeercert(binary_form=True) or b""


def test_an_administrator_sees_and_renews(site: Site) -> None:
    code = f"""
import libvirt
conn = libvirt.open('qemu://localhost:{site.port}/system?pkipath={site.alice}')
print('ready', flush=True)
input()
"""
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            listed = virt_admin(site.admin, "srv-clients-list", "libvirtd").stdout
            (number,) = re.findall(r"^ (\d+) +tls ", listed, re.MULTILINE)
            said = virt_admin(site.admin, "client-info", "libvirtd", number).stdout
            assert "transport      : tls" in said
            assert re.search(r"sock_addr +: 127\.0\.0\.1:\d+", said) or re.search(r"sock_addr +: .*::1", said)
            assert re.search(r"tls_x509_dname *: .*CN=alice", said)
            before = served(site)
            site.pki.issue_server()
            assert served(site) == before
            done = virt_admin(site.admin, "srv-update-tls", "libvirtd")
            assert not done.returncode, done.stderr
            assert served(site) != before
            assert process.poll() is None
        finally:
            process.kill()
