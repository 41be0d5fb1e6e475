"""The kernel's vsock device: a guest's end of it is a descriptor with an address that no other guest has."""

import errno
import fcntl
import os
import struct
from typing import Final

from qvirt.errors import SystemError_
from qvirt.qemu.devices.vsock import DEVICE, FIRST_CID

#: where the device is
PATH = DEVICE
#: linux/vhost.h: VHOST_VSOCK_SET_GUEST_CID, _IOW(0xAF, 0x60, __u64)
_SET_GUEST_CID: Final = 0x4008AF60
#: linux/vm_sockets.h: VMADDR_CID_ANY is no address
_ANY_CID: Final = 0xFFFFFFFF


def acquire(cid: int | None) -> tuple[int, int]:
    """Open the device for a guest of an address, None for the first that is free. Blocking.

    Returns the descriptor, which has the address as long as it is open, and the address.
    Raises SystemError_.
    """
    try:
        fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        refused = SystemError_(f"unable to open vhost-vsock device '{PATH}'", error)
        if error.errno in (errno.ENOENT, errno.ENODEV):
            refused.add("load the kernel's module vhost_vsock")
        raise refused from error
    try:
        return fd, _first_free(fd) if cid is None else _take(fd, cid)
    except BaseException:
        os.close(fd)
        raise


def _take(fd: int, cid: int) -> int:
    try:
        _set(fd, cid)
    except OSError as error:
        whose = " is another guest's" if error.errno == errno.EADDRINUSE else ""
        raise SystemError_(f"failed to set guest cid: {cid}{whose}", error) from error
    return cid


def _first_free(fd: int) -> int:
    for cid in range(FIRST_CID, _ANY_CID):
        try:
            _set(fd, cid)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise SystemError_("failed to acquire guest cid", error) from error
        return cid
    raise SystemError_(f"failed to acquire guest cid: all from {FIRST_CID} on are taken")


def _set(fd: int, cid: int) -> None:
    fcntl.ioctl(fd, _SET_GUEST_CID, struct.pack("=Q", cid))
