"""Helpers: processes beside QEMU that serve one guest, such as swtpm, virtiofsd and passt.

One life for all of them, that of QEMU itself: the same launcher, user and groups, no capabilities but those
named, a word to go that comes after the status file knows the process. Each is in its guest's control groups,
ended with the guest, and found again by the next daemon. What tells one kind from another is its `Recipe`;
who needs which is in `helper_kinds`, what happens to one that dies before its time in `helper_watch`.

    reserve    writes down what is going to be there; makes nothing
    start      makes them; what fails says the helper's last words, and the caller stops what there is
    stop       ends them and takes away their files; harmless when there is nothing
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.errors import InternalError, OperationFailed, OperationTimeout, QvirtError, SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.persist import remove_tree
from qvirt.host.proc import start_time, stat_fields
from qvirt.model.domain import Domain as Definition
from qvirt.qemu.devices.base import HelperResource
from qvirt.record import Record, field
from qvirt.runtime.domainlog import DomainLog, legible
from qvirt.runtime.life import cores
from qvirt.runtime.life.launch import FIRST_FD, Descriptors, listen_unix
from qvirt.runtime.life.limits import core_size
from qvirt.runtime.life.process import Limits, Maker, Process
from qvirt.runtime.running import Running
from qvirt.runtime.state import HelperMark
from qvirt.security import private_view
from qvirt.security.launcher import confining

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: seconds until a helper must be ready, to end after SIGTERM, and after SIGKILL
READY_WAIT = 20.0
TERM_WAIT = 3.0
KILL_WAIT = 5.0
_REAP_STEP = 0.002
#: bytes of its last words an error repeats
_TAIL = 2000


async def _nothing() -> None:
    """Prepare nothing."""


class Recipe(Record):
    """How one helper is made.

    name: unique within the guest. command: gives its words; takes the descriptor of the socket it listens
    on, -1 without one. user: None for the daemon's own. keep: capabilities it gets. listen: the path of that
    socket, which is QEMU's user's. end: instead, the name of the descriptor of QEMU's that its socket is
    connected with. files: what else of it is removed when it has ended, folders whole.
    prepare: awaited before anything of it is made. is_ready: asked, blocking, until it says that QEMU may
    come; None where the socket is there from the start. finish: awaited when it is ready, or has done well
    what it ran for. sees: where guests have a /dev of their own, it has a small one, too, and of libvirt's
    folders it sees these only; None for one that sees the host as it is, or shuts itself in.
    opens: what it opens beside all this, by path, with permissions as in `HelperResource`; None for one that
    security models with rules leave alone. shuts_in: it makes itself a view of the file system.
    inputs: what nobody else shall see, each read to its end from a pipe; told: the words that name those
    descriptors to it.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    user: QemuUser | None
    log: Path
    keep: tuple[str, ...] = ()
    listen: str = ""
    end: str = ""
    pidfile: str = ""
    files: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], Awaitable[None]] = _nothing
    finish: Callable[[], Awaitable[None]] = _nothing
    is_ready: Callable[[], bool] | None = None
    sees: tuple[str, ...] | None = None
    opens: Mapping[str, str] | None = None
    shuts_in: bool = False
    inputs: tuple[bytes, ...] = field(default=(), repr=False)
    told: Callable[[Sequence[int]], list[str]] = lambda _: []

    @property
    def program(self) -> str:
        """The program it is."""
        return self.command(-1)[0]

    def mark(self) -> HelperMark:
        """Return what the status file has of it before there is a process."""
        paths = [path for path in (self.listen, self.pidfile, *self.files) if path]
        return HelperMark(self.name, log=str(self.log), files=paths)

    def resource(self, definition: Definition) -> HelperResource | None:
        """Return what rules say of it; None for one that has none of its own."""
        if self.opens is None:
            return None
        opens = {str(self.log): "w"} | {path: "rwk" for path in (self.listen, self.pidfile) if path}
        opens |= {f"{path}/": "rwk" for path in self.sees or ()} | dict(self.opens)
        return HelperResource(definition, self.name, self.program, opens, self.keep, self.shuts_in)


class Helper:
    """A running helper. group: the process group it and its children are in."""

    def __init__(self, mark: HelperMark, process: Process, began_at: int) -> None:
        self.mark = mark
        self.process = process
        self.is_ending = False
        self._began_at = began_at
        fields = stat_fields(process.pid)
        self.group = int(fields[2]) if fields is not None else 0

    @property
    def name(self) -> str:
        """Its name within the guest."""
        return self.mark.name

    def last_words(self) -> str:
        """Say how it ended, with the end of what it printed. Blocking."""
        said = ""
        with contextlib.suppress(OSError), open(self.mark.log, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            # a log that was set aside meanwhile begins anew
            file.seek(max(self._began_at if self._began_at <= end else 0, end - _TAIL))
            said = legible(file.read(_TAIL))
        ending = f"{self.name} (pid {self.process.pid}) {self.process.ending}"
        return f"{ending}: {said}" if said else f"{ending} and printed nothing; its log is {self.mark.log}"


def resources(definition: Definition, recipes: Iterable[Recipe]) -> list[HelperResource]:
    """Return what rules say of helpers that are going to be made."""
    found = (recipe.resource(definition) for recipe in recipes)
    return [resource for resource in found if resource is not None]


def reserve(running: Running, recipes: Iterable[Recipe]) -> None:
    """Note helpers in the footprint; the caller writes it down before it goes on."""
    running.footprint.helpers += [recipe.mark() for recipe in recipes]


async def start(
    domain: "Domain", running: Running, recipes: Sequence[Recipe], descriptors: Descriptors | None = None
) -> list[Helper]:
    """Start helpers that were reserved, and return them; QEMU may come to them when this returns.

    descriptors: QEMU's, for those that have the other end of one.
    Raises OperationTimeout, SystemError_, and InternalError with the last words of one that ended.
    """
    if not recipes:
        return []
    with running.guard.watch() as watch:
        try:
            return await _start(domain, running, recipes, descriptors)
        except QvirtError as error:
            for refusal in await running.guard.refusals(watch, str(error)):
                error.add(refusal)
            raise


async def _start(
    domain: "Domain", running: Running, recipes: Sequence[Recipe], descriptors: Descriptors | None
) -> list[Helper]:
    hv = domain.hypervisor
    for recipe in recipes:
        await recipe.prepare()
        hv.checkpoint("helper prepared")
    started = [await _spawn(domain, running, recipe, descriptors) for recipe in recipes]
    await _let_go(domain, running, started)
    await asyncio.gather(
        *(_until_ready(hv, recipe, helper) for recipe, helper in zip(recipes, started, strict=True))
    )
    for recipe in recipes:
        await recipe.finish()
    hv.checkpoint("helpers ready")
    return started


async def start_again(domain: "Domain", running: Running, recipe: Recipe) -> Helper:
    """Start a helper in the place of one that has ended; what that left is taken away. Raises as `start`."""
    hv = domain.hypervisor
    files = [path for mark in running.footprint.helpers if mark.name == recipe.name for path in mark.files]
    if (ended := running.helpers.pop(recipe.name, None)) is not None:
        ended.process.close()
    await hv.files.run(recipe.name, partial(_sweep, files))
    try:
        (helper,) = await start(domain, running, [recipe])
    except BaseException:
        if (failed := running.helpers.pop(recipe.name, None)) is not None:
            await asyncio.shield(_end(hv, failed))
        raise
    return helper


async def run(domain: "Domain", running: Running, recipe: Recipe, deadline: float) -> None:
    """Run a program of a guest to its end; deadline: seconds.

    Raises OperationTimeout, and InternalError with its last words where it fails.
    """
    reserve(running, [recipe])
    await domain.save_status()
    try:
        await recipe.prepare()
        helper = await _spawn(domain, running, recipe)
        await _let_go(domain, running, [helper])
        if not await helper.process.wait(deadline):
            raise OperationTimeout(f"{recipe.name} of '{domain.name}' did not end within {deadline:g} s")
        if not helper.process.ended_well:
            words = await domain.hypervisor.files.run(f"log of {recipe.name}", helper.last_words)
            raise InternalError(f"Could not run '{recipe.program}'. {words}")
        domain.hypervisor.checkpoint("helper ran")
        await recipe.finish()
    finally:
        await asyncio.shield(stop(domain, running, [recipe.name]))


async def _spawn(
    domain: "Domain", running: Running, recipe: Recipe, descriptors: Descriptors | None = None
) -> Helper:
    """Make the process, which waits for the word to go."""
    hv = domain.hypervisor
    mark = next(mark for mark in running.footprint.helpers if mark.name == recipe.name)
    with contextlib.ExitStack() as stack:
        log_fd, began_at, listener, locked = await hv.files.run(
            f"{recipe.name} of '{domain.name}'", partial(_make_files, recipe, running, descriptors, stack)
        )
        pipes = [_pipe(data, stack) for data in recipe.inputs]
        words = [*recipe.command(listener), *recipe.told(pipes)]
        asked = partial(running.guard.helper_words, recipe.name, words[0])
        labels = await hv.files.run(f"label of {recipe.name}", asked)
        process = await Process.spawn(
            words,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), **recipe.env},
            log_fd=log_fd,
            fds=[*(fd for fd in (listener, locked) if fd >= 0), *pipes],
            wrap=confining(
                recipe.user,
                keep=recipe.keep,
                labels=labels,
                # a domain of its own may be what gaining rights looks like to the kernel
                no_new_privs=running.guard.takes_no_new_privs or not labels,
            ),
            limits=Limits(core_size(hv.config)),
            maker=Maker(partial(_enclose, hv, running, recipe)) if recipe.sees is not None else None,
        )
        helper = Helper(mark, process, began_at)
        running.helpers[recipe.name] = helper
        mark.pid, mark.start_time = process.pid, process.start_time
        if locked >= 0:
            os.pwrite(locked, str(process.pid).encode(), 0)
    await cores.settle(hv, partial(cores.separate_helper, running, process.pid))
    hv.checkpoint("helper spawned")
    if running.finishing:  # what ends with the guest has been ended already
        await asyncio.shield(_end(hv, running.helpers.pop(recipe.name, helper)))
        raise OperationFailed(f"'{domain.name}' ended while {recipe.name} was made")
    return helper


async def _let_go(domain: "Domain", running: Running, started: Sequence[Helper]) -> None:
    """Write the processes down, put them where they belong and let them execute."""
    hv = domain.hypervisor
    await domain.save_status()
    hv.checkpoint("helpers written down")
    doors = [door for _, door in running.group.doors()] if running.group is not None else []
    for helper in started:
        helper.process.go(doors)
    hv.checkpoint("helpers executed")


def _make_files(
    recipe: Recipe, running: Running, descriptors: Descriptors | None, stack: contextlib.ExitStack
) -> tuple[int, int, int, int]:
    """Open the log, bind the socket, lock the pid file. Blocking. Raises SystemError_.

    Returns the log's descriptor and where it ends, that of the socket and that of the pid file (-1 without).
    The lock is how libvirt knows a helper that lives; the process has the file open as long as it does.
    """
    recipe.log.parent.mkdir(parents=True, exist_ok=True)
    if recipe.log.is_symlink():
        raise SystemError_(f"log '{recipe.log}' is a symbolic link, which is not followed")
    written = DomainLog(recipe.log)
    stack.callback(written.close)
    DomainLog.append(recipe.log, f"starting up: {' '.join(recipe.command(-1))}")
    began_at = os.fstat(written.fd).st_size
    listener = locked = -1
    if recipe.listen:
        with listen_unix(recipe.listen, running.guard, helper=recipe.program) as sock:
            listener = _raised(sock.fileno(), stack)
    if recipe.end and descriptors is not None:
        with descriptors.others.pop(recipe.end) as sock:
            listener = _raised(sock.fileno(), stack)
    if recipe.pidfile:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(recipe.pidfile, flags, 0o644)
        except OSError as error:
            raise SystemError_(f"Failed to open pid file '{recipe.pidfile}'", error) from error
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
            os.ftruncate(fd, 0)
            locked = _raised(fd, stack)
        except OSError as error:
            raise SystemError_(f"Failed to acquire pid file '{recipe.pidfile}'", error) from error
        finally:
            os.close(fd)
    return written.fd, began_at, listener, locked


def _pipe(data: bytes, stack: contextlib.ExitStack) -> int:
    """Return the end of a pipe from which data is read. Raises SystemError_ where the pipe cannot hold it."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(writing, False)
        if fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) < len(data):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, len(data))
        os.write(writing, data)
        return _raised(reading, stack)
    except OSError as error:
        raise SystemError_(f"Failed to write {len(data)} bytes to a pipe", error) from error
    finally:
        os.close(reading)
        os.close(writing)


def _enclose(hv: "Hypervisor", running: Running, recipe: Recipe) -> None:
    """Give the process that this thread makes next a view of its own. Blocking. Raises SystemError_."""
    if not hv.private_dev or recipe.sees is None:
        return
    paths = hv.paths
    hidden = map(str, (paths.lib.parent, paths.etc, paths.sockets, paths.log.parent))
    try:
        # not in the guest's own folder, for the reason that `life.enclosing` has
        private_view.build(hidden, recipe.sees, str(paths.lib))
    except OSError as error:
        raise SystemError_(f"cannot give {recipe.name} a view of its own", error) from error


def _raised(fd: int, stack: contextlib.ExitStack) -> int:
    """Return a copy of a descriptor with a number the launcher leaves alone, closed with the stack."""
    copy: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
    stack.callback(os.close, copy)
    return copy


async def _until_ready(hv: "Hypervisor", recipe: Recipe, helper: Helper) -> None:
    """Wait until it serves. Nothing tells us but its files, so they are looked at, more and more seldom."""
    if recipe.is_ready is None:
        return
    pause = 0.002
    end = asyncio.get_running_loop().time() + READY_WAIT
    while not await hv.files.run(recipe.name, recipe.is_ready):
        if await helper.process.wait(pause):
            words = await hv.files.run(recipe.name, helper.last_words)
            raise InternalError(f"Could not start '{recipe.program}'. {words}")
        if asyncio.get_running_loop().time() > end:
            raise OperationTimeout(f"{recipe.name} is not ready after {READY_WAIT:g} s; see {recipe.log}")
        pause = min(pause * 2, 0.05)


def last_words(running: Running) -> str:
    """Say which helpers of a guest that does not start have ended, and why; '' when none has. Blocking."""
    return "\n".join(helper.last_words() for helper in running.helpers.values() if helper.process.is_gone)


# ---------------------------------------------------------------------------- ending


async def stop(domain: "Domain", running: Running, names: Iterable[str] | None = None) -> None:
    """End a guest's helpers, all of them or those named, and take away what they leave."""
    hv, mark = domain.hypervisor, running.footprint
    wanted = [one for one in mark.helpers if names is None or one.name in names]
    if not wanted:
        return
    helpers = [helper for one in wanted if (helper := running.helpers.pop(one.name, None)) is not None]
    await asyncio.gather(*(_end(hv, helper) for helper in helpers))
    hv.checkpoint("helpers ended")

    files = [path for one in wanted for path in one.files]
    try:
        await hv.files.run(f"helpers of '{domain.name}'", partial(_sweep, files))
    except (QvirtError, OSError) as error:
        log.error("domain '%s': traces of its helpers: %s", domain.name, error)
    mark.helpers = [one for one in mark.helpers if one not in wanted]


def _sweep(paths: Iterable[str]) -> None:
    """Remove files, and folders whole. Blocking. Raises OSError."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if os.path.isdir(path) and not os.path.islink(path):
                remove_tree(path)
            else:
                os.unlink(path)


async def _end(hv: "Hypervisor", helper: Helper) -> None:
    """End a helper and its children, whatever they do."""
    helper.is_ending = True
    helper.process.close_gate()
    children = await hv.files.run(helper.name, partial(_children, helper.process.pid))
    family = [process for pid, began in children if (process := _adopted(pid, began)) is not None]
    helper.process.send(signal.SIGTERM)
    if not helper.process.is_stopped():
        await helper.process.wait(TERM_WAIT)
    for process in (helper.process, *family):
        await _finish_off(process)
    # a child that ended before its parent became ours only then
    await hv.files.run(helper.name, partial(_reap, helper.group, KILL_WAIT))


async def end_orphans(hv: "Hypervisor", helper: Helper) -> None:
    """End what a helper that ended by itself has left of its process group."""
    for pid, began in await hv.files.run(helper.name, partial(_orphans, helper.group)):
        if (orphan := _adopted(pid, began)) is not None:
            await _finish_off(orphan)
    # those that ended while we looked
    await hv.files.run(helper.name, partial(_reap, helper.group, KILL_WAIT))


async def _finish_off(process: Process) -> None:
    process.send(signal.SIGKILL)
    if not await process.wait(KILL_WAIT):
        log.error("helper process %d does not end", process.pid)
    process.close()


def _adopted(pid: int, began: int) -> Process | None:
    try:
        return Process.adopt(pid, began)
    except ProcessLookupError:
        return None


def _children(pid: int) -> list[tuple[int, int]]:
    """Return the descendants of a process, and when they began. Blocking."""
    found: list[tuple[int, int]] = []
    for child in _direct_children(pid):
        began = start_time(child)
        if began is not None:
            found += [(child, began), *_children(child)]
    return found


def _direct_children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        with contextlib.suppress(OSError):
            yield from map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())


def _reap(group: int, patience: float = 0.0) -> None:
    """Collect those of our children in a process group that have ended. Blocking.

    patience: seconds to wait for the others, which are ending. The kernel calls one dead when its first
    thread is, and lets it be collected when its last one is.
    """
    end = time.monotonic() + patience
    with contextlib.suppress(ChildProcessError):
        while group:
            if os.waitpid(-group, os.WNOHANG)[0]:
                continue
            if time.monotonic() >= end:
                return
            time.sleep(_REAP_STEP)


def _orphans(group: int) -> list[tuple[int, int]]:
    """Return our own children in the process group of a helper that has ended; those that ended are reaped.

    Blocking. It is asked right after the helper's end, before the group's number can be anybody else's.
    """
    _reap(group)
    found: list[tuple[int, int]] = []
    for pid in _direct_children(os.getpid()):
        fields = stat_fields(pid)
        if fields is not None and int(fields[2]) == group and (began := start_time(pid)) is not None:
            found.append((pid, began))
    return found


# --------------------------------------------------------------- between two daemons


def find_again(domain: "Domain", running: Running, *, same_boot: bool) -> list[Helper]:
    """Find the helpers that a footprint names; which of them have ended meanwhile is logged."""
    found: list[Helper] = []
    for mark in running.footprint.helpers:
        process = _adopted(mark.pid, mark.start_time) if mark.pid and same_boot else None
        if process is None:
            if mark.pid and same_boot:
                log.warning("domain '%s': %s ended while no daemon ran", domain.name, mark.name)
            continue
        size = os.stat(mark.log).st_size if os.path.exists(mark.log) else 0
        found.append(Helper(mark, process, size))
        running.helpers[mark.name] = found[-1]
    return found


def let_go(running: Running) -> None:
    """Stop watching; the helpers go on without us."""
    for helper in running.helpers.values():
        helper.process.close()
