"""A small certificate authority in a folder: enough for a working set of libvirt's certificates.

    cakey.pem cacert.pem cacrl.pem      the authority, and what it has revoked
    servercert.pem serverkey.pem        of this host
    clientcert.pem clientkey.pem        of whoever administers it

Keys are on the curve P-256 unless RSA is asked for.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from qvirt.errors import InvalidArg, OperationFailed
from qvirt.net.places import Role
from qvirt.net.x509 import PURPOSES, CertificateError

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CA_DAYS: Final = 3650
DAYS: Final = 730
CRL_DAYS: Final = 365
_RSA_BITS: Final = 3072
_SLACK: Final = datetime.timedelta(minutes=5)
"""Clocks of other machines may be this late."""


class Authority:
    """The authority of a folder."""

    def __init__(self, folder: Path, cert: x509.Certificate, key: Key) -> None:
        self.folder = folder
        self.cert = cert
        self._key = key

    @classmethod
    def create(
        cls,
        folder: Path,
        name: str,
        *,
        days: int = CA_DAYS,
        use_rsa: bool = False,
        by: "Authority | None" = None,
    ) -> "Authority":
        """Make a new authority; raises OperationFailed when the folder has one.

        by: the authority above it, which vouches for it; without one it is a root. Whoever is issued a
        certificate by one that is no root presents that one's, too: the file holds both, its own first.
        """
        paths = [folder / "cakey.pem", folder / "cacert.pem"]
        for path in paths:
            if path.exists():
                raise OperationFailed(f"'{path}' is there already; name another folder, or remove it first")
        folder.mkdir(parents=True, exist_ok=True)
        key = _new_key(use_rsa)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _begin(subject, by.cert.subject if by else subject, key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
        )
        cert = builder.sign(by._key if by else key, hashes.SHA256())
        write_key(paths[0], key)
        write_public(paths[1], cert.public_bytes(serialization.Encoding.PEM))
        authority = cls(folder, cert, key)
        authority.revoke()
        return authority

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        """Read the authority of a folder; raises CertificateError."""
        try:
            cert = x509.load_pem_x509_certificate((folder / "cacert.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "cakey.pem").read_bytes(), None)
        except OSError as error:
            raise CertificateError(
                f"there is no authority in '{folder}': {error.strerror}; `qvirt pki init` makes one"
            ) from error
        except (ValueError, TypeError) as error:
            raise CertificateError(f"cannot read the authority of '{folder}': {error}") from error
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise CertificateError(f"the key '{folder / 'cakey.pem'}' is of a kind not used here")
        return cls(folder, cert, key)

    def issue(
        self,
        role: Role,
        name: str,
        *,
        hosts: Sequence[str] = (),
        organization: str | None = None,
        days: float = DAYS,
        begin: datetime.datetime | None = None,
        use_rsa: bool = False,
        purpose: Role | None = None,
        critical: bool = False,
    ) -> tuple[x509.Certificate, Key]:
        """Issue a certificate with a new key.

        hosts: names and addresses a server is reached by; its own name is one of them. days: how long it
        holds, from begin on, by default now. purpose: other than its role's. critical: the purpose must be
        understood.
        """
        key = _new_key(use_rsa)
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organization:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        builder = (
            _begin(x509.Name(attributes), self.cert.subject, key, days, begin)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([PURPOSES[purpose or role]]), critical=critical)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if role == "server":
            names = [general_name(host) for host in dict.fromkeys([name, *hosts])]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()), key

    def revoke(self, *certs: x509.Certificate, days: float = CRL_DAYS) -> None:
        """Add certificates to the list of revoked ones, and renew it for so many days."""
        path, now = self.folder / "cacrl.pem", datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.cert.subject)
            .last_update(now - _SLACK)
            .next_update(now + datetime.timedelta(days=days))
        )
        known = list(x509.load_pem_x509_crl(path.read_bytes())) if path.exists() else []
        for entry in known:
            builder = builder.add_revoked_certificate(entry)
        serials = {entry.serial_number for entry in known}
        for cert in certs:
            if cert.serial_number not in serials:
                made = x509.RevokedCertificateBuilder().serial_number(cert.serial_number).revocation_date(now)
                builder = builder.add_revoked_certificate(made.build())
        write_public(path, builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def general_name(host: str) -> x509.GeneralName:
    """Make an alternative name of a host's name or address; raises InvalidArg."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise InvalidArg(f"'{host}' is no host's name and no address: {error}") from error


def _begin(
    subject: x509.Name, issuer: x509.Name, key: Key, days: float, begin: datetime.datetime | None = None
) -> x509.CertificateBuilder:
    start = begin or datetime.datetime.now(datetime.UTC) - _SLACK
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_encipherment=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key(use_rsa: bool) -> Key:
    if use_rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def write_key(path: Path, key: Key) -> None:
    """Write a private key that only its owner may read."""
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _replace(path, text, 0o600)


def write_public(path: Path, text: bytes) -> None:
    """Write a certificate or a list that everybody may read."""
    _replace(path, text, 0o644)


def write_pair(cert_path: Path, key_path: Path, cert: x509.Certificate, key: Key) -> None:
    """Write a certificate and its key."""
    for path, mode in ((key_path, 0o700), (cert_path, 0o755)):
        path.parent.mkdir(parents=True, exist_ok=True, mode=mode)
    write_key(key_path, key)
    write_public(cert_path, cert.public_bytes(serialization.Encoding.PEM))


def _replace(path: Path, text: bytes, mode: int) -> None:
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(text)
    new.replace(path)
