import os
from pathlib import Path

from qvirt.host.stat import cpu_times
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
