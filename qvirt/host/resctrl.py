"""The kernel's division of caches and memory bandwidth (resctrl): what there is, and groups of threads.

A group is a folder below the file system's root: ``schemata`` says which bits of each cache and how much of
each node's bandwidth its threads have, ``tasks`` which threads those are. Folders below ``mon_groups`` only
watch. Group names, and which bits are chosen, are libvirt's, so both daemons can work side by side: each
holds the root's lock while it looks for bits that are free.
"""

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from qvirt.errors import ConfigUnsupported, OperationTimeout, SystemError_
from qvirt.host.cpu import CacheBank
from qvirt.host.sysfs import read_int, read_text
from qvirt.record import Record, field

#: where the kernel shows it, below the root of the file system
FOLDER: Final = "sys/fs/resctrl"
#: seconds to wait for another program that looks for free bits
_LOCK_WAIT: Final = 10.0
_LOCK_STEP: Final = 0.01

#: how the kernel calls the parts of a cache, after "L" and the level -> what it is used for
_SCOPES: Final[Mapping[str, str]] = {"": "both", "CODE": "code", "DATA": "data"}


class CacheControl(Record):
    """How the caches of a level are divided. scope: both, code or data; bits: how many parts there are."""

    level: int
    scope: str
    bits: int
    min_bits: int
    max_groups: int

    @property
    def name(self) -> str:
        """What the kernel calls it."""
        return f"L{self.level}{'' if self.scope == 'both' else self.scope.upper()}"

    def granularity(self, bank: CacheBank) -> int:
        """Return the size of one part of a cache, bytes."""
        return bank.size * 1024 // self.bits


class BandwidthControl(Record):
    """How memory bandwidth is divided, in percent."""

    granularity: int
    minimum: int
    max_groups: int


class Monitoring(Record):
    """What can be watched. threshold: bytes below which a number is used again; features: their files."""

    threshold: int
    max_groups: int
    features: tuple[str, ...]

    def features_of(self, prefix: str) -> tuple[str, ...]:
        """Return the features of caches ("llc_") or of memory bandwidth ("mbm_")."""
        return tuple(name for name in self.features if name.startswith(prefix))


class Controls(Record):
    """What the host can divide and watch."""

    caches: tuple[CacheControl, ...] = ()
    bandwidth: BandwidthControl | None = None
    monitoring: Monitoring | None = None

    def cache(self, level: int, scope: str) -> CacheControl | None:
        """Return how a level is divided for one use."""
        return next((known for known in self.caches if (known.level, known.scope) == (level, scope)), None)

    def by_name(self, name: str) -> CacheControl | None:
        """Return what the kernel calls by a name."""
        return next((known for known in self.caches if known.name == name), None)


def read_controls(root: Path) -> Controls | None:
    """Return what the host can do; None where resctrl is not mounted. root: the file system's. Blocking."""
    info = root / FOLDER / "info"
    if not info.is_dir():
        return None
    caches = []
    for folder in sorted(info.iterdir()):
        match = re.fullmatch(r"L(\d)(|CODE|DATA)", folder.name)
        mask = read_text(folder / "cbm_mask") if match is not None else None
        if match is not None and mask:
            caches.append(
                CacheControl(
                    int(match[1]),
                    _SCOPES[match[2]],
                    int(mask, 16).bit_length(),
                    read_int(folder / "min_cbm_bits") or 1,
                    read_int(folder / "num_closids") or 0,
                )
            )
    bandwidth = None
    if (gran := read_int(info / "MB/bandwidth_gran")) is not None:
        least = read_int(info / "MB/min_bandwidth") or 0
        bandwidth = BandwidthControl(gran, least, read_int(info / "MB/num_closids") or 0)
    monitoring = None
    if (features := read_text(info / "L3_MON/mon_features")) is not None:
        threshold = read_int(info / "L3_MON/max_threshold_occupancy") or 0
        groups = read_int(info / "L3_MON/num_rmids") or 0
        monitoring = Monitoring(threshold, groups, tuple(features.split()))
    return Controls(tuple(caches), bandwidth, monitoring)


# ------------------------------------------------------------------------ schemata


class Schemata(Record):
    """Which bits of caches, by the kernel's name and id, and percent of nodes' bandwidth a group has."""

    masks: dict[tuple[str, int], int] = field(default_factory=dict)
    bandwidth: dict[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Schemata":
        """Read the kernel's file; lines that are of something else are left out."""
        found = cls()
        for line in text.splitlines():
            name, _, values = line.strip().partition(":")
            for item in values.split(";"):
                number, _, value = item.partition("=")
                if not number.strip().isdecimal():
                    continue
                with contextlib.suppress(ValueError):
                    if name == "MB":
                        found.bandwidth[int(number)] = int(value)
                    elif re.fullmatch(r"L\d(CODE|DATA)?", name):
                        found.masks[name, int(number)] = int(value, 16)
        return found

    def text(self, controls: Controls) -> str:
        """Write it for the kernel."""
        lines: dict[str, list[str]] = {}
        for (name, id), mask in sorted(self.masks.items()):
            control = controls.by_name(name)
            digits = -(-control.bits // 4) if control is not None else 1
            lines.setdefault(name, []).append(f"{id}={mask:0{digits}x}")
        for id, percent in sorted(self.bandwidth.items()):
            lines.setdefault("MB", []).append(f"{id}={percent}")
        return "".join(f"{name}:{';'.join(items)}\n" for name, items in lines.items())


class CachePart(Record):
    """A part of a cache that is asked for; size in bytes, where: says in messages who asks."""

    level: int
    id: int
    scope: str
    size: int
    where: str = ""


class Wanted(Record):
    """What a group shall have of its own; what is not said it shares with everybody."""

    caches: tuple[CachePart, ...] = ()
    #: percent, and who asks, by node
    bandwidth: Mapping[int, tuple[int, str]] = field(default_factory=dict)


def check(wanted: Wanted, controls: Controls, banks: Iterable[CacheBank]) -> None:
    """Raise ConfigUnsupported for what the host cannot divide so."""
    known = list(banks)
    for part in wanted.caches:
        _bits_of(part, controls, known)
    for percent, where in wanted.bandwidth.values():
        _check_bandwidth(percent, where, controls)


def _bits_of(part: CachePart, controls: Controls, banks: list[CacheBank]) -> tuple[CacheControl, int]:
    """Return how a cache is divided, and how many bits of it a part takes. Raises ConfigUnsupported."""
    if not any(control.level == part.level for control in controls.caches):
        raise ConfigUnsupported(f"Cache level {part.level} does not support tuning{part.where}")
    control = controls.cache(part.level, part.scope)
    if control is None:
        raise ConfigUnsupported(
            f"Cache level {part.level} does not support tuning for scope type '{part.scope}'{part.where}"
        )
    bank = next((bank for bank in banks if (bank.level, bank.id) == (part.level, part.id)), None)
    if bank is None:
        raise ConfigUnsupported(f"Cache with id {part.id} does not exists for level {part.level}{part.where}")
    unit = control.granularity(bank)
    if part.size % unit:
        raise ConfigUnsupported(
            f"Cache allocation of size {part.size} is not divisible by granularity {unit}{part.where}"
        )
    if part.size < unit * control.min_bits:
        raise ConfigUnsupported(
            f"Cache allocation of size {part.size} is smaller than the minimum allowed allocation "
            f"{unit * control.min_bits}{part.where}"
        )
    return control, part.size // unit


def _check_bandwidth(percent: int, where: str, controls: Controls) -> None:
    control = controls.bandwidth
    if control is None:
        raise ConfigUnsupported(f"RDT Memory Bandwidth allocation unsupported{where}")
    if control.granularity and percent % control.granularity:
        raise ConfigUnsupported(
            f"Memory Bandwidth allocation of size {percent} is not divisible by granularity "
            f"{control.granularity}{where}"
        )
    if percent < control.minimum:
        raise ConfigUnsupported(
            f"Memory Bandwidth allocation of size {percent} is smaller than the minimum allowed allocation "
            f"{control.minimum}{where}"
        )


def choose(
    wanted: Wanted,
    controls: Controls,
    banks: Iterable[CacheBank],
    default: Schemata,
    others: Iterable[Schemata],
) -> Schemata:
    """Return what a new group gets: bits nobody has, and of all else what everybody shares.

    default: what everybody shares; others: what the other groups have. Of the free stretches the shortest
    that is long enough is taken, from its low end. Raises ConfigUnsupported where there is none.
    """
    known = list(banks)
    used = [default, *others]
    found = Schemata(dict(default.masks), dict(default.bandwidth))
    for part in wanted.caches:
        control, count = _bits_of(part, controls, known)
        key = control.name, part.id
        free = (1 << control.bits) - 1
        for schemata in used:
            free &= ~schemata.masks.get(key, 0)
        fitting = [(length, low) for low, length in _stretches(free) if length >= count]
        if not fitting:
            raise ConfigUnsupported(
                f"Not enough room for allocation of {part.size} bytes for level {part.level} cache {part.id} "
                f"scope type '{part.scope}'{part.where}: the root group of resctrl and others have the rest"
            )
        found.masks[key] = ((1 << count) - 1) << min(fitting)[1]
    for node, (percent, where) in wanted.bandwidth.items():
        _check_bandwidth(percent, where, controls)
        if node not in default.bandwidth:
            highest = max(default.bandwidth, default=0)
            raise ConfigUnsupported(
                f"bandwidth controller id {node} does not exist, max controller id {highest}{where}"
            )
        found.bandwidth[node] = percent
    return found


def _stretches(mask: int) -> Iterator[tuple[int, int]]:
    """Yield where each row of ones begins and how long it is."""
    low = 0
    while mask >> low:
        if not mask >> low & 1:
            low += 1
            continue
        length = 1
        while mask >> (low + length) & 1:
            length += 1
        yield low, length
        low += length


# -------------------------------------------------------------------------- groups


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock under which groups are made. Blocking. Raises OperationTimeout, SystemError_."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemError_(f"Cannot open '{folder}'", error) from error
    try:
        end = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OperationTimeout(f"'{folder}' stays locked by another program") from None
                time.sleep(_LOCK_STEP)
        yield
    finally:
        os.close(fd)


def read_groups(folder: Path) -> tuple[Schemata, list[Schemata]]:
    """Return what everybody shares, and what each group has. Blocking. Raises SystemError_."""
    try:
        default = Schemata.parse((folder / "schemata").read_text())
        others = [Schemata.parse(path.read_text()) for path in folder.glob("*/schemata")]
    except OSError as error:
        raise SystemError_(f"Cannot read the schemata of '{folder}'", error) from error
    return default, others


def make_group(path: Path) -> None:
    """Make a group, or one that watches. Blocking. Raises SystemError_."""
    try:
        path.mkdir(0o777)
    except OSError as error:
        hint = ": the CPU has no more groups" if error.errno == errno.ENOSPC else ""
        raise SystemError_(f"Cannot create resctrl directory '{path}'{hint}", error) from error


def write(path: Path, text: str) -> None:
    """Write one of a group's files in one go, as the kernel wants it. Blocking. Raises SystemError_."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise SystemError_(f"Cannot write '{text.strip()}' into '{path}'", error) from error


def remove_group(path: Path) -> str | None:
    """Remove a group; its threads are everybody's then. Blocking. Returns why it could not be removed."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot remove resctrl group '{path}': {error.strerror}"
    return None


def read_monitor(path: Path, features: Iterable[str]) -> list[tuple[int, dict[str, int]]]:
    """Return what a group's monitors count, by the id of the cache; nothing where it is gone. Blocking."""
    found = []
    for folder in sorted((path / "mon_data").glob("mon_L3_*")):
        number = folder.name.rpartition("_")[2]
        counted = {name: read_int(folder / name) for name in features}
        if number.isdecimal():
            found.append((int(number), {name: value or 0 for name, value in counted.items()}))
    return sorted(found)
