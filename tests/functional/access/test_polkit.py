"""Who may come in and what they may do, decided by polkit: a fake one on a bus of its own."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, make_root
from tests.support.polkit import Authority, Question, fake_polkit
from tests.wire import libvirtd

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon"),
]

DOCUMENT = """<domain type='qemu'><name>{0}</name><memory>65536</memory><os><type>hvm</type></os>
<devices><graphics type='vnc' passwd='secret'/></devices></domain>"""


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Give a folder that everybody may search, with a name short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def daemon_with(authority: Authority, settings: str) -> Iterator[Daemon]:
    """Run qvirtd with these settings, polkit being the fake one."""
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(settings)
    daemon = Daemon(root, prefix=("env", f"DBUS_SYSTEM_BUS_ADDRESS={authority.address}"))
    try:
        yield daemon.start()
    finally:
        daemon.clean()


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with short_folder() as folder, fake_polkit(folder) as polkit:
        yield polkit


@pytest.fixture(scope="module")
def guarded(authority: Authority) -> Iterator[Daemon]:
    with daemon_with(authority, 'access_drivers = [ "polkit" ]\n') as daemon:
        for name in ("one", "two"):
            document = daemon.root / f"{name}.xml"
            document.write_text(DOCUMENT.format(name))
            daemon.virsh("define", str(document))
        yield daemon


@pytest.fixture(autouse=True)
def everything_is_allowed(authority: Authority) -> None:
    authority.decide = lambda _: "yes"
    authority.take()


class TestPermissions:
    def test_a_refusal_reads_as_libvirts(self, guarded: Daemon, authority: Authority) -> None:
        authority.decide = lambda q: "no" if q.action == "org.libvirt.api.domain.write" else "yes"
        done = guarded.virsh_run("desc", "one", "--config", "words")
        assert done.returncode
        assert "access denied: 'QEMU' denied access" in done.stderr
        code = """
try:
    conn.lookupByName('one').setMetadata(0, 'x', None, None, 0)
except libvirt.libvirtError as error:
    print(error.get_error_code(), error.get_error_domain())
"""
        assert guarded.python(code).split() == ["88", "55"]
        authority.decide = lambda _: "yes"
        assert "words" not in guarded.virsh("desc", "one")

    def test_a_list_shows_what_may_be_seen(self, guarded: Daemon, authority: Authority) -> None:
        authority.decide = lambda q: "no" if q.details.get("domain_name") == "two" else "yes"
        assert guarded.virsh("list", "--all", "--name").split() == ["one"]
        code = "print(conn.numOfDefinedDomains(), conn.listDefinedDomains(), len(conn.getAllDomainStats()))"
        assert guarded.python(code).strip() == "1 ['one'] 1"

    def test_events_show_what_may_be_seen(self, guarded: Daemon, authority: Authority) -> None:
        code = f"""
import libvirt
seen = []
libvirt.virEventRegisterDefaultImpl()
conn = libvirt.open({guarded.uri!r})
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
                            lambda conn, dom, *rest: seen.append(dom.name()), None)
print("ready", flush=True)
while not seen:
    libvirt.virEventRunDefaultImpl()
print(*seen)
"""
        with subprocess.Popen(
            ["/usr/bin/python3", "-c", code], stdout=subprocess.PIPE, text=True
        ) as listener:
            try:
                assert listener.stdout is not None
                assert listener.stdout.readline() == "ready\n"
                authority.decide = lambda q: (
                    "no"
                    if q.subject["pid"] == listener.pid and q.details.get("domain_name") == "two"
                    else "yes"
                )
                guarded.virsh("desc", "two", "--config", "first")
                guarded.virsh("desc", "one", "--config", "second")
                assert listener.communicate(timeout=60)[0] == "one\n"
            finally:
                listener.kill()
        asked = [q for q in authority.take() if q.subject["pid"] == listener.pid]
        assert [q.details["domain_name"] for q in asked if q.action.endswith("domain.getattr")] == [
            "two",
            "one",
        ]

    def test_a_secret_is_asked_for_by_itself(self, guarded: Daemon, authority: Authority) -> None:
        authority.decide = lambda q: "no" if q.action.endswith("read-secure") else "yes"
        assert "secret" not in guarded.virsh("dumpxml", "one")
        assert "'QEMU' denied access" in guarded.virsh_run("dumpxml", "--security-info", "one").stderr

    def test_the_client_is_named_by_its_process(self, guarded: Daemon, authority: Authority) -> None:
        guarded.virsh("list")
        question = authority.take()[-1]
        assert question.kind == "unix-process"
        assert question.subject["uid"] == 0
        assert question.subject["pid"] > 0
        assert question.subject["start-time"] > 0
        assert question.flags == 0

    def test_an_error_of_polkit_is_a_refusal(self, guarded: Daemon, authority: Authority) -> None:
        authority.decide = lambda q: "error" if "search" in q.action else "yes"
        assert "'QEMU' denied access" in guarded.virsh_run("list").stderr

    def test_one_clients_silence_is_not_anothers(self, guarded: Daemon, authority: Authority) -> None:
        authority.decide = lambda q: "silent" if q.details.get("domain_name") == "two" else "yes"
        with subprocess.Popen(
            ["virsh", "-q", "-c", guarded.uri, "dominfo", "two"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as waiting:
            try:
                for _ in range(3):
                    assert "one" in guarded.virsh("dominfo", "one")
                assert waiting.poll() is None
            finally:
                waiting.kill()


def told(questions: list[Question]) -> list[tuple[str, dict[str, str]]]:
    """Give what can be compared between daemons."""
    kept = ("connect_driver", "domain_name", "network_name")
    return [(q.action, {k: v for k, v in q.details.items() if k in kept}) for q in questions]


#: commands whose questions libvirtd and we must ask alike
SAME = (
    ("list", "--all"),
    ("define", "{folder}/one.xml"),
    ("dominfo", "one"),
    ("domstate", "one"),
    ("dumpxml", "one"),
    ("dumpxml", "one", "--security-info"),
    ("desc", "one", "--config", "words"),
    ("desc", "one"),
    ("schedinfo", "one"),
    ("setmem", "one", "65536", "--config"),
    ("setvcpus", "one", "1", "--config"),
    ("autostart", "one"),
    ("autostart", "one", "--disable"),
    ("domstats",),
    ("domrename", "one", "uno"),
    ("domrename", "uno", "one"),
    ("nodeinfo",),
    ("capabilities",),
    ("domcapabilities",),
    ("net-list", "--all"),
    ("net-define", "{folder}/net.xml"),
    ("net-info", "isolated"),
    ("net-dumpxml", "isolated"),
    ("net-autostart", "isolated"),
    ("net-undefine", "isolated"),
    ("undefine", "one"),
)

EVENTS = """
import sys, libvirt
libvirt.virEventRegisterDefaultImpl()
conn = libvirt.open(sys.argv[1])
nothing = lambda *arguments: None
number = conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, nothing, None)
conn.domainEventDeregisterAny(number)
number = conn.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, nothing, None)
conn.networkEventDeregisterAny(number)
"""


@pytest.mark.skipif(libvirtd.missing() is not None, reason=str(libvirtd.missing()))
def test_libvirtd_asks_the_same(authority: Authority) -> None:
    settings = 'access_drivers = [ "polkit" ]\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
    with short_folder() as folder:
        (folder / "one.xml").write_text(DOCUMENT.format("one"))
        (folder / "net.xml").write_text("<network><name>isolated</name></network>")

        def run(uri: str) -> dict[str, list[tuple[str, dict[str, str]]]]:
            commands = {
                " ".join(words): ["virsh", "-q", "-c", uri, *(word.format(folder=folder) for word in words)]
                for words in SAME
            }
            commands["events"] = ["/usr/bin/python3", "-c", EVENTS, uri]
            answers = {}
            for name, command in commands.items():
                authority.take()
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
                assert not done.returncode, (uri, command, done.stderr)
                answers[name] = told(authority.take())
            return answers

        tree = folder / "tree"
        tree.mkdir()
        with libvirtd.private_tree(tree) as peer:
            (tree / "etc/libvirtd.conf").write_text(settings)
            peer.serve(
                *("env", f"DBUS_SYSTEM_BUS_ADDRESS={authority.address}", libvirtd.LIBVIRTD),
                *("-p", str(tree / "libvirtd.pid")),
            )
            theirs = run(peer.uri)
        with daemon_with(authority, settings) as daemon:
            ours = run(daemon.uri)
    different = {words: (theirs[words], ours[words]) for words in theirs if theirs[words] != ours[words]}
    assert not different
