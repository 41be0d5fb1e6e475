"""Which threads of a guest get which cookie of the kernel's core scheduling, by a kernel that is made up."""

import ctypes
import errno
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qvirt.errors import ConfigSyntax, SystemError_
from qvirt.host import core_scheduling
from qvirt.host.conf import parse_conf
from qvirt.host.config import make_config
from qvirt.model.domain import parse_domain
from qvirt.runtime.life import cores
from qvirt.runtime.running import Running

QEMU, VCPUS, SWTPM, PASST = 100, [101, 102, 103], 200, 300
#: the threads of processes
THREADS = {QEMU: [QEMU, *VCPUS, 110], SWTPM: [SWTPM], PASST: [PASST, 301]}


class Kernel:
    """Cookies by thread; those of our own threads by what Python calls them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: int = 0) -> None:
        self.cookies: dict[object, int] = {}
        self.refuses = refuses
        self._next = itertools.count(1)
        monkeypatch.setattr(core_scheduling, "_libc", self)
        monkeypatch.setattr(ctypes, "get_errno", lambda: self._errno)

    def prctl(self, option: int, *words: ctypes.c_ulong) -> int:
        assert option == 62
        command, id, kind, where = (word.value for word in words)
        us = threading.get_ident()
        self._errno = self.refuses or (0 if id in (0, *THREADS, *THREADS[QEMU]) else errno.ESRCH)
        if self._errno:
            return -1
        of = THREADS[id] if kind == core_scheduling.PROCESS else [id or us]
        if command == 0:
            ctypes.c_uint64.from_address(where).value = self.cookies.get(of[0], 0)
        elif command == 1:
            self.cookies |= dict.fromkeys(of, next(self._next))
        elif command == 2:
            self.cookies |= dict.fromkeys(of, self.cookies.get(us, 0))
        else:
            assert us != threading.main_thread().ident, "a thread of the daemon's would keep it"
            self.cookies[us] = self.cookies.get(id, 0)
        return 0

    def groups(self) -> list[set[object]]:
        """Return who has the same cookie, of those that are not ours."""
        known = {QEMU, *VCPUS, 110, SWTPM, PASST, 301}
        values = sorted({cookie for thread, cookie in self.cookies.items() if thread in known and cookie})
        return [{x for x in known if self.cookies.get(x) == value} for value in values]


def guest(*helpers: int, vcpus: int = 2, runs: bool = True) -> Running:
    definition = parse_domain(
        f"<domain type='qemu'><name>g</name><memory>1</memory><vcpu current='{vcpus}'>3</vcpu>"
        "<os><type>hvm</type></os></domain>"
    )
    alive = {str(pid): SimpleNamespace(process=SimpleNamespace(pid=pid, is_gone=False)) for pid in helpers}
    stand_in = SimpleNamespace(
        definition=definition, vcpu_threads=VCPUS[:vcpus], helpers=alive, pid=QEMU, process=runs or None
    )
    return cast("Running", stand_in)


def start(mode: str, running: Running) -> None:
    """Do what a start does, in its order, with two helpers."""
    cores.separate_helper(guest(SWTPM, runs=False), SWTPM, mode)
    cores.separate_helper(guest(SWTPM, PASST, runs=False), PASST, mode)
    cores.separate_qemu(guest(SWTPM, PASST), mode)
    cores.separate_vcpus(running, mode)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", []),
        ("vcpus", [{101, 102}]),
        ("emulator", [{*THREADS[QEMU]}]),
        ("full", [{*THREADS[QEMU], SWTPM, PASST, 301}]),
    ],
)
def test_what_is_separated(monkeypatch: pytest.MonkeyPatch, mode: str, expected: list[set[int]]) -> None:
    kernel = Kernel(monkeypatch)
    start(mode, guest())
    assert kernel.groups() == expected


def test_a_vcpu_that_is_plugged_joins_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    start("vcpus", guest())
    cores.join_vcpus(guest(vcpus=3), [2], "vcpus")
    assert kernel.groups() == [{*VCPUS}]


def test_one_thread_for_all_vcpus_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    running = guest()
    running.vcpu_threads = [101, 101]
    cores.separate_vcpus(running, "vcpus")
    assert kernel.groups() == [{101}]


def test_a_helper_that_has_ended_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    cores.separate_qemu(guest(4711, SWTPM), "full")
    assert kernel.groups() == []  # swtpm was in none, and so QEMU is where it is
    cores.separate_qemu(guest(4711), "full")
    assert kernel.groups() == [{*THREADS[QEMU]}]


def test_what_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, errno.EPERM)
    with pytest.raises(
        SystemError_, match="Unable to set SCHED_CORE of process 100: Operation not permitted"
    ):
        cores.separate_qemu(guest(), "emulator")
    kernel.refuses = errno.ENODEV  # cores have one thread each: nobody shares one
    start("full", guest())
    assert kernel.groups() == []


@pytest.mark.parametrize(
    ("refuses", "said"),
    [(errno.EINVAL, "SCHED_CORE not supported by kernel"), (errno.ENODEV, None), (0, None)],
)
def test_the_option(monkeypatch: pytest.MonkeyPatch, refuses: int, said: str | None) -> None:
    Kernel(monkeypatch, refuses)
    read: Callable[[], Any] = lambda: make_config(  # noqa: E731
        parse_conf('sched_core = "vcpus"\n', "qemu.conf"), privileged=True
    )
    if said is None:
        assert read().sched_core == "vcpus"
    else:
        with pytest.raises(ConfigSyntax, match=said):
            read()
    assert make_config(parse_conf("", "qemu.conf"), privileged=True).sched_core == "none"
    with pytest.raises(ConfigSyntax, match=r"qemu.conf:1: Unknown sched_core value all"):
        make_config(parse_conf('sched_core = "all"\n', "qemu.conf"), privileged=True)
