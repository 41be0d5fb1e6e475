"""What processors and processes have used: /proc/stat and /proc/PID."""

import os
from pathlib import Path

from qvirt.host.sysfs import read_text

ROOT = Path("/")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_times(cpu: int = -1, root: Path = ROOT) -> list[tuple[str, int]] | None:
    """Return the times of a CPU (-1: of all) in ns, as virNodeGetCPUStats names them; None: no such CPU."""
    label = "cpu" if cpu < 0 else f"cpu{cpu}"
    for line in (read_text(root / "proc/stat") or "").splitlines():
        words = line.split()
        if words and words[0] == label:
            user, nice, system, idle, wait, irq, soft = (int(w) * _TICK_NS for w in words[1:8])
            return [("kernel", system + irq + soft), ("user", user + nice), ("idle", idle), ("iowait", wait)]
    return None
