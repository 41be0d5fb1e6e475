"""A real sshd on the loopback: its own keys, port and configuration, and an ssh that knows only them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import wait_until
from tests.support.remote import Port

SSHD = "/usr/sbin/sshd"


def missing() -> str | None:
    """Say why no sshd can be run here, None when one can."""
    if os.geteuid() != 0:
        return "sshd needs root here"
    for program in (SSHD, "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/unshare"):
        if not os.path.exists(program):
            return f"{program} is not installed"
    return None


class Sshd:
    """What a client needs to come in: the program `ssh` with settings that know the host."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.ssh = folder / "ssh"
        self.key = folder / "key"
        self.log = folder / "sshd.log"

    def uri(self, path: str = "/system", more: str = "", host: str = "here") -> str:
        """Give the URI to come by."""
        return f"qemu+ssh://root@{host}{path}?command={self.ssh}{more}"


@contextlib.contextmanager
def running_sshd(
    folder: Path, sockets: Path, helper: Path | None, prefix: list[str] | None = None
) -> Iterator[Sshd]:
    """Run sshd for a block, in a mount namespace in which libvirt's sockets are those of a folder.

    helper: what is found as virt-ssh-helper by those who come in; None hides any. prefix: words that run a
    command in another mount namespace instead.
    """
    binaries = folder / "bin"
    binaries.mkdir()
    for name in ("sh", "bash", "nc", "grep", "which"):
        found = shutil.which(name)
        if found:
            (binaries / name).symlink_to(found)
    if helper is not None:
        (binaries / "virt-ssh-helper").symlink_to(helper)
    for name in ("host", "key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True, timeout=60
        )
    shutil.copy(folder / "key.pub", folder / "authorized")
    (folder / "authorized").chmod(0o600)
    with Port() as port:
        sshd = Sshd(folder, port.number)
        (folder / "sshd.conf").write_text(
            f"Port {port.number}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nPermitRootLogin yes\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv PATH={binaries} LC_ALL=C\n"
        )
        public = (folder / "host.pub").read_text()
        (folder / "known").write_text(f"[127.0.0.1]:{port.number} {public}")
        (folder / "ssh.conf").write_text(
            f"Host here\n  HostName 127.0.0.1\n  Port {port.number}\n  IdentityFile {folder}/key\n"
            f"Host *\n  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile none\n  BatchMode yes\n"
        )
        sshd.ssh.write_text(
            f'#!/bin/sh\necho "$@" >>{folder}/calls\nexec /usr/bin/ssh -F {folder}/ssh.conf "$@"\n'
        )
        sshd.ssh.chmod(0o700)
        with sshd.log.open("wb") as log:
            process = subprocess.Popen(
                [*(prefix or with_sockets(sockets)), SSHD, "-D", "-e", "-f", str(folder / "sshd.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: _answers(process, sshd), "sshd answers")
            yield sshd
        finally:
            process.terminate()
            process.wait(30)


def with_sockets(sockets: Path) -> list[str]:
    """Give the words that run a command where libvirt's sockets are those of a folder.

    sshd drops its rights in /run/sshd.
    """
    script = (
        "mkdir -p /run/libvirt /run/sshd; "
        f'mount --make-rprivate /; mount --bind {sockets} /run/libvirt; exec "$@"'
    )
    return ["unshare", "-m", "sh", "-ec", script, "sh"]


def _answers(process: "subprocess.Popen[bytes]", sshd: Sshd) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"sshd ended: {sshd.log.read_text()}")
    with socket.socket() as probe:
        try:
            probe.connect(("127.0.0.1", sshd.port))
        except OSError:
            return False
    return True


def our_helper() -> Path:
    """Give the project's own virt-ssh-helper."""
    return Path(sys.executable).parent / "virt-ssh-helper"
