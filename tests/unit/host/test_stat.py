import os
from pathlib import Path

import pytest

from qvirt.host.stat import cpu_times, parse_stat, task_usage, task_wait
from tests.unit.host.machine import write

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def test_cpu_times(tmp_path: Path) -> None:
    write(tmp_path / "proc/stat", "cpu  10 1 20 300 4 2 3 0 0 0\ncpu0 1 0 2 30 4 0 0 0 0 0\nintr 5")
    assert cpu_times(root=tmp_path) == [
        ("kernel", 25 * TICK),
        ("user", 11 * TICK),
        ("idle", 300 * TICK),
        ("iowait", 4 * TICK),
    ]
    assert dict(cpu_times(0, tmp_path) or [])["user"] == TICK
    assert cpu_times(1, tmp_path) is None


def test_ourselves() -> None:
    usage = task_usage(os.getpid())
    assert usage is not None
    assert usage.rss > 1000
    assert usage.state == "R"
    assert usage.start > 0
    thread = task_usage(os.getpid(), os.getpid())
    assert thread is not None
    assert thread.start == usage.start
    assert task_wait(os.getpid(), os.getpid()) >= 0


@pytest.mark.parametrize("text", [None, "", "12 (x) S 1 2"])
def test_gone(text: str | None) -> None:
    assert parse_stat(text) is None


def test_a_name_full_of_traps() -> None:
    numbers = " ".join(str(n) for n in range(1, 50))
    usage = parse_stat(f"7 (a) S ) b) S {numbers}")
    assert usage is not None
    assert (usage.state, usage.user, usage.system, usage.start, usage.cpu) == (
        "S",
        11 * TICK,
        12 * TICK,
        19,
        36,
    )
