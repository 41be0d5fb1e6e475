"""The kernel's performance events, counted for the threads of a process.

https://man7.org/linux/man-pages/man2/perf_event_open.2.html; the structure is as it was in Linux 4.1 (112
bytes), of which everything but a few fields is zero.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Mapping

#: libvirt's name -> (type, config); what is missing here the kernel has given up (cmt, mbmt, mbml)
EVENTS: Mapping[str, tuple[int, int]] = {
    "cpu_cycles": (0, 0),
    "instructions": (0, 1),
    "cache_references": (0, 2),
    "cache_misses": (0, 3),
    "branch_instructions": (0, 4),
    "branch_misses": (0, 5),
    "bus_cycles": (0, 6),
    "stalled_cycles_frontend": (0, 7),
    "stalled_cycles_backend": (0, 8),
    "ref_cpu_cycles": (0, 9),
    "cpu_clock": (1, 0),
    "task_clock": (1, 1),
    "page_faults": (1, 2),
    "context_switches": (1, 3),
    "cpu_migrations": (1, 4),
    "page_faults_min": (1, 5),
    "page_faults_maj": (1, 6),
    "alignment_faults": (1, 7),
    "emulation_faults": (1, 8),
}

_NUMBERS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "loongarch64": 241, "ppc64le": 319, "s390x": 331}
_SIZE = 112
#: counted in threads and processes that are made later, too
_INHERIT = 1 << 1
_CLOEXEC = 1 << 3
_ENABLE = 0x2400

_libc = ctypes.CDLL(None, use_errno=True)


class Counter:
    """Counts one event in all threads of a process, and in those they make."""

    def __init__(self, name: str, pid: int) -> None:
        """Start counting. Raises OSError, for an event that this host cannot count as well."""
        if name not in EVENTS:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self._fds: list[int] = []
        kind, config = EVENTS[name]
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                try:
                    self._fds.append(_open(kind, config, int(thread)))
                except ProcessLookupError:
                    continue  # it has just ended
        except BaseException:
            self.close()
            raise

    def read(self) -> int:
        """Return how often the event has happened. Raises OSError."""
        return sum(int(struct.unpack("=Q", os.read(fd, 8))[0]) for fd in self._fds)

    def close(self) -> None:
        """Stop counting."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _open(kind: int, config: int, thread: int) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    head = struct.pack("=IIQQQQQ", kind, _SIZE, config, 0, 0, 0, _INHERIT)
    attributes = ctypes.create_string_buffer(head.ljust(_SIZE, b"\0"), _SIZE)
    fd = int(_libc.syscall(number, attributes, thread, -1, -1, ctypes.c_ulong(_CLOEXEC)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    fcntl.ioctl(fd, _ENABLE, 0)
    return fd
