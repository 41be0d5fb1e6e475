"""The daemon's side of TLS: its certificates, and who may come with which."""

import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.daemon.remote_config import RemoteConfig
from qvirt.errors import QvirtError, SystemError_
from qvirt.net import places, priority
from qvirt.net.globs import matches
from qvirt.net.layer import LayerError
from qvirt.net.places import Places
from qvirt.net.tls import WELCOME, TlsLayer, no_password, peer_chain
from qvirt.record import replace

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)


class TlsServer:
    """What new TLS clients meet. Made anew to read certificates again; those connected keep theirs."""

    def __init__(self, config: RemoteConfig, pki: Path) -> None:
        """Read and check the certificates; raises QvirtError. pki: the usual folder, /etc/pki."""
        # It takes a while to load and is of no use without TLS.
        from qvirt.net import x509

        self._x509 = x509
        self.pki = pki
        self._config = config
        self.places = places.check_server(server_places(config, pki))
        assert self.places.cert is not None  # noqa: S101 - check_server looked
        if not config.tls_no_sanity_certificate:
            x509.check_set(self.places.cert, self.places.ca, self.places.crl, "server")
        authorities = x509.read(self.places.ca, "CA certificate")
        self._lists = x509.read_lists(self.places.crl, authorities) if self.places.crl else []
        self._context = self._make_context()

    def layer(self, client: "Client") -> TlsLayer:
        """Give what wraps a new client's connection."""

        def established(session: ssl.SSLObject) -> bytes:
            self._admit(client, session)
            cipher = session.cipher()
            client.secured(cipher[2] if cipher else 0)
            return WELCOME

        return TlsLayer(self._context, established, server_side=True)

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        priority.parse(self._config.tls_priority).apply(context)
        cert, key = self.places.cert, self.places.key
        try:
            context.load_cert_chain(str(cert), str(key), no_password)
            if not self._config.tls_no_verify_certificate:
                # Optional, since a client without one is refused the way libvirt does: after the handshake.
                context.verify_mode = ssl.CERT_OPTIONAL
                context.load_verify_locations(str(self.places.ca))
        except ssl.SSLError as error:
            raise SystemError_(
                f"Unable to set x509 key and certificate: {key}, {cert}: {error.reason or error}", domain=7
            ) from error
        except OSError as error:
            raise SystemError_(f"Cannot read server key '{key}'", error, domain=7) from error
        return context

    def _admit(self, client: "Client", session: ssl.SSLObject) -> None:
        """Look at the client's certificate; raises LayerError."""
        if self._config.tls_no_verify_certificate:
            return
        chain = peer_chain(session)
        if not chain:
            raise LayerError("it has presented no certificate")
        try:
            name = self._x509.check_peer(chain, "client", self._lists)
        except QvirtError as error:
            raise LayerError(error.detail) from None
        client.identity = client.session.identity = replace(client.identity, x509_dn=name)
        allowed = self._config.tls_allowed_dn_list
        if allowed is not None and not any(matches(pattern, name) for pattern in allowed):
            raise LayerError(f"Client's Distinguished Name is not on the list of allowed clients: '{name}'")


def server_places(config: RemoteConfig, pki: Path) -> Places:
    """Give where the server's files are: as the settings say, else in the usual folder."""
    usual = places.system("server", pki)
    if config.ca_file is None:
        return usual if config.crl_file is None else replace(usual, crl=Path(config.crl_file))
    return Places(
        ca=Path(config.ca_file),
        cert=Path(config.cert_file or ""),
        key=Path(config.key_file or ""),
        crl=Path(config.crl_file) if config.crl_file else None,
    )
