"""A real Kerberos realm on the loopback: its database, keys and port are a test's own."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import wait_until
from tests.support.remote import Port

REALM = "QVIRT.TEST"
PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
PLUGIN = "sasl2/libgssapiv2.so"


def missing() -> str | None:
    """Say why no realm can be had here, None when one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program in PROGRAMS:
        if shutil.which(program, path=path) is None:
            return f"{program} is not installed"
    if not list(Path("/usr/lib").glob(f"*/{PLUGIN}")):
        return "libsasl2-modules-gssapi-mit is not installed"
    return None


class Realm:
    """A realm with the service `libvirt/localhost` and users.

    environment: what programs need to be in it; keytab: the service's key.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.keytab = folder / "libvirt.keytab"
        self.environment = {
            "KRB5_CONFIG": str(folder / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{folder}/tickets",
        }
        (folder / "krb5.conf").write_text(
            f"[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n"
            " dns_canonicalize_hostname = false\n rdns = false\n ignore_acceptor_hostname = true\n"
            f" udp_preference_limit = 1\n[realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
            f"[domain_realm]\n localhost = {REALM}\n"
        )
        (folder / "kdc.conf").write_text(
            f"[kdcdefaults]\n kdc_listen = 127.0.0.1:{port}\n kdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n"
            f" {REALM} = {{\n  database_name = {folder}/principal\n  key_stash_file = {folder}/stash\n"
            f"  acl_file = {folder}/acl\n }}\n[logging]\n kdc = FILE:{folder}/kdc.log\n"
        )

    def run(self, *words: str, text: str = "") -> None:
        """Run a program of Kerberos in it."""
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=self.all_environment(),
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stdout}{done.stderr}")

    def all_environment(self) -> dict[str, str]:
        """Give the whole environment of a program in it."""
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return {**os.environ, **self.environment, "PATH": path, "LC_ALL": "C"}

    def ask(self, question: str) -> None:
        """Tell the realm's administration something."""
        self.run("kadmin.local", "-q", question)

    def log_in(self, user: str) -> None:
        """Get a user's ticket."""
        self.run("kinit", user, text=f"{user}'s password\n")

    def log_out(self) -> None:
        """Throw tickets away."""
        (self.folder / "tickets").unlink(missing_ok=True)


@contextlib.contextmanager
def running_realm(folder: Path, *users: str) -> Iterator[Realm]:
    """Run a realm with these users for a block."""
    with Port() as port:
        realm = Realm(folder, port.number)
        realm.run("kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
        realm.ask("addprinc -randkey libvirt/localhost")
        realm.ask(f"ktadd -k {realm.keytab} libvirt/localhost")
        for user in users:
            realm.ask(f'addprinc -pw "{user}\'s password" {user}')
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(
                ["krb5kdc", "-n"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=realm.all_environment(),
            )
        try:
            wait_until(lambda: _answers(process, folder, port.number), "the KDC answers")
            yield realm
        finally:
            process.terminate()
            process.wait(30)


def _answers(process: "subprocess.Popen[bytes]", folder: Path, port: int) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"krb5kdc ended: {(folder / 'out').read_text()}")
    with socket.socket() as probe:
        try:
            probe.connect(("127.0.0.1", port))
        except OSError:
            return False
    return True
