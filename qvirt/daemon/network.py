"""The sockets clients come to over a network, and how such a connection is set up."""

import errno
import socket
from typing import Any, Final

from qvirt.daemon.listen import Service, Transport, close_all
from qvirt.daemon.remote_config import AuthMode, RemoteConfig
from qvirt.errors import ConfigSyntax, OperationFailed, SystemError_

_UNSENT_MS: Final = 120_000
"""How long the kernel tries to bring unacknowledged bytes to a peer; it is gone then, not slow."""

_PROBES: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""Finds out about silent peers that have not asked for libvirt's own keepalive. Seconds, seconds, times."""


def listen_network(config: RemoteConfig) -> list[Service]:
    """Listen on the ports of the settings; raises ConfigSyntax, OperationFailed, SystemError_."""
    wanted: list[tuple[Transport, str, AuthMode]] = []
    if config.listen_tcp:
        wanted.append(("tcp", config.tcp_port, config.auth_tcp))
    if config.listen_tls:
        wanted.append(("tls", config.tls_port, config.auth_tls))
    services: list[Service] = []
    try:
        for transport, port, auth in wanted:
            for sock in _bind(config.listen_addr, port, config.max_queued_clients):
                services.append(Service(sock, None, False, auth, ours=False, transport=transport))
    except BaseException:
        close_all(services)
        raise
    return services


def _bind(address: str | None, port: str, backlog: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        raise ConfigSyntax(f"listen_addr: Unable to resolve address '{address}' service '{port}': "
                           f"{error.strerror}") from error  # fmt: skip
    socks: list[socket.socket] = []
    try:
        for family, kind, _, _, name in found:
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            socks.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(name)
            sock.listen(backlog)
    except OSError as error:
        for sock in socks:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OperationFailed(
                f"another program listens on port {port} of '{address or 'all addresses'}'; stop it, "
                "or choose another port"
            ) from None
        raise SystemError_(
            f"Unable to bind to port {port} of '{address or 'all addresses'}'", error
        ) from error
    return socks


def set_up(sock: socket.socket) -> None:
    """Set a network client's socket up: small packets leave at once, dead peers are found out."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
    for option, value in _PROBES:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def own_address(sock: socket.socket) -> str:
    """Give our own end's address and port as `peer_address` does."""
    if sock.family == socket.AF_UNIX:
        return ""
    return _text(sock.getsockname())


def sasl_address(text: str) -> str:
    """Write an address and port the way SASL does: "ADDRESS;PORT"."""
    host, _, port = text.rpartition(":")
    return f"{host.strip('[]')};{port}" if text else ""


def peer_address(sock: socket.socket) -> str:
    """Give the peer's address and port, "" for one that has left already or came by a local socket."""
    if sock.family == socket.AF_UNIX:
        return ""
    try:
        return _text(sock.getpeername())
    except OSError:
        return ""


def _text(name: tuple[Any, ...]) -> str:
    host, port, *_ = name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
