"""The package installed into a clean virtual environment: its commands, the client alone, session mode."""

import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.api.documents import CONSOLE, domain
from tests.support.daemon import wait_until

PROJECT = Path(__file__).parents[3]
#: the system's, as other users cannot get at one below somebody's home
SYSTEM_PYTHON = Path("/usr/bin/python3")
PIP_PATIENCE = 300


def make_environment(folder: Path) -> Path:
    """Install the project as a user would; returns the environment. Skips where nothing can be installed."""
    source, environment = folder / "source", folder / "venv"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, source)
    shutil.copytree(PROJECT / "qvirt", source / "qvirt", ignore=shutil.ignore_patterns("__pycache__"))
    new_enough = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
    usable = (
        SYSTEM_PYTHON.exists()
        and not subprocess.run([SYSTEM_PYTHON, "-c", new_enough], capture_output=True, timeout=30).returncode
    )
    python = SYSTEM_PYTHON if usable else Path(sys.executable)
    for words in (
        [str(python), "-m", "venv", str(environment)],
        [str(environment / "bin/pip"), "install", "-q", "--disable-pip-version-check", str(source)],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PIP_PATIENCE)
        if done.returncode:
            if "Could not find a version" in done.stderr or "Temporary failure" in done.stderr:
                pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
            raise AssertionError(done.stderr)
    return environment


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """A clean environment that every user may use."""
    folder = Path(tempfile.mkdtemp(prefix="qv-env-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield make_environment(folder)
    finally:
        shutil.rmtree(folder)


def run(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command away from the project's folder."""
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **environ},
    )


@pytest.mark.parametrize("command", ["qvirt", "qvirtd", "virt-ssh-helper"])
def test_commands(environment: Path, command: str) -> None:
    done = run(environment / "bin" / command, "--help")
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


def test_data_goes_along(environment: Path) -> None:
    def data(root: Path) -> set[str]:
        return {
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }

    (installed,) = (environment / "lib").glob("python3*/site-packages/qvirt")
    assert data(installed) == data(PROJECT / "qvirt")
    assert {"py.typed"} < data(installed)


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lxml", "uvloop"):
            raise ModuleNotFoundError(f"no module named {name!r}: it is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_the_client_needs_neither_lxml_nor_uvloop(environment: Path) -> None:
    python = environment / "bin/python"
    code = BLOCKER + (
        "import qvirt.client.aio, qvirt.client.blocking, qvirt.client.events\n"
        "import qvirt.cli.main, qvirt.cli.ssh_helper\n"
        "sys.argv = ['qvirt', '--help']\n"
        "sys.exit(qvirt.cli.main.main())\n"
    )
    done = run(python, "-c", code)
    assert done.returncode == 0, done.stderr
    # and the blocker does block
    assert "it is blocked" in run(python, "-c", BLOCKER + "import qvirt.daemon.life").stderr


@pytest.mark.qemu
@pytest.mark.virsh
def test_the_installed_daemon_serves(environment: Path) -> None:
    root = Path(tempfile.mkdtemp(prefix="qv-", dir="/tmp"))
    root.chmod(0o755)
    process = subprocess.Popen([environment / "bin/qvirtd", "--root", root], cwd="/")
    uri = f"qemu:///system?socket={root}/run/libvirt/libvirt-sock"
    try:
        wait_until(lambda: run("virsh", "-c", uri, "uri").returncode == 0, "the installed qvirtd answers")
        (root / "one.xml").write_text(domain("one", CONSOLE))
        for words in (("create", "--paused", root / "one.xml"), ("domstate", "one"), ("destroy", "one")):
            done = run("virsh", "-c", uri, *words)
            assert done.returncode == 0, done.stderr
        listed = run(environment / "bin/qvirt", "-c", uri, "list", "--all")
        assert listed.stdout == run("virsh", "-c", uri, "list", "--all").stdout
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(root)


# --------------------------------------------------------------- session mode


class Session:
    """An ordinary user with a home of their own; libvirt's clients find qvirtd where libvirtd would be."""

    def __init__(self, home: Path, environment: Path) -> None:
        self.home = home
        self.runtime = home / "run"
        commands = home / "path"
        commands.mkdir()
        (commands / "libvirtd").symlink_to(environment / "bin/qvirtd")
        self.environ = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "LIBVIRTD_PATH": str(commands),
        }
        self.become: list[str] = []
        self.runtime.mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (home, self.runtime, commands):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            ids = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}"]
            self.become = ["setpriv", *ids, "--clear-groups"]

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return run(*self.become, *words, **self.environ)

    def virsh(self, *words: object) -> str:
        done = self.run("virsh", "-q", "-c", "qemu:///session", *words)
        if done.returncode:
            raise AssertionError(f"virsh {words}: {done.stdout}{done.stderr}")
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Return the processes that have this home in their environment or command line, by pid."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes()
                if str(self.home).encode() in words + (folder / "environ").read_bytes():
                    found[int(folder.name)] = words.replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found


def kill(pid: int) -> None:
    """Kill a process that is not our child and wait for its end.

    Its memory goes first (then no command line is left to look for), its sockets afterwards: only the
    pidfd says when a connection can no longer reach it.
    """
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 30)[0], f"process {pid} does not end"
    finally:
        os.close(pidfd)


@pytest.fixture
def session(environment: Path) -> Iterator[Session]:
    """A user's session; everything in it ends with the test."""
    if os.geteuid() == 0 and run("setpriv", "--version").returncode:
        pytest.skip("no setpriv to become another user")
    home = Path(tempfile.mkdtemp(prefix="qv-home-", dir="/tmp"))
    it = Session(home, environment)
    try:
        if it.run(environment / "bin/python", "-c", "").returncode:
            pytest.skip("another user cannot run this Python")
        yield it
    finally:
        for pid in it.processes():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not it.processes(), "the session has ended")
        shutil.rmtree(home)


@pytest.mark.qemu
@pytest.mark.virsh
def test_clients_start_the_daemon_of_a_session(session: Session) -> None:
    assert session.virsh("list", "--all").strip() == ""
    (daemon,) = session.processes()
    assert os.stat(f"/proc/{daemon}").st_uid == session.runtime.stat().st_uid
    sock = session.runtime / "libvirt/libvirt-sock"
    assert stat.S_IMODE(sock.stat().st_mode) & 0o077 == 0
    document = session.home / "mine.xml"
    document.write_text(domain("mine", CONSOLE + "<interface type='user'/>"))
    document.chmod(0o644)
    session.virsh("define", document)
    session.virsh("start", "mine")
    assert session.virsh("domstate", "mine").strip() == "running"
    assert (session.home / ".config/libvirt/qemu/mine.xml").exists()
    assert (session.home / ".cache/libvirt/qemu/log/mine.log").exists()
    live = session.virsh("dumpxml", "mine")
    assert "<source path='/dev/pts/" in live
    assert "model='dac'" not in live
    # the daemon may go and come back, the guest goes on
    kill(daemon)
    assert session.virsh("domstate", "mine").strip() == "running"
    session.virsh("destroy", "mine")
    session.virsh("undefine", "mine")
    assert len(session.processes()) == 1


@pytest.mark.virsh
def test_a_daemon_nobody_uses_ends(session: Session, environment: Path) -> None:
    process = subprocess.Popen(
        [*session.become, environment / "bin/qvirtd", "--timeout=1"],
        env={"PATH": "/usr/bin:/bin", **session.environ},
        cwd="/",
    )
    try:
        wait_until((session.runtime / "libvirt/libvirt-sock").exists, "it listens")
        assert session.virsh("uri").strip() == "qemu:///session"
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
