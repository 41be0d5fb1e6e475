"""Guests that change over between Debian's libvirtd and ours: the tree both serve, and what is done there."""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support.daemon import virsh as run_virsh
from tests.wire import libvirtd

#: seconds a daemon gets to end
WAIT = 30.0


def settings(directory: Path, namespaces: str = "namespaces = []") -> None:
    """Add to qemu.conf what keeps both daemons off the machine's control groups and policies."""
    with (directory / "etc/qemu.conf").open("a") as file:
        file.write(f'\ncgroup_controllers = []\n{namespaces}\nsecurity_driver = "none"\n')


def file(directory: Path, name: str, text: str) -> str:
    """Write a document into the tree, and return where."""
    path = directory / f"{name}.def"
    path.write_text(text)
    return str(path)


def virsh(tree: libvirtd.Tree, *words: str) -> str:
    """Run virsh on whichever daemon serves the tree; it must not fail."""
    done = run_virsh(tree.uri, *words)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def change(tree: libvirtd.Tree, *words: str, fails: bool = False) -> str:
    """Run ``qvirt takeover`` and return what it says."""
    done = subprocess.run(
        tree.inside(sys.executable, "-m", "qvirt.cli.main", "takeover", *words),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert (done.returncode != 0) is fails, said
    return said


def daemon_pid(directory: Path) -> int:
    """Return the pid of the daemon that serves the tree."""
    return int((directory / "run/qemu/driver.pid").read_text())


def daemon_words(directory: Path) -> str:
    """Return its command line."""
    return Path(f"/proc/{daemon_pid(directory)}/cmdline").read_text().replace("\0", " ")


def end_all(directory: Path) -> None:
    """End the daemon that was started last, then what outlives it."""
    with suppress(OSError, ValueError):
        watch = os.pidfd_open(daemon_pid(directory))
        try:
            signal.pidfd_send_signal(watch, signal.SIGTERM)
            select.select([watch], [], [], WAIT)
        finally:
            os.close(watch)
    for path in [*(directory / "run/qemu").glob("*.pid"), *(directory / "run/network").glob("*.pid")]:
        with suppress(ProcessLookupError, ValueError):
            if path.name != "driver.pid":
                os.kill(int(path.read_text()), signal.SIGKILL)
