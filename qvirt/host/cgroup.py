"""Control groups: what this machine has mounted, and the groups of one guest below ``machine``.

A controller is reached by version 1 where it is mounted so, else by version 2 where that has it; a machine
with both is the usual case on older systems. Everything blocks; the caller runs it off the loop.
"""

import contextlib
import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from qvirt.constants.error import ErrorDomain
from qvirt.errors import OperationInvalid, SystemError_
from qvirt.host.sysfs import load, store
from qvirt.record import Record, field

#: what a guest's threads may have of their own; the rest is the whole guest's
THREADED = ("cpu", "cpuacct", "cpuset")
#: every controller a guest is put under, ``freezer`` and ``pids`` where there are such
USED = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "freezer", "pids")
#: version 1's word for what version 2 calls otherwise
_V2_NAMES = {"blkio": "io"}

#: what tells a guest's group from the name by which systemd knows it as a machine
MACHINE_SUFFIX = ".libvirt-qemu"

#: partitions that are named as they are
_TOP = ("machine", "user", "system")
#: what partitions may not be called
_FILES = ("notify_on_release", "release_agent", "tasks")

_INVALID = re.compile(r"[^A-Za-z0-9.-]")
#: characters of a machine's name
_MOST = 64

#: seconds a group's last process may take to leave it
_REMOVE_WAIT = 2.0
_REMOVE_STEP = 0.002


class Mounts(Record):
    """Where the hierarchies are. v1: controller -> folder; v2: the unified one; v2_has: its controllers."""

    v1: Mapping[str, Path] = field(default_factory=dict)
    v2: Path | None = None
    v2_has: frozenset[str] = frozenset()


def find_mounts(mounts: str | None = None, wanted: Iterable[str] = USED) -> Mounts:
    """Look where control groups are mounted. mounts: the text of /proc/self/mounts."""
    text = load("/proc/self/mounts") if mounts is None else mounts
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        where = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[1]))
        if fields[2] == "cgroup2":
            v2 = v2 or where
        elif fields[2] == "cgroup":
            for option in fields[3].split(","):
                if option in wanted or option == "devices":
                    v1.setdefault(option, where)
    has: set[str] = set()
    if v2 is not None:
        with contextlib.suppress(OSError):
            has = set(load(v2 / "cgroup.controllers").split())
    return Mounts(v1, v2, frozenset(has))


def writable(mounts: Mounts) -> tuple[Mounts, dict[str, str]]:
    """Return the hierarchies in which groups can be made, and why not in the others, by their folders.

    Those of a container are often there to be read only.
    """
    refused: dict[str, str] = {}
    for base in {*mounts.v1.values(), *([mounts.v2] if mounts.v2 is not None else [])}:
        try:
            (base / _TOP[0]).mkdir(exist_ok=True)
            if not os.access(base / _TOP[0], os.W_OK):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        except OSError as error:
            refused[str(base)] = error.strerror or str(error)
    if not refused:
        return mounts, refused
    v1 = {name: base for name, base in mounts.v1.items() if str(base) not in refused}
    gone = str(mounts.v2) in refused
    return Mounts(v1, None if gone else mounts.v2, frozenset() if gone else mounts.v2_has), refused


def hand_down(mounts: Mounts, wanted: Iterable[str] = USED) -> dict[str, str]:
    """Let version 2's root hand controllers down; returns those that it does not, and why.

    A daemon in a container may see controllers that it cannot use: processes are in its root.
    """
    refused: dict[str, str] = {}
    base = mounts.v2
    names = {_V2_NAMES.get(one, one) for one in wanted} & mounts.v2_has
    if base is None or not names:
        return refused
    path = base / "cgroup.subtree_control"
    for name in sorted(names - set(load(path).split())):
        try:
            store(path, f"+{name}")
        except OSError as error:
            refused[name] = error.strerror or str(error)
    return refused


def machine_name(id: int, name: str, root: str | None = None) -> str:
    """Return libvirt's name of a guest's group. root: the folder of a daemon that serves its own tree."""
    out = "qemu-"
    if root is not None:
        out += f"embed-{hashlib.sha256(f'qemu:{root}'.encode()).hexdigest()[:8]}-"
    out += f"{id}-"
    for char in _INVALID.sub("", name):
        if char in "-." and out[-1] in "-.":
            continue
        out += char
    return out[:_MOST].rstrip("-.") + MACHINE_SUFFIX


def partition_path(partition: str) -> str:
    """Return the folders of a partition, as libvirt names them; none is the kernel's or leads up."""
    parts = [part for part in partition.split("/") if part]
    for place, part in enumerate(parts):
        if "." not in part and not (not place and part in _TOP):
            parts[place] = part = f"{part}.partition"
        if part[0] in "_." or part in _FILES or part.startswith("cgroup."):
            parts[place] = f"_{part}"
    return "/".join(parts)


def path_of_process(pid: int) -> str:
    """Return where a guest's QEMU is; '' when it is in no guest's group, or gone."""
    try:
        text = load(f"/proc/{pid}/cgroup")
    except OSError:
        return ""
    match = re.search(
        r"^[^:]*:[^:]*:/(.*?\.libvirt-qemu|.*?/machine-qemu[^/]*\.scope/libvirt)(?:/|$)", text, re.M
    )
    return match[1] if match is not None else ""


def scope_of_process(pid: int) -> str:
    """Return the machine's scope a process is in; '' when it is in none."""
    try:
        text = load(f"/proc/{pid}/cgroup")
    except OSError:
        return ""
    match = re.search(r"^[^:]*:[^:]*:/(.*?machine-[^/]*\.scope)(?:/|$)", text, re.M)
    return match[1] if match is not None else ""


class Group:
    """A guest's control groups. path: below each hierarchy, such as ``machine/qemu-1-a.libvirt-qemu``."""

    def __init__(self, mounts: Mounts, path: str, wanted: Iterable[str]) -> None:
        self.mounts = mounts
        self.path = path
        self._wanted = frozenset(wanted) | {"freezer", "pids"}

    # ------------------------------------------------------------------ where

    def version(self, controller: str) -> int:
        """Return by which version a controller is reached; 0 when it is not to be had."""
        if controller not in self._wanted:
            return 0
        if controller in self.mounts.v1:
            return 1 if controller != "pids" or self._counts_threads(self.mounts.v1["pids"]) else 0
        if self.mounts.v2 is not None and _V2_NAMES.get(controller, controller) in self.mounts.v2_has:
            folder = self.mounts.v2 / self.path
            if not folder.is_dir():
                return 2
            with contextlib.suppress(OSError):
                enabled = load(folder / "cgroup.controllers").split()
                return 2 if _V2_NAMES.get(controller, controller) in enabled else 0
        return 0

    def folder(self, controller: str, thread: str = "") -> Path:
        """Return a controller's folder for the guest, or for one of its threads' groups.

        Raises OperationInvalid, in libvirt's words, when the controller is not to be had.
        """
        version = self.version(controller)
        if not version:
            word = "CPU" if controller == "cpu" else controller
            raise OperationInvalid(f"cgroup {word} controller is not mounted")
        base = self.mounts.v1[controller] if version == 1 else self.mounts.v2
        assert base is not None  # noqa: S101 - version 2 was found there
        return base / self.path / thread if thread else base / self.path

    def _counts_threads(self, pids: Path) -> bool:
        """Tell whether version 1 counts a guest's threads: partitions made for libvirt are not there."""
        parent = os.path.dirname(self.path)
        return parent in ("", _TOP[0]) or (pids / parent).is_dir()

    def _folders(self, thread: str = "") -> Iterator[Path]:
        """Yield the folders of the guest, or of a thread's group, one for each hierarchy."""
        seen: set[Path] = set()
        for controller, base in self.mounts.v1.items():
            if (
                controller == "devices"
                or controller not in self._wanted
                or base in seen
                or (thread and controller not in THREADED)
                or (controller == "pids" and not self._counts_threads(base))
            ):
                continue
            seen.add(base)
            yield base / self.path / thread if thread else base / self.path
        if self.mounts.v2 is not None:
            yield self.mounts.v2 / self.path / thread if thread else self.mounts.v2 / self.path
        elif self.devices_v1 is not None and not thread:
            yield self.devices_v1

    @property
    def v2(self) -> Path | None:
        """The folder in version 2's hierarchy, where there is one."""
        return self.mounts.v2 / self.path if self.mounts.v2 is not None else None

    @property
    def devices_v1(self) -> Path | None:
        """The folder of version 1's device list, used where version 2 is not mounted at all."""
        base = self.mounts.v1.get("devices")
        return base / self.path if base is not None and self.mounts.v2 is None else None

    @property
    def guard(self) -> Path | None:
        """The folder of version 1's device list beside version 2: for a start, see `runtime.cgroups`."""
        base = self.mounts.v1.get("devices") if "devices" in self._wanted else None
        return base / self.path if base is not None and self.mounts.v2 is not None else None

    @property
    def limits_by_v2(self) -> bool:
        """Tell whether version 2 has any controller for this guest."""
        return any(
            name not in self.mounts.v1 and _V2_NAMES.get(name, name) in self.mounts.v2_has
            for name in self._wanted
        )

    # --------------------------------------------------------------- making

    def make(self, leader: int = 0) -> None:
        """Make the guest's groups and ``emulator`` in them. Raises SystemError_.

        leader: the process for which systemd has made the scope that they are in.
        """
        try:
            if not leader:
                self._check_partition()
                self._clear()
            self._enable(leader)
            for folder in self._folders():
                _make(folder, self.mounts.v1.get("cpuset"))
            if self.v2 is not None:
                self._enable_for_threads(self.v2)
            self.make_thread("emulator")
        except OSError as error:
            raise SystemError_(
                f"Failed to create controller groups '{self.path}'", error, domain=ErrorDomain.CGROUP
            ) from error

    def _check_partition(self) -> None:
        """Refuse a partition that nobody has made, and set limits for. Raises SystemError_."""
        if "/" not in self.path or os.path.dirname(self.path) == _TOP[0]:
            return  # that of guests which name none is ours
        for folder in self._folders():
            if not folder.parent.is_dir():
                raise SystemError_(
                    f"the guest's partition is not there, make it in every hierarchy: '{folder.parent}'",
                    OSError(errno.ENOENT, os.strerror(errno.ENOENT)),
                    domain=ErrorDomain.CGROUP,
                )

    def _clear(self) -> None:
        """Take away what is left of an earlier guest of this name, whose limits this one has not.

        Raises SystemError_ where somebody is in there, who would be under these limits, with these devices.
        """
        if not self.exists():
            return
        for folder in self._folders():
            for group in (folder, *folder.glob("*/")):
                with contextlib.suppress(FileNotFoundError):
                    stays = _ids(group / "cgroup.procs", group / "cgroup.threads")
                    if stays:
                        raise SystemError_(
                            f"control group '{group}' of an earlier guest still has process {stays[0]} in it",
                            OSError(errno.EBUSY, os.strerror(errno.EBUSY)),
                        )
        for failure in self.remove():
            raise SystemError_(failure)

    def _enable(self, leader: int) -> None:
        """Hand version 2's controllers down to where the guest is; what is refused is not to be had.

        In systemd's tree only what is in the scope is ours, and only once no process is in the scope itself.
        """
        base = self.mounts.v2
        if base is None:
            return
        wanted = [
            name for name in (_V2_NAMES.get(one, one) for one in self._wanted) if name in self.mounts.v2_has
        ]
        folder, is_ours = base, not leader
        for part in Path(self.path).parts:
            below = folder / part
            with contextlib.suppress(FileExistsError):
                below.mkdir()
            if is_ours:
                if leader:
                    self._put(below, "cgroup.procs", leader)
                for name in wanted:
                    with contextlib.suppress(OSError):
                        store(folder / "cgroup.subtree_control", f"+{name}")
            is_ours = is_ours or part.endswith(".scope")
            folder = below

    def _enable_for_threads(self, folder: Path) -> None:
        available = load(folder / "cgroup.controllers").split()
        for name in ("cpu", "cpuset"):
            if name in available:
                store(folder / "cgroup.subtree_control", f"+{name}")

    def make_thread(self, thread: str) -> None:
        """Make the group of some threads, such as ``vcpu0``. Raises OSError."""
        for folder in self._folders(thread):
            _make(folder, self.mounts.v1.get("cpuset"))
        if self.v2 is not None:
            kind = self.v2 / thread / "cgroup.type"
            if load(kind).strip() != "threaded":
                store(kind, "threaded")

    def threads(self) -> list[str]:
        """Return the names of the thread groups there are."""
        found: dict[str, None] = {}
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                found.update(dict.fromkeys(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        return list(found)

    def processes(self, thread: str = "") -> list[int]:
        """Return the processes in the first hierarchy's group."""
        return _ids(next(self._folders(thread)) / "cgroup.procs")

    def tasks(self, thread: str) -> list[int]:
        """Return the threads in the first hierarchy's group of some threads."""
        folder = next(self._folders(thread))
        is_v2 = self.v2 is not None and folder.parent == self.v2
        return _ids(folder / ("cgroup.threads" if is_v2 else "tasks"))

    # --------------------------------------------------------------- filling

    def doors(self) -> Iterator[tuple[int, str]]:
        """Yield (version, file) of what a process writes 0 into, to be in the groups.

        It is in ``emulator`` where threads have groups. A process with one thread that moves itself in
        version 1 need not wait for the kernel; all other moves may have to, for a grace period.
        """
        threaded = set(self._folders("emulator"))
        for folder in self._folders():
            inner = folder / "emulator"
            version = 2 if folder == self.v2 else 1
            name = "cgroup.procs" if version == 2 else "tasks"
            yield version, f"{inner if inner in threaded else folder}/{name}"

    def attach(self, pid: int) -> None:
        """Put a process into version 2's group. Raises SystemError_."""
        if self.v2 is not None:
            self._put(self.v2 / "emulator", "cgroup.procs", pid)

    def lift_guard(self, pid: int) -> None:
        """Take a process out of version 1's device list, back to where we are. Raises SystemError_."""
        guard = self.guard
        if guard is None or not guard.is_dir():
            return
        base = self.mounts.v1["devices"]
        self._put(base / path_of("devices").lstrip("/"), "cgroup.procs", pid)
        try:
            _remove(guard)
        except OSError as error:
            raise SystemError_(f"cannot remove control group '{guard}'", error) from error

    def attach_thread(self, thread: str, tid: int) -> None:
        """Put one thread of the guest into a group of threads. Raises SystemError_."""
        for folder in self._folders(thread):
            v2 = self.v2 is not None and folder.parent == self.v2
            self._put(folder, "cgroup.threads" if v2 else "tasks", tid)

    def _put(self, folder: Path, name: str, id: int) -> None:
        try:
            store(folder / name, str(id))
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.ENODEV):
                return  # it has ended meanwhile, and systemd may have taken the group away
            raise SystemError_(
                f"Unable to write to '{folder / name}'", error, domain=ErrorDomain.CGROUP
            ) from error

    def remove_thread(self, thread: str) -> None:
        """Take away a group of threads. Raises OSError."""
        for folder in self._folders(thread):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()

    def remove(self) -> list[str]:
        """Take the groups away once their processes are gone; returns what could not be."""
        failures = []
        for folder in (*self._folders(), *([self.guard] if self.guard is not None else [])):
            try:
                _remove(folder)
            except OSError as error:
                failures.append(f"cannot remove control group '{folder}': {error.strerror}")
            if folder.parent.name.endswith(".scope"):
                with contextlib.suppress(OSError):  # where it is systemd's, that removes it
                    folder.parent.rmdir()
        return failures

    def exists(self) -> bool:
        """Tell whether anything of it is there."""
        guard = self.guard
        return any(folder.is_dir() for folder in self._folders()) or (guard is not None and guard.is_dir())


def _make(folder: Path, cpusets: Path | None) -> None:
    """Make a group; a cpuset's CPUs and nodes are its parent's, without which nothing can be put there.

    cpusets: where version 1 has them.
    """
    try:
        os.mkdir(folder)
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make(folder.parent, cpusets)
        _make(folder, cpusets)
        return
    if cpusets is not None and folder.is_relative_to(cpusets):
        for name in ("cpuset.cpus", "cpuset.mems"):
            _inherit(folder, name)
        if folder.parent != cpusets:
            # memory follows when its nodes change, as it always does in version 2
            store(folder / "cpuset.memory_migrate", "1")


def _inherit(folder: Path, name: str) -> str:
    text = load(folder / name)
    if not text.strip():
        text = _inherit(folder.parent, name)
        store(folder / name, text)
    return text


def _ids(*paths: Path) -> list[int]:
    """Return the processes or threads in the first of these files that the kernel shows. Raises OSError."""
    for path in paths:
        try:
            return [int(word) for word in load(path).split()]
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or path is paths[-1]:
                raise
    return []


def _remove(folder: Path) -> None:
    end = time.monotonic() + _REMOVE_WAIT
    while True:
        try:
            for entry in os.scandir(folder):
                if entry.is_dir():
                    os.rmdir(entry.path)
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # a process that was killed is in its group until the kernel is through with it
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
        time.sleep(_REMOVE_STEP)


def path_of(controller: str) -> str:
    """Return where this process is in version 1's hierarchy of a controller, '' for version 2's."""
    for line in load("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise SystemError_(f"control group of '{controller}'", OSError(errno.ENOENT, os.strerror(errno.ENOENT)))


def wake(mounts: Mounts) -> None:
    """Let the kernel get ready for moving a process, which takes it a dozen milliseconds the first time.

    A thread that is put where it is already makes it wait for all CPUs; whoever moves something right after
    does not have to.
    """
    if mounts.v2 is None:
        return
    with contextlib.suppress(OSError, SystemError_):
        folder = mounts.v2 / path_of("").lstrip("/")
        store(folder / "cgroup.threads", str(threading.get_native_id()))
