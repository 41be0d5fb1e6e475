"""Stock clients run by somebody who is not root."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

from tests.support.daemon import Daemon

#: nobody in particular, who has no account
UID, GID, GROUP = 61234, 61235, 61236


def virsh(
    daemon: Daemon, *words: str, readonly: bool = False, group: int = GROUP
) -> subprocess.CompletedProcess[str]:
    """Run Debian's virsh as this somebody, who is in a group, too."""
    uri = daemon.uri_ro if readonly else daemon.uri
    return run("virsh", "-q", "-c", uri, *words, group=group)


def python(daemon: Daemon, code: str) -> str:
    """Run code with python3-libvirt (``conn`` is open) as this somebody; gives what it prints."""
    done = run(*_program(daemon, code))
    assert not done.returncode, done.stderr
    return done.stdout


@contextlib.contextmanager
def listening(daemon: Daemon, code: str) -> "Iterator[subprocess.Popen[str]]":
    """Run such code beside the test, which reads what it prints; it ends with the block."""
    with subprocess.Popen(
        [*_as_somebody(GROUP), *_program(daemon, code)],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=_ENVIRONMENT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _as_somebody(group: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={UID}", f"--regid={GID}", f"--groups={group}")


def _program(daemon: Daemon, code: str) -> tuple[str, ...]:
    start = f"import libvirt\nlibvirt.virEventRegisterDefaultImpl()\nconn = libvirt.open({daemon.uri!r})\n"
    return ("/usr/bin/python3", "-c", start + code)


_ENVIRONMENT = {**os.environ, "LC_ALL": "C", "LIBVIRT_AUTOSTART": "0", "HOME": "/"}


def run(*command: str, group: int = GROUP) -> subprocess.CompletedProcess[str]:
    """Run a command as this somebody, who is in a group, too."""
    return subprocess.run(
        [*_as_somebody(group), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
        env=_ENVIRONMENT,
    )
