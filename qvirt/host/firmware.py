"""Reads the firmware descriptors installed on this machine."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from qvirt.qemu.firmware import Firmware, parse

log = logging.getLogger(__name__)

SYSTEM_DIRS = ("/usr/share/qemu/firmware", "/etc/qemu/firmware")


def firmware_dirs(config_home: str | None = None) -> list[Path]:
    """List the directories of descriptors, least important first; config_home: the user's, for a session."""
    dirs = [Path(directory) for directory in SYSTEM_DIRS]
    return [*dirs, Path(config_home, "qemu", "firmware")] if config_home else dirs


def read_firmwares(dirs: Iterable[Path]) -> tuple[Firmware, ...]:
    """Read the descriptors in order of preference: by file name.

    A file hides those of its name in earlier directories; an empty one (or a link to /dev/null) hides them
    without taking their place. A descriptor that cannot be read is left out and logged.
    """
    files: dict[str, Path] = {}
    for directory in dirs:
        try:
            with os.scandir(directory) as entries:
                files |= {
                    entry.name: Path(entry.path)
                    for entry in entries
                    if entry.name.endswith(".json") and not entry.name.startswith(".")
                }
        except FileNotFoundError:
            continue
        except OSError as e:
            log.warning("cannot list firmware descriptors in '%s': %s", directory, e.strerror)
    firmwares: list[Firmware] = []
    for name in sorted(files):
        try:
            text = files[name].read_bytes()
            if text:
                firmwares.append(parse(text, str(files[name])))
        except OSError as e:
            log.warning("cannot read firmware descriptor '%s': %s", files[name], e.strerror)
        except ValueError as e:
            log.warning("%s", e)
    return tuple(firmwares)


class FirmwareTable:
    """The firmwares of this machine, read anew when a directory or descriptor has changed."""

    def __init__(self, dirs: Sequence[Path]) -> None:
        self._dirs = tuple(dirs)
        self._stamp: tuple[int, ...] | None = None
        self._firmwares: tuple[Firmware, ...] = ()

    def get(self) -> tuple[Firmware, ...]:
        """Return the firmwares in order of preference; reads files, so not for the event loop."""
        stamp = tuple(_changed(d) for d in self._dirs) + tuple(
            _changed(Path(f.path)) for f in self._firmwares
        )
        if stamp != self._stamp:
            self._firmwares = read_firmwares(self._dirs)
            self._stamp = tuple(_changed(d) for d in self._dirs) + tuple(
                _changed(Path(f.path)) for f in self._firmwares
            )
        return self._firmwares


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
