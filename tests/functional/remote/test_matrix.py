"""Every form of URI: between the unmodified virsh and qvirtd, our client and libvirtd, and both of ours.

One row of FORMS is one URI with the parameter it is about; a cell is that row with a client and a daemon. In
each the client must find the one domain that only this daemon has. Both take Kerberos tickets on TCP.
libvirt's client keeps its warnings to itself, as that nobody looks at a certificate.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from bench.daemons import Libvirtd
from tests.support import kdc, sshd
from tests.support.daemon import Daemon, make_root
from tests.support.kdc import Realm, running_realm
from tests.support.remote import Pki, Port, write_settings
from tests.support.sshd import Sshd, our_helper, running_sshd, with_sockets
from tests.wire.guests import guest_xml

THEIR_HELPER: Final = Path("/usr/bin/virt-ssh-helper")


def _missing() -> str | None:
    lacking = Libvirtd.why_not() or kdc.missing() or sshd.missing()
    if lacking is None and not (shutil.which("nc") and THEIR_HELPER.exists()):
        return "netcat or libvirt's virt-ssh-helper is not installed"
    return lacking


pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(_missing() is not None, reason=str(_missing())),
]

FORMS: Final = {
    "three slashes": "qemu:///system",
    "one slash": "qemu:/system",
    "root's session": "qemu:///session",
    "unix": "qemu+unix:///system",
    "unix, one slash": "qemu+unix:/system",
    "unix, in capitals": "qemu+UNIX:///system",
    "socket=": "qemu:///system?socket={socket}",
    "one slash, socket=": "qemu:/system?socket={socket}",
    "SOCKET=": "qemu:///system?SOCKET={socket}",
    "unix, socket=": "qemu+unix:///system?socket={socket}",
    "mode=auto": "qemu:///system?mode=auto",
    "mode=legacy": "qemu:///system?mode=legacy",
    "mode=direct": "qemu:///system?mode=direct",
    "semicolons": "qemu:///system?mode=legacy;socket={socket}",
    "name=": "remote+unix:///nowhere?name=qemu:///system",
    "name=, escaped": "remote+unix:///nowhere?name=qemu%3A%2F%2F%2Fsystem",
    "the daemon's choice": "remote+unix:///system",
    "no_tty=, for nobody": "qemu:///system?no_tty=1",
    "a parameter of nobody's": "qemu:///system?other=1",
    "a fragment": "qemu:///system#part",
    "tls": "qemu://localhost:{tls}/system?pkipath={pki}",
    "tls, named": "qemu+tls://localhost:{tls}/system?pkipath={pki}",
    "tls, a user": "qemu://somebody@localhost:{tls}/system?pkipath={pki}",
    "tls, tls_priority=": "qemu://localhost:{tls}/system?pkipath={pki}&tls_priority=NORMAL:-VERS-TLS1.3",
    # No certificate names that address.
    "tls, no_verify=": "qemu://127.0.0.1:{tls}/system?pkipath={pki}&no_verify=1",
    "tls, no_sanity=": "qemu://localhost:{tls}/system?pkipath={pki}&no_sanity=1",
    "tcp, a ticket": "qemu+tcp://localhost:{tcp}/system",
    "tcp, auth=": "qemu+tcp://localhost:{tcp}/system?auth=sasl.GSSAPI",
    "tcp, name=": "remote+tcp://localhost:{tcp}/?name=qemu:///system",
    "ssh": "qemu+ssh://root@here/system?command={ssh}",
    "ssh, a port": "qemu+ssh://root@here:{ssh_port}/system?command={ssh}",
    "ssh, session": "qemu+ssh://root@here/session?command={ssh}",
    "ssh, socket=": "qemu+ssh://root@here/system?command={ssh}&socket={socket}",
    "ssh, mode=": "qemu+ssh://root@here/system?command={ssh}&mode=legacy",
    "ssh, proxy=auto": "qemu+ssh://root@here/system?command={ssh}&proxy=auto",
    "ssh, proxy=native": "qemu+ssh://root@here/system?command={ssh}&proxy=native",
    "ssh, proxy=netcat": "qemu+ssh://root@here/system?command={ssh}&proxy=netcat",
    "ssh, netcat=": "qemu+ssh://root@here/system?command={ssh}&netcat=nc",
    "ssh, keyfile=": "qemu+ssh://root@here/system?command={bare_ssh}&keyfile={key}",
    "ssh, no_tty=": "qemu+ssh://root@here/system?command={ssh}&no_tty=1",
    "ssh, no_verify=": "qemu+ssh://root@here/system?command={strange_ssh}&no_verify=1",
    "libssh": "qemu+libssh://root@127.0.0.1:{ssh_port}/system?keyfile={key}&known_hosts={known}&sshauth=privkey",
    "libssh, known_hosts_verify=": "qemu+libssh://root@127.0.0.1:{ssh_port}/system?keyfile={key}"
    "&known_hosts={folder}/none&known_hosts_verify=ignore&sshauth=privkey,agent",
    "libssh2": "qemu+libssh2://root@127.0.0.1:{ssh_port}/system?keyfile={key}&known_hosts={known}"
    "&known_hosts_verify=normal&sshauth=privkey",
    "ext": "qemu+ext:///system?command={tunnel}",
}

PAIRS: Final = (("virsh", "qvirtd"), ("qvirt", "libvirtd"), ("qvirt", "qvirtd"))

OURS = """
import asyncio, sys
from qvirt.client.aio import Connection
async def main():
    async with asyncio.timeout(60), await Connection.open(sys.argv[1]) as connection:
        for domain in await connection.list_all_domains():
            print(domain.name)
asyncio.run(main())
"""
CLIENTS: Final = {
    "virsh": lambda uri: ["virsh", "-q", "-c", uri, "list", "--all", "--name"],
    "qvirt": lambda uri: [sys.executable, "-c", OURS, uri],
}


class ListeningLibvirtd(Libvirtd):
    """libvirt's daemon with the same settings as ours, on sockets nobody else sees."""

    def __init__(self, settings: str, environment: Mapping[str, str]) -> None:
        super().__init__()
        self.environment = environment
        with (self.root / "etc/libvirtd.conf").open("a") as conf:
            conf.write(f"\n{settings}")
        # It stands for the daemon of the driver alone, too.
        (self.root / "run/virtqemud-sock").symlink_to("libvirt-sock")

    def command(self) -> list[str]:
        *words, script = super().command()
        return [
            "env",
            *(f"{key}={value}" for key, value in self.environment.items()),
            *words,
            f"{script} --listen",
        ]


class Site:
    """Where one daemon is found. prefix: what a client runs under to see its sockets at their usual place."""

    def __init__(self, prefix: list[str], places: dict[str, object], environment: dict[str, str]) -> None:
        self.prefix, self.places, self.environment = prefix, places, environment

    def run(self, words: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.prefix, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
            stdin=subprocess.DEVNULL,
            env=self.environment,
        )


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    pki.issue_server(hosts=[])
    client = pki.client("admin")
    with ExitStack() as stack:
        realm = stack.enter_context(running_realm(tmp_path_factory.mktemp("realm"), "fred"))
        realm.log_in("fred")
        (realm.folder / "libvirt.conf").write_text(f"mech_list: gssapi\nkeytab: {realm.keytab}\n")
        sites = {}
        for name in ("qvirtd", "libvirtd"):
            tls, tcp = (stack.enter_context(Port()).number for _ in range(2))
            settings = (
                f'listen_tcp = 1\ntcp_port = "{tcp}"\ntls_port = "{tls}"\n'
                f'auth_tcp = "sasl"\nauth_tls = "none"\n{pki.settings(crl=False)}'
            )
            start = start_qvirtd if name == "qvirtd" else start_libvirtd
            run_folder, prefix = start(stack, settings, realm)
            helper = our_helper() if name == "qvirtd" else THEIR_HELPER
            host = stack.enter_context(running_sshd(tmp_path_factory.mktemp(name), run_folder, helper))
            socket = f"{run_folder}/libvirt-sock"
            places = {
                "socket": socket,
                "tls": tls,
                "tcp": tcp,
                "pki": client,
                **ssh_places(host, helper, socket),
            }
            site = sites[name] = Site(prefix, places, {**realm.all_environment(), "LIBVIRT_DEBUG": "4"})
            document = host.folder / "guest.xml"
            document.write_text(guest_xml(f"at-{name}"))
            done = site.run(["virsh", "-c", f"qemu:///system?socket={socket}", "define", str(document)])
            assert (done.returncode, done.stderr) == (0, "")
        yield sites


def start_qvirtd(stack: ExitStack, settings: str, realm: Realm) -> tuple[Path, list[str]]:
    words = [f"{key}={value}" for key, value in realm.environment.items()]
    daemon = Daemon(make_root(), "--listen", "--verbose", prefix=("env", *words))
    stack.callback(daemon.clean)
    folder = daemon.root / "etc/sasl2"
    folder.mkdir(parents=True)
    shutil.copy(realm.folder / "libvirt.conf", folder)
    write_settings(daemon, settings)
    daemon.start()
    folder = daemon.root / "run/libvirt"
    return folder, with_sockets(folder)


def start_libvirtd(stack: ExitStack, settings: str, realm: Realm) -> tuple[Path, list[str]]:
    environment = {**realm.environment, "SASL_CONF_PATH": str(realm.folder)}
    daemon = ListeningLibvirtd(f'listen_addr = "127.0.0.1"\n{settings}', environment)
    stack.callback(daemon.close)
    daemon.start()
    return daemon.run_folder, ["nsenter", "-m", "-t", str(daemon.pid())]


def ssh_places(host: Sshd, helper: Path, socket: str) -> dict[str, object]:
    """Give what URIs by ssh and by a command name.

    bare_ssh: an ssh that has no key of its own; strange_ssh: one that does not know the host and would ask.
    """
    config = (host.folder / "ssh.conf").read_text()
    own = f"  IdentityFile {host.folder}/key\n"
    strange = config.replace("/known\n", "/empty\n").replace("BatchMode yes", "StrictHostKeyChecking yes")
    texts = {"bare_ssh": config.replace(own, "  IdentitiesOnly yes\n"), "strange_ssh": strange}
    scripts: dict[str, object] = {}
    for name, text in texts.items():
        settings, script = host.folder / f"{name}.conf", host.folder / name
        settings.write_text(text)
        script.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {settings} "$@"\n')
        scripts[name] = script
    tunnel = host.folder / "tunnel"
    tunnel.write_text(f"#!/bin/sh\nexec {helper} 'qemu:///system?socket={socket}'\n")
    for name in ("tunnel", *texts):
        (host.folder / name).chmod(0o700)
    return {
        "ssh": host.ssh,
        "ssh_port": host.port,
        "key": host.key,
        "known": host.folder / "known",
        "folder": host.folder,
        "tunnel": tunnel,
        **scripts,
    }


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@pytest.mark.parametrize("form", FORMS)
def test_a_cell(sites: dict[str, Site], form: str, pair: tuple[str, str]) -> None:
    client, daemon = pair
    site = sites[daemon]
    uri = FORMS[form].format(**site.places)
    done = site.run(CLIENTS[client](uri))
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [f"at-{daemon}"], ""), uri


@pytest.mark.parametrize("daemon", ["qvirtd", "libvirtd"])
@pytest.mark.parametrize("client", CLIENTS)
def test_without_a_ticket(sites: dict[str, Site], client: str, daemon: str, tmp_path: Path) -> None:
    """What the ticket opens, nothing else does."""
    site = sites[daemon]
    environment = {**site.environment, "KRB5CCNAME": f"FILE:{tmp_path}/none"}
    uri = FORMS["tcp, a ticket"].format(**site.places)
    done = Site(site.prefix, site.places, environment).run(CLIENTS[client](uri))
    assert done.returncode != 0
    assert "Failed to start SASL negotiation" in done.stderr
