"""What a start of the daemon loads: every client that starts one waits for it."""

import subprocess
import sys

#: seldom asked for, and large
LATE = ("qvirt.qemu.importer", "qvirt.runtime.foreign.adopt", "qvirt.runtime.lines.importing", "jeepney")


def test_what_is_seldom_asked_is_loaded_late() -> None:
    program = "import sys, qvirt.daemon.life; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "qvirt.runtime.hypervisor" in loaded
    assert not set(LATE) & set(loaded)
