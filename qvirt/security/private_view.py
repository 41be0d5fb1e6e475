"""What a helper sees of the host: libvirt's folders with nothing of other guests in them, and a small /dev.

Users alone do not keep the swtpm of one guest from the state of another, as all run as one user. Built as
`private_dev` is: by the thread that makes the process then. Everything blocks.
"""

import os
from collections.abc import Iterable

from qvirt.security import private_dev
from qvirt.security.private_dev import mount

#: the nodes every program expects
_NODES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND = 2, 4, 8, 1 << 12
_OPTIONS = "mode=755,size=65536"


def build(hidden: Iterable[str], kept: Iterable[str], staging: str) -> None:
    """Move this thread, which must end soon, to a mount namespace where some folders look empty.

    kept: folders below them that are there all the same. staging: a folder, covered for a moment, in the new
    namespace only. Raises OSError.
    """
    nodes = [node for path in _NODES if (node := private_dev.find(path)) is not None]
    private_dev.build(nodes, staging)
    held = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) for path in kept]
    try:
        for folder in hidden:
            if os.path.isdir(folder):
                mount("none", folder, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, _OPTIONS)
        for path, fd in held:
            os.makedirs(path, 0o755, exist_ok=True)
            mount(f"/proc/self/fd/{fd}", path, None, _MS_BIND)
    finally:
        for _, fd in held:
            os.close(fd)
