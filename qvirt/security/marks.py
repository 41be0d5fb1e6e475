"""The mark on a file that is lent to QEMU: the label it had, and how many use it. Where libvirt keeps it.

libvirt's three extended attributes say the label (for DAC an owner), the number of users and the boot they
belong to. A fourth, ours, says how many of the users are guests of which daemon: without it, a daemon that
was killed between two steps could not tell whether it had counted itself. It also says what label the file
was lent with, so that after the machine went down it is known whether anybody has changed it since. They are
written in such an order that whoever is killed half way leaves fewer users in libvirt's count than in ours,
never more.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from qvirt.record import Record, field

#: an owner's two integers, as libvirt writes them
_OWNER = re.compile(r"\+\d+:\+\d+")

#: a context; its range may be missing
_CONTEXT = re.compile(r"[^:\s]+:[^:\s]+:[^:\s]+(?::\S+)?")

#: says the label a file was lent with; every other word is a daemon's
_LENT = "lent"

#: seconds two readings of the boot's time may differ: the clock is set in between
_SLACK = 30

#: what a file system answers that keeps no such attributes, or not from us
_UNSUPPORTED = frozenset((errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.E2BIG))

#: libvirt locks this byte while it changes the attributes; seconds another daemon may hold it
_LOCK_OFFSET = 1
_LOCK_WAIT = 5.0
_LOCK_STEP = 0.002


class Names(Record):
    """The attributes of one security model. form: what its labels look like; other marks are none."""

    label: str
    count: str
    stamp: str
    shares: str
    form: re.Pattern[str]


def names(model: str, form: re.Pattern[str]) -> Names:
    """Return the attributes' names for a model, ``dac`` or ``selinux``."""
    prefix = "trusted.libvirt.security"
    return Names(f"{prefix}.{model}", f"{prefix}.ref_{model}", f"{prefix}.timestamp_{model}",
                 f"trusted.qvirt.security.{model}", form)  # fmt: skip


DAC = names("dac", _OWNER)
SELINUX = names("selinux", _CONTEXT)


class Mark(Record):
    """What is on a file. before: the label it had. count: as libvirt reads it.

    shares: daemon -> how many of its guests use the file. label: the one it was lent with, '' for unknown.
    is_stale: it is of an earlier boot, when no guest of today's could have been running.
    """

    before: str
    count: int
    shares: Mapping[str, int] = field(default_factory=dict)
    label: str = ""
    is_stale: bool = False

    @property
    def foreign(self) -> int:
        """How many users are nobody's we know: libvirt's."""
        return max(0, self.count - sum(self.shares.values()))

    def others(self, daemon: str) -> int:
        """Return how many users there are beside a daemon's own guests."""
        return self.foreign + sum(count for name, count in self.shares.items() if name != daemon)


@cache
def boot_time() -> int:
    """Return when this machine was booted, in seconds since the epoch."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return int(line[6:])
    return 0


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read(path: str, kind: Names) -> Mark | None:
    """Return the mark, None where there is none that can be read. Blocking; raises OSError for no file."""
    try:
        label = os.getxattr(path, kind.label)
    except OSError as error:
        if error.errno in _UNSUPPORTED or error.errno == errno.ENODATA:
            return None
        raise
    text = label.decode("utf-8", "surrogateescape").rstrip("\0")
    if kind.form.fullmatch(text) is None:
        return None
    boot, shares, lent = _read_shares(_get(path, kind.shares))
    stamp = _get(path, kind.stamp)
    today = stamp.isdigit() and abs(int(stamp) - boot_time()) <= _SLACK
    is_stale = boot != _boot_id() if boot else not today
    count = _get(path, kind.count)
    return Mark(text, int(count) if count.isdigit() else 0, shares, lent, is_stale)


def write(path: str, mark: Mark, before: Mark | None, kind: Names) -> bool:
    """Put a mark on a file; tells whether its file system keeps it. Blocking; raises OSError."""
    count = str(mark.count).encode()
    words = [_boot_id(), *(f"{name}={n}" for name, n in mark.shares.items() if n)]
    words += [f"{_LENT}={mark.label}"] if mark.label else []
    shares = " ".join(words).encode("utf-8", "surrogateescape")
    try:
        if before is None or before.is_stale:
            os.setxattr(path, kind.label, mark.before.encode("utf-8", "surrogateescape"))
            os.setxattr(path, kind.stamp, str(boot_time()).encode())
        if before is not None and mark.count < before.count:
            os.setxattr(path, kind.count, count)
            os.setxattr(path, kind.shares, shares)
        else:
            os.setxattr(path, kind.shares, shares)
            os.setxattr(path, kind.count, count)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if before is None:
            erase(path, kind)
        return False
    return True


def erase(path: str, kind: Names) -> None:
    """Take a mark off; the label goes last, so that one who is killed half way has left it. Blocking."""
    for name in (kind.count, kind.shares, kind.stamp, kind.label):
        try:
            os.removexattr(path, name)
        except OSError as error:
            if error.errno not in _UNSUPPORTED and error.errno != errno.ENODATA:
                raise


def _get(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno in _UNSUPPORTED or error.errno == errno.ENODATA:
            return b""
        raise


def _read_shares(text: bytes) -> tuple[str, dict[str, int], str]:
    """Return the boot, each daemon's share, and the label that was lent."""
    boot, *words = text.decode("utf-8", "surrogateescape").split(" ")
    shares: dict[str, int] = {}
    lent = ""
    for word in words:
        name, _, value = word.partition("=")
        if name == _LENT:
            lent = value
        elif value.isascii() and value.isdigit():
            shares[name] = int(value)
    return boot, shares, lent


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Hold one file, whatever is renamed meanwhile; yields a name that stays its own, and what it is.

    No symbolic link is followed: the path must be a real one. Regular files are locked as libvirt locks them
    against other daemons. Blocking; raises OSError.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        name = f"/proc/self/fd/{fd}"
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode) or os.readlink(name) != path:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        with _lock(name) if stat.S_ISREG(status.st_mode) else contextlib.nullcontext():
            yield name, status
    finally:
        os.close(fd)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    try:
        fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # read-only, or being executed: nobody could lock it
        yield
        return
    try:
        request = struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, _LOCK_OFFSET, 1, 0)
        end = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break  # a file system without locks
                if time.monotonic() > end:
                    raise OSError(errno.EBUSY, "another daemon holds its lock", name) from error
            time.sleep(_LOCK_STEP)
        yield
    finally:
        os.close(fd)
