"""How the daemon talks to who started it: systemd's notifications and watchdog, the pid file."""

import asyncio
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

from qvirt.errors import OperationFailed, SystemError_

log = logging.getLogger(__name__)


class Notifier:
    """Tells systemd how the daemon is, where systemd wants to know (NOTIFY_SOCKET, WATCHDOG_USEC)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        """Taken out of the environment: no child of ours speaks for us."""
        self._timer: asyncio.TimerHandle | None = None
        self._interval = self._watchdog()

    @staticmethod
    def _watchdog() -> float:
        """Give how often to show a sign of life, in seconds; 0 for never."""
        pid = os.environ.pop("WATCHDOG_PID", "")
        wanted = os.environ.pop("WATCHDOG_USEC", "")
        if not wanted.isdigit() or (pid and pid != str(os.getpid())):
            return 0.0
        return int(wanted) / 2_000_000

    def ready(self) -> None:
        """Clients may come."""
        self._tell("READY=1\nSTATUS=Serving clients")
        self._beat()

    def reloading(self) -> None:
        """The settings are being read again; `ready` says when that is done."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon ends."""
        if self._timer:
            self._timer.cancel()
        self._tell("STOPPING=1\nSTATUS=Ending; guests run on")

    def _beat(self) -> None:
        # by the loop: a loop that hangs gives no sign
        if self._interval:
            if self._timer:
                self._timer.cancel()
            self._tell("WATCHDOG=1")
            self._timer = self._loop.call_later(self._interval, self._beat)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            address = self._address
            try:
                sock.connect("\0" + address[1:] if address.startswith("@") else address)
                sock.send(state.encode())
            except OSError as error:
                log.warning("cannot tell systemd '%s': %s", state.partition("\n")[0], error.strerror)


class PidFile:
    """A file with the daemon's pid, locked while it runs, as libvirtd's is."""

    def __init__(self, path: Path) -> None:
        """Write and lock it; raises OperationFailed when another daemon holds it, SystemError_."""
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SystemError_(f"cannot write pid file '{path}'", error) from error
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise OperationFailed(f"pid file '{path}' is held by another daemon; stop it first") from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def close(self) -> None:
        """Remove it."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
