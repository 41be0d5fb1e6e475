"""The daemons that are measured: qvirtd on a tree of its own, and libvirtd with its folders mounted away."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).with_name("client.py")
#: Debian's, because python3-libvirt is for it alone
CLIENT_PYTHON = "/usr/bin/python3"
PATIENCE = 60.0

_LIBVIRT_FOLDERS = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "etc": "/etc/libvirt",
    "log": "/var/log/libvirt",
}
_PR_SET_CHILD_SUBREAPER = 36
_MEMORY = Path("/dev/shm")
"""Where what is kept only while the machine runs lies, as in a real ``/run``."""


class Daemon:
    """One daemon, started and stopped as often as the measures want, its files kept from start to start."""

    name = ""

    def __init__(self) -> None:
        # Short, because socket paths hold 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="qb"))
        self.root.chmod(0o755)
        self.memory_folder: Path | None = None
        if _MEMORY.is_dir():
            self.memory_folder = Path(tempfile.mkdtemp(prefix="qb", dir=_MEMORY))
            self.memory_folder.chmod(0o755)
            (self.root / "run").symlink_to(self.memory_folder)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where clients find it."""
        raise NotImplementedError

    @property
    def run_folder(self) -> Path:
        """The folder of its sockets and of what it notes of running guests."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command that runs it in the foreground."""
        raise NotImplementedError

    def pid(self) -> int:
        """Return the process id of the daemon itself."""
        assert self.process is not None
        return self.process.pid

    def start(self, listed: int = 0) -> float:
        """Start it and wait for the first answer, in which so many domains are listed; returns seconds."""
        with (self.root / "out").open("ab") as out:
            begin = time.monotonic()
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        answered = float(self.ask("answer", listed)["at"])
        return answered - self.begun(begin)

    def begun(self, begin: float) -> float:
        """Return when the daemon itself was started, ``begin`` being when its command was."""
        return begin

    def stop(self) -> None:
        """Ask it to end and wait for that; guests stay."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def ask(self, measure: str, *arguments: object, patience: float = PATIENCE) -> dict[str, Any]:
        """Run one measure of `client.py` against it; raises RuntimeError when it fails or hangs."""
        words = [CLIENT_PYTHON, str(CLIENT), self.uri, measure, json.dumps(arguments)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=patience)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.name}: {measure} took more than {patience:g} s") from None
        if done.returncode:
            raise RuntimeError(f"{self.name}: {measure}: {done.stderr.strip()[-1000:]}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def memory(self) -> float:
        """Return the resident memory, MiB."""
        return resident(self.pid())

    def close(self) -> None:
        """Stop it and remove all it kept."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(RuntimeError):
                self.ask("tidy")
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
        if self.memory_folder is not None:
            shutil.rmtree(self.memory_folder, ignore_errors=True)


class Qvirtd(Daemon):
    """Ours."""

    name = "qvirtd"

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.run_folder}/libvirt-sock"

    @property
    def run_folder(self) -> Path:
        return self.root / "run/libvirt"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "qvirt.daemon.main", "--root", str(self.root)]


class Libvirtd(Daemon):
    """The peer, in a mount namespace in which its folders are ours, so that the system's own is not met."""

    name = "libvirtd"

    def __init__(self) -> None:
        super().__init__()
        for folder in _LIBVIRT_FOLDERS:
            (self.root / folder).mkdir(exist_ok=True)
        skip = shutil.ignore_patterns("networks", "autostart")
        shutil.copytree("/etc/libvirt", self.root / "etc", ignore=skip, dirs_exist_ok=True)
        with (self.root / "etc/qemu.conf").open("a") as conf:
            conf.write('stdio_handler = "file"\n')  # no virtlogd beside it

    @staticmethod
    def why_not() -> str | None:
        """Tell why it cannot be measured here."""
        if os.geteuid() != 0:
            return "needs root"
        return None if shutil.which("libvirtd") else "libvirtd is not installed"

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.run_folder}/libvirt-sock"

    @property
    def run_folder(self) -> Path:
        return self.root / "run"

    def command(self) -> list[str]:
        mounts = "; ".join(f"mount --bind {self.root}/{name} {at}" for name, at in _LIBVIRT_FOLDERS.items())
        made = "; ".join(f"mkdir -p {at}" for at in _LIBVIRT_FOLDERS.values())
        script = f"{made}; {mounts}; exec libvirtd -p {self.root}/pid"
        reaper = [sys.executable, "-m", "bench.daemons", str(self.root / "begun")]
        return [*reaper, "unshare", "-m", "sh", "-ec", script]

    def begun(self, begin: float) -> float:
        return float((self.root / "begun").read_text())

    def pid(self) -> int:
        return int((self.root / "pid").read_text())


def resident(pid: int) -> float:
    """Return the resident memory of a process, MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nRss:")[1].split()[0]) / 1024


def reap(begun: Path, words: list[str]) -> int:
    """Run a command and wait for all it leaves behind: libvirtd waits until its QEMUs are gone altogether.

    Where process 1 reaps orphans late, every destroy of libvirtd's would seem to take that long. When the
    command was started is written to ``begun``.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    begun.write_text(str(time.monotonic()))
    child = os.posix_spawnp(words[0], words, os.environ)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(reap(Path(sys.argv[1]), sys.argv[2:]))
