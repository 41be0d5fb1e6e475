"""Where log records go: standard error, files, syslog, the journal; and how they read there."""

import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any, Final

from qvirt.errors import SystemError_
from qvirt.record import Record

JOURNAL: Final = "/run/systemd/journal/socket"
SYSLOG: Final = "/dev/log"

_WORDS: Final = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}
_SEVERITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4}
_DAEMON_FACILITY: Final = 3
_DATAGRAM_MAX: Final = 64 << 10
_FIELDS: Final = "fields"
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""What is shown by its number; a line break is kept, and what follows it is indented."""


class Output(Record):
    """One output. kind: stderr, file, syslog or journald; where: the file, or the name to log under."""

    priority: int
    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.priority}:{self.kind}" + (f":{self.where}" if self.where else "")


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Give what to log beside the words: ``log.info("...", extra=fields(call=name))``. None is left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value is not None}}


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Give what was logged beside the words."""
    found: Mapping[str, Any] = getattr(record, _FIELDS, {})
    return found


class _Lines(logging.Formatter):
    """libvirt's line: time in UTC, thread, level, source and line, words; then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line, and the traceback's lines after it."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
        line = (
            f"{moment}.{int(record.msecs):03d}+0000: {os.getpid()}: {_WORDS.get(record.levelno, 'error')} : "
            f"{record.name}:{record.lineno} : {words_of(record)}"
        )
        for name, value in fields_of(record).items():
            line += f" {name}={_quoted(value)}"
        return _plain(line)


def words_of(record: logging.LogRecord) -> str:
    """Give the words of a record, with the traceback where it has one."""
    words = record.message if hasattr(record, "message") else record.getMessage()
    if record.exc_info:
        words += "\n" + logging.Formatter().formatException(record.exc_info)
    return words


def _plain(text: str) -> str:
    """Return what no peer's words can make look like another record, or speak to a terminal with."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text).replace("\n", "\n  ")


def _quoted(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if " " in text or not text else text


class OutputHandler(logging.Handler):
    """One output that is open."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output
        self.setFormatter(_Lines())

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on: there is nowhere to complain to, and logging is no reason to fail."""


class _StreamOutput(OutputHandler):
    def __init__(self, output: Output, stream: IO[str]) -> None:
        super().__init__(output)
        self._stream = stream
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            with self._guard:
                self._stream.write(self.format(record) + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            self.handleError(record)

    def close(self) -> None:
        """Close a file of ours."""
        if self._stream is not sys.stderr:
            self._stream.close()
        super().close()


class _Datagrams(OutputHandler):
    """An output that is a socket somebody reads datagrams from; it may be started again at any time."""

    def __init__(self, output: Output, path: str) -> None:
        super().__init__(output)
        self._path = path
        self._socket: socket.socket | None = None

    def payload(self, record: logging.LogRecord) -> bytes:
        """Make the datagram."""
        raise NotImplementedError

    def emit(self, record: logging.LogRecord) -> None:
        """Send a datagram, by a new socket where the old one's reader is gone."""
        data = self.payload(record)[:_DATAGRAM_MAX]
        for attempt in (1, 2):
            try:
                self._open().send(data)
            except OSError:
                self._forget()
                if attempt == 2:
                    self.handleError(record)
            else:
                return

    def close(self) -> None:
        """Close the socket."""
        self._forget()
        super().close()

    def _open(self) -> socket.socket:
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # a reader that has stopped must not stop us
            sock.settimeout(1)
            try:
                sock.connect(self._path)
            except OSError:
                sock.close()
                raise
            self._socket = sock
        return self._socket

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Syslog(_Datagrams):
    def payload(self, record: logging.LogRecord) -> bytes:
        """Make a line of RFC 3164, without its time, which syslog adds."""
        priority = _DAEMON_FACILITY * 8 + _SEVERITIES.get(record.levelno, 3)
        words = words_of(record)
        for name, value in fields_of(record).items():
            words += f" {name}={_quoted(value)}"
        line = f"<{priority}>{self.output.where}[{os.getpid()}]: {_plain(words)}"
        return line.encode("utf-8", "surrogateescape")


class _Journal(_Datagrams):
    def payload(self, record: logging.LogRecord) -> bytes:
        """Make an entry of the journal's own protocol, fields and all."""
        entry = {
            "MESSAGE": words_of(record),
            "PRIORITY": _SEVERITIES.get(record.levelno, 3),
            "SYSLOG_IDENTIFIER": "qvirtd",
            "LIBVIRT_SOURCE": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
        }
        entry |= {f"QVIRT_{name.upper()}": value for name, value in fields_of(record).items()}
        return b"".join(_entry_field(name, str(value)) for name, value in entry.items())


def _entry_field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def open_output(output: Output) -> OutputHandler:
    """Open an output; raises SystemError_ for a file that cannot be."""
    if output.kind == "stderr":
        return _StreamOutput(output, sys.stderr)
    if output.kind == "syslog":
        return _Syslog(output, SYSLOG)
    if output.kind == "journald":
        return _Journal(output, JOURNAL)
    try:
        fd = os.open(output.where, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SystemError_(f"failed to open {output.where}", error) from error
    return _StreamOutput(output, os.fdopen(fd, "a", encoding="utf-8", errors="surrogateescape"))
