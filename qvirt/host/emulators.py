"""The emulators of this machine and what each can do, remembered in memory and in a cache directory.

An emulator is asked only when it is needed and new, or when its file, modules, kernel or KVM have
changed since.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qvirt
from qvirt.errors import QvirtError, SystemError_
from qvirt.host.kvm import kvm_usable
from qvirt.host.probe import probe, probe_overview, read_texts
from qvirt.qemu.caps import EmulatorCaps, Overview
from qvirt.qemu.caps_queries import fingerprint
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.record import Record, asdict

CACHE_FORMAT = 3

RECHECK_AFTER = 1.0
"""Seconds for which an answer is used without looking at the emulator's file again."""

SEARCH_PATH = ("/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/sbin", "/bin")
MODULE_DIRS = ("/usr/lib/qemu", "/usr/lib64/qemu", "/usr/lib/*/qemu")

_OVERVIEWS = "overviews.json"
"""The file with the overviews of all emulators; each one's full answers have a file of their own."""


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


def find_emulator(target: str, search: Iterable[str] = SEARCH_PATH) -> Path | None:
    """Return the emulator of a QEMU target ("x86_64"), or None."""
    for directory in search:
        path = Path(directory, f"qemu-system-{target}")
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


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
        #: the words that confine an emulator which is asked
        self.wrap: Sequence[str] = ()
        self._is_kvm_usable = is_kvm_usable
        self._gate = asyncio.Semaphore(parallel or max(2, os.cpu_count() or 1))
        self._surroundings: tuple[float, _Surroundings] | None = None
        self._known: dict[str, tuple[Stamp, EmulatorCaps]] = {}
        self._checked: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[EmulatorCaps]] = {}
        self._overviews: dict[str, tuple[Stamp, Overview]] = {}
        self._glancing = asyncio.Lock()

    async def overviews(self, emulators: Iterable[str]) -> dict[str, Overview | QvirtError]:
        """Return what the capabilities document says of each emulator, or the error `probe` raises for it.

        No more than that is read or asked: most emulators are never used.
        """
        async with self._glancing:
            stamps, failed = await asyncio.to_thread(self._glance, list(emulators))
            known = self._overviews
            news = [path for path, stamp in stamps.items() if path not in known or known[path][0] != stamp]
            answers = await asyncio.gather(*(self._ask_overview(path, stamps[path].kvm) for path in news))
            for path, answer in zip(news, answers, strict=True):
                match answer:
                    case Overview():
                        known[path] = stamps[path], answer
                    case QvirtError():
                        failed[path] = answer
            if news and self._cache:
                await asyncio.to_thread(store_overviews, self._cache / _OVERVIEWS, known)
        return {**{path: known[path][1] for path in stamps.keys() - failed.keys()}, **failed}

    async def _ask_overview(self, path: str, kvm: bool) -> Overview | QvirtError:
        try:
            async with self._gate:
                return await probe_overview(path, kvm=kvm, wrap=self.wrap)
        except QvirtError as error:
            return error

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
            return await read_texts(emulator, wrap=self.wrap)

    async def _look(self, path: str) -> EmulatorCaps:
        stamp = await asyncio.to_thread(self._stamp, path)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            file = self._file(path)
            caps = await asyncio.to_thread(load, file, stamp) if file else None
            if caps is None:
                async with self._gate:
                    caps = await probe(path, kvm=stamp.kvm, wrap=self.wrap)
                if file:
                    await asyncio.to_thread(store, file, stamp, caps)
            known = self._known[path] = (stamp, caps)
        self._checked[path] = asyncio.get_running_loop().time()
        return known[1]

    def _glance(self, paths: list[str]) -> tuple[dict[str, Stamp], dict[str, QvirtError]]:
        """Return the stamps of emulators, or errors; read what is stored."""
        if not self._overviews and self._cache:
            self._overviews = load_overviews(self._cache / _OVERVIEWS)
        stamps: dict[str, Stamp] = {}
        failed: dict[str, QvirtError] = {}
        for path in paths:
            try:
                stamps[path] = self._stamp(path)
            except QvirtError as error:
                failed[path] = error
        return stamps, failed

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
        head, _, rest = _stored(file).partition(b"\n")
        if json.loads(head) != _head(stamp):
            return None
        return EmulatorCaps.from_json(json.loads(rest))
    except (OSError, ValueError):
        return None


def _stored(file: Path) -> bytes:
    """Read a file of the cache that we have written; raises OSError for what somebody else has put there."""
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as stored:
        if os.fstat(fd).st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(file))
        return stored.read()


def store(file: Path, stamp: Stamp, caps: EmulatorCaps) -> None:
    """Write answers for the next run, what they depend on in a line of its own."""
    _write(file, f"{json.dumps(_head(stamp))}\n{json.dumps(caps.to_json())}\n")


def _head(stamp: Stamp) -> dict[str, Any]:
    return {"format": CACHE_FORMAT, **asdict(stamp)}


def load_overviews(file: Path) -> dict[str, tuple[Stamp, Overview]]:
    """Read the stored overviews by emulator; none when the file is damaged or of another form."""
    try:
        stored = json.loads(_stored(file))
        if stored["format"] != CACHE_FORMAT:
            return {}
        return {
            path: (Stamp(**stamp), Overview.read(overview))
            for path, (stamp, overview) in stored["emulators"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def store_overviews(file: Path, overviews: Mapping[str, tuple[Stamp, Overview]]) -> None:
    """Write the overviews for the next run."""
    emulators = {
        path: (asdict(stamp), overview.overview_json()) for path, (stamp, overview) in overviews.items()
    }
    _write(file, json.dumps({"format": CACHE_FORMAT, "emulators": emulators}))


def _write(file: Path, text: str) -> None:
    # A cache that cannot be written costs time only, so it is no error.
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
