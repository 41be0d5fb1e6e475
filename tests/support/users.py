"""Daemons of an ordinary user."""

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests.support.daemon import Daemon, make_root
from tests.support.netns import as_user

#: who the ordinary user is
USER = "nobody"


class UsersDaemon(Daemon):
    """A daemon that runs as an ordinary user."""

    @property
    def uri(self) -> str:
        return f"qemu:///session?socket={self.socket}"


@contextlib.contextmanager
def users_daemon(*, prefix: Sequence[str] = (), settings: str = "") -> Iterator[Daemon]:
    """Run a daemon as an ordinary user, in a tree that is theirs, and leave nothing of it behind.

    prefix: the words before those that change the user; settings: of qemu.conf. Skips where the user cannot
    run it. It is not started yet.
    """
    user = pwd.getpwnam(USER)
    become = as_user(user.pw_uid, user.pw_gid)
    words = [*become, sys.executable, "-c", "import qvirt.daemon.main"]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("another user cannot read this project's folder")
    daemon = UsersDaemon(make_root(), prefix=(*prefix, *become))
    try:
        conf = daemon.root / "etc/libvirt/qemu.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(settings)
        for path in (daemon.root, *daemon.root.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        yield daemon
    finally:
        daemon.clean()
