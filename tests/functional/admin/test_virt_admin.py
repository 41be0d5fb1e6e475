"""Debian's virt-admin against our daemon, and the same commands against libvirtd."""

import contextlib
import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.access import people
from tests.support.daemon import PATIENCE, Daemon, running_daemon, wait_until
from tests.wire import libvirtd

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("virt-admin") is None, reason="needs virt-admin"),
]


def run(socket: Path, *words: str, daemon: str = "libvirtd") -> subprocess.CompletedProcess[str]:
    """Run virt-admin on a socket."""
    return subprocess.run(
        ["virt-admin", "-c", f"{daemon}:///system?socket={socket}", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "LC_ALL": "C"},
    )


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        wait_until((running.root / "run/libvirt/virtqemud-admin-sock").exists, "all sockets are there")
        yield running


def admin(daemon: Daemon, *words: str, server: str = "libvirtd") -> str:
    """Run virt-admin, which must succeed."""
    name = "libvirt-admin-sock" if server == "libvirtd" else f"{server}-admin-sock"
    done = run(daemon.root / "run/libvirt" / name, *words, daemon=server)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def refused(daemon: Daemon, *words: str) -> str:
    """Run virt-admin, which must fail; gives its complaint."""
    done = run(daemon.root / "run/libvirt/libvirt-admin-sock", *words)
    assert done.returncode
    return done.stderr


@contextlib.contextmanager
def connected(daemon: Daemon, *, readonly: bool = False) -> "Iterator[subprocess.Popen[str]]":
    """Keep a client of libvirt connected; it says the number of the reason when its connection is closed."""
    code = f"""
import libvirt
libvirt.virEventRegisterDefaultImpl()
conn = libvirt.open{"ReadOnly" if readonly else ""}({(daemon.uri_ro if readonly else daemon.uri)!r})
closed = []
conn.registerCloseCallback(lambda conn, reason, opaque: closed.append(reason), None)
print('ready', flush=True)
while not closed:
    libvirt.virEventRunDefaultImpl()
print(closed[0], flush=True)
"""
    with subprocess.Popen(["/usr/bin/python3", "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def clients(daemon: Daemon, server: str = "libvirtd") -> list[str]:
    """Give the numbers of a server's clients."""
    return re.findall(r"^ (\d+) +unix ", admin(daemon, "srv-clients-list", server), re.MULTILINE)


def number_of(daemon: Daemon, process: "subprocess.Popen[str]") -> str:
    """Give the number of a client by its process."""
    for number in clients(daemon):
        if f"unix_process_id: {process.pid}\n" in admin(daemon, "client-info", "libvirtd", number):
            return number
    raise AssertionError("the client is not there")


def test_servers_have_the_names_of_their_socket(daemon: Daemon) -> None:
    for name in ("libvirtd", "virtqemud"):
        listed = admin(daemon, "srv-list", server=name)
        assert re.findall(r"^ \d +(\w+)", listed, re.MULTILINE) == [name, "admin"]
    assert "No server named 'x'" in refused(daemon, "srv-clients-list", "x")


def test_clients_are_known(daemon: Daemon) -> None:
    with connected(daemon, readonly=True) as process:
        said = admin(daemon, "client-info", "libvirtd", number_of(daemon, process))
        for line in ("transport      : unix", "readonly       : yes", "unix_user_name : root"):
            assert line in said
    assert len(clients(daemon, "admin")) == 1
    assert "No client with matching ID '9999'" in refused(daemon, "client-info", "libvirtd", "9999")


def test_a_client_is_disconnected(daemon: Daemon) -> None:
    with connected(daemon) as process:
        number = number_of(daemon, process)
        assert f"Client '{number}' disconnected" in admin(daemon, "client-disconnect", "libvirtd", number)
        assert process.communicate(timeout=PATIENCE)[0] == "1\n"
        assert number not in clients(daemon)
        assert f"No client with matching ID '{number}'" in (
            refused(daemon, "client-disconnect", "libvirtd", number)
        )


def test_workers_are_numbers(daemon: Daemon) -> None:
    admin(daemon, "srv-threadpool-set", "libvirtd", "--max-workers", "30", "--min-workers", "6")
    said = admin(daemon, "srv-threadpool-info", "libvirtd").replace(" ", "")
    assert said.split() == [
        *("minWorkers:6", "maxWorkers:30", "nWorkers:6", "freeWorkers:6"),
        *("prioWorkers:5", "jobQueueDepth:0"),
    ]
    complaint = refused(daemon, "srv-threadpool-set", "libvirtd", "--min-workers", "31")
    assert "minWorkers cannot be larger than maxWorkers" in complaint


def test_limits_hold(daemon: Daemon) -> None:
    with running_daemon() as own, connected(own):
        admin(own, "srv-clients-set", "libvirtd", "--max-clients", "1", "--max-unauth-clients", "1")
        said = admin(own, "srv-clients-info", "libvirtd").replace(" ", "")
        assert "nclients_max:1\nnclients:1\nnclients_unauth_max:1\n" in said
        with subprocess.Popen(
            ["virsh", "-c", own.uri, "uri"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as waiting:
            try:
                assert waiting.stdout is not None
                # it is not taken in: nothing comes for as long as the daemon answers others
                admin(own, "srv-clients-info", "libvirtd")
                assert not select.select([waiting.stdout], [], [], 0)[0]
                admin(own, "srv-clients-set", "libvirtd", "--max-clients", "5")
                assert waiting.stdout.readline().startswith(b"qemu:///system")
            finally:
                waiting.kill()
        assert "must not be less" in refused(own, "srv-clients-set", "libvirtd", "--max-clients", "0")


def test_logging_changes(daemon: Daemon) -> None:
    place = daemon.root / "calls.log"
    admin(daemon, "daemon-log-outputs", f"1:file:{place} 4:stderr")
    admin(daemon, "daemon-log-filters", "1:call_log 4:qvirt.runtime")
    said = admin(daemon, "daemon-log-filters")
    assert said.strip() == "Logging filters: 1:*call_log* 4:*qvirt.runtime*"
    assert admin(daemon, "daemon-log-outputs").strip() == f"Logging outputs: 1:file:{place} 4:stderr"
    daemon.virsh_run("dominfo", "no-such-domain")

    def line() -> str | None:
        lines = [each for each in place.read_text().splitlines() if "call=DOMAIN_LOOKUP_BY_NAME" in each]
        return lines[-1] if lines else None

    wait_until(line, "the call is logged")
    logged = line()
    assert logged
    assert re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+0000: \d+: debug : qvirt\.daemon\.call_log:\d+ : call "
        r"call=DOMAIN_LOOKUP_BY_NAME client=\d+ uid=0 milliseconds=[\d.]+ result=NoDomain code=42$",
        logged,
    )
    admin(daemon, "daemon-log-filters", "")
    before = place.stat().st_size
    daemon.virsh("uri")
    admin(daemon, "daemon-log-outputs", "")
    assert "call=CONNECT_OPEN" not in place.read_bytes()[before:].decode()
    assert admin(daemon, "daemon-log-outputs").strip() == "Logging outputs: 3:stderr"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("daemon-log-filters", "9:foo"), "Invalid priority '9' for filter '9:foo'"),
        (("daemon-log-filters", "foo"), "Malformed format for filter 'foo'"),
        (("daemon-log-outputs", "1:nope"), "Invalid log destination 'nope' for log output '1:nope'"),
        (("daemon-log-outputs", "1:syslog"), "does not meet the format requirements"),
        (("daemon-log-outputs", "1:file:/nonexistent/x"), "failed to open /nonexistent/x"),
        (("srv-update-tls", "libvirtd"), "tls"),
    ],
)
def test_what_cannot_be_is_refused(daemon: Daemon, words: tuple[str, ...], complaint: str) -> None:
    before = admin(daemon, "daemon-log-outputs")
    assert complaint.lower() in refused(daemon, *words).lower()
    assert admin(daemon, "daemon-log-outputs") == before


def test_nobody_else_administers(daemon: Daemon) -> None:
    socket = daemon.root / "run/libvirt/libvirt-admin-sock"
    command = ("virt-admin", "-c", f"libvirtd:///system?socket={socket}", "srv-list")
    assert "Permission denied" in people.run(*command).stderr
    socket.chmod(0o777)
    done = people.run(*command)
    assert done.returncode
    assert "libvirtd" not in done.stdout
    wait_until(
        lambda: f"user {people.UID} may not administer this daemon" in daemon.log.read_text(),
        "the log says so",
    )


def test_the_daemon_ends_when_nobody_needs_it() -> None:
    with running_daemon() as own:
        assert own.process is not None
        admin(own, "daemon-timeout", "--timeout", "100")
        assert own.process.poll() is None
        admin(own, "daemon-timeout", "--timeout", "1")
        assert own.process.wait(PATIENCE) == 0


#: what both must answer alike, once numbers that differ between runs are left out
SAME = (
    ("version",),
    ("srv-list",),
    ("srv-threadpool-info", "libvirtd"),
    ("srv-clients-info", "libvirtd"),
    ("srv-clients-info", "admin"),
    ("srv-clients-list", "libvirtd"),
    ("client-info", "libvirtd", "99"),
    ("client-info", "x", "1"),
    ("srv-threadpool-set", "libvirtd", "--max-workers", "30"),
    ("srv-threadpool-set", "libvirtd", "--min-workers", "50"),
    ("srv-clients-set", "libvirtd", "--max-clients", "10", "--max-unauth-clients", "5"),
    ("srv-clients-info", "libvirtd"),
    ("daemon-log-filters", "1:qemu 3:*rpc*"),
    ("daemon-log-filters",),
    ("daemon-log-filters", "9:foo"),
    ("daemon-log-filters", "1:"),
    ("daemon-log-outputs", "1:stderr 3:syslog:me"),
    ("daemon-log-outputs",),
    ("daemon-log-outputs", "5:stderr"),
    ("daemon-log-outputs", ""),
    ("daemon-log-outputs",),
)


@pytest.mark.skipif(libvirtd.missing() is not None, reason=str(libvirtd.missing()))
def test_libvirtd_answers_the_same(tmp_path: Path) -> None:
    def answers(socket: Path) -> list[tuple[tuple[str, ...], str]]:
        found: list[tuple[tuple[str, ...], str]] = []
        for words in SAME:
            done = run(socket, *words)
            said = (done.stdout + done.stderr).split()
            # libvirtd lists its servers in no order
            found.append((words, " ".join(sorted(said) if words == ("srv-list",) else said)))
        return found

    with libvirtd.private_libvirtd(tmp_path):
        theirs = answers(tmp_path / "run/libvirt-admin-sock")
    with running_daemon() as daemon:
        ours = answers(daemon.root / "run/libvirt/libvirt-admin-sock")
    assert ours == theirs
