"""File ownership: images are given to QEMU's user for a run and given back afterwards.

Blocking; the caller runs it off the loop.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from qvirt.errors import ConfigSyntax, InvalidArg
from qvirt.host.config import QemuUser, resolve_user
from qvirt.model.seclabel import SecLabel
from qvirt.record import Record


def user_of(labels: Iterable[SecLabel], default: QemuUser | None) -> tuple[QemuUser | None, bool]:
    """Return whom a domain's QEMU runs as, and whether its files are given to that user.

    A static label of the model ``dac`` names user and group; ``none`` leaves the files alone. Raises
    InvalidArg.
    """
    for label in labels:
        if label.model != "dac":
            continue
        if label.type == "static" and label.label:
            user, _, group = label.label.partition(":")
            try:
                found = resolve_user(user, group or None)
            except ConfigSyntax as error:
                raise InvalidArg(error.detail) from error
            return found, bool(label.relabel)
        if label.type == "none":
            return default, False
    return default, True


class Wanted(Record):
    """A file QEMU will open. restore: libvirt gives it back at the end (exclusive, written to)."""

    path: str
    writable: bool
    restore: bool


class Change(Record):
    """A file whose owner has to change, and whom it belongs to now."""

    path: str
    uid: int
    gid: int
    restore: bool


def plan(files: Iterable[Wanted], user: QemuUser) -> Iterator[Change]:
    """Yield the files that do not belong to QEMU's user yet. What is missing is left alone."""
    seen: set[str] = set()
    for wanted in files:
        if wanted.path in seen:
            continue
        seen.add(wanted.path)
        try:
            status = os.stat(wanted.path)
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode) and _may(status, user, 6 if wanted.writable else 4):
            continue  # /dev/urandom and its kin are everybody's
        if (status.st_uid, status.st_gid) != (user.uid, user.gid):
            yield Change(wanted.path, status.st_uid, status.st_gid, wanted.restore)


def unsearchable(path: str, user: QemuUser) -> Path | None:
    """Return the first folder on the way to ``path`` that QEMU's user cannot search, None when all can be.

    Symbolic links are followed. A folder with an access control list is trusted.
    """
    real = Path(os.path.realpath(path))
    for folder in reversed(real.parents):
        try:
            status = os.stat(folder)
        except OSError:
            return None
        if not _may(status, user, 1) and not _has_acl(folder):
            return folder
    return None


def unreadable(path: str, user: QemuUser, *, write: bool) -> bool:
    """Tell whether the mode bits keep QEMU's user from opening a file."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return not _may(status, user, 6 if write else 4) and not _has_acl(Path(path))


def _may(status: os.stat_result, user: QemuUser, bits: int) -> bool:
    if user.uid == 0:
        return True
    mode = status.st_mode
    if status.st_uid == user.uid:
        return mode >> 6 & bits == bits
    if status.st_gid == user.gid or status.st_gid in user.groups:
        return mode >> 3 & bits == bits
    return mode & bits == bits


def _has_acl(path: Path) -> bool:
    try:
        os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return False
    return True
