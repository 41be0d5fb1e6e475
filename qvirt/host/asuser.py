"""Something done with another user's rights to files, by a thread that ends with it. Blocking.

File system ids and groups are a thread's own, and with an id that is not root's the capabilities that open
every file are gone. So the kernel decides, and a server behind it: where root is nobody to that, QEMU's user
may be somebody.
"""

import ctypes
import errno
import os
import platform
import threading
from collections.abc import Callable
from typing import TypeVar

from qvirt.host.config import QemuUser

T = TypeVar("T")

#: setgroups(2) of one thread; the library's changes all of them
_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}

_SAME = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)


def as_user(user: QemuUser, work: Callable[[], T]) -> T:
    """Return what ``work`` returns with a user's rights.

    Raises its OSError, and PermissionError where it cannot be tried: on an architecture not known here, for
    root, whose thread keeps its capabilities, and unless we are root.
    """
    number = _SETGROUPS.get(platform.machine())
    if number is None or user.uid == 0 or os.geteuid() != 0:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    done: list[T] = []
    failed: list[OSError] = []

    def attempt() -> None:
        try:
            _become(user, number)
            done.append(work())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, name="qvirt-as-user")
    thread.start()
    thread.join()
    if not done:
        raise failed[0] if failed else PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return done[0]


def _become(user: QemuUser, number: int) -> None:
    """Give this thread a user's rights to files. Raises PermissionError."""
    groups = (ctypes.c_uint32 * len(user.groups))(*user.groups)
    if _libc.syscall(ctypes.c_long(number), ctypes.c_long(len(groups)), groups) < 0:
        raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for change, wanted in ((_libc.setfsgid, user.gid), (_libc.setfsuid, user.uid)):
        change(ctypes.c_uint32(wanted))
        if change(ctypes.c_uint32(_SAME)) & _SAME != wanted:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
