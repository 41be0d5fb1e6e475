"""Control groups of guests that a test has killed behind their daemon's back."""

import contextlib
import os
import time
from pathlib import Path

from qvirt.host.cgroup import machine_name


def groups_of(root: Path) -> list[Path]:
    """Return the groups of a tree's guests, in every hierarchy."""
    mine = machine_name(1, "x", str(root)).rpartition("-1-")[0]
    top = Path("/sys/fs/cgroup")
    return [*top.glob(f"*/machine/{mine}-*"), *top.glob(f"machine/{mine}-*")]


def remove_groups(root: Path) -> None:
    """Take them away; a killed process may be in one for a moment longer."""
    end = time.monotonic() + 5.0
    while (left := groups_of(root)) and time.monotonic() < end:
        for group in left:
            with contextlib.suppress(OSError):
                for entry in os.scandir(group):
                    if entry.is_dir():
                        os.rmdir(entry.path)
                group.rmdir()
        time.sleep(0.01)
