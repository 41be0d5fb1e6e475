"""Whether certificates are fit for their use, by libvirt's own rules, which are checked before they are used.

A key usage or purpose that does not fit counts only where its extension is critical; otherwise it is worth a
warning. Sentences are libvirt's, since people look for them.
"""

import datetime
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier

from qvirt.errors import SystemError_
from qvirt.net.places import Role

log = logging.getLogger(__name__)

PURPOSES: Final = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}

_SHORT: Final = {
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STREET_ADDRESS: "STREET",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COMMON_NAME: "CN",
    NameOID.TITLE: "title",
    NameOID.SURNAME: "surName",
    NameOID.GIVEN_NAME: "givenName",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.USER_ID: "UID",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.EMAIL_ADDRESS: "EMAIL",
}
_Names = x509.SubjectAlternativeName
_ESCAPED: Final = frozenset(',+"\\<>;')


class CertificateError(SystemError_):
    """A certificate may not be used as it was to be; in libvirt's code and domain."""

    default_domain = 7

    def __init__(self, detail: str) -> None:
        super().__init__(detail, domain=7)


def read(path: Path, what: str) -> list[x509.Certificate]:
    """Read the certificates of a file; raises CertificateError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"Cannot read {what} '{path}': {error.strerror}") from error
    except ValueError as error:
        raise CertificateError(f"Unable to import {what} {path}: {error}") from error


def read_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """Read the revocation lists of a file; raises CertificateError."""
    mark = b"-----BEGIN X509 CRL-----"
    try:
        text = path.read_bytes()
        return [x509.load_pem_x509_crl(mark + piece) for piece in text.split(mark)[1:]]
    except OSError as error:
        raise CertificateError(f"Cannot read CA revocation list '{path}': {error.strerror}") from error
    except ValueError as error:
        raise CertificateError(f"Unable to import CA revocation list {path}: {error}") from error


def distinguished_name(name: x509.Name) -> str:
    """Write a name as libvirt's lists of allowed names have it: ``C=..,O=..,CN=..`` as in the certificate."""
    return ",".join("+".join(_attribute(one.oid, one.value) for one in rdn) for rdn in name.rdns)


def _attribute(oid: ObjectIdentifier, value: str | bytes) -> str:
    if isinstance(value, bytes):
        return f"{oid.dotted_string}=#{value.hex()}"
    text = "".join("\\" + char if char in _ESCAPED else char for char in value)
    if text[:1] in ("#", " "):
        text = "\\" + text
    if text.endswith(" ") and len(text) > 1:
        text = text[:-1] + "\\ "
    return f"{_SHORT.get(oid, oid.dotted_string)}={text}"


# ------------------------------------------------------------------------------------ one certificate


def check(cert: x509.Certificate, where: str, role: Role, *, is_ca: bool = False) -> None:
    """Check a certificate's times, constraints, usage and purpose; raises CertificateError."""
    check_times(cert, where, "CA" if is_ca else role)
    _check_constraints(cert, where, role, is_ca)
    _check_usage(cert, where, is_ca)
    if not is_ca:
        _check_purpose(cert, where, role)


def check_times(cert: x509.Certificate, where: str, what: str) -> None:
    """Raise CertificateError before a certificate's life, and after it."""
    now = datetime.datetime.now(datetime.UTC)
    if cert.not_valid_after_utc < now:
        raise CertificateError(
            f"The {what} certificate {where} has expired (it was valid until "
            f"{_moment(cert.not_valid_after_utc)}); issue a new one"
        )
    if cert.not_valid_before_utc > now:
        raise CertificateError(
            f"The {what} certificate {where} is not yet active (it is valid from "
            f"{_moment(cert.not_valid_before_utc)}); look at this machine's clock"
        )


def _moment(when: datetime.datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _extension(
    cert: x509.Certificate, oid: ObjectIdentifier, where: str
) -> x509.Extension[x509.ExtensionType] | None:
    try:
        return cert.extensions.get_extension_for_oid(oid)
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(f"Unable to query certificate {where}: {error}") from error


def _check_constraints(cert: x509.Certificate, where: str, role: Role, is_ca: bool) -> None:
    found = _extension(cert, ExtensionOID.BASIC_CONSTRAINTS, where)
    shown = bool(found.value.ca) if found and isinstance(found.value, x509.BasicConstraints) else False
    if is_ca and not shown:
        how = "basic constraints do not show a CA" if found else "is missing basic constraints for a CA"
        raise CertificateError(f"The certificate {where} {how}")
    if not is_ca and shown:
        raise CertificateError(
            f"The certificate {where} basic constraints show a CA, but we need one for a {role}"
        )


def _check_usage(cert: x509.Certificate, where: str, is_ca: bool) -> None:
    found = _extension(cert, ExtensionOID.KEY_USAGE, where)
    if found is None or not isinstance(found.value, x509.KeyUsage):
        return
    usage = found.value
    needed = (
        (("certificate signing", usage.key_cert_sign),)
        if is_ca
        else (("digital signature", usage.digital_signature), ("key encipherment", usage.key_encipherment))
    )
    for word, permitted in needed:
        if not permitted:
            _complain(f"Certificate {where} usage does not permit {word}", found.critical)


def _check_purpose(cert: x509.Certificate, where: str, role: Role) -> None:
    found = _extension(cert, ExtensionOID.EXTENDED_KEY_USAGE, where)
    if found is None or not isinstance(found.value, x509.ExtendedKeyUsage):
        return
    if not {PURPOSES[role], ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(found.value):
        _complain(f"Certificate {where} purpose does not allow use for with a TLS {role}", found.critical)


def _complain(sentence: str, fatal: bool) -> None:
    if fatal:
        raise CertificateError(sentence)
    log.warning("%s; taken all the same, as the extension is not critical", sentence)


# -------------------------------------------------------------------------------------------- a set


def check_set(cert: Path, ca: Path, crl: Path | None, role: Role) -> None:
    """Check one end's own certificate and its authorities, as libvirt does before it uses them.

    Raises CertificateError.
    """
    chain, authorities = read(cert, f"{role} certificate"), read(ca, "CA certificate")
    check(chain[0], str(cert), role)
    for authority in authorities:
        check(authority, str(ca), role, is_ca=True)
    lists = read_lists(crl, authorities) if crl else []
    reason = why_untrusted(chain[0], [*chain[1:], *authorities], authorities, lists)
    if reason:
        raise CertificateError(f"Our own certificate {cert} failed validation against {ca}: {reason}")


def check_key(cert: Path, key: Path) -> None:
    """Check that a key can be read and belongs to a certificate; raises CertificateError."""
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise CertificateError(f"Cannot read key '{key}': {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise CertificateError(f"Unable to import key {key}: {error}") from error
    if read(cert, "own certificate")[0].public_key() != private.public_key():
        raise CertificateError(f"The key {key} is not the one of the certificate {cert}")
    mode = key.stat().st_mode & 0o077
    if mode:
        log.warning("others than its owner may use the key %s (mode %o)", key, key.stat().st_mode & 0o777)


def describe(path: Path, role: Role) -> list[str]:
    """Tell people about a certificate that is fit for its use: whose it is, for which hosts, how long."""
    cert = read(path, f"{role} certificate")[0]
    lines = [f"'{distinguished_name(cert.subject)}', until {_moment(cert.not_valid_after_utc)}"]
    names = _extension(cert, ExtensionOID.SUBJECT_ALTERNATIVE_NAME, str(path))
    if role == "server":
        hosts = [str(one.value) for one in names.value] if names and isinstance(names.value, _Names) else []
        lines.append(f"for clients that connect to {', '.join(hosts) or 'its common name only'}")
    return lines


def why_untrusted(
    cert: x509.Certificate,
    known: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    lists: Sequence[x509.CertificateRevocationList] = (),
) -> str | None:
    """Walk from a certificate to an authority; gives what is wrong, None when it is trusted.

    An authority that is vouched for by a known one can still have been revoked by it, so the walk goes on.
    """
    current, trusted = cert, False
    for _ in range(len(known) + 1):
        trusted = trusted or current in authorities
        issuers = [one for one in known if one.subject == current.issuer and one != current]
        signer = next((one for one in issuers if _signed(current, one)), None)
        if signer is None:
            if trusted:
                return None
            return (
                "The certificate is not trusted." if issuers else "The certificate hasn't got a known issuer."
            )
        if is_revoked(current, lists_of(signer, lists)):
            return "The certificate has been revoked."
        current = signer
    return None if trusted else "The certificate is not trusted."


def read_lists(path: Path, authorities: Sequence[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    """Read revocation lists; raises CertificateError for one with an authority's name and not its signature.

    Lists of intermediate authorities, which are known only by the chain of a peer, are looked at then.
    """
    lists = read_crls(path)
    for one in lists:
        named = [ca for ca in authorities if ca.subject == one.issuer]
        if named and not any(_signed_list(one, ca) for ca in named):
            raise CertificateError(
                f"Unable to import CA revocation list {path}: the list of '{distinguished_name(one.issuer)}' "
                "is not signed by that authority of the CA certificate"
            )
        if not named:
            log.info(
                "%s has a list of '%s', which is not in the CA certificate: it counts for whoever presents a "
                "chain with that authority",
                path,
                distinguished_name(one.issuer),
            )
    return lists


def lists_of(
    issuer: x509.Certificate, lists: Sequence[x509.CertificateRevocationList]
) -> list[x509.CertificateRevocationList]:
    """Give the lists that an authority has made: those that bear its name and its signature."""
    return [one for one in lists if one.issuer == issuer.subject and _signed_list(one, issuer)]


def _signed_list(one: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    key = ca.public_key()
    kinds = (
        rsa.RSAPublicKey,
        ec.EllipticCurvePublicKey,
        dsa.DSAPublicKey,
        ed25519.Ed25519PublicKey,
        ed448.Ed448PublicKey,
    )
    return isinstance(key, kinds) and one.is_signature_valid(key)


def is_revoked(cert: x509.Certificate, lists: Sequence[x509.CertificateRevocationList]) -> bool:
    """Tell whether one of its issuer's lists names a certificate."""
    return any(one.get_revoked_certificate_by_serial_number(cert.serial_number) is not None for one in lists)


def _signed(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


# ----------------------------------------------------------------------------------- a peer's, at work


def check_peer(chain: Sequence[bytes], role: Role, lists: Sequence[x509.CertificateRevocationList]) -> str:
    """Check what the handshake does not: revocation, constraints, usage and purpose of a peer's certificate.

    chain: the peer's certificate and those by which it was verified, in DER. Whatever of it was revoked, by
    the list of its own issuer, counts. Gives the peer's distinguished name; raises CertificateError.
    """
    try:
        certs = [x509.load_der_x509_certificate(der) for der in chain]
        # read when it is asked for: what OpenSSL has let pass may still be what this library does not take
        names = [distinguished_name(name) for cert in certs for name in (cert.subject, cert.issuer)]
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise CertificateError(f"Unable to import a peer's certificate: {error}") from error
    name = names[0]
    for cert, issuer in pairwise(certs):
        theirs = lists_of(issuer, lists)
        if is_revoked(cert, theirs):
            whose = "" if cert is certs[0] else f", which vouches for '{name}'"
            raise CertificateError(
                f"The certificate has been revoked: '{distinguished_name(cert.subject)}', "
                f"serial {cert.serial_number:x}{whose}"
            )
        check_lists(theirs, name)
    check(certs[0], f"[session] of '{name}'", role)
    return name


def check_lists(lists: Sequence[x509.CertificateRevocationList], name: str) -> None:
    """Raise CertificateError when the time of an authority's lists is over: later ones are not known."""
    now = datetime.datetime.now(datetime.UTC)
    ends = [one.next_update_utc for one in lists]
    if lists and all(end is not None and end < now for end in ends):
        raise CertificateError(
            f"The certificate's revocation data are old and have been superseded: for '{name}' the list of "
            f"'{distinguished_name(lists[0].issuer)}' counts, which was to be renewed by "
            f"{_moment(max(end for end in ends if end is not None))}"
        )
