"""What keeps a user from a file, worked out from modes and access control lists, so that it can be said.

Where these say no, the kernel is asked as that user: a file system may know more than it shows, as NFS does.
Blocking.
"""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from qvirt.host.asuser import as_user
from qvirt.host.config import QemuUser
from qvirt.security import acl
from qvirt.security.model import Obstacle


def obstacles(
    path: str,
    user: QemuUser,
    *,
    write: bool,
    owner: tuple[int, int] | None = None,
    otherwise: str = "let it be relabelled",
) -> Iterator[Obstacle]:
    """Yield what keeps QEMU's user from a file that exists: every folder on the way, then the file itself.

    owner: whom the file is going to belong to; None when it stays as it is. otherwise: what is to be done
    then, if not what opens it as it is, '' for nothing. Symbolic links are followed.
    """
    real = os.path.realpath(path)
    for folder in _folders_above(real):
        try:
            status = os.stat(folder)
        except OSError:
            return
        if not _may(folder, status, user, 1) and not _kernel_lets(user, _searching(folder)):
            yield Obstacle(
                folder,
                f"directory '{folder}' cannot be searched by QEMU's user ({_described(status)})",
                _advice(folder, user, "x", "move the file"),
            )
    try:
        status = os.stat(real)
    except OSError:
        return
    is_folder = stat.S_ISDIR(status.st_mode)
    need, bits = (5, "rx") if is_folder else (6, "rw") if write else (4, "r")
    if owner is None or is_folder:  # a folder is not lent
        opening = None
        if is_folder:
            opening = _listing(real)
        elif stat.S_ISREG(status.st_mode):
            opening = _opening(real, write=write)
        if not _may(real, status, user, need) and not _kernel_lets(user, opening):
            said = f"it stays as it is ({_described(status)})"
            yield Obstacle(real, said, _advice(real, user, bits, otherwise))
    elif not _mode_allows(status.st_mode, owner, user, need):
        yield Obstacle(real, *_even_if_lent(real, status.st_mode, owner, user, bits))


def _even_if_lent(path: str, mode: int, owner: tuple[int, int], user: QemuUser, bits: str) -> tuple[str, str]:
    said = f"mode {mode & 0o7777:04o} forbids it to QEMU's user even if it is lent"
    if owner[0] == user.uid:
        return said, f"allow it with 'chmod u+{bits} {path}'"
    who = "g" if owner[1] in (user.gid, *user.groups) else "o"
    remedy = f"allow it with 'chmod {who}+{bits} {path}', or let it be labelled for that user"
    return f"{said} to {_name(*owner)}, as its <seclabel> says", remedy


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


def is_fixed(path: str) -> bool:
    """Tell whether a file keeps its owner as its file system is mounted for reading only."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def unsearchable(path: str, user: QemuUser) -> Path | None:
    """Return the first folder on the way to ``path`` that QEMU's user cannot search, None when all can be."""
    real = os.path.realpath(path)
    found = next(obstacles(path, user, write=False, owner=(user.uid, user.gid)), None)
    return Path(found.path) if found is not None and found.path != real else None


# -------------------------------------------------------------------------- what is said


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


def _advice(path: str, user: QemuUser, bits: str, otherwise: str) -> str:
    """Return the remedy: the command that opens a path to as few as can be, or what to do without one."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"its file system is mounted read-only: {otherwise}"
    allowing = f"allow it with '{_remedy(path, user, bits)}'"
    return f"{allowing}, or {otherwise}" if otherwise else allowing


def _remedy(path: str, user: QemuUser, bits: str) -> str:
    status = os.stat(path)
    entries = acl.read(path)
    if status.st_uid == user.uid:
        return f"chmod u+{bits} {path}"
    name = _name(user.uid, user.gid).partition(":")[0]
    if entries is not None:  # others' rights need not be the user's, and the mask is not the group's
        has = next((entry.perm for entry in entries if (entry.tag, entry.id) == (acl.USER, user.uid)), 0)
        kept = "".join(letter for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if has & bit)
        return f"setfacl -m u:{name}:{''.join(sorted({*kept, *bits}))} {path}"
    if status.st_gid == user.gid or status.st_gid in user.groups:
        return f"chmod g+{bits} {path}"
    if shutil.which("setfacl"):
        return f"setfacl -m u:{name}:{bits} {path}"
    return f"chmod o+{bits} {path}"


# ------------------------------------------------------------------------ who may do what


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


def _searching(folder: str) -> Callable[[], object]:
    return lambda: os.stat(f"{folder}/.")


def _listing(folder: str) -> Callable[[], object]:
    def attempt() -> None:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        os.stat(f"{folder}/.")

    return attempt


def _opening(path: str, *, write: bool) -> Callable[[], object]:
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC
    return lambda: os.close(os.open(path, flags))


def _kernel_lets(user: QemuUser, attempt: Callable[[], object] | None) -> bool:
    """Tell whether something that raises OSError works for a user; False also where that cannot be tried."""
    if attempt is None:
        return False
    try:
        as_user(user, attempt)
    except OSError:
        return False
    return True
