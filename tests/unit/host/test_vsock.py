"""Addresses of guests' ends of vsock: what is free is found, what is not is said."""

import errno
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from qvirt.errors import SystemError_
from qvirt.host import vsock


class Kernel:
    """Stands in for the kernel's device: addresses that are taken, and what else it answers."""

    def __init__(self, *taken: int, answer: int = 0) -> None:
        self.taken = set(taken)
        self.answer = answer
        self.asked: list[int] = []

    def ioctl(self, fd: int, request: int, argument: bytes) -> int:
        assert os.get_inheritable(fd) is False
        assert request == (1 << 30) | (8 << 16) | (0xAF << 8) | 0x60
        (cid,) = struct.unpack("=Q", argument)
        self.asked.append(cid)
        error = self.answer or (errno.EADDRINUSE if cid in self.taken else 0)
        if error:
            raise OSError(error, os.strerror(error))
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    device = tmp_path / "vhost-vsock"
    device.touch()
    known = Kernel()
    monkeypatch.setattr(vsock, "PATH", str(device))
    monkeypatch.setattr(vsock, "fcntl", SimpleNamespace(ioctl=known.ioctl))
    return known


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_first_that_is_free(kernel: Kernel) -> None:
    kernel.taken = {3, 4, 6}
    fd, cid = vsock.acquire(None)
    os.close(fd)
    assert cid == 5
    assert kernel.asked == [3, 4, 5]


def test_the_one_that_is_asked_for(kernel: Kernel) -> None:
    fd, cid = vsock.acquire(99)
    os.close(fd)
    assert (cid, kernel.asked) == (99, [99])


def test_what_is_refused_leaves_no_descriptor(kernel: Kernel) -> None:
    kernel.taken = {99}
    before = descriptors()
    with pytest.raises(SystemError_, match="failed to set guest cid: 99 is another guest's: Address already"):
        vsock.acquire(99)
    kernel.answer = errno.EPERM
    with pytest.raises(SystemError_, match="failed to set guest cid: 7: Operation not permitted"):
        vsock.acquire(7)
    with pytest.raises(SystemError_, match="failed to acquire guest cid: Operation not permitted"):
        vsock.acquire(None)
    assert kernel.asked == [99, 7, 3]
    assert descriptors() == before


def test_without_the_device_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vsock, "PATH", str(tmp_path / "none"))
    with pytest.raises(
        SystemError_, match=r"open vhost-vsock device '.*': No such file.*; load .* vhost_vsock"
    ):
        vsock.acquire(None)
