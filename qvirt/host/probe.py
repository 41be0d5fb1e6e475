"""Asks emulators what they can do, and remembers the answers.

`probe` asks; `EmulatorTable` keeps the answers in memory and in a cache directory, and asks only for an
emulator that is needed and new, or whose file, modules, kernel or KVM have changed since.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qvirt
from qvirt.errors import ConfigUnsupported, InternalError, OperationTimeout, QvirtError, SystemError_
from qvirt.host.kvm import kvm_usable
from qvirt.qemu.caps import EmulatorCaps, Overview
from qvirt.qemu.caps_queries import (
    KVM_ACCEL,
    MAIN_ACCEL,
    Question,
    fingerprint,
    questions,
    read_answers,
)
from qvirt.qemu.dialect.ages import MINIMUM_EMULATOR
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.dialect.help_text import ASKED_DEVICES, help_caps
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import MonitorClosed
from qvirt.record import Record, asdict

log = logging.getLogger(__name__)

PROBE_DEADLINE = 30.0
"""Seconds an emulator gets to describe itself."""

_FATAL_LIMIT = 5
"""Questions an emulator may end at before it counts as broken; asked again without them."""

CACHE_FORMAT = 2

RECHECK_AFTER = 1.0
"""Seconds for which an answer is used without looking at the emulator's file again."""

SEARCH_PATH = ("/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/sbin", "/bin")
MODULE_DIRS = ("/usr/lib/qemu", "/usr/lib64/qemu", "/usr/lib/*/qemu")


class _Surroundings(Record):
    """What the answers of all emulators depend on."""

    modules_ns: int
    qvirt: str
    kernel: str
    cpu: str
    kvm: bool


class Stamp(Record):
    """What an emulator's answers depend on; they are asked for again when it changes."""

    size: int
    mtime_ns: int
    ctime_ns: int
    modules_ns: int
    qvirt: str
    kernel: str
    cpu: str
    kvm: bool

    def to_json(self) -> dict[str, Any]:
        """Return the stamp as JSON values."""
        return asdict(self)


def find_emulator(target: str, search: Iterable[str] = SEARCH_PATH) -> Path | None:
    """Return the emulator of a QEMU target ("x86_64"), or None."""
    for directory in search:
        path = Path(directory, f"qemu-system-{target}")
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


async def probe(emulator: Path | str, *, kvm: bool, deadline: float = PROBE_DEADLINE) -> EmulatorCaps:
    """Ask an emulator what it can do, within `deadline` seconds; `kvm`: KVM works here, ask about it too.

    Raises SystemError_ (cannot be executed), InternalError (it failed; with what it printed),
    OperationTimeout.
    """
    try:
        async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
            main = group.create_task(_ask(str(emulator), MAIN_ACCEL))
            second = group.create_task(_ask_kvm(str(emulator))) if kvm else None
    except TimeoutError:
        raise OperationTimeout(
            f"emulator '{emulator}' did not describe its capabilities within {deadline:g} s"
        ) from None
    except BaseExceptionGroup as group_error:
        raise _first(group_error) from None
    try:
        return read_answers(str(emulator), main.result(), second.result() if second else None)
    except ValueError as e:
        raise InternalError(str(e)) from e


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in group.exceptions:
        if isinstance(error, QvirtError):
            return error
    return group


async def _ask_kvm(emulator: str) -> Sequence[Any] | None:
    """Ask under KVM; None when this emulator cannot use KVM."""
    try:
        return await _ask(emulator, KVM_ACCEL)
    except InternalError:
        return None


async def _ask(emulator: str, accel: str) -> Sequence[Any]:
    """Run one process and return its answers, None for each question it refused or died of."""
    fatal: set[int] = set()
    while True:
        answers, printed, died_of = await _run(emulator, accel, fatal)
        if died_of is None:
            return answers
        if died_of < 0 or len(fatal) == _FATAL_LIMIT:
            raise InternalError(f"Failed to probe QEMU binary with QMP: {emulator}: {printed}")
        log.warning("emulator '%s' ended when asked %s: %s", emulator, questions(accel)[died_of], printed)
        fatal.add(died_of)


async def _run(emulator: str, accel: str, skip: set[int]) -> tuple[Sequence[Any], str, int | None]:
    """Return the answers, what the process printed, and the question that ended it (-1: no question)."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *_command_line(emulator, accel, theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                )
            except OSError as e:
                raise SystemError_(f"cannot execute emulator '{emulator}'", e) from e
        undo.pop_all()
    try:
        answers, died_of = await _converse(ours, questions(accel), skip)
        return answers, "" if died_of is None else await _printed(process), died_of
    except QvirtError as e:
        return (), await _printed(process) or e.detail, -1
    finally:
        _kill(process)
        await asyncio.shield(process.wait())


async def _printed(process: asyncio.subprocess.Process) -> str:
    _kill(process)
    data = await process.stderr.read() if process.stderr else b""
    return data.decode("utf-8", "replace").strip()[-1000:]


def _kill(process: asyncio.subprocess.Process) -> None:
    # The emulator may be a script around QEMU: all it started goes with it. The group's number is ours until
    # the process has been waited for.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _command_line(emulator: str, accel: str, fd: int) -> list[str]:
    # fmt: off
    return [
        emulator, "-S", "-no-user-config", "-nodefaults", "-nographic",
        "-machine", f"none,accel={accel}",
        "-chardev", f"socket,id=monitor,fd={fd}",
        "-mon", "chardev=monitor,mode=control",
    ]
    # fmt: on


async def _converse(
    sock: socket.socket, asked: Sequence[Question], skip: set[int]
) -> tuple[list[Any], int | None]:
    """Ask everything at once; return the answers and the index of the question the peer ended at."""
    # Any deadline here is that of the whole probe.
    monitor = await Monitor.from_socket(sock, name="probe", deadline=PROBE_DEADLINE)
    answers: list[Any] = [None] * len(asked)
    try:
        sent = {i: monitor.submit(*question) for i, question in enumerate(asked) if i not in skip}
        # In order, so that the first failure is the question the process ended at.
        results = await asyncio.gather(*sent.values(), return_exceptions=True)
        for i, result in zip(sent, results, strict=True):
            match result:
                case MonitorClosed():
                    return answers, i
                case BaseException():
                    raise result
            answers[i] = result.value
        return answers, None
    finally:
        monitor.close()


async def read_texts(emulator: Path | str, *, deadline: float = PROBE_DEADLINE) -> DialectCaps:
    """Read what an emulator that cannot answer the monitor's questions prints about itself.

    Raises SystemError_ (cannot be executed), OperationTimeout, InternalError (not a QEMU), ConfigUnsupported
    (one that is too old).
    """
    path = str(emulator)
    devices = [word for type in ASKED_DEVICES for word in ("-device", f"{type},?")]
    try:
        async with asyncio.timeout(deadline):
            help = await _print(path, "-help")
            listed = await _print(path, "-device", "?", *devices) if "-device " in help else ""
            machines = await _print(path, "-M", "?")
    except TimeoutError:
        raise OperationTimeout(f"emulator '{path}' did not print its help within {deadline:g} s") from None
    try:
        caps = help_caps(path, help, listed, machines)
    except ValueError as e:
        raise InternalError(f"cannot parse '{path} -help': {e}") from e
    if caps.version < MINIMUM_EMULATOR:
        found = ".".join(map(str, caps.version))
        raise ConfigUnsupported(f"QEMU version >= 0.12.00 is required, but {found} found")
    return caps


async def _print(emulator: str, *words: str) -> str:
    """Return what an emulator prints; some of it comes on stderr."""
    try:
        process = await asyncio.create_subprocess_exec(
            emulator,
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except OSError as e:
        raise SystemError_(f"cannot execute emulator '{emulator}'", e) from e
    try:
        printed, _ = await process.communicate()
        return printed.decode("utf-8", "replace")
    finally:
        _kill(process)
        await asyncio.shield(process.wait())


class EmulatorTable:
    """The emulators of this machine and what each can do, asked when first needed.

    cache: directory for answers between runs of the daemon; None keeps them in memory only. A damaged or
    foreign file in it is ignored and written anew.
    """

    def __init__(
        self,
        cache: Path | None,
        *,
        is_kvm_usable: Callable[[], bool] = kvm_usable,
        parallel: int | None = None,
    ) -> None:
        self._cache = cache
        self._is_kvm_usable = is_kvm_usable
        self._gate = asyncio.Semaphore(parallel or max(2, os.cpu_count() or 1))
        self._surroundings: tuple[float, _Surroundings] | None = None
        self._known: dict[str, tuple[Stamp, EmulatorCaps]] = {}
        self._checked: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[EmulatorCaps]] = {}

    async def overview(self, emulator: Path | str) -> Overview:
        """Return what the capabilities document says of an emulator; raises as `probe` does.

        Where the cache knows it nothing more is read: most emulators are never used.
        """
        path = str(emulator)
        seen = None if path in self._known else await asyncio.to_thread(self._glance, path)
        return seen or await self.caps(path)

    async def caps(self, emulator: Path | str) -> EmulatorCaps:
        """Return what an emulator can do; raises as `probe` does."""
        path = str(emulator)
        now = asyncio.get_running_loop().time()
        if path in self._known and now - self._checked[path] < RECHECK_AFTER:
            return self._known[path][1]
        task = self._running.get(path)
        if task is None:
            task = self._running[path] = asyncio.create_task(self._look(path), name=f"probe {path}")
            task.add_done_callback(lambda _: self._running.pop(path, None))
        # One caller giving up must not take the answer from the others.
        return await asyncio.shield(task)

    async def texts(self, emulator: Path | str) -> DialectCaps:
        """Return what an old emulator says of itself in print; raises as `read_texts` does."""
        async with self._gate:
            return await read_texts(emulator)

    async def _look(self, path: str) -> EmulatorCaps:
        stamp = await asyncio.to_thread(self._stamp, path)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            file = self._file(path)
            caps = await asyncio.to_thread(load, file, stamp) if file else None
            if caps is None:
                async with self._gate:
                    caps = await probe(path, kvm=stamp.kvm)
                if file:
                    await asyncio.to_thread(store, file, stamp, caps)
            known = self._known[path] = (stamp, caps)
        self._checked[path] = asyncio.get_running_loop().time()
        return known[1]

    def _glance(self, path: str) -> Overview | None:
        file = self._file(path)
        return load_overview(file, self._stamp(path)) if file else None

    def _file(self, path: str) -> Path | None:
        return (
            self._cache / (hashlib.sha256(os.fsencode(path)).hexdigest() + ".json") if self._cache else None
        )

    def _stamp(self, path: str) -> Stamp:
        try:
            status = os.stat(path)
        except OSError as e:
            raise SystemError_(f"Cannot check QEMU binary {path}", e) from e
        return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, **asdict(self._look_around()))

    def _look_around(self) -> "_Surroundings":
        """Return what all emulators depend on, as it was just now."""
        now = time.monotonic()
        if self._surroundings is None or now - self._surroundings[0] > RECHECK_AFTER:
            folders = (d for p in MODULE_DIRS for d in Path("/").glob(p[1:]))
            found = _Surroundings(
                modules_ns=max((d.stat().st_mtime_ns for d in folders), default=0),
                qvirt=f"{qvirt.__version__} {fingerprint()}",
                kernel=os.uname().release,
                cpu=_cpu_signature(),
                kvm=self._is_kvm_usable(),
            )
            self._surroundings = now, found
        return self._surroundings[1]


def load(file: Path, stamp: Stamp) -> EmulatorCaps | None:
    """Read stored answers; None when there are none for this stamp, or the file is damaged."""
    try:
        head, _, rest = file.read_bytes().partition(b"\n")
        _check(json.loads(head), stamp)
        return EmulatorCaps.from_json(json.loads(rest))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_overview(file: Path, stamp: Stamp) -> Overview | None:
    """Read the overview of stored answers; None as with `load`."""
    try:
        with file.open("rb") as stored:
            head = json.loads(stored.readline())
        _check(head, stamp)
        return Overview.read(head["overview"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check(head: Any, stamp: Stamp) -> None:
    """Raise ValueError when answers were stored in another form or under another stamp."""
    if head["format"] != CACHE_FORMAT or head["stamp"] != stamp.to_json():
        raise ValueError("stored answers are out of date")


def store(file: Path, stamp: Stamp, caps: EmulatorCaps) -> None:
    """Write answers for the next run; a cache that cannot be written costs time only, so it is no error.

    The first line is what `load_overview` needs, the second is everything.
    """
    head = {"format": CACHE_FORMAT, "stamp": stamp.to_json(), "overview": caps.overview_json()}
    text = f"{json.dumps(head)}\n{json.dumps(caps.to_json())}\n"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".new")
        with contextlib.ExitStack() as undo:
            undo.callback(lambda: Path(name).unlink(missing_ok=True))
            with open(fd, "w", encoding="ascii") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            os.replace(name, file)


_CPU_LINES: Mapping[str, None] = dict.fromkeys(("vendor_id", "cpu family", "model", "stepping", "microcode"))


def _cpu_signature(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Identify the processor and its microcode, which decide what KVM can give a guest."""
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as lines:
            facts = []
            for line in lines:
                name, _, value = line.partition(":")
                if not line.strip():
                    break
                if name.strip() in _CPU_LINES:
                    facts.append(value.strip())
            return " ".join(facts)
    except OSError:
        return ""
