"""What a QEMU's process may use: core file, open files, processes, locked memory."""

import errno
import os
import resource
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from qvirt.errors import SystemError_
from qvirt.host.cgroup_tuning import UNLIMITED
from qvirt.host.config import QemuConfig
from qvirt.model.devices.device import Device
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.domain import Domain
from qvirt.qemu.devices.vfio import containers, is_behind_vfio
from qvirt.runtime.life.process import INFINITE, Limits

_CAP_SYS_RESOURCE = 24

#: what a guest's devices map beside its memory, bytes; as libvirt reckons
_DEVICE_SPACE = 1 << 30


def locked_memory(definition: Domain) -> int | None:
    """Return how much memory QEMU has to be able to lock, bytes; None when nothing locks any.

    `<locked/>` has no bound but the hard limit's; a host's devices behind VFIO can reach all of the memory,
    which is locked once for all of them, or for each; a vDPA device counts it again.
    """
    said = definition.__dict__
    locked = "memory_backing" in said and definition.memory_backing.locked
    times = containers(definition) + sum(map(_is_vdpa, definition.devices.interfaces))
    if not locked and not times:
        return None
    hard = definition.memtune.hard_limit if "memtune" in said else None
    if hard is not None and hard.value < UNLIMITED:
        return hard.value * 1024
    if locked:
        return INFINITE
    size = definition.memory.value if definition.memory is not None else 0
    return size * times * 1024 + _DEVICE_SPACE


def _is_vdpa(dev: Device) -> bool:
    return isinstance(dev, Interface) and dev.actual_type == InterfaceType.VDPA


def follow(pid: int, definition: Domain, devices: Iterable[Device], *, lower: bool = False) -> None:
    """Let a QEMU lock what it has to now that devices have come or gone. lower: it had to lock more for them.

    One that has to lock nothing any more has the daemon's own limit, as at a start. Raises SystemError_ where
    it needs more than a daemon without the capability can give.
    """
    wanted = locked_memory(definition)
    if wanted is None and not lower and not any(_is_vdpa(dev) or is_behind_vfio(dev) for dev in devices):
        return
    own = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = own if wanted is None else (_number(wanted), _number(wanted))
    try:
        resource.prlimit(pid, resource.RLIMIT_MEMLOCK, limit)
    except ProcessLookupError:
        pass  # it has ended meanwhile
    except PermissionError:
        _check("", "locked memory", wanted, resource.RLIMIT_MEMLOCK)


def _number(limit: int) -> int:
    return resource.RLIM_INFINITY if limit == INFINITE else limit


def core_size(config: QemuConfig) -> int:
    """Return how large core files may become, bytes."""
    return INFINITE if config.max_core is None else config.max_core


def limits_of(definition: Domain, config: QemuConfig) -> Limits:
    """Return a guest's limits. Raises SystemError_ for one that this daemon cannot give."""
    found = Limits(core_size(config), config.max_files, config.max_processes, locked_memory(definition))
    if not _may_raise():
        _check("max_core", "the size of core files", found.core, resource.RLIMIT_CORE)
        _check("max_files", "the number of open files", found.files, resource.RLIMIT_NOFILE)
        _check("max_processes", "the number of processes", found.processes, resource.RLIMIT_NPROC)
        _check("", "locked memory", found.memlock, resource.RLIMIT_MEMLOCK)
    return found


def _check(option: str, what: str, wanted: int | None, number: int) -> None:
    have = resource.getrlimit(number)[1]
    if not wanted or have == resource.RLIM_INFINITY or (wanted != INFINITE and wanted <= have):
        return
    value = "unlimited" if wanted == INFINITE else wanted
    source = f" ('{option}' in qemu.conf)" if option else ""
    raise SystemError_(
        f"cannot limit {what} to {value}{source}: the daemon itself is limited to {have} and has not "
        "CAP_SYS_RESOURCE; give it the capability, or start it with a higher limit",
        OSError(errno.EPERM, os.strerror(errno.EPERM)),
    )


@cache
def _may_raise() -> bool:
    """Tell whether this process may raise limits."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False
