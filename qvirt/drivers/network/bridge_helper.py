"""qemu-bridge-helper: a tap in a bridge of the host's for a daemon that may make none itself.

The helper has root's power by its file's mode or capabilities; the host's administrator says in its
``bridge.conf`` which bridges it may be asked for. It makes one tap, hands it over and ends.
"""

import fcntl
import os
import socket
import struct
import subprocess

from qvirt.errors import ConfigUnsupported, OperationTimeout, SystemError_
from qvirt.model.devices.interface import Interface

_DEADLINE = 20.0
_TUNGETIFF = 0x800454D2
_NAME_SIZE = 16


def needed(plugged: Interface) -> bool:
    """Tell whether a tap of this interface is the helper's to make."""
    return os.geteuid() != 0 and plugged.source is not None and plugged.source.bridge is not None


def make_tap(program: str, plugged: Interface, queues: int) -> tuple[str, int]:
    """Let the helper make a tap; returns its name and descriptor, the caller's to close. Blocking.

    Raises ConfigUnsupported for what the helper cannot do, OperationTimeout, SystemError_ with what it said.
    """
    if queues > 1:
        raise ConfigUnsupported(
            "Multiqueue network is not supported with the bridge helper; leave <driver queues=…/> out, or "
            "run the guest by qemu:///system"
        )
    if plugged.virtualport is not None and plugged.virtualport.type:
        raise ConfigUnsupported(
            f"<virtualport type='{plugged.virtualport.type}'> is not supported with the bridge helper; run "
            "the guest by qemu:///system"
        )
    bridge = (plugged.source.bridge if plugged.source is not None else None) or ""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        words = [program, "--use-vnet", f"--br={bridge}", f"--fd={theirs.fileno()}"]
        try:
            done = subprocess.run(
                words,
                check=False,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                timeout=_DEADLINE,
                env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
                cwd="/",
            )
        except subprocess.TimeoutExpired as error:
            raise OperationTimeout(f"'{' '.join(words)}' did not end within {_DEADLINE:g} s") from error
        except OSError as error:
            raise SystemError_(f"cannot run bridge helper '{program}'", error) from error
        ours.setblocking(False)
        try:
            fds = socket.recv_fds(ours, 1, 1)[1]
        except OSError:
            fds = []
    if not fds:
        said = done.stderr.decode(errors="replace").strip()
        raise SystemError_(
            f"{' '.join(words)}: failed to communicate with bridge helper: {said}; it needs root's power "
            f"(chmod u+s {program}) and 'allow {bridge}' in its bridge.conf"
        )
    os.set_inheritable(fds[0], False)
    try:
        answer = fcntl.ioctl(fds[0], _TUNGETIFF, struct.pack("40s", b""))
    except OSError as error:
        os.close(fds[0])
        raise SystemError_(f"'{program}' handed over what is no tap", error) from error
    return answer[:_NAME_SIZE].rstrip(b"\0").decode(), fds[0]
