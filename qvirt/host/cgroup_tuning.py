"""Reading and setting what control groups limit, in libvirt's units, by whichever version has the controller.

Each function takes the group and, where threads have groups of their own, whose. Blocking; raises
OperationInvalid when the controller is not to be had, SystemError_ when the kernel refuses.
"""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg, OperationInvalid, SystemError_
from qvirt.host.cgroup import Group
from qvirt.host.sysfs import load, store
from qvirt.xml.codecs import format_cpuset, parse_cpuset

#: KiB; no limit, in libvirt's interface
UNLIMITED = 9007199254740991
#: bytes; version 1 says the most its counters hold, which is whole pages
_NO_LIMIT = 2**63 - 2**16
#: microseconds; version 2's "max" as libvirt shows it
NO_QUOTA = 17592186044415

#: libvirt's name -> (file of version 1, file of version 2)
MEMORY = {
    "hard_limit": ("memory.limit_in_bytes", "memory.max"),
    "soft_limit": ("memory.soft_limit_in_bytes", "memory.high"),
    "swap_hard_limit": ("memory.memsw.limit_in_bytes", "memory.swap.max"),
}
#: libvirt's name -> (file of version 1, key in version 2's io.max)
THROTTLE = {
    "read_iops_sec": ("blkio.throttle.read_iops_device", "riops"),
    "write_iops_sec": ("blkio.throttle.write_iops_device", "wiops"),
    "read_bytes_sec": ("blkio.throttle.read_bps_device", "rbps"),
    "write_bytes_sec": ("blkio.throttle.write_bps_device", "wbps"),
}
#: the kernel's own weight of a group, and the least and the most it takes, by version
_SHARES = {1: (1024, 2, 262144), 2: (100, 1, 10000)}
#: how many times its weight a guest has while its QEMU loads
HASTE = 4


def _failed(detail: str, error: OSError) -> SystemError_:
    return SystemError_(detail, error, domain=ErrorDomain.CGROUP)


def _write(path: Path, value: object) -> None:
    try:
        store(path, str(value))
    except OSError as error:
        raise _failed(f"Unable to write '{value}' to '{path}'", error) from error


def _read(path: Path) -> str:
    try:
        return load(path).strip()
    except OSError as error:
        raise _failed(f"Unable to read from '{path}'", error) from error


# ------------------------------------------------------------------------------ cpu


def set_shares(group: Group, value: int) -> None:
    """Set the guest's weight among all that want a CPU. Raises InvalidArg for one there is not."""
    folder, version = group.folder("cpu"), group.version("cpu")
    _, least, most = _SHARES[version]
    if not least <= value <= most:
        raise InvalidArg(f"shares '{value}' must be in range [{least}, {most}]", domain=ErrorDomain.CGROUP)
    _write(folder / ("cpu.shares" if version == 1 else "cpu.weight"), value)


def shares(group: Group) -> int:
    """Return the weight."""
    name = "cpu.shares" if group.version("cpu") == 1 else "cpu.weight"
    return int(_read(group.folder("cpu") / name))


def hasten(group: Group, value: int | None) -> None:
    """Give a guest whose QEMU loads more than its weight: somebody waits for it, and it is soon over.

    value: its weight, None for the kernel's.
    """
    version = group.version("cpu")
    if version:
        usual, _, most = _SHARES[version]
        set_shares(group, min((value or usual) * HASTE, most))


def calm(group: Group, value: int | None) -> None:
    """Give it its weight, see `hasten`."""
    version = group.version("cpu")
    if version:
        set_shares(group, value or _SHARES[version][0])


def set_bandwidth(group: Group, thread: str, period: int, quota: int) -> None:
    """Set how much CPU time may be used in a period, both in microseconds; 0 leaves one as it is.

    A negative quota is none.
    """
    folder = group.folder("cpu", thread)
    if group.version("cpu") == 1:
        before = _read(folder / "cpu.cfs_period_us")
        if period:
            _write(folder / "cpu.cfs_period_us", period)
        if quota:
            try:
                _write(folder / "cpu.cfs_quota_us", max(quota, -1))
            except SystemError_:
                if period:
                    _write(folder / "cpu.cfs_period_us", before)
                raise
        return
    now_quota, now_period = _read(folder / "cpu.max").split()
    wanted = now_quota if not quota else "max" if quota < 0 or quota >= NO_QUOTA else quota
    _write(folder / "cpu.max", f"{wanted} {period or now_period}")


def bandwidth(group: Group, thread: str) -> tuple[int, int]:
    """Return period and quota in microseconds."""
    folder = group.folder("cpu", thread)
    if group.version("cpu") == 1:
        quota = int(_read(folder / "cpu.cfs_quota_us"))
        return int(_read(folder / "cpu.cfs_period_us")), quota
    text, period = _read(folder / "cpu.max").split()
    return int(period), NO_QUOTA if text == "max" else int(text)


# --------------------------------------------------------------------------- cpuset


def set_cpus(group: Group, thread: str, cpus: Iterable[int]) -> None:
    """Let threads run on these CPUs, as far as the host has them, as the scheduler's affinity does."""
    folder = group.folder("cpuset", thread)
    name = "cpuset.effective_cpus" if group.version("cpuset") == 1 else "cpuset.cpus.effective"
    there = parse_cpuset(_read(folder.parent / name))
    _write(folder / "cpuset.cpus", format_cpuset(frozenset(cpus) & there or frozenset(cpus)))


def set_nodes(group: Group, thread: str, nodes: Iterable[int]) -> None:
    """Let the memory of threads come from these nodes of the host."""
    _write(group.folder("cpuset", thread) / "cpuset.mems", format_cpuset(frozenset(nodes)))


def nodes(group: Group, thread: str) -> str:
    """Return the host's nodes that memory of threads comes from."""
    path = group.folder("cpuset", thread) / "cpuset.mems"
    return _read(path) or _read(path.with_name("cpuset.mems.effective"))


# --------------------------------------------------------------------------- memory


def set_memory(group: Group, kind: str, kib: int) -> None:
    """Set a limit on memory, a key of `MEMORY`."""
    folder, (first, second) = group.folder("memory"), MEMORY[kind]
    if group.version("memory") == 1:
        _write(folder / first, -1 if kib >= UNLIMITED else kib << 10)
        return
    # libvirt's swap limit is of memory and swap together, version 2's of swap alone
    both = memory(group, "swap_hard_limit") if kind == "hard_limit" else UNLIMITED
    if kind == "swap_hard_limit" and kib < UNLIMITED:
        hard = memory(group, "hard_limit")
        kib = max(0, kib - hard) if hard < UNLIMITED else kib
    _write(folder / second, "max" if kib >= UNLIMITED else kib << 10)
    if both < UNLIMITED:
        set_memory(group, "swap_hard_limit", both)


def memory(group: Group, kind: str) -> int:
    """Return a limit in KiB; a kernel that does not count swap has none there."""
    folder, (first, second) = group.folder("memory"), MEMORY[kind]
    version = group.version("memory")
    path = folder / (first if version == 1 else second)
    if kind == "swap_hard_limit" and not path.exists():
        return UNLIMITED
    text = _read(path)
    kib = UNLIMITED if text == "max" or int(text) >= _NO_LIMIT else int(text) >> 10
    if version == 2 and kind == "swap_hard_limit" and kib < UNLIMITED:
        hard = memory(group, "hard_limit")
        kib = min(UNLIMITED, kib + hard) if hard < UNLIMITED else kib
    return kib


# ---------------------------------------------------------------------------- blkio


def device_number(path: str) -> str:
    """Return ``major:minor`` of a block device. Raises SystemError_."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _failed(f"Path '{path}' is not accessible", error) from error
    if not stat.S_ISBLK(status.st_mode):
        raise _failed(
            f"Path '{path}' must be a block device", OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        )
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _weight_file(group: Group, *, device: bool = False) -> tuple[Path, str]:
    """Return the file of weights and what stands before a weight in it."""
    folder = group.folder("blkio")
    if group.version("blkio") == 1:
        names = ("blkio.weight_device", "blkio.bfq.weight_device") if device else (
            "blkio.weight", "blkio.bfq.weight")  # fmt: skip
    else:
        names = ("io.weight", "io.bfq.weight")
    for name in names:
        if (folder / name).exists():
            return folder / name, "default " if group.version("blkio") == 2 and not device else ""
    what = "blkio device weight" if device else "blkio weight"
    raise OperationInvalid(f"{what} is valid only for bfq or cfq scheduler")


def set_weight(group: Group, value: int) -> None:
    """Set the guest's weight among all that use disks."""
    path, before = _weight_file(group)
    _write(path, f"{before}{value}")


def weight(group: Group) -> int:
    """Return the weight."""
    path, _ = _weight_file(group)
    return int(_read(path).split("\n")[0].removeprefix("default "))


def set_device_weight(group: Group, device: str, value: int) -> None:
    """Set the weight for one disk of the host; 0 takes it away."""
    path, _ = _weight_file(group, device=True)
    unset = "default" if group.version("blkio") == 2 else "0"
    _write(path, f"{device_number(device)} {value or unset}")


def set_throttle(group: Group, device: str, kind: str, value: int) -> None:
    """Set a rate for one disk of the host, a key of `THROTTLE`, per second; 0 is no limit."""
    folder, (first, second) = group.folder("blkio"), THROTTLE[kind]
    number = device_number(device)
    if group.version("blkio") == 1:
        _write(folder / first, f"{number} {value}")
    else:
        _write(folder / "io.max", f"{number} {second}={value or 'max'}")
