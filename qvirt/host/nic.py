"""What a network device of the host is and may be told: its MAC, coalescing, isolation in its bridge."""

import errno
import fcntl
import socket
import struct
import subprocess
from ctypes import addressof, create_string_buffer
from pathlib import Path

from qvirt.errors import ConfigUnsupported, SystemError_

_SIOCETHTOOL = 0x8946
_ETHTOOL_GCOALESCE, _ETHTOOL_SCOALESCE = 0x0E, 0x0F
#: struct ethtool_coalesce: the command and 22 numbers; the third is rx_max_coalesced_frames
_COALESCE_WORDS = 23
_RX_FRAMES = 2
_DEADLINE = 10.0


def mac(name: str) -> str:
    """Return a device's MAC address. Raises FileNotFoundError when there is no such device."""
    return Path(f"/sys/class/net/{name}/address").read_text(encoding="ascii").strip()


def isolate_port(name: str, isolated: bool = True) -> None:
    """Keep a port of a bridge from reaching other isolated ports, or let it. Raises SystemError_."""
    try:
        Path(f"/sys/class/net/{name}/brport/isolated").write_text("1" if isolated else "0", encoding="ascii")
    except OSError as error:
        raise SystemError_(f"Unable to set bridge port isolated of '{name}'", error) from error


def tell_address(name: str, mac: str) -> None:
    """Tell a bridge which address a port of its has; it learns none there, and tries none out.

    Raises SystemError_.
    """
    command = ["bridge", "fdb", "replace", mac, "dev", name, "master", "static"]
    try:
        for setting in ("learning", "unicast_flood"):
            Path(f"/sys/class/net/{name}/brport/{setting}").write_text("0", encoding="ascii")
        done = subprocess.run(command, check=False, capture_output=True, timeout=_DEADLINE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemError_(f"cannot tell the bridge of '{name}' the address {mac}: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise SystemError_(f"cannot tell the bridge of '{name}' the address {mac}: {said}")


def set_coalesce(name: str, frames: int) -> None:
    """Let a device gather that many received frames before it tells. Raises ConfigUnsupported."""
    words = create_string_buffer(4 * _COALESCE_WORDS)
    request = struct.pack("16sP", name.encode(), addressof(words)).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            struct.pack_into("I", words, 0, _ETHTOOL_GCOALESCE)
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
            struct.pack_into("I", words, 0, _ETHTOOL_SCOALESCE)
            struct.pack_into("I", words, 4 * _RX_FRAMES, frames)
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                raise ConfigUnsupported(
                    f"Cannot set coalesce info on '{name}': {error.strerror} (frames='{frames}')"
                ) from error
            raise SystemError_(f"Cannot set coalesce info on '{name}'", error) from error
