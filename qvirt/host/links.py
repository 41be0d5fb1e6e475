"""Network devices that outlive the process they are for: macvtap, made and removed through ``ip``."""

import os
import re
import subprocess
from pathlib import Path

from qvirt.errors import ConfigUnsupported, SystemError_

#: libvirt's words for macvlan modes -> ip's
_MODES = {"vepa": "vepa", "private": "private", "bridge": "bridge", "passthrough": "passthru"}

_DEADLINE = 10.0


def make_macvtap(parent: str, mode: str, mac: str, name: str) -> str:
    """Make a macvtap on top of a device and bring it up; returns its name. Blocking. Raises SystemError_."""
    if mode not in _MODES:
        raise ConfigUnsupported(f"macvtap mode '{mode}' is not supported")
    if not Path(f"/sys/class/net/{parent}").exists():
        raise SystemError_(f"Cannot get interface MTU on '{parent}': No such device")
    _ip("link", "add", "link", parent, "name", name, "address", mac, "type", "macvtap", "mode", _MODES[mode])
    try:
        _ip("link", "set", name, "up")
    except SystemError_:
        remove_link(name)
        raise
    return name


def open_macvtap(name: str, queues: int = 1) -> list[int]:
    """Open the character device of a macvtap, once per queue. Raises SystemError_."""
    index = Path(f"/sys/class/net/{name}/ifindex").read_text(encoding="ascii").strip()
    path = f"/dev/tap{index}"
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise SystemError_(f"cannot open macvtap tap device {path}", error) from error
    return fds


def remove_link(name: str) -> None:
    """Remove a device made here; harmless when it is gone. Blocking."""
    if re.fullmatch(r"[A-Za-z0-9._-]{1,15}", name) and Path(f"/sys/class/net/{name}").exists():
        subprocess.run(
            ["ip", "link", "del", name],
            check=False,
            capture_output=True,
            timeout=_DEADLINE,
            stdin=subprocess.DEVNULL,
        )


def free_name(prefix: str) -> str:
    """Return a device name that is not in use."""
    number = 0
    while Path(f"/sys/class/net/{prefix}{number}").exists():
        number += 1
    return f"{prefix}{number}"


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(
            ["ip", *words], check=False, capture_output=True, timeout=_DEADLINE, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemError_(f"cannot run 'ip {' '.join(words)}': {error}") from error
    if done.returncode:
        raise SystemError_(f"'ip {' '.join(words)}' failed: {done.stderr.decode(errors='replace').strip()}")
