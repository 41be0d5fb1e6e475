"""SASL for tests: a password file and libvirt.conf in a folder of their own."""

import subprocess
from pathlib import Path

from tests.support.daemon import Daemon

PASSWORD = "a secret"  # noqa: S105 - of a user that only these tests have


def add_user(file: Path, name: str, realm: str) -> None:
    """Give a user the password."""
    subprocess.run(
        ["saslpasswd2", "-p", "-c", "-f", str(file), "-u", realm, name],
        input=PASSWORD,
        text=True,
        check=True,
        capture_output=True,
        timeout=60,
    )


def set_up_sasl(daemon: Daemon, mechanisms: str, more: str = "") -> None:
    """Write the daemon's libvirt.conf of SASL."""
    folder = daemon.root / "etc/sasl2"
    folder.mkdir(parents=True, exist_ok=True)
    write_conf(folder, mechanisms, daemon.root / "passwd.db", more)


def write_conf(folder: Path, mechanisms: str, passwords: Path, more: str = "") -> None:
    """Write libvirt.conf of SASL into a folder."""
    (folder / "libvirt.conf").write_text(
        f"mech_list: {mechanisms}\npwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
        f"sasldb_path: {passwords}\n{more}"
    )


def auth_file(path: Path, host: str, name: str, password: str = PASSWORD) -> Path:
    """Write an auth.conf with a user for a host."""
    path.write_text(
        f"[credentials-test]\nauthname={name}\npassword={password}\n\n[auth-libvirt-{host}]\ncredentials=test\n"
    )
    return path
