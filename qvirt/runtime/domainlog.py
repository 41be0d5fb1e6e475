"""A domain's log: when it was started, with what, and what QEMU had to say; in libvirt's form."""

import contextlib
import logging
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from qvirt.errors import SystemError_
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.switches import CommandLine

log = logging.getLogger(__name__)

#: bytes of QEMU's last words an error repeats
TAIL_SIZE = 4096

#: bytes of a log before it becomes NAME.log.0, and how many such are kept; virtlogd's defaults
MAX_SIZE = 2 << 20
MAX_BACKUPS = 3
#: seconds between two looks at the logs of running guests
BOUND_EVERY = 5.0

_PTY_NOTICE = re.compile(r"^char device redirected to .*$\n?", re.MULTILINE)


#: what a terminal would obey, and what ends a string
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def legible(data: bytes) -> str:
    """Return what QEMU or a helper printed as errors repeat it: a guest may have made it print that."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").strip()
    return text.translate(_CONTROL)


def stamp() -> str:
    """Return the time as libvirt writes it into logs."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "+0000"


class DomainLog:
    """The log of one start; QEMU's standard output and error go straight into it."""

    def __init__(self, path: Path) -> None:
        """Open it for appending, anew if it has grown too large meanwhile. Raises SystemError_."""
        bound([path])
        try:
            # QEMU's is for appending alone: a policy may let it do no more, and take another from it unseen
            self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                self._reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                os.close(self.fd)
                raise
        except OSError as error:
            raise SystemError_(f"failed to create logfile {path}", error) from error
        self._begin = 0

    @staticmethod
    def append(path: Path, text: str) -> None:
        """Write one line with the time in front of it. Raises OSError."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{stamp()}: {text}\n".encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)

    def starting(
        self, command: CommandLine, env: Mapping[str, str], caps: EmulatorCaps, version: str
    ) -> None:
        """Write down the command line; what QEMU prints comes after it. A full disk keeps nobody from it."""
        qemu = ".".join(map(str, caps.version)) + caps.package
        host = os.uname()
        out = [
            f"{stamp()}: starting up qvirt version: {version}, qemu version: {qemu}, "
            f"kernel: {host.release}, hostname: {host.nodename}\n"
        ]
        out += [f"{name}={shlex.quote(value)} \\\n" for name, value in env.items()]
        lines = [command.emulator]
        for switch in command.switches:
            words = switch.to_argv()
            if words:
                lines.append(" ".join(shlex.quote(word) for word in words))
        out.append(" \\\n".join(lines) + "\n")
        try:
            os.write(self.fd, "".join(out).encode("utf-8", "surrogateescape"))
        except OSError as error:
            log.warning("the command line is not in the log of the domain: %s", error.strerror)
        self._begin = os.lseek(self.fd, 0, os.SEEK_END)

    def tail(self) -> str:
        """Return the end of what QEMU printed, without the notices it always prints."""
        end = os.lseek(self.fd, 0, os.SEEK_END)
        # a log that was set aside meanwhile begins anew
        begin = max(self._begin if self._begin <= end else 0, end - TAIL_SIZE)
        text = legible(os.pread(self._reading, end - begin, begin))
        return _PTY_NOTICE.sub("", text).strip()

    def close(self) -> None:
        """Close our descriptor; QEMU has its own."""
        if self.fd >= 0:
            os.close(self.fd)
            os.close(self._reading)
            self.fd = -1


def bound(logs: Iterable[Path]) -> None:
    """Set logs aside that have grown over the limit: nobody fills the host by what a QEMU prints. Blocking.

    QEMU goes on writing into the file, from its beginning; what it writes in the very moment is lost. Of a
    log that grew faster than we looked, the end is kept. One that cannot be set aside keeps no other from it.
    """
    for path in logs:
        try:
            if os.stat(path).st_size > MAX_SIZE:
                _set_aside(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("'%s' cannot be bounded: %s", path, error.strerror)


def _set_aside(path: Path) -> None:
    for number in range(MAX_BACKUPS - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}.{number - 1}", f"{path}.{number}")
    with open(path, "rb+", opener=_private) as file, open(f"{path}.0", "wb", opener=_private) as aside:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_SIZE))
        aside.write(file.read(MAX_SIZE))
        os.ftruncate(file.fileno(), 0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
