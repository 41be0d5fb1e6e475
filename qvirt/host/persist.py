"""Files that must be old or new, never half: atomic writing, and file work kept off the event loop."""

import asyncio
import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from qvirt.errors import OperationAborted, OperationTimeout, SystemError_
from qvirt.host.held import held

T = TypeVar("T")

#: seconds a file system gets for one piece of work before it counts as hung
FILE_DEADLINE = 30.0

_SUFFIX = ".new"


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Replace a file: written beside it, synced, renamed. Raises SystemError_.

    sync: False for what means nothing after a power cut, such as the state of a process.

    On failure (a full disk too) the old file is untouched and nothing is left beside it. The folder is not
    synced, as it is not by libvirt: that takes ten times as long as all the rest, and a power cut leaves
    the old file or the new one without it, too.
    """
    temporary = path.with_name(path.name + _SUFFIX)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise SystemError_(f"cannot write file '{path}'", error) from error


def remove(path: Path) -> bool:
    """Remove a file; tells whether it was there. Raises SystemError_."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SystemError_(f"cannot remove file '{path}'", error) from error
    return True


def remove_tree(folder: str | Path) -> None:
    """Remove a folder with all that is in it, whoever filled it. Blocking. Raises OSError.

    No link is followed, and what is deep is brought up before it goes: neither the stack nor descriptors
    depend on how deep it is.
    """
    with _taken(folder) as fd:
        while _remove_some(fd):
            pass
    os.rmdir(folder)


@contextlib.contextmanager
def _taken(name: str | Path, above: int | None = None) -> Iterator[int]:
    """Open a folder, and make it ours: nobody adds to it any more."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=above)
    try:
        os.fchown(fd, os.geteuid(), -1)
        yield fd
    finally:
        os.close(fd)


def _remove_some(fd: int) -> bool:
    """Remove files and empty folders, and empty the others by one level; tells whether any were left."""
    is_left = False
    with os.scandir(fd) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=fd)
                continue
            try:
                os.rmdir(entry.name, dir_fd=fd)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                is_left = True
                _bring_up(entry.name, fd)
    return is_left


def _bring_up(name: str, fd: int) -> None:
    with _taken(name, fd) as below, os.scandir(below) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.rename(entry.name, secrets.token_hex(8), src_dir_fd=below, dst_dir_fd=fd)
            else:
                os.unlink(entry.name, dir_fd=below)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_leftover(path: Path) -> bool:
    """Tell whether a file is what a write that was cut off left behind."""
    return path.name.endswith(_SUFFIX)


class FileWorker:
    """A bounded pool for file work. A file system that hangs costs threads of this pool, never the loop."""

    def __init__(self, threads: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, "qvirt-files")
        self._pending: set[asyncio.Future[Any]] = set()

    async def run(self, what: str, work: Callable[[], T], deadline: float = FILE_DEADLINE) -> T:
        """Run blocking work; ``what`` says in the error what hangs. Raises OperationTimeout."""
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError as error:
            raise OperationAborted(f"{what}: the daemon is ending") from error
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        try:
            async with asyncio.timeout(deadline):
                return await asyncio.shield(future)
        except TimeoutError:
            if future.done():
                raise
            future.add_done_callback(_forget)
            raise OperationTimeout(f"{what}: the file system did not answer within {deadline:g} s") from None

    async def close(self, deadline: float = 5.0) -> None:
        """Stop taking work and wait for what is under way, but not for what hangs."""
        self._pool.shutdown(wait=False)
        if self._pending:
            await asyncio.wait(list(self._pending), timeout=deadline)


def _forget(future: "asyncio.Future[T]") -> None:
    """Take note of an outcome nobody waits for any more."""
    if not future.cancelled():
        future.exception()


def make_folder(path: Path, mode: int) -> None:
    """Make a folder, and those above, where it is missing. Raises OSError. Blocking.

    The mode is only changed where the umask has left another: a security policy may allow the one and not the
    other.
    """
    if not path.is_dir():
        path.mkdir(mode, parents=True, exist_ok=True)
        with held(path) as own:
            if os.stat(own).st_mode & 0o7777 != mode:
                os.chmod(own, mode)
