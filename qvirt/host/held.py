"""Paths through folders that are somebody else's: what a link of theirs leads to is not ours to change.

QEMU's user owns the folders its guests live in. A QEMU that its guest has taken over may put a link where we
are about to give something away, or put one into its place the moment after we looked.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

#: as many links as the kernel follows in one path
_MOST_LINKS = 40


@contextmanager
def held(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a name for a file or folder by descriptor, to change owner, mode or label of it and nothing else.

    Links are followed where they are root's or our own. Raises OSError, ELOOP for others.
    """
    fd = _open(os.path.abspath(os.fspath(path)))
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _open(path: str) -> int:
    left = path.split("/")[::-1]
    links = 0
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while left:
            name = left.pop()
            if not name:
                continue
            step = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            status = os.fstat(step)
            if not stat.S_ISLNK(status.st_mode):
                os.close(fd)
                fd = step
                continue
            try:
                target = os.readlink("", dir_fd=step)
            finally:
                os.close(step)
            links += 1
            if status.st_uid not in (0, os.geteuid()) or links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            left += target.split("/")[::-1]
            if target.startswith("/"):
                os.close(fd)
                fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        os.close(fd)
        raise
    return fd
