"""Who may run beside whom on the hardware threads of one CPU core: the kernel's core scheduling.

Tasks with one cookie share a core with each other and nobody else; what they make has their cookie.
https://docs.kernel.org/admin-guide/hw-vuln/core-scheduling.html. It takes the right to trace a task.
"""

import ctypes
import errno
import os
import threading

_PR_SCHED_CORE = 62
_GET, _CREATE, _SHARE_TO, _SHARE_FROM = 0, 1, 2, 3

#: whom a call is about: one thread, or all of a process
THREAD, PROCESS = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _ask(command: int, id: int, kind: int, where: int = 0) -> None:
    """Call the kernel. Raises OSError."""
    words = map(ctypes.c_ulong, (command, id, kind, where))
    if _libc.prctl(_PR_SCHED_CORE, *words):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_known() -> bool:
    """Tell whether this kernel schedules by cores. Raises OSError."""
    try:
        cookie_of(0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        if error.errno != errno.ENODEV:  # no core has more than one thread, for now
            raise
    return True


def cookie_of(thread: int) -> int:
    """Return a thread's cookie, 0 where it has none. Raises OSError."""
    cookie = ctypes.c_uint64()
    _ask(_GET, thread, THREAD, ctypes.addressof(cookie))
    return cookie.value


def separate(id: int, kind: int) -> None:
    """Give a thread or a process a cookie of its own; without cores of several threads it is alone anyway.

    Raises OSError.
    """
    try:
        _ask(_CREATE, id, kind)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def join(owner: int, id: int, kind: int) -> None:
    """Give a thread or a process the cookie of another thread. Blocking. Raises OSError.

    It goes by a thread of ours, which has it for that time; none of ours keeps it.
    """
    failed: list[OSError] = []

    def carry() -> None:
        try:
            _ask(_SHARE_FROM, owner, THREAD)
            _ask(_SHARE_TO, id, kind)
        except OSError as error:
            if error.errno != errno.ENODEV:
                failed.append(error)

    carrier = threading.Thread(target=carry, name="core scheduling")
    carrier.start()
    carrier.join()
    if failed:
        raise failed[0]
