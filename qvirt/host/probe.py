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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qvirt
from qvirt.errors import InternalError, OperationTimeout, QvirtError, SystemError_
from qvirt.host.kvm import kvm_usable
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.caps_queries import (
    KVM_ACCEL,
    MAIN_ACCEL,
    Question,
    fingerprint,
    questions,
    read_answers,
)
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import MonitorClosed
from qvirt.record import Record, asdict

log = logging.getLogger(__name__)

PROBE_DEADLINE = 30.0
"""Seconds an emulator gets to describe itself."""

_FATAL_LIMIT = 5
"""Questions an emulator may end at before it counts as broken; asked again without them."""

CACHE_FORMAT = 1

RECHECK_AFTER = 1.0
"""Seconds for which an answer is used without looking at the emulator's file again."""

SEARCH_PATH = ("/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/sbin", "/bin")
MODULE_DIRS = ("/usr/lib/qemu", "/usr/lib64/qemu", "/usr/lib/*/qemu")


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


def find_emulators(search: Iterable[str] = SEARCH_PATH) -> list[Path]:
    """List the emulators installed on this machine: qemu-system-*, then qemu-kvm, kvm and qemu.

    A name is taken from the first directory that has it, a link to an emulator already listed is left out.
    """
    found: dict[str, Path] = {}
    for directory in search:
        for pattern in ("qemu-system-*", "qemu-kvm", "kvm", "qemu"):
            for path in sorted(Path(directory).glob(pattern)):
                if path.name not in found and path.is_file() and os.access(path, os.X_OK):
                    found[path.name] = path
    listed: dict[Path, Path] = {}
    for name in sorted(found, key=lambda name: (not name.startswith("qemu-system-"), name)):
        listed.setdefault(found[name].resolve(), found[name])
    return list(listed.values())


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


class EmulatorTable:
    """The emulators of this machine and what each can do, asked when first needed.

    cache: directory for answers between runs of the daemon; None keeps them in memory only. A damaged or
    foreign file in it is ignored and written anew.
    """

    def __init__(
        self,
        cache: Path | None,
        *,
        search: Iterable[str] = SEARCH_PATH,
        is_kvm_usable: Callable[[], bool] = kvm_usable,
        parallel: int | None = None,
    ) -> None:
        self._cache = cache
        self._search = tuple(search)
        self._is_kvm_usable = is_kvm_usable
        self._gate = asyncio.Semaphore(parallel or max(2, os.cpu_count() or 1))
        self._known: dict[str, tuple[Stamp, EmulatorCaps]] = {}
        self._checked: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[EmulatorCaps]] = {}

    async def find(self) -> list[Path]:
        """List the emulators installed on this machine."""
        return await asyncio.to_thread(find_emulators, self._search)

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

    async def all(self) -> tuple[dict[str, EmulatorCaps], dict[str, QvirtError]]:
        """Return what every installed emulator can do, and the error of each that failed, by path."""
        paths = [str(path) for path in await self.find()]
        results = await asyncio.gather(*(self.caps(path) for path in paths), return_exceptions=True)
        good: dict[str, EmulatorCaps] = {}
        bad: dict[str, QvirtError] = {}
        for path, result in zip(paths, results, strict=True):
            match result:
                case EmulatorCaps():
                    good[path] = result
                case QvirtError():
                    bad[path] = result
                case BaseException():
                    raise result
        return good, bad

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

    def _file(self, path: str) -> Path | None:
        return (
            self._cache / (hashlib.sha256(os.fsencode(path)).hexdigest() + ".json") if self._cache else None
        )

    def _stamp(self, path: str) -> Stamp:
        try:
            status = os.stat(path)
        except OSError as e:
            raise SystemError_(f"Cannot check QEMU binary {path}", e) from e
        return Stamp(
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            modules_ns=max(
                (d.stat().st_mtime_ns for p in MODULE_DIRS for d in Path("/").glob(p[1:])), default=0
            ),
            qvirt=f"{qvirt.__version__} {fingerprint()}",
            kernel=os.uname().release,
            cpu=_cpu_signature(),
            kvm=self._is_kvm_usable(),
        )


def load(file: Path, stamp: Stamp) -> EmulatorCaps | None:
    """Read stored answers; None when there are none for this stamp, or the file is damaged."""
    try:
        value = json.loads(file.read_bytes())
        if value["format"] != CACHE_FORMAT or value["stamp"] != stamp.to_json():
            return None
        return EmulatorCaps.from_json(value["caps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(file: Path, stamp: Stamp, caps: EmulatorCaps) -> None:
    """Write answers for the next run; a cache that cannot be written costs time only, so it is no error."""
    text = json.dumps({"format": CACHE_FORMAT, "stamp": stamp.to_json(), "caps": caps.to_json()})
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
