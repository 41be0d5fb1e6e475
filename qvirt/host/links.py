"""What ``ip`` and the users' own scripts do to network devices: macvtap, addresses, routes."""

import contextlib
import ipaddress
import os
import re
import subprocess
from collections.abc import Collection
from pathlib import Path

from qvirt.errors import ConfigUnsupported, InternalError, SystemError_

#: libvirt's words for macvlan modes -> ip's
_MODES = {"vepa": "vepa", "private": "private", "bridge": "bridge", "passthrough": "passthru"}

_DEADLINE = 10.0
_SCRIPT_DEADLINE = 30.0


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
        with contextlib.suppress(SystemError_):  # why it does not come up is told
            remove_link(name)
        raise
    return name


def macvtap_node(name: str) -> str:
    """Return the character device of a macvtap. Raises FileNotFoundError where there is no such device."""
    index = Path(f"/sys/class/net/{name}/ifindex").read_text(encoding="ascii").strip()
    return f"/dev/tap{index}"


def open_macvtap(name: str, queues: int = 1) -> list[int]:
    """Open the character device of a macvtap, once per queue. Raises SystemError_."""
    path = macvtap_node(name)
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
    """Remove a device made here; harmless when it is gone. Blocking. Raises SystemError_."""
    device = Path(f"/sys/class/net/{name}")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,15}", name) or not device.exists():
        return
    try:
        _ip("link", "del", name)
    except SystemError_:
        if device.exists():  # else it went by itself, with the device below it
            raise


def set_filter(name: str, *, mac: str, groups: Collection[str], all_groups: bool, promiscuous: bool) -> None:
    """Let a device take the packets for an address and for groups, and for no others it was told of before.

    Blocking. Raises SystemError_.
    """
    if Path(f"/sys/class/net/{name}/address").read_text(encoding="ascii").strip() != mac:
        _ip("link", "set", "dev", name, "address", mac)
    for word, on in (("allmulticast", all_groups), ("promisc", promiscuous)):
        _ip("link", "set", "dev", name, word, "on" if on else "off")
    lines = [line.split() for line in _ip("maddr", "show", "dev", name).splitlines()]
    known = {words[1]: "static" in words for words in lines if words[:1] == ["link"]}
    wanted = {group.lower() for group in groups}
    for group, is_added in known.items():
        if is_added and group not in wanted:
            _ip("maddr", "del", group, "dev", name)
    for group in wanted - known.keys():
        _ip("maddr", "add", group, "dev", name)


def free_name(prefix: str, taken: Collection[str] = ()) -> str:
    """Return a device name that is not in use. taken: names that are promised already."""
    number = 0
    while f"{prefix}{number}" in taken or Path(f"/sys/class/net/{prefix}{number}").exists():
        number += 1
    return f"{prefix}{number}"


def add_address(name: str, address: str, prefix: int | None = None, peer: str | None = None) -> None:
    """Give a device an address of the host. Blocking. Raises SystemError_."""
    length = prefix or _default_prefix(address)
    words = (address, "peer", f"{peer}/{length}") if peer else (f"{address}/{length}",)
    _ip("addr", "add", *words, "dev", name)


def _default_prefix(address: str) -> int:
    """Return the length of the network's part: that of the address's class, 64 for IPv6."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 6:
        return 64
    first = int(parsed) >> 24
    return 8 if first < 128 else 16 if first < 192 else 24


def add_route(name: str, target: str, gateway: str, metric: int | None = None) -> None:
    """Send what is for a network through a device. Blocking. Raises SystemError_."""
    words = ("metric", str(metric)) if metric else ()
    _ip("route", "add", target, "via", gateway, "dev", name, *words)


def run_script(path: str, name: str) -> None:
    """Run a program of the user's for a device, whose name is its argument. Blocking.

    Raises InternalError, in libvirt's words, when it fails.
    """
    env = {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/")}
    shown = " ".join(f"{key}={value}" for key, value in env.items())
    try:
        done = subprocess.run(
            [path, name],
            check=False,
            capture_output=True,
            timeout=_SCRIPT_DEADLINE,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        raise InternalError(
            f"Child process ({shown} {path} {name}) did not end within {_SCRIPT_DEADLINE:g} s"
        ) from error
    except OSError as error:
        raise InternalError(
            f"Child process ({shown} {path} {name}) unexpected exit status 127: libvirt:  error : cannot "
            f"execute binary {path}: {error.strerror}"
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise InternalError(
            f"Child process ({shown} {path} {name}) unexpected exit status {done.returncode}: {said}"
        )


def _ip(*words: str) -> str:
    """Run ip and return what it prints. Raises SystemError_."""
    try:
        done = subprocess.run(
            ["ip", *words], check=False, capture_output=True, timeout=_DEADLINE, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemError_(f"cannot run 'ip {' '.join(words)}': {error}") from error
    if done.returncode:
        raise SystemError_(f"'ip {' '.join(words)}' failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")
