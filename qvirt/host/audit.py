"""The kernel's audit log: records about guests, sent over netlink. What sends them needs CAP_AUDIT_WRITE."""

import os
import socket
import struct
from typing import Final

NETLINK_AUDIT: Final = 9
_GET: Final = 1000
VIRT_CONTROL: Final = 2500
"""A guest was started or stopped."""
VIRT_RESOURCE: Final = 2501
"""A guest was given something, or it was taken away."""
VIRT_MACHINE_ID: Final = 2502
"""Under which label a guest runs."""

_HEADER: Final = struct.Struct("=IHHII")
_ERROR: Final = 2
_REQUEST, _ACK = 1, 4
_TEXT_MAX: Final = 8000
_PATIENCE: Final = 1.0
"""Seconds; the kernel answers while the question is being sent."""


class AuditSocket:
    """A socket to the kernel's audit."""

    def __init__(self) -> None:
        """Raises OSError where this kernel has no audit, or keeps it from us."""
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_AUDIT)
        self._sock.settimeout(_PATIENCE)
        self._serial = 0

    def close(self) -> None:
        """Close it."""
        self._sock.close()

    def enabled(self) -> bool:
        """Tell whether the kernel keeps an audit log; raises OSError when it does not say."""
        self._send(_GET, b"", _REQUEST | _ACK)
        while True:
            kind, payload = self._receive()
            if kind == _GET:
                return bool(struct.unpack_from("=II", payload)[1])
            if kind == _ERROR:
                _raise(payload)

    def write(self, kind: int, text: str) -> None:
        """Write a record; raises OSError, and does not wait for a kernel that is slow."""
        data = text.encode("utf-8", "surrogateescape")[:_TEXT_MAX]
        self._send(kind, data + b"\0", _REQUEST | _ACK)
        answered, payload = self._receive()
        if answered == _ERROR:
            _raise(payload)

    def _send(self, kind: int, payload: bytes, flags: int) -> None:
        self._serial += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, flags, self._serial, 0)
        self._sock.sendto(header + payload, (0, 0))

    def _receive(self) -> tuple[int, bytes]:
        data = self._sock.recv(1 << 14)
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        return kind, data[_HEADER.size : length]


def _raise(payload: bytes) -> None:
    (code,) = struct.unpack_from("=i", payload)
    if code:
        raise OSError(-code, os.strerror(-code))


def encode(value: str) -> str:
    """Give a value as records carry it: in quotes, or in hexadecimal where quotes would not hold it."""
    data = value.encode("utf-8", "surrogateescape")
    if any(byte < 0x21 or byte == 0x22 or byte >= 0x7F for byte in data):
        return data.hex().upper()
    return f'"{value}"'
