"""A QEMU as a process: made with nothing of ours in it, watched by descriptor, never by polling.

The chain is ``sh`` → ``setpriv`` → QEMU. The shell forks once, so that QEMU is neither a child that would
die with us nor the leader of its session (a leader that opens a terminal gets it as controlling terminal, and
its hang-ups), writes its id into the pid file, and waits for our word before it executes anything: a daemon
that dies before it has given it leaves a shell that reads end-of-file and goes, and one that dies before it
has the id in its own file finds it in that one.
"""

import _thread
import asyncio
import contextlib
import ctypes
import logging
import os
import queue
import select
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Self

from qvirt.errors import InternalError, OperationTimeout, SystemError_
from qvirt.host.proc import start_time, stat_fields
from qvirt.record import Record

log = logging.getLogger(__name__)

#: seconds for the shell to say which process it made
SPAWN_DEADLINE = 20.0

_PR_SET_CHILD_SUBREAPER = 36

# $1: limits, as ulimit words; $2: a file for the process's id, or nothing; the rest is what to execute. dash
# knows descriptors of one digit only, so the word comes over standard input and the answer over standard
# output; both are replaced at the exec. The word is a line for each control group to enter, and an empty one.
_SCRIPT = """
limits=$1 pidfile=$2; shift 2
for limit in $limits; do ulimit "${limit%%=*}" "${limit#*=}"; done
unset PWD OLDPWD
exec 3<&0
{
    trap - INT QUIT
    while IFS= read -r door <&3; do
        [ "$door" ] || exec "$@" </dev/null >&2 3<&-
        echo 0 >"$door" || { echo "cannot enter the control group of '$door'" >&2; exit 1; }
    done
} &
if [ "$pidfile" ]; then
    umask 022
    echo $! >"$pidfile" || { echo "cannot write '$pidfile'"; exit 1; }
fi
echo $!
"""


#: a limit that is none
INFINITE = -1


class Limits(Record):
    """Resource limits; None leaves the daemon's own. core, memlock: bytes, or INFINITE."""

    core: int | None = 0
    files: int | None = None
    processes: int | None = None
    memlock: int | None = None

    def words(self) -> str:
        """Return them as the launcher's shell takes them."""
        words = []
        if self.core is not None:
            words.append(f"-c={'unlimited' if self.core == INFINITE else self.core // 512}")
        if self.files:
            words.append(f"-n={self.files}")
        if self.processes:
            words.append(f"-p={self.processes}")
        if self.memlock is not None:
            words.append(f"-l={'unlimited' if self.memlock == INFINITE else self.memlock // 1024}")
        return " ".join(words)


def become_reaper() -> None:
    """Let orphans of ours come back to us, so that a QEMU that ends is not left to a slow init to collect."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class ExitWatch:
    """Calls back once when a process has ended, whoever's child it is; reaps it when it is ours."""

    def __init__(self, pid: int, on_exit: Callable[[], None] | None = None) -> None:
        """Raises ProcessLookupError."""
        self.pid = pid
        self.status: int | None = None
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self.fd = os.pidfd_open(pid)
        self._loop.add_reader(self.fd, self._ended)

    def _ended(self) -> None:
        # Never believe the loop alone: a wake-up meant for an earlier owner of the descriptor's number would
        # have a living QEMU cleared away.
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if not poll.poll(0):
            log.warning("process %d was reported ended, but runs", self.pid)
            return
        with contextlib.suppress(ChildProcessError):
            _, self.status = os.waitpid(self.pid, os.WNOHANG)
        self.close()
        if self._on_exit is not None:
            self._on_exit()

    def close(self) -> None:
        """Stop watching; the process goes on."""
        if self.fd >= 0:
            self._loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1


class Process:
    """One QEMU process, ours or found again. ``exited`` is done when it has ended."""

    def __init__(self, pid: int, began: int) -> None:
        """Watch a process. Raises ProcessLookupError."""
        self.pid = pid
        self.start_time = began
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: done when it executes its command, or has ended before
        self.executed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: done when the launcher, which would collect it, has ended and left it to us
        self._left_to_us: asyncio.Future[None] | None = None
        self._gate = -1
        self._word = b""
        self._answer = -1
        self._watch = ExitWatch(pid, self._gone)

    @classmethod
    def adopt(cls, pid: int, began: int) -> Self:
        """Find a process again. Raises ProcessLookupError when it has ended, or is another one now."""
        if start_time(pid) != began:
            raise ProcessLookupError(pid)
        process = cls(pid, began)
        if start_time(pid) != began:  # it went, and the number was taken, before we had the descriptor
            process.close()
            raise ProcessLookupError(pid)
        return process

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log_fd: int,
        fds: Sequence[int] = (),
        wrap: Sequence[str] = (),
        limits: Limits | None = None,
        pidfile: str = "",
        maker: "Maker | None" = None,
    ) -> Self:
        """Make a process that waits for `go` before it executes ``argv``.

        wrap: the words that confine it, see `security.launcher`. fds: inherited under their own numbers,
        which must be 10 or more. log_fd: standard output and error. pidfile: its id is written there before
        it can be told to go. maker: the thread that makes it, which has prepared for that.
        Raises SystemError_, OperationTimeout, and what the maker's preparation raises.
        """
        if any(fd < 10 for fd in fds):
            raise InternalError(f"descriptors {sorted(fds)} collide with the launcher's own")
        with contextlib.ExitStack() as undo:
            gate_read, gate_write = _pipe(undo)
            answer_read, answer_write = _pipe(undo)
            words = (limits or Limits()).words()

            def make() -> int:
                try:
                    launcher = subprocess.Popen(
                        ["/bin/sh", "-c", _SCRIPT, "sh", words, pidfile, *wrap, *argv],
                        stdin=gate_read.fd,
                        stdout=answer_write.fd,
                        stderr=log_fd,
                        pass_fds=fds,
                        cwd="/",
                        umask=0o002,
                        env=dict(env),
                        start_new_session=True,
                    )
                except OSError as error:
                    raise SystemError_("cannot execute '/bin/sh'", error) from error
                launcher.returncode = 0  # it is reaped by the watch, not by subprocess
                return launcher.pid

            left_to_us: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            making = asyncio.ensure_future((maker or Maker()).make(make))
            try:
                await asyncio.shield(making)
            finally:
                # the descriptors are its as long as it works
                while not making.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([making])
                if making.exception() is None:
                    try:
                        ExitWatch(making.result(), partial(left_to_us.set_result, None))
                    except ProcessLookupError:
                        left_to_us.set_result(None)
            answer_write.close()
            answer = await _read_line(answer_read.fd)
            if not answer.isdigit():
                raise InternalError(f"the launcher of '{argv[0]}' did not start: {answer!r}")
            pid = int(answer)
            began = start_time(pid)
            try:
                if began is None:
                    raise ProcessLookupError(pid)
                process = cls(pid, began)
                process._left_to_us = left_to_us
            except ProcessLookupError as error:
                raise InternalError(f"the launcher of '{argv[0]}' ended before it was told to go") from error
            process._gate = gate_write.detach()
            process._listen(answer_read.detach())
        return process

    def _listen(self, answer: int) -> None:
        """Wait for the launcher to give up its standard output, as it does when it executes its command."""
        self._answer = answer
        asyncio.get_running_loop().add_reader(answer, self._at_exec)

    def _at_exec(self) -> None:
        if self._answer >= 0:
            asyncio.get_running_loop().remove_reader(self._answer)
            os.close(self._answer)
            self._answer = -1
        if not self.executed.done():
            self.executed.set_result(None)

    @property
    def is_gone(self) -> bool:
        """Tell whether it has ended."""
        return self.exited.done()

    @property
    def ending(self) -> str:
        """Say how it ended, as far as the kernel tells us."""
        status = self._watch.status
        if status is None:
            return "ended"
        if os.WIFSIGNALED(status):
            return f"was killed by signal {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exited with status {os.waitstatus_to_exitcode(status)}"

    @property
    def ended_well(self) -> bool:
        """Tell whether it has ended, and by status 0. False where the kernel did not tell us how."""
        return self._watch.status == 0

    def go(self, doors: Iterable[str] = ()) -> None:
        """Let it enter control groups, each by writing 0 into a file, and execute its command."""
        self._word = os.fsencode("".join(f"{door}\n" for door in (*doors, "")))
        if self._left_to_us is None or self._left_to_us.done():
            self.close_gate()
        else:
            self._left_to_us.add_done_callback(lambda _: self.close_gate())

    def send(self, number: signal.Signals) -> None:
        """Send a signal; harmless when it has ended."""
        if self._watch.fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._watch.fd, number)

    def is_stopped(self) -> bool:
        """Tell whether somebody stopped it (SIGSTOP, a debugger), so that it takes no signal but SIGKILL."""
        fields = stat_fields(self.pid)
        return fields is not None and fields[0] in ("T", "t")

    async def wait(self, deadline: float) -> bool:
        """Wait for its end for at most ``deadline`` seconds; tells whether it has ended."""
        await asyncio.wait([self.exited], timeout=deadline)
        return self.exited.done()

    def close(self) -> None:
        """Stop watching; a process that was not told to go will end."""
        self.close_gate()
        self._at_exec()
        self._watch.close()

    def close_gate(self) -> None:
        """Say the word where it is due; without it, take back the chance: who still waits ends by itself."""
        if self._gate >= 0:
            with contextlib.suppress(BrokenPipeError):  # it has ended already; `exited` tells
                os.write(self._gate, self._word)
            os.close(self._gate)
            self._gate = -1

    def _gone(self) -> None:
        self.close_gate()
        self._at_exec()
        if not self.exited.done():
            self.exited.set_result(None)


class Maker:
    """A thread that makes one process, which inherits what is the thread's own, such as a mount namespace.

    prepare: blocking work that the thread does at once; what it raises, `make` raises.
    """

    def __init__(self, prepare: Callable[[], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Future[int] = self._loop.create_future()
        self._work: queue.SimpleQueue[Callable[[], int] | None] = queue.SimpleQueue()
        # `threading` would have the loop wait until the thread runs
        _thread.start_new_thread(self._run, (prepare,))

    async def make(self, work: Callable[[], int]) -> int:
        """Run the work that makes the process; it is done whatever becomes of the one who waits."""
        self._work.put(work)
        return await self._made

    def close(self) -> None:
        """Let the thread end without having made anything; it may have done so long ago."""
        self._work.put(None)
        if not self._made.cancel() and not self._made.cancelled():
            self._made.exception()  # whoever closes has another reason not to go on

    def _run(self, prepare: Callable[[], None] | None) -> None:
        made = -1
        try:
            if prepare is not None:
                prepare()
            work = self._work.get()
            if work is None:
                return
            made = work()
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._finish, partial(self._made.set_exception, error))
        else:
            self._loop.call_soon_threadsafe(self._finish, partial(self._made.set_result, made))

    def _finish(self, outcome: Callable[[], None]) -> None:
        if not self._made.done():
            outcome()


class _End:
    """One end of a pipe, closed once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.detach())


def _pipe(undo: contextlib.ExitStack) -> tuple[_End, _End]:
    read, write = (_End(fd) for fd in os.pipe2(os.O_CLOEXEC))
    undo.callback(read.close)
    undo.callback(write.close)
    return read, write


async def _read_line(fd: int) -> str:
    """Read what the launcher prints, up to the end of its line."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    text = b""
    try:
        async with asyncio.timeout(SPAWN_DEADLINE):
            while not text.endswith(b"\n"):
                ready = loop.create_future()
                loop.add_reader(fd, _wake, ready)
                try:
                    await ready
                finally:
                    loop.remove_reader(fd)
                chunk = os.read(fd, 64)
                if not chunk:
                    break
                text += chunk
    except TimeoutError:
        raise OperationTimeout(f"no process was made within {SPAWN_DEADLINE:g} s") from None
    return text.decode("ascii", "replace").strip()


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
