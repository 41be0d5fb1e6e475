"""System calls made by a process that is not asked: what is tried in it meets all that confines it.

`python -m tests.support.inside` stops the first thread of a process, such as a QEMU with its user, label,
namespaces, groups and system call filter, has it make calls one after the other, and lets it go on where it
was. With ``serve`` it does so for who may not trace, as a daemon under SELinux. x86-64 only.
"""

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import platform
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

from qvirt.record import Record


class First(Record):
    """Stands for what the first call of an attempt returned, such as a descriptor."""


#: of a call: a number, bytes that are put into the process, or what the attempt's first call returned
Argument = int | bytes | First


class Call(Record):
    """A system call. allows: errors that say that it was let through, by name."""

    number: int
    arguments: tuple[Argument, ...] = ()
    allows: tuple[str, ...] = ()


class Attempt(Record):
    """What is tried. undo: calls made afterwards where it was let through."""

    calls: tuple[Call, ...]
    undo: tuple[Call, ...] = ()


NUMBERS: Final = {
    **{"open": 2, "close": 3, "socket": 41, "connect": 42, "fork": 57, "execve": 59, "wait4": 61, "kill": 62},
    **{"chdir": 80, "unlink": 87, "chown": 92, "ptrace": 101, "setresuid": 117, "mknod": 133, "ustat": 136},
    **{"setpriority": 141, "chroot": 161, "mount": 165, "umount2": 166, "reboot": 169, "init_module": 175},
    **{"process_vm_readv": 310},
}  # fmt: skip

#: what an attempt came to beside the errors' own words
DONE: Final = "done"
KILLED: Final = "killed by the filter"
NEW_USER: Final = "done, as another user"
#: the kernel has no such thing, or the test none to try it on
MISSING: Final = "not here"

#: the capability to trace
_SYS_PTRACE: Final = 19

#: seconds for all attempts in one process
DEADLINE: Final = 60.0


def refusal() -> str | None:
    """Say why nothing can be tried here, None when it can."""
    if platform.machine() != "x86_64":
        return "calls are made as x86-64 does"
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if not int(status["CapEff"], 16) >> _SYS_PTRACE & 1:
        return "no process may be traced here"
    return None


async def tried(pid: int, attempts: dict[str, Attempt]) -> dict[str, str]:
    """Try them in order in a process; returns what each came to, up to the one that was its end."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=pipe, stdout=pipe)
    async with asyncio.timeout(DEADLINE):
        out, _ = await child.communicate(request(pid, attempts))
    assert child.returncode == 0
    return dict(json.loads(out))


def serve(folder: Path) -> None:
    """Answer each file ``request`` by a file ``answer``, until somebody ends us."""
    asked = folder / "request"
    while True:
        if not asked.exists():
            time.sleep(0.02)
            continue
        pid, attempts, enforcing = _parsed(asked.read_bytes())
        asked.unlink()
        enforce = Path("/sys/fs/selinux/enforce")
        before = enforce.read_text()
        enforce.write_text(str(int(enforcing)))
        try:
            found = _all(pid, attempts)
        finally:
            enforce.write_text(before)
        (folder / "answer.new").write_text(json.dumps(found))
        (folder / "answer.new").rename(folder / "answer")


# ----------------------------------------------------------------------- on the wire


def request(pid: int, attempts: dict[str, Attempt], *, enforcing: bool = True) -> bytes:
    """Write what is to be tried. enforcing: whether SELinux is, meanwhile, where it is served."""

    def told(call: Call) -> list[Any]:
        words = [{"bytes": a.hex()} if isinstance(a, bytes) else "first" if isinstance(a, First) else a
                 for a in call.arguments]  # fmt: skip
        return [call.number, words, call.allows]

    rows = {name: [[*map(told, one.calls)], [*map(told, one.undo)]] for name, one in attempts.items()}
    return json.dumps([pid, rows, enforcing]).encode()


def _parsed(text: bytes) -> tuple[int, dict[str, Attempt], bool]:
    def call(number: int, words: list[Any], allows: list[str]) -> Call:
        made = (
            bytes.fromhex(word["bytes"]) if isinstance(word, dict) else First() if word == "first" else word
            for word in words
        )
        return Call(number, tuple(made), tuple(allows))

    pid, rows, enforcing = json.loads(text)
    attempts = {
        name: Attempt(tuple(call(*one) for one in calls), tuple(call(*one) for one in undo))
        for name, (calls, undo) in rows.items()
    }
    return pid, attempts, enforcing


# ----------------------------------------------------------------------- tracing

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long

_SINGLESTEP, _GETREGS, _SETREGS, _GETEVENTMSG = 9, 12, 13, 0x4201
#: requests of ptrace, and waiting for threads, too
DETACH, SEIZE, INTERRUPT, ALL = 17, 0x4206, 0x4207, 0x40000000
#: options: tell of fork, vfork, clone and exec
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x10
_EVENT_EXEC = 4
_FORKS = (1, 2, 3)

#: the registers, in the kernel's order
_REGISTERS: Final = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
_PASSED: Final = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_SYSCALL: Final = b"\x0f\x05"
#: below the stack pointer, where what calls point to is put
_ROOM: Final = 8192


class _Ended(Exception):
    """The process is no more, or another program. outcome: of the attempt."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def _ptrace(request: int, pid: int, address: int = 0, data: Any = 0) -> None:
    ctypes.set_errno(0)
    if _libc.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"ptrace {request:#x}")


class _Tracee:
    """A thread that is stopped for the length of the block, and then goes on where it was."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __enter__(self) -> "_Tracee":
        _ptrace(SEIZE, self.pid, 0, _OPTIONS)
        _ptrace(INTERRUPT, self.pid)
        self._wait()
        self.saved = self._registers()
        self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._instruction = self._find_syscall()
        self._user = _user_of(self.pid)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._memory)
        if kind is None:
            self._set_registers(self.saved)
            _ptrace(DETACH, self.pid)

    def call(self, call: Call, first: int) -> int:
        """Have it make a call; returns what that returned. Raises _Ended."""
        registers = dict(self.saved)
        room = (self.saved["rsp"] - _ROOM) & ~0xFFF
        for name, argument in zip(_PASSED, call.arguments, strict=False):
            if isinstance(argument, First):
                registers[name] = first
            elif isinstance(argument, bytes):
                os.pwrite(self._memory, argument, room)
                registers[name] = room
                room += (len(argument) + 15) & ~15
            else:
                registers[name] = argument & (1 << 64) - 1
        registers |= {"rax": call.number, "orig_rax": (1 << 64) - 1, "rip": self._instruction}
        self._set_registers(registers)
        while True:
            _ptrace(_SINGLESTEP, self.pid)
            self._wait()
            registers = self._registers()
            if registers["rip"] != self._instruction:
                break
        result = registers["rax"]
        return result - (1 << 64) if result >> 63 else result

    def _wait(self) -> None:
        """Wait until it stops for itself; what it has made is ended. Raises _Ended."""
        while True:
            _, status = os.waitpid(self.pid, ALL)
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                raise _Ended(KILLED if number == signal.SIGSYS else f"killed by signal {number}")
            event = status >> 16
            if event == _EVENT_EXEC:
                changed = _user_of(self.pid) != self._user
                self._kill()
                raise _Ended(NEW_USER if changed else DONE)
            if event in _FORKS:
                made = ctypes.c_ulong()
                _ptrace(_GETEVENTMSG, self.pid, 0, ctypes.addressof(made))
                os.kill(made.value, signal.SIGKILL)
                os.waitpid(made.value, ALL)
                _ptrace(_SINGLESTEP, self.pid)
                continue
            if os.WSTOPSIG(status) == signal.SIGSYS:
                self._kill()
                raise _Ended(KILLED)
            return

    def _kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, ALL)

    def _registers(self) -> dict[str, int]:
        buffer = ctypes.create_string_buffer(8 * len(_REGISTERS))
        _ptrace(_GETREGS, self.pid, 0, ctypes.addressof(buffer))
        return dict(zip(_REGISTERS, struct.unpack(f"{len(_REGISTERS)}Q", buffer.raw), strict=True))

    def _set_registers(self, registers: dict[str, int]) -> None:
        packed = struct.pack(f"{len(_REGISTERS)}Q", *(registers[name] for name in _REGISTERS))
        buffer = ctypes.create_string_buffer(packed, len(packed))
        _ptrace(_SETREGS, self.pid, 0, ctypes.addressof(buffer))

    def _find_syscall(self) -> int:
        """Return where the kernel's own code in the process has the instruction that makes a call."""
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            if line.endswith("[vdso]"):
                begin, end = (int(word, 16) for word in line.split()[0].split("-"))
                return begin + os.pread(self._memory, end - begin, begin).index(_SYSCALL)
        raise LookupError("no vdso")


def _user_of(pid: int) -> str:
    """Return the ids a process runs by."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("Uid:"))


def _all(pid: int, attempts: dict[str, Attempt]) -> dict[str, str]:
    """Try them, as far as the process lives."""
    found: dict[str, str] = {}
    with contextlib.suppress(_Ended), _Tracee(pid) as tracee:
        for name, attempt in attempts.items():
            try:
                found[name] = _one(tracee, attempt)
            except _Ended as ended:
                found[name] = ended.outcome
                raise
    return found


def _one(tracee: _Tracee, attempt: Attempt) -> str:
    first = -1
    for call in attempt.calls:
        result = tracee.call(call, first)
        if result < 0:
            name = errno.errorcode.get(-result, "")
            return DONE if name in call.allows else MISSING if name == "ENOSYS" else os.strerror(-result)
        first = result if first < 0 else first
    for call in attempt.undo:
        result = tracee.call(call, first)
        if result < 0:
            raise OSError(-result, os.strerror(-result), f"call {call.number} that undoes")
    return DONE


def _main(words: list[str]) -> None:
    if words[:1] == ["serve"]:
        serve(Path(words[1]))
    pid, attempts, _ = _parsed(sys.stdin.buffer.read())
    print(json.dumps(_all(pid, attempts)))


if __name__ == "__main__":
    _main(sys.argv[1:])
