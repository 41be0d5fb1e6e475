"""Asks emulators what they can do; `emulators.py` remembers the answers."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qvirt.errors import ConfigUnsupported, InternalError, OperationTimeout, QvirtError, SystemError_
from qvirt.qemu.caps import EmulatorCaps, Overview
from qvirt.qemu.caps_queries import (
    BRIEF,
    FULL,
    KVM_ACCEL,
    MAIN_ACCEL,
    Question,
    read_answers,
    read_overview,
)
from qvirt.qemu.dialect.ages import MINIMUM_EMULATOR
from qvirt.qemu.dialect.facts import DialectCaps
from qvirt.qemu.dialect.help_text import ASKED_DEVICES, help_caps
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import MonitorClosed

log = logging.getLogger(__name__)

PROBE_DEADLINE = 30.0
"""Seconds an emulator gets to describe itself."""

_FATAL_LIMIT = 5
"""Questions an emulator may end at before it counts as broken; asked again without them."""


#: what takes root's capabilities away; what is root's it may open all the same
_POWERLESS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--")

#: how a launcher ends that could not execute its command
_NOT_EXECUTED = (126, 127)


async def probe(
    emulator: Path | str, *, kvm: bool, wrap: Sequence[str] = (), deadline: float = PROBE_DEADLINE
) -> EmulatorCaps:
    """Ask an emulator what it can do, within `deadline` seconds; `kvm`: KVM works here, ask about it too.

    wrap: the words that confine it: a client may name any program.
    Raises SystemError_ (cannot be executed), InternalError (it failed; with what it printed),
    OperationTimeout.
    """
    main, second = await _answers(str(emulator), FULL, kvm, wrap, deadline)
    try:
        return read_answers(str(emulator), main, second)
    except ValueError as e:
        raise InternalError(str(e)) from e


async def probe_overview(
    emulator: Path | str, *, kvm: bool, wrap: Sequence[str] = (), deadline: float = PROBE_DEADLINE
) -> Overview:
    """Ask an emulator for its overview only, a sixth of the work; raises as `probe` does."""
    main, second = await _answers(str(emulator), BRIEF, kvm, wrap, deadline)
    try:
        return read_overview(str(emulator), main, second)
    except ValueError as e:
        raise InternalError(str(e)) from e


async def _answers(
    emulator: str, asked: Mapping[str, Sequence[Question]], kvm: bool, wrap: Sequence[str], deadline: float
) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Return the answers of the main process and, where KVM works, of the one under KVM."""
    try:
        async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
            main = group.create_task(_ask(emulator, MAIN_ACCEL, asked[MAIN_ACCEL], wrap))
            second = group.create_task(_ask_kvm(emulator, asked[KVM_ACCEL], wrap)) if kvm else None
    except TimeoutError:
        raise OperationTimeout(
            f"emulator '{emulator}' did not describe its capabilities within {deadline:g} s"
        ) from None
    except BaseExceptionGroup as group_error:
        raise _first(group_error) from None
    return main.result(), second.result() if second else None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in group.exceptions:
        if isinstance(error, QvirtError):
            return error
    return group


async def _ask_kvm(emulator: str, asked: Sequence[Question], wrap: Sequence[str]) -> Sequence[Any] | None:
    """Ask under KVM; None when this emulator cannot use KVM.

    A program that is the system's own may be asked as root, who has no power then: the mode of /dev/kvm,
    which keeps QEMU's user out today, says nothing about the emulator.
    """
    ours = await asyncio.to_thread(is_the_systems, emulator) if wrap else False
    for way in (wrap, _POWERLESS) if ours else (wrap,):
        with contextlib.suppress(InternalError):
            return await _ask(emulator, KVM_ACCEL, asked, way)
    return None


def is_the_systems(program: str) -> bool:
    """Tell whether nobody but root can have put a program where it is. Blocking."""
    path = Path(os.path.realpath(program))
    try:
        found = [os.stat(each) for each in (path, *path.parents)]
    except OSError:
        return False
    return all(status.st_uid == 0 and not status.st_mode & 0o022 for status in found)


async def _ask(emulator: str, accel: str, asked: Sequence[Question], wrap: Sequence[str]) -> Sequence[Any]:
    """Run one process and return its answers, None for each question it refused or died of."""
    fatal: set[int] = set()
    while True:
        answers, printed, died_of = await _run(emulator, accel, asked, fatal, wrap)
        if died_of is None:
            return answers
        if died_of < 0 or len(fatal) == _FATAL_LIMIT:
            raise InternalError(f"Failed to probe QEMU binary with QMP: {emulator}: {printed}")
        log.warning("emulator '%s' ended when asked %s: %s", emulator, asked[died_of], printed)
        fatal.add(died_of)


async def _run(
    emulator: str, accel: str, asked: Sequence[Question], skip: set[int], wrap: Sequence[str]
) -> tuple[Sequence[Any], str, int | None]:
    """Return the answers, what the process printed, and the question that ended it (-1: no question)."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        with theirs:
            process = await _execute(
                *_command_line(emulator, accel, theirs.fileno()),
                wrap=wrap,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        undo.pop_all()
    try:
        answers, died_of = await _converse(ours, asked, skip)
        return answers, "" if died_of is None else await _printed(process), died_of
    except QvirtError as e:
        return (), await _printed(process) or e.detail, -1
    finally:
        _kill(process)
        await asyncio.shield(process.wait())


async def _execute(
    emulator: str,
    *words: str,
    wrap: Sequence[str],
    stdout: int,
    stderr: int,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Start an emulator that the kernel kills when we die: it would wait for ever for what nobody asks."""
    try:
        if not os.access(emulator, os.X_OK):
            os.stat(emulator)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return await asyncio.create_subprocess_exec(
            *(*wrap, "setpriv", "--pdeathsig", "KILL", "--", emulator, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except OSError as e:
        raise SystemError_(f"cannot execute emulator '{emulator}'", e) from e


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
    monitor = await Monitor.from_socket(sock, name="probe", deadline=PROBE_DEADLINE, trusted=True)
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


async def read_texts(
    emulator: Path | str, *, wrap: Sequence[str] = (), deadline: float = PROBE_DEADLINE
) -> DialectCaps:
    """Read what an emulator that cannot answer the monitor's questions prints about itself.

    wrap: as in `probe`.
    Raises SystemError_ (cannot be executed), OperationTimeout, InternalError (not a QEMU), ConfigUnsupported
    (one that is too old).
    """
    path = str(emulator)
    devices = [word for type in ASKED_DEVICES for word in ("-device", f"{type},?")]
    try:
        async with asyncio.timeout(deadline):
            help = await _print(path, "-help", wrap=wrap)
            listed = await _print(path, "-device", "?", *devices, wrap=wrap) if "-device " in help else ""
            machines = await _print(path, "-M", "?", wrap=wrap)
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


async def _print(emulator: str, *words: str, wrap: Sequence[str]) -> str:
    """Return what an emulator prints; some of it comes on stderr."""
    process = await _execute(
        emulator, *words, wrap=wrap, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        printed, _ = await process.communicate()
        text = printed.decode("utf-8", "replace")
        if process.returncode in _NOT_EXECUTED:
            raise InternalError(f"cannot execute emulator '{emulator}': {text.strip()[-1000:]}")
        return text
    finally:
        _kill(process)
        await asyncio.shield(process.wait())
