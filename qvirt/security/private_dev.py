"""A /dev of a guest's own: in a mount namespace of its QEMU's, with the nodes it needs and no other.

It is built by a thread that has left the daemon's namespace for a new one, and that makes QEMU's process
then; no process but QEMU's is ever in it. What comes and goes later is changed from outside, by descriptor,
without following a link: a QEMU that runs as root may write there. Everything blocks; the caller runs it off
the loop.
"""

import contextlib
import ctypes
import errno
import os
import posixpath
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from qvirt.host.sysfs import load
from qvirt.record import Record
from qvirt.security import marks
from qvirt.security.marks import Mark

DEV = "/dev"

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_BIND, _MS_MOVE, _MS_REC, _MS_SLAVE = 2, 1 << 12, 1 << 13, 1 << 14, 1 << 19

#: libvirt's
_OPTIONS = "mode=755,size=65536"

#: links a path may go through, as the kernel has it
_MOST_LINKS = 40

_SELINUX = "security.selinux"


class Node(Record):
    """A node of a guest's /dev. mode: with its type; device: its numbers; links: (path, target) on the way.

    owner: as the host has it; user: whom it is for, None for its owner. A file that is no device node is the
    host's own, bound there.
    """

    path: str
    mode: int
    device: int
    owner: tuple[int, int]
    user: tuple[int, int] | None = None
    links: tuple[tuple[str, str], ...] = ()
    context: bytes = b""

    @property
    def is_device(self) -> bool:
        """Tell whether it is made, not bound."""
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)


def resolve(path: str, readlink: Callable[[str], str | None]) -> tuple[list[tuple[str, str]], str]:
    """Follow a path; returns the (link, target) on the way, and where it ends. Raises OSError for a circle.

    readlink: returns the target of a link, None for what is none.
    """
    links: list[tuple[str, str]] = []
    current = ""
    left = [part for part in reversed(path.split("/")) if part]
    while left:
        part = left.pop()
        if part in (".", ".."):
            current = posixpath.dirname(current) if part == ".." else current
            continue
        target = readlink(f"{current}/{part}")
        if target is None:
            current = f"{current}/{part}"
            continue
        links.append((f"{current}/{part}", target))
        if len(links) > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            current = ""
        left += [part for part in reversed(target.split("/")) if part]
    return links, current or "/"


def _host_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def find(path: str) -> Node | None:
    """Return what a guest's /dev needs for a path; None when it leads elsewhere, or to nothing.

    What is mounted below /dev (pts, shm, hugepages) is the host's and there anyway.
    """
    links: list[tuple[str, str]] = []
    real, status = path, _plain_node(path)
    if status is None:
        links, real = resolve(path, _host_link)
        if not is_private(real):
            return None
        status = os.stat(real)
    context = b""
    with contextlib.suppress(OSError):
        context = os.getxattr(real, _SELINUX)
    return Node(
        real,
        status.st_mode,
        status.st_rdev,
        (status.st_uid, status.st_gid),
        links=tuple(link for link in links if link[0].startswith(f"{DEV}/")),
        context=context,
    )


def _plain_node(path: str) -> os.stat_result | None:
    """Return what a device node right in /dev is, as most are: nothing of its path has to be followed."""
    if posixpath.dirname(path) != DEV:
        return None
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else None


def is_private(real: str) -> bool:
    """Tell whether a path, resolved, is one a guest has a node of its own for. What is not there is not."""
    if not real.startswith(f"{DEV}/"):
        return False
    try:
        status = os.stat(posixpath.dirname(real))
        return status.st_dev == os.stat(DEV).st_dev and not stat.S_ISDIR(os.stat(real).st_mode)
    except OSError:
        return False


# -------------------------------------------------------------------------- by descriptor


class _HostsOwn(Exception):
    """A path leads into what the host mounts below /dev: that is the host's, seen by the guest, too."""


class _Tree:
    """A /dev by descriptor. Paths are whole, such as ``/dev/null``."""

    def __init__(self, folder: str) -> None:
        self.root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self.root).st_dev

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self.root)

    @contextlib.contextmanager
    def at(self, path: str, *, make: bool = False, change: bool = True) -> Iterator[tuple[int, str]]:
        """Yield the folder of a path, and the name in it. make: folders on the way.

        change: not only to look. Raises _HostsOwn then, where there is nothing for us to change.
        """
        *parts, name = path.removeprefix(f"{DEV}/").split("/")
        fd = self.root
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                        os.chmod(part, 0o755, dir_fd=fd)  # noqa: S103 - whatever our umask is
                above = fd
                fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
                if above != self.root:
                    os.close(above)
                if change and os.fstat(fd).st_dev != self._device:
                    raise _HostsOwn
            yield fd, name
        finally:
            if fd != self.root:
                os.close(fd)

    def readlink(self, path: str) -> str | None:
        """Return the target of a link, None for what is none. Outside of /dev they are the host's."""
        if not path.startswith(f"{DEV}/"):
            return _host_link(path)
        try:
            with self.at(path, change=False) as (folder, name):
                return os.readlink(name, dir_fd=folder)
        except OSError:
            return None

    def add(self, node: Node, *, marking: str | None) -> None:
        """Make a device node and the links to it. marking: see `build`."""
        with self.at(node.path, make=True) as (folder, name):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if (stat.S_IFMT(status.st_mode), status.st_rdev) != (stat.S_IFMT(node.mode), node.device):
                    os.unlink(name, dir_fd=folder)
                    raise FileNotFoundError
            except FileNotFoundError:
                os.mknod(name, stat.S_IFMT(node.mode), node.device, dir_fd=folder)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            own = f"/proc/self/fd/{fd}"
            if node.user is not None and marking is not None:
                before = f"+{node.owner[0]}:+{node.owner[1]}"
                marks.write(own, Mark(before, 1, {marking: 1}), None, marks.DAC)
            os.chown(own, *(node.user or node.owner))
            os.chmod(own, stat.S_IMODE(node.mode))
            if node.context:  # last: what it allows may be less
                with contextlib.suppress(OSError):
                    os.setxattr(own, _SELINUX, node.context)
        finally:
            os.close(fd)

    def make(self, node: Node, *, marking: str | None) -> None:
        """Make a device node where nothing is yet, under a umask of 0. marking: see `build`."""
        if node.user is not None or node.context:
            self.add(node, marking=marking)
            return
        with self.at(node.path, make=True) as (folder, name):
            os.mknod(name, node.mode, node.device, dir_fd=folder)
            if node.owner != (0, 0):
                os.chown(name, *node.owner, dir_fd=folder, follow_symlinks=False)

    def link(self, node: Node) -> None:
        """Make the links to a node."""
        for path, target in node.links:
            with contextlib.suppress(_HostsOwn), self.at(path, make=True) as (folder, name):
                try:
                    os.symlink(target, name, dir_fd=folder)
                except FileExistsError:
                    os.unlink(name, dir_fd=folder)
                    os.symlink(target, name, dir_fd=folder)

    def remove(self, path: str) -> None:
        """Remove a node or link, and the folders that are empty then."""
        try:
            with self.at(path) as (folder, name):
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        except _HostsOwn:
            return
        above = posixpath.dirname(path)
        while above != DEV:
            try:
                with self.at(above) as (folder, name):
                    os.rmdir(name, dir_fd=folder)
            except OSError:
                return
            above = posixpath.dirname(above)


# ------------------------------------------------------------------------------ building

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2), in the namespace of this thread. Raises OSError."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _mounted_below() -> list[str]:
    """Return what is mounted on /dev's folders and files, seen from this thread, outermost only."""
    return outermost(load("/proc/thread-self/mountinfo"))


def outermost(mountinfo: str) -> list[str]:
    """Return the mount points right below /dev that are not hidden by a mount on /dev itself."""
    mounts: list[tuple[str, str, str]] = []
    for line in mountinfo.splitlines():
        if DEV in line:
            words = line.split(" ", 5)
            where = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), words[4])
            mounts.append((words[0], words[1], where))
    on_dev = {id: parent for id, parent, where in mounts if where == DEV}
    top = next((id for id in on_dev if id not in on_dev.values()), None)
    found: list[str] = []
    for _, parent, where in mounts:
        is_seen = where.startswith(f"{DEV}/") and top in (None, parent)
        if is_seen and not any(where == x or where.startswith(f"{x}/") for x in found):
            found.append(where)
    return found


def build(nodes: Iterable[Node], staging: str, *, marking: str | None = None) -> None:
    """Move this thread, which must end soon, to a new mount namespace whose /dev has these nodes.

    staging: a folder of the caller's, covered for a moment, in the new namespace only. marking: the daemon's
    word for the marks on nodes that are not their owner's meanwhile; None for no marks. Raises OSError.
    """
    if _libc.unshare(_CLONE_NEWNS) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mount namespace")
    os.umask(
        0
    )  # this thread's alone: who leaves a mount namespace leaves what is shared of it (CLONE_FS), too
    # what the host mounts is seen, and nothing of ours is seen there
    mount("none", "/", None, _MS_REC | _MS_SLAVE)
    mount("devfs", staging, "tmpfs", _MS_NOSUID, _OPTIONS)
    with _Tree(staging) as tree:
        for node in nodes:
            if node.is_device:
                tree.make(node, marking=marking)
            else:
                _cover(tree, staging, node.path, node.path, _MS_BIND)
            tree.link(node)
        for where in _mounted_below():
            _cover(tree, staging, where, where, _MS_MOVE)
    mount(staging, DEV, None, _MS_MOVE)


def _cover(tree: _Tree, staging: str, source: str, path: str, flags: int) -> None:
    """Let something of the host's be seen in the new /dev."""
    is_folder = os.path.isdir(source)
    with tree.at(path, make=True) as (folder, name):
        if is_folder:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folder)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder))
    mount(source, staging + path.removeprefix(DEV), None, flags)


def dress(node: Node) -> None:
    """Give the host's own node the user and the label that a guest's is going to have. Raises OSError."""
    if node.user is not None:
        os.chown(node.path, *node.user)
    if node.context:
        os.setxattr(node.path, _SELINUX, node.context)


def refusal(staging: str) -> str | None:
    """Say why this machine lets no guest have a /dev of its own; None when it does."""
    said: list[str] = []

    def attempt() -> None:
        try:
            null = find(f"{DEV}/null")  # a container may lack the right to make nodes alone
            build([null] if null is not None else [], staging)
        except OSError as error:
            said.append(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))

    thread = threading.Thread(target=attempt, name="qvirt-namespace")
    thread.start()
    thread.join()
    return said[0] if said else None


# ------------------------------------------------------------------------- from outside


@contextlib.contextmanager
def _of(pid: int) -> Iterator[_Tree]:
    """Yield a process's /dev. Raises OSError, also when it is the host's."""
    with _Tree(f"/proc/{pid}/root{DEV}") as tree:
        if os.fstat(tree.root).st_dev == os.stat(DEV).st_dev:
            raise OSError(errno.EXDEV, f"process {pid} has no {DEV} of its own")
        yield tree


def add(pid: int, nodes: Iterable[Node], *, marking: str | None = None) -> None:
    """Add nodes to a process's own /dev. Raises OSError."""
    with _of(pid) as tree:
        for node in nodes:
            if not node.is_device:
                raise OSError(errno.ENODEV, "neither a device node nor mounted below /dev", node.path)
            tree.add(node, marking=marking)
            tree.link(node)


def remove(pid: int, gone: Iterable[str], kept: Iterable[str]) -> None:
    """Take the nodes of paths away again, with the links to them, unless others use them. Raises OSError."""
    with _of(pid) as tree:
        still = _trail(tree, kept)
        for path in _trail(tree, gone):
            if path not in still:
                tree.remove(path)


def _trail(tree: _Tree, paths: Iterable[str]) -> dict[str, None]:
    """Return the nodes of paths and the links on the way, links first."""
    found: dict[str, None] = {}
    for path in paths:
        links, real = resolve(path, tree.readlink)
        found |= dict.fromkeys(link for link, _ in links if link.startswith(f"{DEV}/"))
        if real.startswith(f"{DEV}/"):
            found[real] = None
    return found
