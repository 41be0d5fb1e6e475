"""The memory of this machine: totals, and same-page merging."""

import os
from collections.abc import Mapping
from pathlib import Path

from qvirt.host.sysfs import read_int, read_text

ROOT = Path("/")
_KSM = "sys/kernel/mm/ksm"


def page_size() -> int:
    """Return the size of an ordinary page in KiB."""
    return os.sysconf("SC_PAGE_SIZE") // 1024


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """Read /proc/meminfo; KiB, but counts for HugePages_*."""
    facts: dict[str, int] = {}
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            facts[name] = int(words[0])
    return facts


def memory_stats(root: Path = ROOT) -> list[tuple[str, int]]:
    """Return the host's memory as virNodeGetMemoryStats names it, in KiB."""
    facts = meminfo(root)
    names = (("total", "MemTotal"), ("free", "MemFree"), ("buffers", "Buffers"), ("cached", "Cached"))
    return [(name, facts[key]) for name, key in names if key in facts]


KSM_PARAMETERS: Mapping[str, str] = {
    "shm_pages_to_scan": "pages_to_scan",
    "shm_sleep_millisecs": "sleep_millisecs",
    "shm_pages_shared": "pages_shared",
    "shm_pages_sharing": "pages_sharing",
    "shm_pages_unshared": "pages_unshared",
    "shm_pages_volatile": "pages_volatile",
    "shm_full_scans": "full_scans",
    "shm_merge_across_nodes": "merge_across_nodes",
}
"""virNodeGetMemoryParameters' names of the kernel's files."""

KSM_WRITABLE = frozenset({"shm_pages_to_scan", "shm_sleep_millisecs", "shm_merge_across_nodes"})


def ksm_parameters(root: Path = ROOT) -> list[tuple[str, int]]:
    """Return the settings and counters of same-page merging this kernel has."""
    values = ((name, read_int(root / _KSM / file)) for name, file in KSM_PARAMETERS.items())
    return [(name, value) for name, value in values if value is not None]


def set_ksm_parameter(name: str, value: int, root: Path = ROOT) -> None:
    """Change a setting of same-page merging; raises KeyError for an unknown name, OSError."""
    (root / _KSM / KSM_PARAMETERS[name]).write_text(str(value))
