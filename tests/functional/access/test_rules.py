"""Access control by the rules file: what one user may do on a daemon that others use, too."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.functional.access import people
from tests.support.daemon import Daemon, make_root, wait_until

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SETTINGS = """
access_drivers = [ "rules" ]
unix_sock_rw_perms = "0777"
auth_unix_rw = "none"
"""

RULES = f"""
allow  user={people.UID}     connect:@read
allow  user={people.UID}     domain:@read          domain_name=web-*
allow  group={people.GROUP}  domain:write,save     domain_name=web-1
allow  user={people.UID}     connect:write
"""

DOCUMENT = "<domain type='qemu'><name>{0}</name><memory>65536</memory><os><type>hvm</type></os></domain>"


@contextlib.contextmanager
def guarded(rules: str) -> Iterator[Daemon]:
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(SETTINGS)
    (root / "etc/libvirt/access.rules").write_text(rules)
    daemon = Daemon(root)
    try:
        yield daemon.start()
    finally:
        daemon.clean()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with guarded(RULES) as running:
        for name in ("web-1", "web-2", "db"):
            document = running.root / f"{name}.xml"
            document.write_text(DOCUMENT.format(name))
            running.virsh("define", str(document))
        yield running


def test_the_user_sees_its_own(daemon: Daemon) -> None:
    assert people.virsh(daemon, "list", "--all", "--name").stdout.split() == ["web-1", "web-2"]
    assert daemon.virsh("list", "--all", "--name").split() == ["db", "web-1", "web-2"]
    assert people.virsh(daemon, "dominfo", "db").returncode
    assert people.virsh(daemon, "dominfo", "web-1").returncode == 0


def test_what_it_may_change_is_its_groups(daemon: Daemon) -> None:
    assert people.virsh(daemon, "desc", "web-1", "--config", "words").returncode == 0
    refused = people.virsh(daemon, "desc", "web-2", "--config", "words")
    assert "access denied: 'QEMU' denied access (permission domain:write)" in refused.stderr
    assert "denied access" in people.virsh(daemon, "start", "web-1").stderr
    assert "denied access" in people.virsh(daemon, "undefine", "web-1").stderr


def test_a_new_domain_is_known_by_its_document(daemon: Daemon) -> None:
    code = """
for name in 'web-1', 'db-2':
    try:
        print(conn.defineXML(DOCUMENT.format(name)).name())
    except libvirt.libvirtError as error:
        print(error.get_error_code())
"""
    # the first is refused for its uuid, which is another one, not for want of a permission
    assert people.python(daemon, f"DOCUMENT = {DOCUMENT!r}\n{code}").split() == ["9", "88"]


def test_events_of_its_own(daemon: Daemon) -> None:
    code = """
seen = []
number = libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE
conn.domainEventRegisterAny(None, number, lambda conn, dom, *rest: seen.append(dom.name()), None)
print('ready', flush=True)
while not seen:
    libvirt.virEventRunDefaultImpl()
print(*seen)
"""
    with people.listening(daemon, code) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        daemon.virsh("desc", "db", "--config", "first")
        daemon.virsh("desc", "web-2", "--config", "second")
        assert listener.communicate(timeout=60)[0] == "web-2\n"


def why(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "qvirt.cli.main", "acl", "why", *words),
            *("--settings", str(daemon.root / "etc/libvirt")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_why_explains(daemon: Daemon) -> None:
    file = daemon.root / "etc/libvirt/access.rules"
    user = str(people.UID)
    said = why(daemon, user, "virDomainGetXMLDesc", "web-1")
    assert said.returncode == 0, said.stderr
    assert f"domain:read\n    allowed by {file}:3: allow" in said.stdout
    assert "domain:read_secure, with the flags 0x1\n    refused as no rule of" in said.stdout
    said = why(daemon, user, "DOMAIN_CREATE", "web-1")
    assert said.returncode == 1
    assert "domain:start\n    refused as no rule" in said.stdout
    assert f"{user} may not" in said.stderr
    assert "there is no call 'virDomainCraete'; did you mean 'virDomainCreate'?" in (
        why(daemon, user, "virDomainCraete").stderr
    )
    assert why(daemon, "0", "virDomainCreate", "db").returncode == 0


def test_rules_are_read_again() -> None:
    with guarded(RULES) as daemon:
        document = daemon.root / "web-1.xml"
        document.write_text(DOCUMENT.format("web-1"))
        daemon.virsh("define", str(document))
        rules = daemon.root / "etc/libvirt/access.rules"
        assert daemon.process is not None
        rules.write_text("allow * domian:read\n")
        daemon.process.send_signal(signal.SIGHUP)
        complaint = f"{rules}:1: there are no objects 'domian'; did you mean 'domain'?"
        wait_until(lambda: complaint in daemon.log.read_text(), "the daemon complains")
        assert people.virsh(daemon, "list", "--all", "--name").stdout.split() == ["web-1"]
        rules.write_text("")
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: people.virsh(daemon, "list").returncode, "nobody may connect")
        assert "denied access (permission connect:getattr)" in people.virsh(daemon, "list").stderr


def test_no_daemon_without_its_rules() -> None:
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(SETTINGS)
    daemon = Daemon(root)
    try:
        done = daemon.run_to_the_end()
        assert done.returncode
        assert f"{root}/etc/libvirt/access.rules: cannot be read" in done.stderr
    finally:
        daemon.clean()
