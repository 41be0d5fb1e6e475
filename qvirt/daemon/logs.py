"""What is logged, and where to: libvirt's levels, filters and outputs, changed while the daemon runs.

A record has a priority, 1 (debug) to 4 (error). It is logged when it reaches the level of the first filter
whose pattern fits its source, or else the daemon's level, and goes to each output whose own level it reaches.
All outputs are written by one thread, as a disk or a pipe may block.
"""

import fnmatch
import logging
import os
import queue
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from qvirt.daemon.log_outputs import Output, OutputHandler, open_output
from qvirt.errors import InvalidArg
from qvirt.record import Record

PRIORITIES: Final = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
DEFAULT_LEVEL: Final = 3

WAITING: Final = 10_000
"""Records that may wait for the thread; what comes beyond is counted and left out."""

ALIKE: Final = 200
"""Warnings and errors of one line of ours that are logged in `PERIOD`: clients and guests may cause many."""

PERIOD: Final = 10.0
"""Seconds."""

SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "qemu": ("qvirt.runtime", "qvirt.qemu", "qvirt.qmp"),
    "json": ("qvirt.qmp",),
    "rpc": ("qvirt.daemon", "qvirt.rpc"),
    "remote": ("qvirt.daemon", "qvirt.net"),
    "event": ("qvirt.runtime.events", "qvirt.api.events", "qvirt.qmp"),
    "access": ("qvirt.daemon.guard", "qvirt.daemon.polkit", "qvirt.daemon.rules"),
    "libvirt": ("qvirt",),
    "util": ("qvirt.host",),
    "conf": ("qvirt.model", "qvirt.xml"),
}
"""libvirt's names of the parts that people filter by, and ours; other words are looked for as they are."""


class Filter(Record):
    """A level of its own for some sources. text: the pattern as it was given."""

    priority: int
    text: str

    @property
    def pattern(self) -> str:
        """The pattern for names of sources: what was given stands for every name it is in."""
        return f"*{self.text}*"

    def fits(self, source: str) -> bool:
        """Tell whether it is about a source, such as ``qvirt.runtime.life.launch``."""
        word = self.text.strip("*")
        parts = SOURCES.get(word, ())
        if any(source == part or source.startswith(f"{part}.") for part in parts):
            return True
        return fnmatch.fnmatchcase(source, self.pattern)

    def __str__(self) -> str:
        return f"{self.priority}:{self.pattern}"


def parse_filters(text: str) -> tuple[Filter, ...]:
    """Read ``LEVEL:PATTERN ...``; raises InvalidArg with libvirt's sentences."""
    found = []
    for word in text.split():
        level, colon, pattern = word.partition(":")
        if not colon or not level:
            raise InvalidArg(f"Malformed format for filter '{word}'")
        if level not in ("1", "2", "3", "4"):
            raise InvalidArg(f"Invalid priority '{level}' for filter '{word}'")
        # libvirt's old sign for "with a stack trace"
        pattern = pattern.removeprefix("+")
        if not pattern:
            raise InvalidArg(f"Invalid match string '{pattern}'")
        found.append(Filter(int(level), pattern))
    return tuple(found)


_OUTPUT = re.compile(r"(?P<level>[^:]*):(?P<kind>[^:]*)(?::(?P<extra>.*))?")
_NEEDS = {"stderr": False, "journald": False, "file": True, "syslog": True}


def parse_outputs(text: str) -> tuple[Output, ...]:
    """Read ``LEVEL:KIND[:WHERE] ...``; a place named again takes the last level. Raises InvalidArg."""
    found: dict[tuple[str, str], Output] = {}
    for word in text.split():
        match = _OUTPUT.fullmatch(word)
        if match is None:
            raise InvalidArg(f"Malformed format for output '{word}'")
        level, kind, extra = match["level"], match["kind"], match["extra"]
        if level not in ("1", "2", "3", "4"):
            raise InvalidArg(f"Invalid log priority '{level}' for log output '{word}'")
        if kind not in _NEEDS:
            raise InvalidArg(f"Invalid log destination '{kind}' for log output '{word}'")
        if _NEEDS[kind] is not bool(extra):
            raise InvalidArg(
                f"Log output '{word}' does not meet the format requirements for destination type '{kind}'"
            )
        found[kind, extra or ""] = Output(int(level), kind, extra or "")
    return tuple(found.values())


class _Gate(logging.Handler):
    """Takes records from everywhere, leaves out what filters do not let through, and hands on the rest."""

    def __init__(self, logging_: "Logging") -> None:
        super().__init__()
        self._logging = logging_
        self._since = 0.0
        self._counts: Counter[tuple[str, int]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread that writes."""
        if record.levelno >= self._logging.level_of(record.name) and self._is_rare(record):
            # its arguments may change, and its words are the same for all outputs
            record.message = record.getMessage()
            self._logging.enqueue(record)

    def _is_rare(self, record: logging.LogRecord) -> bool:
        """Count a record; one of a kind there are too many of is left out, which is said later."""
        if record.levelno < logging.WARNING:  # who wants these wants all of them
            return True
        now = time.monotonic()
        if now - self._since >= PERIOD:
            for (name, line), count in self._counts.items():
                if count > ALIKE:
                    words = f"{count - ALIKE} more records of {name}:{line} within {PERIOD:g} s were left out"
                    self._logging.enqueue(
                        logging.makeLogRecord({"name": __name__, "levelno": logging.WARNING, "msg": words})
                    )
            self._since = now
            self._counts.clear()
        place = record.name, record.lineno
        self._counts[place] += 1
        return self._counts[place] <= ALIKE


_Item: TypeAlias = logging.LogRecord | list[OutputHandler] | threading.Event | None
"""What the thread is told: a record to write, outputs to use, an event to set when it comes to it, to end."""


class Logging:
    """The daemon's logging. Until `start` it writes to standard error in place."""

    def __init__(self) -> None:
        self.level = DEFAULT_LEVEL
        self.filters: tuple[Filter, ...] = ()
        self.outputs: tuple[Output, ...] = ()
        self.default_outputs: tuple[Output, ...] = (Output(DEFAULT_LEVEL, "stderr", ""),)
        self._handlers: list[OutputHandler] = []
        self._levels: dict[str, int] = {}
        self._waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._gate = _Gate(self)

    # ------------------------------------------------------------------------------------------ settings

    def configure(
        self, level: int, filters: str, outputs: str, *, defaults: Sequence[Output] | None = None
    ) -> None:
        """Set everything at once; raises InvalidArg and OSError, and leaves all as it was."""
        if level not in PRIORITIES:
            raise InvalidArg(f"log_level: '{level}' is no level: use 1 (debug) to 4 (error)")
        found, places = parse_filters(filters), parse_outputs(outputs)
        before, self.level = self.level, level
        if defaults is not None:
            self.default_outputs = tuple(defaults)
        try:
            self._open(places)
        except BaseException:
            self.level = before
            raise
        self._set_filters(found)

    def set_filters(self, text: str) -> None:
        """Use these filters from now on; raises InvalidArg."""
        self._set_filters(parse_filters(text))

    def set_outputs(self, text: str) -> None:
        """Use these outputs from now on; raises InvalidArg, SystemError_, and keeps those there are."""
        self._open(parse_outputs(text))

    @property
    def filters_text(self) -> str:
        """The filters, as clients are told."""
        return " ".join(str(each) for each in self.filters)

    @property
    def outputs_text(self) -> str:
        """The outputs, as clients are told."""
        return " ".join(str(each) for each in self.outputs)

    def level_of(self, source: str) -> int:
        """Give the least level of Python's that is logged of a source."""
        level = self._levels.get(source)
        if level is None:
            fitting = (each.priority for each in self.filters if each.fits(source))
            level = self._levels[source] = PRIORITIES[next(fitting, self.level)]
        return level

    def _set_filters(self, filters: tuple[Filter, ...]) -> None:
        self.filters = filters
        self._levels = {}
        least = min((self.level, *(each.priority for each in filters)))
        root = logging.getLogger()
        root.setLevel(PRIORITIES[least])
        if self._gate not in root.handlers:
            root.handlers[:] = [self._gate]

    def _open(self, outputs: tuple[Output, ...]) -> None:
        wanted = outputs or self.default_outputs
        opened: list[OutputHandler] = []
        try:
            opened += [open_output(each) for each in wanted]
        except BaseException:
            for handler in opened:
                handler.close()
            raise
        self.outputs = wanted
        if self._thread is None:
            self._use(opened)
        else:
            # in its turn: what was logged before goes where it would have gone
            self._waiting.put(opened)

    # -------------------------------------------------------------------------------------------- writing

    def start(self) -> None:
        """Write in a thread from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Write what waits, and then in place."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(5)
            self._thread = None

    def _use(self, opened: list[OutputHandler]) -> None:
        old, self._handlers = self._handlers, opened
        for handler in old:
            handler.close()

    def flush(self, patience: float = 1.0) -> None:
        """Wait until everything logged so far is written; not longer than so many seconds."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            done = threading.Event()
            self._waiting.put(done)
            done.wait(patience)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Write a record, by and by."""
        if self._thread is None:
            self._write(record)
        elif self._waiting.qsize() < WAITING:
            self._waiting.put(record)
        else:
            self._lost += 1

    def _write_on(self) -> None:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            if isinstance(item, list):
                self._use(item)
                continue
            self._write(item)
            if self._lost:
                lost, self._lost = self._lost, 0
                words = f"{lost} records are left out, as outputs take them too slowly"
                self._write(logging.makeLogRecord({"name": __name__, "levelno": 30, "msg": words}))

    def _write(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            if record.levelno >= PRIORITIES[handler.output.priority]:
                handler.handle(record)


def from_environment(environ: Mapping[str, str]) -> tuple[int | None, str | None, str | None]:
    """Give level, filters and outputs that libvirt's environment variables set; None for others."""
    names = {"debug": 1, "info": 2, "warn": 3, "warning": 3, "error": 4}
    said = environ.get("LIBVIRT_DEBUG", "")
    level = int(said) if said in ("1", "2", "3", "4") else names.get(said.lower())
    return level, environ.get("LIBVIRT_LOG_FILTERS") or None, environ.get("LIBVIRT_LOG_OUTPUTS") or None


def default_outputs(level: int, *, background: bool, privileged: bool, folder: Path) -> list[Output]:
    """Give where to log when nobody says.

    In the foreground, and under systemd, where the errors go; else the journal, syslog, a file in a folder.
    """
    if os.environ.get("JOURNAL_STREAM") == _identity_of(sys.stderr.fileno()):
        return [Output(level, "journald", "")]
    if not background:
        return [Output(level, "stderr", "")]
    if os.path.exists("/run/systemd/journal/socket"):
        return [Output(level, "journald", "")]
    if privileged and os.path.exists("/dev/log"):
        return [Output(level, "syslog", "qvirtd")]
    return [Output(level, "file", str(folder / "qvirtd.log"))]


def _identity_of(fd: int) -> str | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return f"{status.st_dev}:{status.st_ino}"
