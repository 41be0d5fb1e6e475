"""TCP ports for displays: handed out from a range, checked against what else listens on this host."""

import errno
import socket

from qvirt.errors import OperationFailed

_ANY = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))  # noqa: S104 - a probe, nothing listens


class PortAllocator:
    """Ports of one range. What was handed out is not handed out again until it is released."""

    def __init__(self, name: str, low: int, high: int) -> None:
        """name: how errors call the range ("display")."""
        self.name = name
        self.low = low
        self.high = high
        self._taken: set[int] = set()

    def acquire(self) -> int:
        """Take the lowest port that is free here and on the host. Raises OperationFailed."""
        for port in range(self.low, self.high + 1):
            if port not in self._taken and is_free(port):
                self._taken.add(port)
                return port
        raise OperationFailed(
            f"Unable to find an unused port in range '{self.name}' ({self.low}-{self.high})"
        )

    def reserve(self, port: int) -> None:
        """Note a port somebody chose (or a recovered domain uses), so that it is not handed out."""
        self._taken.add(port)

    def release(self, port: int) -> None:
        """Give a port back. Harmless for one that was not taken."""
        self._taken.discard(port)


def is_free(port: int) -> bool:
    """Tell whether nobody on this host listens on the port, on either protocol."""
    for family, address in _ANY:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError as error:
            # a host without IPv6 has nobody listening there
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue
            return False
    return True
