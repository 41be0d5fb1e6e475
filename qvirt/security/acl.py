"""POSIX access control lists as the kernel keeps them: acl(5) in an extended attribute. Blocking."""

import errno
import os
import stat
import struct
from pathlib import Path

from qvirt.host.config import QemuUser
from qvirt.host.held import held
from qvirt.record import Record

_NAME = "system.posix_acl_access"
_VERSION = 2
_NOBODY = 0xFFFFFFFF

#: tags, in the order in which the kernel wants the entries
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32

_NONE = frozenset((errno.ENODATA, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENOENT))


class Entry(Record):
    """One line of a list; id counts for named users and groups alone."""

    tag: int
    perm: int
    id: int = _NOBODY


def read(path: Path | str) -> list[Entry] | None:
    """Return the list; None where the mode bits say all there is."""
    try:
        data = os.getxattr(path, _NAME)
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise
    return [Entry(*entry) for entry in struct.iter_unpack("<HHI", data[4:])]


def allows(entries: list[Entry], status: os.stat_result, user: QemuUser, bits: int) -> bool:
    """Decide as acl(5) says: owner, named users, groups, others; the mask bounds those between."""
    mask = next((entry.perm for entry in entries if entry.tag == MASK), 7)
    if status.st_uid == user.uid:
        return any(entry.perm & bits == bits for entry in entries if entry.tag == USER_OBJ)
    for entry in entries:
        if entry.tag == USER and entry.id == user.uid:
            return entry.perm & mask & bits == bits
    groups = {user.gid, *user.groups}
    mine = [
        entry.perm & mask
        for entry in entries
        if (entry.tag == GROUP_OBJ and status.st_gid in groups) or (entry.tag == GROUP and entry.id in groups)
    ]
    if mine:
        return any(perm & bits == bits for perm in mine)
    return any(entry.perm & bits == bits for entry in entries if entry.tag == OTHER)


def let_search(folder: Path, uid: int) -> None:
    """Let one user search a folder, and no more. No link of somebody else's is followed.

    Raises OSError, also where the file system keeps no lists.
    """
    with held(folder) as own:
        entries = read(own) or _from_mode(os.stat(own).st_mode)
        kept = [entry for entry in entries if not (entry.tag == USER and entry.id == uid)]
        if not any(entry.tag == MASK for entry in kept):
            kept.append(Entry(MASK, next(entry.perm for entry in kept if entry.tag == GROUP_OBJ) | 1))
        _write(own, [*kept, Entry(USER, 1, uid)])


def forget(folder: Path, uid: int) -> None:
    """Take a user out of a folder's list, and the list away when nobody else is in it. Raises OSError."""
    with held(folder) as own:
        entries = read(own)
        if entries is None or not any(entry.tag == USER and entry.id == uid for entry in entries):
            return
        kept = [entry for entry in entries if not (entry.tag == USER and entry.id == uid)]
        if any(entry.tag in (USER, GROUP) for entry in kept):
            _write(own, kept)
            return
        perms = {entry.tag: entry.perm for entry in kept}
        group = perms[GROUP_OBJ] & perms.get(MASK, 7)
        os.removexattr(own, _NAME)
        os.chmod(own, perms[USER_OBJ] << 6 | group << 3 | perms[OTHER])


def _from_mode(mode: int) -> list[Entry]:
    bits = stat.S_IMODE(mode)
    return [Entry(USER_OBJ, bits >> 6 & 7), Entry(GROUP_OBJ, bits >> 3 & 7), Entry(OTHER, bits & 7)]


def _write(folder: str, entries: list[Entry]) -> None:
    ordered = sorted(entries, key=lambda entry: (entry.tag, entry.id))
    data = struct.pack("<I", _VERSION)
    data += b"".join(struct.pack("<HHI", entry.tag, entry.perm, entry.id) for entry in ordered)
    os.setxattr(folder, _NAME, data)
