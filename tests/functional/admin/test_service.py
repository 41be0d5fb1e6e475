"""The daemon as a service: systemd's sockets and notifications, pid file, background, settings."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.access import people
from tests.functional.admin.test_virt_admin import run as virt_admin
from tests.support.daemon import PATIENCE, Daemon, make_root, running_daemon, wait_until
from tests.wire import libvirtd

pytestmark = [
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

UNITS = Path(__file__).parents[3] / "packaging/systemd"

#: makes the sockets a unit would, then becomes the daemon; argv: JSON of [name, path or None, mode], root
STARTER = """
import json, os, socket, sys
sockets, root = json.loads(sys.argv[1]), sys.argv[2]
made = []
for name, path, mode in sockets:
    if path is None:
        sock = socket.create_server(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        os.chmod(path, mode)
        sock.listen(5)
    made.append(sock)
held = [os.dup(sock.fileno()) for sock in made]
free = max(held) + 1
spare = [os.dup2(fd, free + at) for at, fd in enumerate(held)]
for at, fd in enumerate(spare):
    os.dup2(fd, 3 + at)
    os.set_inheritable(3 + at, True)
names = ":".join(name for name, _, _ in sockets)
os.environ.update(LISTEN_FDS=str(len(made)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "qvirt.daemon.main", "--root", root])
"""


@contextlib.contextmanager
def configured(settings: str = "") -> Iterator[Daemon]:
    """Make a daemon's tree with settings; it is not started, and leaves nothing behind."""
    root = make_root()
    (root / "etc/libvirt").mkdir(parents=True)
    (root / "etc/libvirt/libvirtd.conf").write_text(settings)
    daemon = Daemon(root)
    try:
        yield daemon
    finally:
        daemon.clean()


def activate(daemon: Daemon, sockets: list[tuple[str, str | None, int]]) -> "subprocess.Popen[str]":
    """Start a daemon with sockets made for it."""
    daemon.process = process = subprocess.Popen(  # type: ignore[assignment]
        [sys.executable, "-c", STARTER, json.dumps(sockets), str(daemon.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process


def test_passed_sockets_are_what_their_names_say() -> None:
    with configured('auth_tcp = "none"\n') as daemon:
        paths = {name: str(daemon.root / name) for name in ("a", "b", "c")}
        process = activate(
            daemon,
            [
                ("qvirtd", paths["a"], 0o600),
                ("libvirtd-ro.socket", paths["b"], 0o666),
                ("qvirtd-admin", paths["c"], 0o600),
                ("qvirtd-tcp", None, 0),
            ],
        )
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        daemon.socket, daemon.socket_ro = Path(paths["a"]), Path(paths["b"])
        assert "QEMU" in daemon.virsh("version")
        refused = daemon.virsh_run("net-define", "/dev/null", readonly=True)
        assert refused.returncode
        assert people.virsh(daemon, "list", readonly=True).returncode == 0
        assert "admin" in virt_admin(Path(paths["c"]), "srv-list").stdout
        uri = f"qemu+tcp://127.0.0.1:{port}/system"
        done = subprocess.run(["virsh", "-c", uri, "uri"], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == uri, done.stderr
        assert not (daemon.root / "run/libvirt/libvirt-sock").exists()
        daemon.stop()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


def test_a_passed_socket_that_is_open_to_all_is_refused() -> None:
    with configured() as daemon:
        process = activate(daemon, [("qvirtd", str(daemon.root / "a"), 0o666)])
        _, complaint = process.communicate(timeout=PATIENCE)
        daemon.process = None
        assert process.returncode == 1
        assert f"everybody may write to the passed socket '{daemon.root}/a'" in complaint


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/qvirtd", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    ours = [line for line in done.stderr.splitlines() if "qvirtd" in line]
    assert not ours


class Manager:
    """Hears what a service tells systemd."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE)

    def hear(self, wanted: str) -> dict[str, str]:
        """Wait for a message with this line; gives it by name."""
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            if wanted in lines:
                return dict(line.split("=", 1) for line in lines)


def test_systemd_is_told() -> None:
    with configured() as daemon:
        manager = Manager(daemon.root / "notify")
        words = ("env", f"NOTIFY_SOCKET={daemon.root}/notify", "WATCHDOG_USEC=400000")
        daemon.prefix = words
        daemon.start()
        assert "STATUS" in manager.hear("READY=1")
        manager.hear("WATCHDOG=1")
        manager.hear("WATCHDOG=1")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        assert int(manager.hear("RELOADING=1")["MONOTONIC_USEC"]) > 0
        manager.hear("READY=1")
        daemon.stop()
        manager.hear("STOPPING=1")
        manager.socket.close()


def test_a_pid_file_is_one_daemons() -> None:
    with configured() as daemon, configured() as other:
        file = daemon.root / "pid"
        daemon.options = other.options = ("--pid-file", str(file))
        daemon.start()
        assert daemon.process is not None
        assert file.read_text() == f"{daemon.process.pid}\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        refused = other.run_to_the_end()
        assert refused.returncode == 1
        assert f"pid file '{file}' is held by another daemon" in refused.stderr
        daemon.kill()
        # a daemon that was killed holds nothing
        other.start()
        assert other.process is not None
        assert file.read_text() == f"{other.process.pid}\n"
        other.stop()
        assert not file.exists()


def test_the_version_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qvirt.daemon.main", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("qvirtd ")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("\nmax_client = 3\n", ":2: unknown setting 'max_client'; did you mean 'max_clients'?"),
        (
            'acces_drivers = ["polkit"]\n',
            ":1: unknown setting 'acces_drivers'; did you mean 'access_drivers'?",
        ),
        ('access_drivers = [ "polkti" ]\n', "there is no driver 'polkti'"),
        ('log_filters = "9:x"\n', "Invalid priority '9' for filter '9:x'"),
        ("log_level = 7\n", "log_level: '7' is no level"),
        ('log_outputs = "1:file:/nonexistent/x"\n', "failed to open /nonexistent/x"),
        ('unix_sock_admin_perms = "rwx"\n', "'rwx' is not an octal file mode"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: str, complaint: str) -> None:
    with configured(settings) as daemon:
        done = daemon.run_to_the_end()
        assert done.returncode == 1
        assert complaint in done.stderr


def test_settings_without_a_meaning_are_reported() -> None:
    with configured("\novs_timeout = 5\nlog_level = 2\n") as daemon:
        daemon.start()
        line = f"{daemon.root}/etc/libvirt/libvirtd.conf:2: option 'ovs_timeout' has no meaning here"
        wait_until(lambda: line in daemon.log.read_text(), "the log says so")


def test_logging_follows_the_settings() -> None:
    with configured("log_level = 3\n") as daemon:
        place = daemon.root / "log"
        daemon.start()
        (daemon.root / "etc/libvirt/libvirtd.conf").write_text(
            f'log_filters = "1:call_log"\nlog_outputs = "1:file:{place}"\n'
        )
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(place.exists, "the new file is there")
        wait_until(
            lambda: daemon.virsh("uri") and "call=CONNECT_OPEN" in place.read_text(), "calls are logged"
        )


def test_it_lives_without_systemd_bus_and_polkit() -> None:
    with running_daemon(prefix=("env", "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent")) as daemon:
        daemon.virsh("list")
        found = {path.name for path in (daemon.root / "run/libvirt").iterdir() if path.is_socket()}
        assert {"libvirt-sock", "libvirt-sock-ro", "libvirt-admin-sock"} <= found


@pytest.mark.skipif(libvirtd.missing() is not None, reason=str(libvirtd.missing()))
def test_in_the_background_it_logs_to_a_file(tmp_path: Path) -> None:
    if os.path.exists("/run/systemd/journal/socket") or os.path.exists("/dev/log"):
        pytest.skip("this machine has a journal or syslog")
    with libvirtd.private_tree(tmp_path, own_network=True) as tree:
        pid_file = tmp_path / "qvirtd.pid"
        done = subprocess.run(
            tree.inside(sys.executable, "-m", "qvirt.daemon.main", "-d", "-v", "-p", str(pid_file)),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": str(UNITS.parents[1])},
        )
        pid = int(pid_file.read_text())
        pidfd = os.pidfd_open(pid)
        try:
            assert done.returncode == 0, done.stderr
            subprocess.run(["virsh", "-c", tree.uri, "uri"], capture_output=True, check=True)
            log = tmp_path / "log/qvirtd.log"
            wait_until(lambda: log.exists() and " info : " in log.read_text(), "it logs to a file")
        finally:
            os.kill(pid, signal.SIGTERM)
            assert select.select([pidfd], [], [], PATIENCE)[0]
            os.close(pidfd)
