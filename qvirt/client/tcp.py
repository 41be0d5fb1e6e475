"""TCP connections: to a host of whatever addresses it has."""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

from qvirt.client.uri import PORTS, Uri
from qvirt.constants.error import ErrorDomain
from qvirt.errors import SystemError_

CONNECT_TIMEOUT: Final = 60.0
"""Seconds for finding a host and connecting to it."""


async def connect(uri: Uri) -> socket.socket:
    """Connect to the host and port of a URI; raises SystemError_ in libvirt's words."""
    port = uri.port or PORTS[uri.transport]
    # As libvirt does: a transport that is named without a host means this machine.
    host = uri.host or "localhost"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return await _first(host, port, found)
    except socket.gaierror as error:
        raise SystemError_(
            f"Unable to resolve address '{host}' service '{port}': {error.strerror}", domain=ErrorDomain.RPC
        ) from error
    except TimeoutError as error:
        raise SystemError_(
            f"unable to connect to server at '{host}:{port}': no answer within {CONNECT_TIMEOUT:g} s",
            domain=ErrorDomain.RPC,
        ) from error


async def _first(host: str, port: int, found: Sequence[tuple[Any, ...]]) -> socket.socket:
    """Connect to the first address that answers."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    number = failure.errno if failure and failure.errno else 0
    # asyncio words a refused connection its own way; clients match the system's sentence.
    plain = OSError(number, os.strerror(number))
    raise SystemError_(
        f"unable to connect to server at '{host}:{port}'", plain, domain=ErrorDomain.RPC
    ) from failure
