"""What the kernel's security modules say they have refused: their records, found and explained.

A record is made when something is refused, not when somebody asks; so a `Watch` is opened before whatever
may be refused, and asked when it has failed. Records come by the audit socket, or from the kernel's log where
that is closed to us.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
#: the same where more is refused on this machine than that thread can pass on at once
_BEHIND = 5.0

_LARGEST = 64 * 1024

#: records looked at before others get their turn, and kept
_AT_ONCE = 200
_MOST = 1000

#: bytes of records that wait for us: others may be refused much while a QEMU starts
_ROOM = 4 << 20

#: records of refusals (linux/audit.h); the kernel keeps the rest of its log from us
_AVC = 1400
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h

#: when something was refused, in seconds since the epoch
_STAMP = re.compile(rb"audit\((\d+\.\d+):")
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
        what = f" ({self.what})" if self.what else ""
        return f"{self.model} refused {kind}{what}{about} to '{self.label}'"


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
    """Sees what is refused from now on to processes of these labels; without any it does not look.

    Made in a running loop, and to be closed; harmless where nothing can be seen. Records are read as they
    come, and only those that have a label in them are kept, as others may be refused much meanwhile.
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self._read: Callable[[], Iterator[bytes]] = lambda: iter(())
        self._close: Callable[[], None] = lambda: None
        plain = [label.encode("utf-8", "surrogateescape") for label in labels if label]
        self._marks = (*plain, *(label.hex().upper().encode() for label in plain))
        self._lines: deque[str] = deque(maxlen=_MOST)
        self._seen: dict[tuple[str, str], Denial] = {}
        self._count = 0
        self._latest = 0.0
        self._looks = False
        for source in (self._audit, self._kernel_log) if plain else ():
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
        """Return what was refused and ``matches``, each once; waits a little until no more of it comes."""
        if not self._looks:
            return []
        loop = asyncio.get_running_loop()
        asked, began, before = time.time(), loop.time(), self._count
        while True:
            self._pull()
            new = [denial for line in self._lines if (denial := parse(line)) is not None and matches(denial)]
            self._lines.clear()
            for denial in new[: _MOST - len(self._seen)]:
                self._seen[denial.what, denial.path] = denial
            # records come in their order: while those of before are still coming, ours may be among them
            is_behind = self._count > before and self._latest < asked
            before = self._count
            found = [denial for denial in self._seen.values() if matches(denial)]
            patience = _BEHIND if is_behind and not found else PATIENCE
            if (found and not new) or loop.time() - began > patience:
                return found
            await asyncio.sleep(_STEP)

    def _pull(self) -> None:
        """Read what there is, some of it: the loop comes again. @background."""
        data = b""
        for data in islice(self._read(), _AT_ONCE):
            self._count += 1
            if any(mark in data for mark in self._marks):
                self._lines.append(data.decode("utf-8", "surrogateescape").rstrip("\0\n"))
        stamp = _STAMP.search(data)
        if stamp is not None:
            self._latest = float(stamp[1])

    # ------------------------------------------------------------------ sources

    def _audit(self) -> None:
        """Listen where the kernel tells everybody. Raises OSError: without CAP_AUDIT_READ, in a namespace."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_AUDIT)
        try:
            sock.setblocking(False)
            _attach_filter(sock)
            with contextlib.suppress(PermissionError):  # as much as everybody gets, then
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            sock.bind((0, 1 << (_GROUP_READLOG - 1)))
        except OSError:
            sock.close()
            raise

        def read() -> Iterator[bytes]:
            while True:
                try:
                    data = sock.recv(_LARGEST)
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        continue  # more came than the socket holds; the rest is still there
                    return
                yield data[_HEADER.size :]

        self._follow(sock.fileno(), read, sock.close)

    def _kernel_log(self) -> None:
        """Read what the kernel logs from here on. Raises OSError."""
        fd = os.open(Path("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(fd, 0, os.SEEK_END)

        def read() -> Iterator[bytes]:
            while True:
                try:
                    data = os.read(fd, _LARGEST)
                except OSError as error:
                    if error.errno == errno.EPIPE:
                        continue  # it was overwritten before we read it; what follows is still there
                    return
                yield data

        self._follow(fd, read, lambda: os.close(fd))

    def _follow(self, fd: int, read: Callable[[], Iterator[bytes]], close: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(fd, self._pull)
        except OSError:
            close()
            raise

        def stop() -> None:
            loop.remove_reader(fd)
            close()

        self._read, self._close = read, stop


def _attach_filter(sock: socket.socket) -> None:
    """Have the kernel leave out all but records of refusals: a flood of others would fill what waits for us.

    Raises OSError.
    """
    kind = socket.htons(_AVC)  # the header has it in the machine's order, filters read the network's
    program = (
        (0x28, 0, 0, 4),  # load the half word at byte 4, the record's kind
        (0x15, 0, 1, kind),  # is it this one?
        (0x06, 0, 0, 0xFFFFFFFF),  # then all of it
        (0x06, 0, 0, 0),  # else nothing
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *words) for words in program))
    described = struct.pack("@HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def are_recorded() -> bool:
    """Tell whether this kernel keeps records at all; ``audit=0`` on its command line has it keep none."""
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_AUDIT).close()
    except OSError as error:
        return error.errno != errno.EPROTONOSUPPORT
    return True
