"""What processors and processes have used: /proc/stat and /proc/PID."""

import os
from pathlib import Path

from qvirt.host.sysfs import read_text
from qvirt.record import Record

ROOT = Path("/")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_times(cpu: int = -1, root: Path = ROOT) -> list[tuple[str, int]] | None:
    """Return the times of a CPU (-1: of all) in ns, as virNodeGetCPUStats names them; None: no such CPU."""
    label = "cpu" if cpu < 0 else f"cpu{cpu}"
    for line in (read_text(root / "proc/stat") or "").splitlines():
        words = line.split()
        if words and words[0] == label:
            user, nice, system, idle, wait, irq, soft = (int(w) * _TICK_NS for w in words[1:8])
            return [("kernel", system + irq + soft), ("user", user + nice), ("idle", idle), ("iowait", wait)]
    return None


class TaskUsage(Record):
    """What a process or a thread has used. Times in ns; rss in KiB; cpu: the last it ran on.

    start: clock ticks since boot; with the pid it identifies a process for good.
    """

    user: int
    system: int
    rss: int
    cpu: int
    start: int
    state: str


def task_usage(pid: int, tid: int | None = None, root: Path = ROOT) -> TaskUsage | None:
    """Read /proc/PID/stat, of a thread when tid is given; None when it is gone."""
    path = root / f"proc/{pid}" if tid is None else root / f"proc/{pid}/task/{tid}"
    return parse_stat(read_text(path / "stat"))


def parse_stat(text: str | None) -> TaskUsage | None:
    """Read one line of a stat file; the name in it may hold blanks and parentheses."""
    if not text:
        return None
    fields = text.rpartition(")")[2].split()
    if len(fields) < 37:
        return None
    return TaskUsage(
        user=int(fields[11]) * _TICK_NS,
        system=int(fields[12]) * _TICK_NS,
        rss=int(fields[21]) * _PAGE // 1024,
        cpu=int(fields[36]),
        start=int(fields[19]),
        state=fields[0],
    )


def task_wait(pid: int, tid: int, root: Path = ROOT) -> int:
    """Return the ns a thread was ready and had no CPU; 0 when the kernel does not count."""
    words = (read_text(root / f"proc/{pid}/task/{tid}/schedstat") or "").split()
    return int(words[1]) if len(words) > 1 else 0
