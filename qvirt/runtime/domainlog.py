"""A domain's log: when it was started, with what, and what QEMU had to say; in libvirt's form."""

import os
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from qvirt.errors import SystemError_
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.switches import CommandLine

#: bytes of QEMU's last words an error repeats
TAIL_SIZE = 4096

_PTY_NOTICE = re.compile(r"^char device redirected to .*$\n?", re.MULTILINE)


def stamp() -> str:
    """Return the time as libvirt writes it into logs."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "+0000"


class DomainLog:
    """The log of one start; QEMU's standard output and error go straight into it."""

    def __init__(self, path: Path, *, timestamps: bool = True) -> None:
        """Open it for appending. Raises SystemError_."""
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemError_(f"failed to create logfile {path}", error) from error
        self._timestamps = timestamps
        self._begin = 0

    @staticmethod
    def append(path: Path, text: str) -> None:
        """Write one line with the time in front of it. Raises OSError."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{stamp()}: {text}\n".encode())
        finally:
            os.close(fd)

    def starting(
        self, command: CommandLine, env: Mapping[str, str], caps: EmulatorCaps, version: str
    ) -> None:
        """Write down the command line; what QEMU prints comes after it."""
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
        os.write(self.fd, "".join(out).encode())
        self._begin = os.lseek(self.fd, 0, os.SEEK_END)

    def tail(self) -> str:
        """Return the end of what QEMU printed, without the notices it always prints."""
        end = os.lseek(self.fd, 0, os.SEEK_END)
        begin = max(self._begin, end - TAIL_SIZE)
        text = os.pread(self.fd, end - begin, begin).decode("utf-8", "replace")
        return _PTY_NOTICE.sub("", text).strip()

    def close(self) -> None:
        """Close our descriptor; QEMU has its own."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
