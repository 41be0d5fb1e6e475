"""How many guests the host's AMD SEV can encrypt."""

from collections.abc import Mapping
from pathlib import Path

from qvirt.host.sysfs import read_text


def guest_limits(root: Path = Path("/")) -> Mapping[str, int]:
    """Return the limits by libvirt's names, nothing where the kernel does not tell. Blocking.

    They are the capacities of the control group "misc": address space identifiers of guests that are
    encrypted, and of those whose registers are, too.
    """
    found = {}
    for line in (read_text(root / "sys/fs/cgroup/misc.capacity") or "").splitlines():
        kind, _, number = line.partition(" ")
        if kind in _NAMES and number.strip().isdecimal():
            found[_NAMES[kind]] = int(number)
    return found


_NAMES = {"sev": "max-guests", "sev_es": "max-es-guests"}
