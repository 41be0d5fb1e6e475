"""Consoles and channels: a connection to a guest's character device, one user at a time."""

import contextlib
import os
import socket
import stat
import tty
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.constants.domain import DomainChannelFlags, DomainConsoleFlags
from qvirt.errors import InternalError, OperationFailed, OperationUnsupported, SystemError_
from qvirt.host.unix import connect
from qvirt.model.devices.chardev import CharDevice
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: major number of pseudo terminals
_PTY = 136


class ConsoleStream:
    """An open console: a non-blocking descriptor, readable and writable, owned by this object.

    on_closed: set by the user; called once when somebody else takes the console (force) or the domain stops.
    """

    def __init__(self, running: Running, key: str, fd: int) -> None:
        self.fd = fd
        self.on_closed: Callable[[], None] | None = None
        self._running = running
        self._key = key

    def close(self) -> None:
        """Give the console back. Harmless when already closed."""
        self.on_closed = None
        self.drop()

    def drop(self) -> None:
        """Take the console away from its user, and tell."""
        if self._running.consoles.get(self._key) is self:
            del self._running.consoles[self._key]
        tell, self.on_closed = self.on_closed, None
        if tell is not None:
            tell()
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def find_console(running: Running, name: str | None) -> CharDevice:
    """Return a console, serial or parallel port by alias; without one, the first there is."""
    devices = running.definition.devices
    if name is not None:
        for device in (*devices.consoles, *devices.serials, *devices.parallels):
            if device.alias.name == name:
                return device
        raise InternalError(f"cannot find character device {name}")
    if devices.consoles and not (devices.consoles[0].target.type == "serial" and devices.serials):
        return devices.consoles[0]
    if devices.serials:  # the first console is this port under another name
        return devices.serials[0]
    raise InternalError("cannot find default console device")


def find_channel(running: Running, name: str | None) -> CharDevice:
    """Return a channel by alias or target name; without one, the first there is."""
    channels = running.definition.devices.channels
    for channel in channels:
        if name is None or name in (channel.alias.name, channel.target.name):
            return channel
    raise InternalError(f"cannot find channel {name}" if name is not None else "cannot find default channel")


async def open_console(domain: "Domain", name: str | None, flags: int) -> ConsoleStream:
    """Open a console; flags: DomainConsoleFlags."""
    running = domain.need_running()
    device = find_console(running, name)
    if device.type not in ("pty", "unix"):
        raise OperationUnsupported(f"character device {device.alias.name} is not using a PTY or UNIX socket")
    safe = bool(flags & DomainConsoleFlags.SAFE)
    return await _open(
        domain,
        running,
        device,
        force=bool(flags & DomainConsoleFlags.FORCE),
        lock=safe,
        busy="Active console session exists for this domain",
    )


async def open_channel(domain: "Domain", name: str | None, flags: int) -> ConsoleStream:
    """Open a channel; flags: DomainChannelFlags."""
    running = domain.need_running()
    device = find_channel(running, name)
    if device.type != "unix":
        raise InternalError(f"channel {device.alias.name} is not using a UNIX socket")
    return await _open(
        domain,
        running,
        device,
        force=bool(flags & DomainChannelFlags.FORCE),
        lock=False,
        busy="Active channel stream exists for this domain",
    )


async def _open(
    domain: "Domain", running: Running, device: CharDevice, *, force: bool, lock: bool, busy: str
) -> ConsoleStream:
    path = device.path
    if not path:
        raise OperationFailed(f"character device {device.alias.name} has no path yet")
    current = running.consoles.get(path)
    if current is not None:
        if not force:
            raise OperationFailed(busy)
        current.drop()
    if device.type == "pty":
        if lock:
            _check_foreign_lock(path)
        fd = await domain.hypervisor.files.run("console", partial(_open_pty, path, running.pid))
    else:
        fd = _connect(path)
    stream = ConsoleStream(running, path, fd)
    running.consoles[path] = stream
    return stream


def _check_foreign_lock(path: str) -> None:
    """Refuse a pty another program has locked in the UUCP way, which is what "safe" means."""
    lock = Path("/var/lock") / f"LCK..{path.removeprefix('/dev/').replace('/', '_')}"
    try:
        pid = int(lock.read_text(encoding="ascii", errors="replace").strip() or 0)
    except (OSError, ValueError):
        return
    if pid and pid != os.getpid() and Path(f"/proc/{pid}").exists():
        raise OperationFailed("Active console session exists for this domain")


def _open_pty(path: str, pid: int) -> int:
    """Open a pseudo terminal whose other end QEMU has: it may have named another guest's. Blocking."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SystemError_(f"Unable to open stream for '{path}'", error) from error
    try:
        status = os.fstat(fd)
        is_terminal = stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _PTY
        # its number is given to no other as long as it is open
        if not is_terminal or os.minor(status.st_rdev) not in _terminals_of(pid):
            raise OperationFailed(f"'{path}' is no terminal of QEMU, which is process {pid}")
        tty.setraw(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _terminals_of(pid: int) -> set[int]:
    """Return the pseudo terminals, by number, of which a process has the end that makes them."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            for line in entry.read_text().splitlines():
                if line.startswith("tty-index:"):
                    found.add(int(line.split()[1]))
    return found


def _connect(path: str) -> int:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        connect(sock, path)
    except OSError as error:
        sock.close()
        raise SystemError_(f"Unable to connect to '{path}'", error) from error
    return sock.detach()
