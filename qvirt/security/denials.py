"""What the kernel's security modules say they have refused: their records, found and explained.

A record is made when something is refused, not when somebody asks; so a `Watch` is opened before whatever
may be refused, and asked when it has failed. Records come by the audit socket, or from the kernel's log where
that is closed to us.
"""

import asyncio
import contextlib
import errno
import os
import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Self

from qvirt.record import Record

#: from linux/netlink.h and linux/audit.h
_NETLINK_AUDIT = 9
_GROUP_READLOG = 1
_HEADER = struct.Struct("=IHHII")

#: seconds a record may take from the refusal to us: a thread of the kernel's passes it on
PATIENCE = 0.5
_STEP = 0.02

_LARGEST = 64 * 1024
#: records looked at in one go, and kept: a guest may be refused things faster than we read
_MOST = 1000

_PAIR = re.compile(r'(\w+)=("(?:[^"]*)"|\S+)')
_REFUSED = re.compile(r"avc:\s+denied\s+\{ (?P<what>[^}]*) \}")
#: fields the kernel writes in hexadecimal where they hold more than plain characters
_HEXED = frozenset(("name", "comm", "path", "profile", "target"))


class Denial(Record):
    """One refusal. model: ``apparmor`` or ``selinux``. label: of the process that was refused something.

    what: the permissions it lacked, in the model's words. path: '' where it was no file; SELinux may know its
    name alone. fields: all that the record says.
    """

    model: str
    label: str
    what: str
    path: str
    pid: int
    fields: dict[str, str]

    def __str__(self) -> str:
        about = f" on '{self.path}'" if self.path else ""
        kind = self.fields.get("operation") or self.fields.get("tclass") or ""
        return f"{self.model} refused {kind} ({self.what}){about} to '{self.label}'"


def parse(line: str) -> Denial | None:
    """Read a record; None for one that is about no refusal."""
    fields = {key: _plain(key, value) for key, value in _PAIR.findall(line)}
    if fields.get("apparmor") == "DENIED":
        return Denial(
            "apparmor",
            fields.get("profile", ""),
            fields.get("denied_mask") or fields.get("requested_mask") or fields.get("capname", ""),
            fields.get("name", ""),
            _number(fields.get("pid")),
            fields,
        )
    match = _REFUSED.search(line)
    if match is None:
        return None
    path = fields.get("path") or fields.get("name", "")
    return Denial(
        "selinux", fields.get("scontext", ""), match["what"], path, _number(fields.get("pid")), fields
    )


def _plain(key: str, value: str) -> str:
    if value.startswith('"'):
        return value[1:-1]
    if key in _HEXED and len(value) % 2 == 0:
        with contextlib.suppress(ValueError):
            return bytes.fromhex(value).decode("utf-8", "surrogateescape")
    return value


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


class Watch:
    """Sees what is refused from now on. To be closed; harmless where nothing can be seen.

    wanted: False for one that does not look.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._read: Callable[[], Iterator[str]] = lambda: iter(())
        self._close: Callable[[], None] = lambda: None
        self._seen: deque[Denial] = deque(maxlen=_MOST)
        self._looks = False
        for source in (self._audit, self._kernel_log) if wanted else ():
            try:
                source()
            except OSError:
                continue
            self._looks = True
            break

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Look no more."""
        self._close()
        self._read = lambda: iter(())
        self._close = lambda: None

    async def denials(self, matches: Callable[[Denial], bool]) -> list[Denial]:
        """Return what was refused and ``matches``, each once; waits a little for the first of them."""
        if not self._looks:
            return []
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            lines = islice(self._read(), _MOST)
            self._seen.extend(denial for line in lines if (denial := parse(line)) is not None)
            found = {(denial.what, denial.path): denial for denial in self._seen if matches(denial)}
            if found or loop.time() > end:
                return list(found.values())
            await asyncio.sleep(_STEP)

    # ------------------------------------------------------------------ sources

    def _audit(self) -> None:
        """Listen where the kernel tells everybody. Raises OSError: without CAP_AUDIT_READ, in a namespace."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_AUDIT)
        try:
            sock.setblocking(False)
            sock.bind((0, 1 << (_GROUP_READLOG - 1)))
        except OSError:
            sock.close()
            raise

        def read() -> Iterator[str]:
            while True:
                try:
                    data = sock.recv(_LARGEST)
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        continue  # more came than the socket holds; the rest is still there
                    return
                yield data[_HEADER.size :].decode("utf-8", "surrogateescape").rstrip("\0\n")

        self._read, self._close = read, sock.close

    def _kernel_log(self) -> None:
        """Read what the kernel logs from here on. Raises OSError."""
        fd = os.open(Path("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(fd, 0, os.SEEK_END)

        def read() -> Iterator[str]:
            while True:
                try:
                    data = os.read(fd, _LARGEST)
                except OSError as error:
                    if error.errno == errno.EPIPE:
                        continue  # it was overwritten before we read it; what follows is still there
                    return
                yield data.decode("utf-8", "surrogateescape")

        self._read, self._close = read, lambda: os.close(fd)
