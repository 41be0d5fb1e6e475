"""The client's side of TLS: its certificates, how the server's is looked at, the server's word of welcome."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from qvirt.client.channel import RECEIVE, Lost, Received, SocketChannel
from qvirt.client.uri import Uri
from qvirt.constants.error import ErrorDomain
from qvirt.errors import AuthFailed, InvalidArg, QvirtError, RpcError, SystemError_
from qvirt.net import places, priority
from qvirt.net.layer import LayerEnd, LayerError
from qvirt.net.places import Places
from qvirt.net.tls import WELCOME, TlsLayer, no_password, peer_chain

HANDSHAKE_TIMEOUT: Final = 60.0
"""Seconds for handshake and welcome."""


class TlsChannel(SocketChannel):
    """A socket whose TLS session stands. early: what came behind the server's word of welcome."""

    def __init__(self, sock: socket.socket, layer: TlsLayer, early: bytes) -> None:
        super().__init__(sock, layer=layer, is_local=False, passes_fds=False)
        self._early = early
        self._session = layer.session

    @property
    def cipher_bits(self) -> int:
        """The strength of the session's cipher."""
        cipher = self._session.cipher()
        return cipher[2] if cipher else 0

    def start(self, received: Received, lost: Lost) -> None:
        """Begin to read."""
        super().start(received, lost)
        if self._early:
            early, self._early = self._early, b""
            self._loop.call_soon(received, early, [])


async def secure(
    sock: socket.socket, uri: Uri, context: ssl.SSLContext, check: Callable[[ssl.SSLObject], bytes]
) -> TlsChannel:
    """Do the handshake on a connected socket, which is closed when it fails; raises QvirtError.

    context, check: as `prepare` makes them.
    """
    try:
        hostname = uri.host or "localhost"
        layer = TlsLayer(context, check, server_side=False, hostname=hostname)
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            return TlsChannel(sock, layer, await _shake_hands(sock, layer))
    except BaseException as error:
        sock.close()
        if isinstance(error, TimeoutError):
            raise SystemError_(
                f"the server did not finish the TLS handshake within {HANDSHAKE_TIMEOUT:g} s",
                domain=ErrorDomain.RPC,
            ) from error
        raise


async def _shake_hands(sock: socket.socket, layer: TlsLayer) -> bytes:
    """Drive the handshake up to the server's welcome; gives what came behind it."""
    loop = asyncio.get_running_loop()
    plain = b""
    try:
        await loop.sock_sendall(sock, layer.pending())
        while not plain:
            data = await loop.sock_recv(sock, RECEIVE)
            if not data:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            plain = layer.unwrap(data)
            if own := layer.pending():
                await loop.sock_sendall(sock, own)
    except LayerEnd:
        raise SystemError_(
            "Unable to read TLS confirmation: the server said goodbye", domain=ErrorDomain.RPC
        ) from None
    except OSError as error:
        what = (
            "Unable to read TLS confirmation" if layer.established else "Unable to complete the TLS handshake"
        )
        raise SystemError_(what, error, domain=ErrorDomain.RPC) from error
    except LayerError as error:
        if own := layer.pending():
            await loop.sock_sendall(sock, own)
        text = str(error)
        if "certificate" in text:
            raise AuthFailed(
                f"Failed to verify peer's certificate: {text}", domain=ErrorDomain.RPC
            ) from error
        raise SystemError_(f"authentication failed: {text}", domain=ErrorDomain.RPC) from error
    if plain[:1] != WELCOME:
        raise RpcError("server verification (of our certificate or IP address) failed")
    return plain[1:]


def prepare(
    uri: Uri, default_priority: str | None
) -> tuple[ssl.SSLContext, Callable[[ssl.SSLObject], bytes]]:
    """Make the context for a URI and what looks at the server's certificate; raises QvirtError."""
    chosen = places.find_client(uri.parameter("pkipath"), euid=os.geteuid(), home=os.environ.get("HOME"))
    verify = not uri.is_set("no_verify")
    if chosen.cert is not None and not uri.is_set("no_sanity"):
        # Loaded only here: it takes a while, and those who stay on their machine need none of it.
        from qvirt.net import x509

        x509.check_set(chosen.cert, chosen.ca, chosen.crl, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    try:
        priority.parse(uri.parameter("tls_priority") or default_priority).apply(context)
    except InvalidArg as error:
        raise SystemError_(
            f"Failed to set TLS session priority: {error.detail}", domain=ErrorDomain.RPC
        ) from error
    try:
        if chosen.cert is not None:
            context.load_cert_chain(str(chosen.cert), str(chosen.key), no_password)
        context.load_verify_locations(str(chosen.ca))
    except (ssl.SSLError, OSError) as error:
        why = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or str(error)
        raise SystemError_(
            f"Unable to set x509 key and certificate: {chosen.key}, {chosen.cert}, {chosen.ca}: {why}",
            domain=ErrorDomain.RPC,
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context, _welcome_all
    return context, _checker(chosen)


def _welcome_all(session: ssl.SSLObject) -> bytes:
    return b""


def _checker(chosen: Places) -> Callable[[ssl.SSLObject], bytes]:
    from qvirt.net import x509

    authorities = x509.read(chosen.ca, "CA certificate")
    lists = x509.read_lists(chosen.crl, authorities) if chosen.crl else []

    def check(session: ssl.SSLObject) -> bytes:
        try:
            x509.check_peer(peer_chain(session), "server", lists)
        except QvirtError as error:
            raise LayerError(error.detail) from None
        return b""

    return check
