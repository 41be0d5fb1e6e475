"""TLS as a layer: the protocol runs in memory, so that the socket stays ours.

libvirt's use of it: no plain prologue; when the handshake is done the server looks at the client's
certificate and sends one byte, 1, as a word of welcome, or closes. A session ticket in front of that byte
makes libvirt's clients fail, so there are none.
"""

import contextlib
import ssl
from collections.abc import Callable
from typing import Final

from qvirt.net.layer import LayerEnd, LayerError

WELCOME: Final = b"\1"
_DER: Final = 2
"""OpenSSL's word for it in Python's `_ssl`."""
RECORD: Final = 16384
"""Bytes a record holds at most."""


class TlsLayer:
    """One end of a TLS session.

    on_established: called once, when the handshake is done, with the session; raises LayerError to refuse the
    peer. What it returns is sent as the first data.
    """

    __slots__ = ("_established", "_in", "_on_established", "_out", "_tls")

    def __init__(
        self,
        context: ssl.SSLContext,
        on_established: Callable[[ssl.SSLObject], bytes],
        *,
        server_side: bool,
        hostname: str | None = None,
    ) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=hostname)
        self._on_established = on_established
        self._established = False
        if not server_side:
            self._shake_hands()

    @property
    def session(self) -> ssl.SSLObject:
        """The session, to ask for cipher and certificate."""
        return self._tls

    @property
    def established(self) -> bool:
        """Tell whether the handshake is done and the peer accepted."""
        return self._established

    def unwrap(self, data: bytes) -> bytes:
        """Take what came; gives plain bytes once the handshake is done."""
        source = self._in
        source.write(data)
        if not self._established and not self._shake_hands():
            return b""
        tls = self._tls
        try:
            first = tls.read(RECORD)
            if first and not source.pending and not tls.pending():
                return first
            pieces = [first]
            try:
                while pieces[-1]:
                    pieces.append(tls.read(RECORD))
            except ssl.SSLWantReadError:
                return b"".join(pieces)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            raise LayerEnd from None
        except ssl.SSLError as error:
            raise LayerError(f"TLS: {reason(error)}") from None
        # An empty piece is the peer's farewell; what came before it still counts.
        whole = b"".join(pieces)
        if not whole:
            raise LayerEnd
        return whole

    def wrap(self, data: bytes) -> bytes:
        """Give the records for plain bytes; raises LayerError."""
        tls = self._tls
        try:
            sent = tls.write(data)
            if sent < len(data):
                rest = memoryview(data)
                while sent < len(data):
                    sent += tls.write(rest[sent:])
        except ssl.SSLError as error:
            raise LayerError(f"TLS: {reason(error)}") from None
        return self._out.read()

    def pending(self) -> bytes:
        """Give handshake messages, alerts and the like that wait to be sent."""
        return self._out.read() if self._out.pending else b""

    def farewell(self) -> bytes:
        """Give the alert that says no more comes from here."""
        if self._established:
            # It waits for the peer's own farewell, which nobody here does.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        return self.pending()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            # libvirt's peers are told by the end of the connection, not by an alert.
            self._out.read()
            raise LayerError(f"certificate verification failed: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise LayerError(f"TLS handshake failed: {reason(error)}") from None
        first = self._on_established(self._tls)
        # Not before: who is refused, by whatever error, is never let through.
        self._established = True
        if first:
            self._tls.write(first)
        return True


def peer_chain(session: ssl.SSLObject) -> list[bytes]:
    """Give the chain by which the peer was verified, its own certificate first, in DER; [] without one.

    Where nobody verified it, its certificate alone.
    """
    own = session.getpeercert(binary_form=True)
    if not own:
        return []
    if session.context.verify_mode == ssl.CERT_NONE:
        return [own]
    # Python gives the chain a name of its own from 3.13 on.
    chain = session._sslobj.get_verified_chain()  # type: ignore[attr-defined]
    return [one.public_bytes(_DER) for one in chain]


def no_password() -> str:
    """Answer for a key that is encrypted: OpenSSL must not ask whoever sits at the terminal."""
    return ""


def reason(error: ssl.SSLError) -> str:
    """Give OpenSSL's words for what went wrong."""
    return (error.reason or str(error)).replace("_", " ").lower()
