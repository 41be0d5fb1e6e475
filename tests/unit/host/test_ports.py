"""Ports: handed out once, and never one that somebody listens on."""

import socket

import pytest

from qvirt.errors import OperationFailed
from qvirt.host.ports import PortAllocator, is_free


def taken_port() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def test_ports_are_taken_and_given_back() -> None:
    with taken_port() as busy:
        port = busy.getsockname()[1]
        assert not is_free(port)
        allocator = PortAllocator("display", port, port + 30)
        first = allocator.acquire()
        assert first > port
        assert allocator.acquire() > first
        allocator.release(first)
        assert allocator.acquire() == first


def test_a_full_range_is_refused() -> None:
    with taken_port() as busy:
        port = busy.getsockname()[1]
        with pytest.raises(OperationFailed, match="Unable to find an unused port in range 'display'"):
            PortAllocator("display", port, port).acquire()


def test_reserved_ports_are_not_handed_out() -> None:
    allocator = PortAllocator("display", 47000, 47003)
    allocator.reserve(47000)
    assert allocator.acquire() != 47000
