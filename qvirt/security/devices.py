"""Which device nodes a guest's QEMU may open: the default list, and its own devices. Blocking."""

import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from qvirt.host import bpf
from qvirt.host.bpf import BLOCK, CHAR, READ, WRITE, Rule
from qvirt.host.cgroup import Group
from qvirt.host.sysfs import store

log = logging.getLogger(__name__)

#: major number of pseudo terminals
_PTY = 136


def rule_of(path: str, *, writable: bool = True) -> Rule | None:
    """Return what lets a device node be opened; None for what is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    kind = BLOCK if stat.S_ISBLK(status.st_mode) else CHAR if stat.S_ISCHR(status.st_mode) else 0
    if not kind:
        return None
    access = READ | WRITE if writable else READ
    return Rule(kind, os.major(status.st_rdev), os.minor(status.st_rdev), access)


def default_rules(paths: Iterable[str]) -> list[Rule]:
    """Return what every guest may open: ``cgroup_device_acl``, and its own pseudo terminals."""
    found = [rule for path in paths if (rule := rule_of(path)) is not None]
    return [*found, Rule(CHAR, _PTY, None)]


def _line(rule: Rule) -> str:
    minor = "*" if rule.minor is None else rule.minor
    access = "".join(char for bit, char in ((READ, "r"), (WRITE, "w")) if rule.access & bit)
    return f"{'b' if rule.type == BLOCK else 'c'} {rule.major}:{minor} {access}"


def confine(group: Group, rules: Iterable[Rule]) -> None:
    """Let a group open these devices and no other. Raises OSError."""
    if group.v2 is not None:
        bpf.confine(group.v2, list(rules))
        return
    if group.devices_v1 is not None:
        _list(group.devices_v1, rules)


def guard(group: Group, rules: Iterable[Rule]) -> bool:
    """Make a list of version 1 that confines a process until it is in version 2's group.

    Tells whether there is one.
    """
    folder = group.guard
    if folder is None:
        return False
    try:
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        _list(folder, rules)
    except OSError as error:
        log.info("no device list of version 1 in '%s': %s", folder, error.strerror)
        return False
    return True


def _list(folder: Path, rules: Iterable[Rule]) -> None:
    store(folder / "devices.deny", "a")
    store(folder / "devices.allow", *map(_line, rules))


def allow(group: Group, rules: Iterable[Rule]) -> None:
    """Add devices. Raises OSError."""
    for rule in rules:
        if group.v2 is not None:
            bpf.allow(group.v2, rule)
        elif group.devices_v1 is not None:
            store(group.devices_v1 / "devices.allow", _line(rule))


def deny(group: Group, rules: Iterable[Rule]) -> None:
    """Take devices away again. Raises OSError."""
    for rule in rules:
        if group.v2 is not None:
            bpf.deny(group.v2, rule)
        elif group.devices_v1 is not None:
            store(group.devices_v1 / "devices.deny", _line(rule))
