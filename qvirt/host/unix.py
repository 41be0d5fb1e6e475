"""Unix sockets by path: what is left of a listener that is gone is removed, what is somebody's is not."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from qvirt.host.held import held

#: bytes of a socket's name
_LONGEST = 107


@contextmanager
def short(path: str) -> Iterator[str]:
    """Give a name for a path that sockets take however long it is: they hold no more than 107 bytes.

    It is the path itself where that is short enough, as others read it from the kernel.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


@contextmanager
def held_socket(path: str) -> Iterator[str]:
    """Give a name for a socket as `held` does. Raises OSError, FileExistsError for what is no socket."""
    with held(path) as name:
        if not stat.S_ISSOCK(os.stat(name).st_mode):
            raise FileExistsError(errno.EEXIST, "File exists and is no socket", path)
        yield name


def connect(sock: socket.socket, path: str) -> None:
    """Connect to a path in a folder of QEMU's user, who may have put a link to somebody else's socket there.

    That one would take what is said for root's word. Raises OSError.
    """
    with held_socket(path) as own:
        sock.connect(own)


def clear_stale(path: str) -> None:
    """Remove a socket on which nobody listens; fine when there is none. Does not wait.

    Raises FileExistsError for a file that is no socket, OSError (EADDRINUSE) when somebody listens.
    """
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(errno.EEXIST, "File exists and is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short(path) as name:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except BlockingIOError:  # its queue is full
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path) from None
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
