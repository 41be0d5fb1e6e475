"""A private qvirtd on a tree of its own, and the stock clients pointed at it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.groups import remove_groups

#: seconds; how long a test waits for something that should come at once
PATIENCE = 30.0


def wait_until(happened: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition that nothing announces; a bounded poll."""
    end = time.monotonic() + patience
    while not happened():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {patience} s")
        time.sleep(0.01)


class Daemon:
    """``qvirtd --root DIR`` in the foreground.

    root: its tree. Short, because socket paths hold 107 bytes. prefix: words before the command, which go
    over into it (``ip netns exec NAME``, ``setpriv ...``).
    """

    def __init__(self, root: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        self.prefix = tuple(prefix)
        self.root = root
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.socket = root / "run/libvirt/libvirt-sock"
        self.socket_ro = root / "run/libvirt/libvirt-sock-ro"
        self.log = root / "qvirtd.log"

    @property
    def uri(self) -> str:
        """The URI stock clients open."""
        return f"qemu:///system?socket={self.socket}"

    @property
    def uri_ro(self) -> str:
        """The same by the read-only socket."""
        return f"qemu:///system?socket={self.socket_ro}"

    def start(self) -> "Daemon":
        """Start, and wait until it takes connections."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    *(sys.executable, "-m", "qvirt.daemon.main", "--root", str(self.root)),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "qvirtd takes connections")
        return self

    def _answers(self) -> bool:
        import socket

        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(
                f"qvirtd ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def run_to_the_end(self) -> subprocess.CompletedProcess[str]:
        """Start one that must refuse to, and return it when it has ended."""
        return subprocess.run(
            [
                *self.prefix,
                sys.executable,
                "-m",
                "qvirt.daemon.main",
                "--root",
                str(self.root),
                *self.options,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def kill(self) -> None:
        """Kill it with no chance to tidy up, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait until it is gone; guests stay."""
        self._end(signal.SIGTERM)

    def _end(self, sign: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(sign)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"qvirtd did not end on {sign.name}") from None
        finally:
            self.process = None

    def qemu_pids(self) -> list[int]:
        """Return the pids of every QEMU that runs on this tree."""
        return [
            pid
            for pid, words in _processes()
            if "qemu" in words[0] and any(str(self.root) in w for w in words)
        ]

    def clean(self) -> None:
        """End the daemon, every QEMU of its tree, and remove the tree."""
        if self.process is not None:
            self.stop()
        for pid in self.qemu_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.qemu_pids(), "the guests are gone")
        remove_groups(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    # ------------------------------------------------------------ stock clients

    def virsh(self, *words: str, check: bool = True, input: str | None = None, readonly: bool = False) -> str:
        """Run Debian's virsh and return what it prints; its errors are in the AssertionError."""
        done = self.virsh_run(*words, input=input, readonly=readonly)
        if check and done.returncode:
            raise AssertionError(f"virsh {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def virsh_run(
        self, *words: str, input: str | None = None, readonly: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run Debian's virsh and return the finished process."""
        return virsh(self.uri_ro if readonly else self.uri, *words, input=input)

    def qvirt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run our own command and return the finished process."""
        return _finished([sys.executable, "-m", "qvirt.cli.main", "-c", self.uri, *words])

    def python(self, code: str, *arguments: str) -> str:
        """Run code with python3-libvirt (``conn`` is open) and return what it prints."""
        program = f"import sys, libvirt\nconn = libvirt.open({self.uri!r})\n{code}"
        done = _finished(["/usr/bin/python3", "-c", program, *arguments])
        if done.returncode:
            raise AssertionError(f"{done.stdout}{done.stderr}")
        return done.stdout


def virsh(uri: str, *words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Debian's virsh on any daemon and return the finished process; there is nobody at its terminal."""
    return _finished(["virsh", "-q", "-c", uri, *words], input)


def _finished(command: Sequence[str], input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=input or "",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "LC_ALL": "C", "LIBVIRT_AUTOSTART": "0"},
    )


def _processes() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0]:
            yield int(folder.name), words


def make_root() -> Path:
    """Make a fresh short folder that QEMU's user may search."""
    root = Path(tempfile.mkdtemp(prefix="qv-", dir="/tmp"))
    root.chmod(0o755)
    return root


@contextlib.contextmanager
def running_daemon(*options: str, prefix: Sequence[str] = ()) -> Iterator[Daemon]:
    """Run a private daemon for a block, and leave nothing of it behind."""
    daemon = Daemon(make_root(), *options, prefix=prefix)
    try:
        yield daemon.start()
    finally:
        daemon.clean()
