"""What /proc and /sys tell of a QEMU process, its threads and its network devices. Cheap, never waits."""

import os
from pathlib import Path

from qvirt.host.proc import stat_fields
from qvirt.record import Record
from qvirt.runtime.records import InterfaceStats

_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class CpuTimes(Record):
    """ns of CPU time, in all and by mode; cpu: the host CPU it ran on last; state: the kernel's letter."""

    total: int
    user: int
    system: int
    cpu: int
    state: str


def cpu_times(pid: int, tid: int | None = None) -> CpuTimes | None:
    """Read a process's or a thread's times; None when it is gone."""
    fields = stat_fields(pid, tid)
    if fields is None or len(fields) < 37:
        return None
    user, system = int(fields[11]) * _TICK_NS, int(fields[12]) * _TICK_NS
    return CpuTimes(user + system, user, system, int(fields[36]), fields[0])


def schedule_wait(pid: int, tid: int) -> tuple[int, int]:
    """Read how long a thread waited in the kernel's queue and how long it was ready but did not run; ns."""
    try:
        with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as file:
            delay = int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0, 0
    return 0, delay


def resident_kib(pid: int) -> int:
    """Read a process's resident memory; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE_KIB
    except (OSError, IndexError, ValueError):
        return 0


def affinity(tid: int) -> frozenset[int]:
    """Read which host CPUs a thread may run on; empty when it is gone."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except OSError:
        return frozenset()


def online_cpus() -> frozenset[int]:
    """Return the host's CPUs."""
    return frozenset(range(os.cpu_count() or 1))


def interface_stats(name: str, *, swap: bool) -> InterfaceStats | None:
    """Read a network device's counters; swap: the guest receives what the device sends (a tap)."""
    folder = Path(f"/sys/class/net/{name}/statistics")

    def read(counter: str) -> int:
        return int((folder / counter).read_text(encoding="ascii"))

    try:
        rx = [read(f"rx_{kind}") for kind in ("bytes", "packets", "errors", "dropped")]
        tx = [read(f"tx_{kind}") for kind in ("bytes", "packets", "errors", "dropped")]
    except (OSError, ValueError):
        return None
    if swap:
        rx, tx = tx, rx
    return InterfaceStats(*rx, *tx)


def arp_entries() -> list[tuple[str, str]]:
    """Return the (MAC, IPv4 address) pairs the host knows; those that are incomplete are left out."""
    found: list[tuple[str, str]] = []
    try:
        lines = Path("/proc/net/arp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return found
    for line in lines:
        words = line.split()
        if len(words) >= 4 and int(words[2], 16) & 2:
            found.append((words[3].lower(), words[0]))
    return found
