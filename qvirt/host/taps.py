"""Tap devices: made by ioctl, put into a bridge, handed to QEMU as descriptors.

A tap made here lives as long as a descriptor of it is open, so a QEMU that dies takes its taps along.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from qvirt.errors import OperationFailed, SystemError_

_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_MULTI_QUEUE = 0x0100

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFMTU, _SIOCGIFMTU = 0x8922, 0x8921
_SIOCSIFHWADDR = 0x8924
_SIOCBRADDIF, _SIOCBRDELIF = 0x89A2, 0x89A3
_IFF_UP = 0x1
_ARPHRD_ETHER = 1
_NAME_SIZE = 16


def _request(name: str, rest: bytes = b"") -> bytes:
    encoded = name.encode()
    if len(encoded) >= _NAME_SIZE:
        raise OperationFailed(f"network device name '{name}' is longer than {_NAME_SIZE - 1} characters")
    return (encoded.ljust(_NAME_SIZE, b"\0") + rest).ljust(40, b"\0")


@contextlib.contextmanager
def _control() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock.fileno()


def create_tap(name: str, queues: int = 1, *, vnet_header: bool = True) -> tuple[str, list[int]]:
    """Open or make a tap; ``%d`` in the name is the kernel's to fill. Returns its name and descriptors.

    The descriptors are close-on-exec and the caller's to close. Raises SystemError_.
    """
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if vnet_header else 0)
    flags |= _IFF_MULTI_QUEUE if queues > 1 else 0
    fds: list[int] = []
    try:
        for _ in range(queues):
            try:
                fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise SystemError_("Unable to open /dev/net/tun, is tun module loaded?", error) from error
            fds.append(fd)
            try:
                answer = fcntl.ioctl(fd, _TUNSETIFF, _request(name, struct.pack("H", flags)))
            except OSError as error:
                raise SystemError_(f"Unable to create tap device {name}", error) from error
            name = answer[:_NAME_SIZE].rstrip(b"\0").decode()
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return name, fds


def set_mac(name: str, mac: str) -> None:
    """Give a device a MAC address. Raises SystemError_."""
    address = bytes(int(part, 16) for part in mac.split(":"))
    _ioctl(
        _SIOCSIFHWADDR,
        _request(name, struct.pack("H6s", _ARPHRD_ETHER, address)),
        f"Cannot set MAC of '{name}'",
    )


def tap_mac(guest_mac: str) -> str:
    """Return the host side's MAC for a guest's: 0xfe first, so that a bridge never takes it for its own."""
    return "fe" + guest_mac[2:]


def set_up(name: str, up: bool) -> None:
    """Bring a device up or down. Raises SystemError_."""
    answer = _ioctl(_SIOCGIFFLAGS, _request(name), f"Cannot get interface flags on '{name}'")
    (flags,) = struct.unpack_from("H", answer, _NAME_SIZE)
    wanted = flags | _IFF_UP if up else flags & ~_IFF_UP
    _ioctl(_SIOCSIFFLAGS, _request(name, struct.pack("H", wanted)), f"Cannot set interface flags on '{name}'")


def set_mtu(name: str, mtu: int) -> None:
    """Raises SystemError_."""
    _ioctl(_SIOCSIFMTU, _request(name, struct.pack("i", mtu)), f"Cannot set MTU of '{name}' to {mtu}")


def mtu(name: str) -> int:
    """Raises SystemError_."""
    answer = _ioctl(_SIOCGIFMTU, _request(name), f"Cannot get interface MTU on '{name}'")
    return int(struct.unpack_from("i", answer, _NAME_SIZE)[0])


def add_to_bridge(bridge: str, name: str) -> None:
    """Make a device a port of a bridge. Raises SystemError_ in libvirt's words."""
    _bridge(_SIOCBRADDIF, bridge, name, f"Unable to add bridge {bridge} port {name}")


def remove_from_bridge(bridge: str, name: str) -> None:
    """Raises SystemError_."""
    _bridge(_SIOCBRDELIF, bridge, name, f"Unable to remove bridge {bridge} port {name}")


def _bridge(request: int, bridge: str, name: str, failure: str) -> None:
    if not Path(f"/sys/class/net/{bridge}").exists():
        raise SystemError_(f"Cannot get interface MTU on '{bridge}'", OSError(errno.ENODEV, "No such device"))
    try:
        index = socket.if_nametoindex(name)
    except OSError as error:
        raise SystemError_(f"{failure}: no such device", error) from error
    _ioctl(request, _request(bridge, struct.pack("i", index)), failure)


def open_vhost() -> int | None:
    """Open /dev/vhost-net; None where it cannot be used."""
    try:
        return os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None


def _ioctl(request: int, data: bytes, failure: str) -> bytes:
    with _control() as fd:
        try:
            return fcntl.ioctl(fd, request, data)
        except OSError as error:
            raise SystemError_(failure, error) from error
