"""Network namespaces that a test makes: nothing is changed in the host's own network."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

_NUMBERS = count()


def devices_of(mac: str) -> set[str]:
    """Return the network devices made for a card: they have its address, or all of it but the first byte."""
    found = set()
    for path in Path("/sys/class/net").glob("*/address"):
        with contextlib.suppress(OSError):  # others come and go
            if path.read_text().strip()[3:] == mac[3:]:
                found.add(path.parent.name)
    return found


class Namespace:
    """A network of its own, with nothing but its loopback in the beginning."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that let a command run in it."""
        return ("ip", "netns", "exec", self.name)

    def run(
        self, *words: str, check: bool = True, patience: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        done = subprocess.run(
            [*self.prefix, *words], capture_output=True, text=True, check=False, timeout=patience
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done

    @contextlib.contextmanager
    def start(self, *words: str) -> "Iterator[subprocess.Popen[str]]":
        """Let a command run in it for a block."""
        process = subprocess.Popen(
            [*self.prefix, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def ip(self, *words: str) -> str:
        """Run ip in it and return what it prints."""
        return self.run("ip", *words).stdout

    def links(self) -> set[str]:
        """Return the names of its devices."""
        return {line.split(":")[1].strip().split("@")[0] for line in self.ip("-o", "link").splitlines()}

    def cable(self, mine: str, other: "Namespace", theirs: str) -> None:
        """Lay a cable to another namespace; both ends are brought up."""
        self.ip("link", "add", mine, "type", "veth", "peer", "name", theirs, "netns", other.name)
        self.ip("link", "set", mine, "up")
        other.ip("link", "set", theirs, "up")


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace for a block."""
    it = Namespace(f"qvt{os.getpid()}-{next(_NUMBERS)}")
    subprocess.run(["ip", "netns", "add", it.name], check=True, capture_output=True, timeout=30)
    try:
        it.ip("link", "set", "lo", "up")
        yield it
    finally:
        # programs of the test that outlived it would keep the namespace
        pids = subprocess.run(
            ["ip", "netns", "pids", it.name], capture_output=True, text=True, check=False, timeout=30
        ).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        subprocess.run(["ip", "netns", "del", it.name], check=False, capture_output=True, timeout=30)


def as_user(uid: int, gid: int) -> Sequence[str]:
    """Return the words that let a command run as another user."""
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
