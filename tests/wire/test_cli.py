"""The command against virsh on the same daemon, and the helper for ssh under the real virsh."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from qvirt.client import blocking
from tests.support.daemon import wait_until
from tests.wire.guests import guest_xml

QVIRT = [sys.executable, "-m", "qvirt.cli.main"]
HELPER = [sys.executable, "-m", "qvirt.cli.ssh_helper"]
VIRSH = ["/usr/bin/virsh"]
LIMIT = 60

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.skipif(not os.path.exists(VIRSH[0]), reason="virsh is not installed"),
]


def run(program: list[str], uri: str, *line: str, stdin: str = "") -> tuple[int, str, str]:
    environ = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        [*program, "-c", uri, *line], input=stdin, capture_output=True, text=True, timeout=LIMIT, env=environ
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def guests(daemon_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Define two guests, start one: `on` and `off` with a title, in the files of these names."""
    directory = tmp_path_factory.mktemp("guests")
    for name in ("on", "off"):
        xml = guest_xml(name).replace("<memory", "<title>The title</title>\n  <memory")
        (directory / name).write_text(xml)
        assert run(QVIRT, daemon_uri, "define", str(directory / name))[0] == 0
    assert run(QVIRT, daemon_uri, "start", "on") == (0, "Domain 'on' started\n\n", "")
    yield daemon_uri, directory
    run(VIRSH, daemon_uri, "destroy", "on")
    for name in ("on", "off"):
        run(VIRSH, daemon_uri, "undefine", name)


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "list --all",
        "list --inactive",
        "list --all --name",
        "list --all --uuid --name",
        "list --id",
        "list --all --title",
        "list --all --managed-save",
        "list --state-shutoff",
        "-q list --all",
        "list --bogus",
        "dominfo off",
        "domstate on",
        "domstate off --reason",
        "domstate nobody",
        "domstate",
        "domid on",
        "domuuid off",
        "dumpxml on",
        "dumpxml on --inactive",
        "dumpxml nobody",
        "start on",
        "start nobody",
        "shutdown off",
        "shutdown on --mode telepathy",
        "destroy off",
        "define /nonexistent",
        "define /etc/hostname",
        "domxml-to-native qemu-argv --domain off",
        "domxml-to-native qemu-argv",
        "domxml-to-native vmware-vmx --domain off",
        "capabilities",
        "domcapabilities",
        "domcapabilities --machine q35 --virttype qemu",
        "domcapabilities --machine none-such",
        "nodeinfo",
        "uri",
        "hostname",
        "event",
        "event --event nonsense",
        "event --event reboot --timeout 1",
        "frobnicate",
    ],
)
def test_says_what_virsh_says(guests: tuple[str, Path], line: str) -> None:
    uri, _ = guests
    assert run(QVIRT, uri, *line.split()) == run(VIRSH, uri, *line.split())


def test_version(daemon_uri: str) -> None:
    ours, virshs = (
        run(QVIRT, daemon_uri, "version", "--daemon"),
        run(VIRSH, daemon_uri, "version", "--daemon"),
    )
    assert ours[1].splitlines()[1:] == virshs[1].splitlines()[2:]


def test_events_of_a_life(daemon_uri: str, tmp_path: Path) -> None:
    name = f"qt-{uuid4().hex[:8]}"
    (tmp_path / "xml").write_text(guest_xml(name))
    probe = f"qt-{uuid4().hex[:8]}"
    (tmp_path / "probe").write_text(guest_xml(probe))
    line = ["-c", daemon_uri, "event", "--all", "--loop", "--timeout", str(10 * LIMIT)]
    watchers: list[subprocess.Popen[bytes]] = []
    logs: list[Path] = []
    for program in (VIRSH, QVIRT):
        logs.append(tmp_path / f"heard-{len(logs)}")
        with logs[-1].open("wb") as log:
            watchers.append(subprocess.Popen(["stdbuf", "-oL", *program, *line], stdout=log))

    def about(name: str) -> list[list[str]]:
        return [[line for line in log.read_text().splitlines() if f"domain '{name}'" in line] for log in logs]

    def both_hear() -> bool:
        assert run(QVIRT, daemon_uri, "define", str(tmp_path / "probe"))[0] == 0
        assert run(QVIRT, daemon_uri, "undefine", probe)[0] == 0
        return all(about(probe))

    try:
        # neither says when it has subscribed: make something happen until it is heard
        wait_until(both_hear, "both hear events")
        for command in (
            ["create", str(tmp_path / "xml")],
            ["suspend", name],
            ["resume", name],
            ["destroy", name],
        ):
            assert run(QVIRT, daemon_uri, *command)[0] == 0
        wait_until(lambda: all("Stopped" in "".join(lines) for lines in about(name)), "both hear the end")
        virsh, ours = about(name)
        assert virsh == ours
        assert f"event 'lifecycle' for domain '{name}': Started Booted" in ours
    finally:
        for watcher in watchers:
            watcher.terminate()
            watcher.wait(LIMIT)


def test_console_through_pipes(daemon_uri: str, tmp_path: Path) -> None:
    name = f"qt-{uuid4().hex[:8]}"
    (tmp_path / "xml").write_text(guest_xml(name))
    process = subprocess.Popen(
        [*QVIRT, "-c", daemon_uri, "create", "--console", str(tmp_path / "xml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdin
        assert process.stdout
        shown = b""
        while b"SeaBIOS" not in shown:
            data = os.read(process.stdout.fileno(), 4096)
            assert data, shown
            shown += data
        process.stdin.write(b"\x1d")
        process.stdin.flush()
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.communicate()
        run(VIRSH, daemon_uri, "destroy", name)


def test_console_on_a_terminal(guests: tuple[str, Path]) -> None:
    uri, _ = guests
    pid, master = pty.fork()
    if pid == 0:
        os.execv(QVIRT[0], [*QVIRT, "-c", uri, "console", "on"])  # noqa: S606 - the test's own program
    shown = b""
    deadline = time.monotonic() + LIMIT
    try:
        while b"Escape character is ^] (Ctrl + ])" not in shown:
            assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], shown
            shown += os.read(master, 4096)
        assert b"Connected to domain 'on'" in shown
        os.write(master, b"\x03\x1d")
        try:
            while select.select([master], [], [], max(0, deadline - time.monotonic()))[0]:
                if not os.read(master, 4096):
                    break
        except OSError:
            pass  # how a terminal says that the other side is gone
    finally:
        os.close(master)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_second_console_is_refused_unless_forced(guests: tuple[str, Path]) -> None:
    uri, _ = guests
    with blocking.Connection.open(uri) as connection, connection.lookup_by_name("on").open_console():
        code, _, err = run(QVIRT, uri, "console", "on", "--idle", "0.1")
        assert (code, err) == (
            1,
            "error: Failed to open the console of domain 'on'\n"
            "error: operation failed: Active console session exists for this domain\n",
        )
        assert run(QVIRT, uri, "console", "on", "--force", "--idle", "0.1")[0] == 0


def test_virsh_through_the_ssh_helper(daemon_uri: str, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec {' '.join(HELPER)} '{daemon_uri}'\n")
    ssh.chmod(0o700)
    code, out, err = run(VIRSH, f"qemu+ssh://host/system?command={ssh}", "hostname")
    assert (code, err) == (0, "")
    assert out == run(VIRSH, daemon_uri, "hostname")[1]


def test_the_helper_ends_with_its_input(daemon_uri: str) -> None:
    done = subprocess.run([*HELPER, daemon_uri], input=b"", capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_helper_ends_with_the_daemon(daemon_uri: str) -> None:
    process = subprocess.Popen([*HELPER, daemon_uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin
        # A length no packet may have: the daemon hangs up.
        process.stdin.write(b"\xff\xff\xff\xff")
        process.stdin.flush()
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_helper_without_daemon(tmp_path: Path) -> None:
    done = subprocess.run(
        [*HELPER, f"qemu:///system?socket={tmp_path}/none"], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
