"""Whom a QEMU runs as, whom its files are lent to, and what keeps that user from a file.

Blocking; the caller runs it off the loop.
"""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from qvirt.errors import ConfigSyntax, ConfigUnsupported, InvalidArg
from qvirt.host import kvm
from qvirt.host.config import QemuUser, resolve_user
from qvirt.model.seclabel import SecLabel
from qvirt.record import Record
from qvirt.security import acl


def user_of(
    labels: Iterable[SecLabel], default: QemuUser | None, *, require: bool = False
) -> tuple[QemuUser | None, bool]:
    """Return whom a domain's QEMU runs as, and whether its files are lent to that user.

    A static label of the model ``dac`` names user and group; ``none`` leaves the files alone. require: no
    domain may do without confinement. Raises InvalidArg, ConfigUnsupported.
    """
    for label in labels:
        if label.type == "none" and require:
            raise ConfigUnsupported("Unconfined guests are not allowed on this host")
        if label.model != "dac":
            continue
        if label.type == "static" and label.label:
            return parse_label(label.label), bool(label.relabel)
        if label.type == "none":
            return default, False
    return default, True


def parse_label(text: str) -> QemuUser:
    """Read ``USER:GROUP``, each a name, a number or ``+number``. Raises InvalidArg."""
    user, _, group = text.partition(":")
    try:
        return resolve_user(user, group or None)
    except ConfigSyntax as error:
        raise InvalidArg(error.detail) from error


class Obstacle(Record):
    """What keeps QEMU's user from a file. what: a clause; remedy: the smallest command that helps, or ''."""

    path: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


def obstacles(
    path: str, user: QemuUser, *, write: bool, owner: tuple[int, int] | None = None
) -> Iterator[Obstacle]:
    """Yield what keeps QEMU's user from a file that exists: every folder on the way, then the file itself.

    owner: whom the file is going to belong to; None when it stays as it is. Symbolic links are followed.
    """
    real = os.path.realpath(path)
    for folder in _folders_above(real):
        try:
            status = os.stat(folder)
        except OSError:
            return
        if not _may(folder, status, user, 1):
            yield Obstacle(
                folder,
                f"directory '{folder}' cannot be searched by QEMU's user ({_described(status)})",
                f"allow it with '{_remedy(folder, user, 'x')}', or move the file",
            )
    try:
        status = os.stat(real)
    except OSError:
        return
    need, bits = (6, "rw") if write else (4, "r")
    if stat.S_ISDIR(status.st_mode):
        return
    if owner is not None:
        if not _mode_allows(status.st_mode, owner, user, need):
            yield Obstacle(
                real,
                f"mode {status.st_mode & 0o7777:04o} forbids it to QEMU's user even if it is lent",
                f"allow it with 'chmod u+{bits} {real}'",
            )
    elif not _may(real, status, user, need):
        yield Obstacle(
            real,
            f"it stays as it is ({_described(status)})",
            f"allow it with '{_remedy(real, user, bits)}', or let it be relabelled",
        )


def _folders_above(path: str) -> list[str]:
    """Return the folders on the way to an absolute path, the root first."""
    return ["/", *[path[:at] for at, letter in enumerate(path) if letter == "/" and at]]


def is_open_to_all(path: str, user: QemuUser, *, write: bool) -> bool:
    """Tell whether a device or socket needs no other owner: /dev/urandom and its kin are everybody's."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return not stat.S_ISREG(status.st_mode) and _may(path, status, user, 6 if write else 4)


def kvm_usable(user: QemuUser | None) -> bool:
    """Tell whether KVM is there for guests: for us, who ask emulators about it, and for QEMU's user.

    What is not is not offered. A definition may ask for it all the same: a device node's mode changes, and
    nothing that is kept may depend on it; it is the start that is refused.
    """
    if not kvm.kvm_usable():
        return False
    return user is None or next(obstacles(str(kvm.DEVICE), user, write=True), None) is None


def unsearchable(path: str, user: QemuUser) -> Path | None:
    """Return the first folder on the way to ``path`` that QEMU's user cannot search, None when all can be."""
    real = os.path.realpath(path)
    found = next(obstacles(path, user, write=False, owner=(user.uid, user.gid)), None)
    return Path(found.path) if found is not None and found.path != real else None


def _described(status: os.stat_result) -> str:
    return f"mode {status.st_mode & 0o7777:04o}, owner {_name(status.st_uid, status.st_gid)}"


def _name(uid: int, gid: int) -> str:
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        return f"{user}:{grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"{user}:{gid}"


def _remedy(path: str, user: QemuUser, bits: str) -> str:
    """Return the command that opens a path to as few as can be."""
    status = os.stat(path)
    if status.st_gid == user.gid or status.st_gid in user.groups:
        return f"chmod g+{bits} {path}"
    if shutil.which("setfacl"):
        return f"setfacl -m u:{_name(user.uid, user.gid).partition(':')[0]}:{bits} {path}"
    return f"chmod o+{bits} {path}"


def _may(path: str, status: os.stat_result, user: QemuUser, bits: int) -> bool:
    """Tell whether mode and access control list let the user do it; a root without capabilities is a user."""
    entries = acl.read(path)
    if entries is not None:
        return acl.allows(entries, status, user, bits)
    return _mode_allows(status.st_mode, (status.st_uid, status.st_gid), user, bits)


def _mode_allows(mode: int, owner: tuple[int, int], user: QemuUser, bits: int) -> bool:
    if owner[0] == user.uid:
        return mode >> 6 & bits == bits
    if owner[1] == user.gid or owner[1] in user.groups:
        return mode >> 3 & bits == bits
    return mode & bits == bits
