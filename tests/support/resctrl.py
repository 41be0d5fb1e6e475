"""A stand-in for the kernel's resctrl: a tree whose groups come with their files, and go with them."""

import os
from pathlib import Path
from typing import Any

import pytest

from qvirt.host import resctrl
from tests.unit.host.machine import write

FEATURES = "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes"
COUNTED = {"llc_occupancy": 405504, "mbm_total_bytes": 7000, "mbm_local_bytes": 5000}
INFO: dict[str, str | int] = {
    "L3/cbm_mask": "ffff",
    "L3/min_cbm_bits": 1,
    "L3/num_closids": 16,
    "MB/bandwidth_gran": 10,
    "MB/min_bandwidth": 10,
    "MB/num_closids": 8,
    "L3_MON/max_threshold_occupancy": 270336,
    "L3_MON/num_rmids": 176,
    "L3_MON/mon_features": FEATURES,
}
CACHE: dict[str, str | int] = {
    "level": 3,
    "type": "Unified",
    "id": 0,
    "size": "32768K",
    "shared_cpu_list": "0-1",
}


class FakeResctrl:
    """One cache of 32 MiB in 16 parts, of which everybody shares eight, and one node.

    root: of the file system. written: what the groups' files were told, in order, by names below resctrl.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.folder = root / resctrl.FOLDER
        self.written: list[tuple[str, str]] = []
        for name, value in INFO.items():
            write(self.folder / "info" / name, value)
        self.fill(self.folder, "    MB:0=100\n    L3:0=00ff")
        cpus = root / "sys/devices/system/cpu"
        write(cpus / "online", "0-1")
        for cpu in (0, 1):
            for name, value in CACHE.items():
                write(cpus / f"cpu{cpu}/cache/index1" / name, value)
        make, remove, tell = os.mkdir, os.rmdir, resctrl.write

        def mkdir(path: Any, *words: Any, **named: Any) -> None:
            make(path, *words, **named)
            if self._is_group(Path(path)):
                self.fill(Path(path), "    MB:0=100\n    L3:0=ffff")

        def rmdir(path: Any, *words: Any, **named: Any) -> None:
            if not self._is_group(Path(path)) or not Path(path).exists():
                remove(path, *words, **named)
                return
            assert not list(Path(path).glob("mon_groups/*")), "groups that watch go first"
            for entry in sorted(Path(path).rglob("*"), reverse=True):
                if entry.is_dir():
                    remove(entry)
                else:
                    entry.unlink()
            remove(path)

        def note(path: Path, text: str) -> None:
            self.written.append((str(path.relative_to(self.folder)), text))
            tell(path, text)

        monkeypatch.setattr(os, "mkdir", mkdir)
        monkeypatch.setattr(os, "rmdir", rmdir)
        monkeypatch.setattr(resctrl, "write", note)

    def _is_group(self, path: Path) -> bool:
        return path.parent == self.folder or (
            path.parent.name == "mon_groups" and self.folder in path.parents
        )

    def fill(self, group: Path, schemata: str) -> None:
        """Put a group's files there."""
        write(group / "tasks", "")
        if group.parent.name != "mon_groups":
            write(group / "schemata", schemata)
            (group / "mon_groups").mkdir()
        for name, value in COUNTED.items():
            write(group / "mon_data/mon_L3_00" / name, value)

    def groups(self) -> list[str]:
        """Return the groups there are, by their names below resctrl."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in (*self.folder.iterdir(), *self.folder.rglob("mon_groups/*"))
            if path.is_dir() and path.name not in ("info", "mon_groups", "mon_data")
        )
