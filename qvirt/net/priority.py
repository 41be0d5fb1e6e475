"""GnuTLS's priority strings, which libvirt's settings hold, as settings of OpenSSL.

What has a meaning for both is mapped; what cannot be had here is refused by name, never left out in silence.
"""

import ssl
from typing import Final

from qvirt.errors import InvalidArg
from qvirt.record import Record

VERSIONS: Final = {
    "VERS-TLS1.0": ssl.TLSVersion.TLSv1,
    "VERS-TLS1.1": ssl.TLSVersion.TLSv1_1,
    "VERS-TLS1.2": ssl.TLSVersion.TLSv1_2,
    "VERS-TLS1.3": ssl.TLSVersion.TLSv1_3,
}
OFFERED: Final = frozenset((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))
"""Without more being said; older ones are taken from a string that names them."""

BASES: Final = {
    "NORMAL": "DEFAULT",
    "PERFORMANCE": "DEFAULT",
    "SYSTEM": "DEFAULT",
    "PFS": "DEFAULT:!kRSA",
    "SECURE": "DEFAULT:!3DES",
    "SECURE128": "DEFAULT:!3DES",
    "LEGACY": "DEFAULT",
}
"""Set of ciphers to begin with -> OpenSSL's list. _STRONG leave out ciphers of TLS 1.3."""

_STRONG: Final = frozenset(("SECURE192", "SECURE256", "SUITEB128", "SUITEB192"))

CIPHERS: Final = {
    "AES-128-CBC": "!AES128-SHA:!AES128-SHA256:!ECDHE-RSA-AES128-SHA:!ECDHE-ECDSA-AES128-SHA"
    ":!ECDHE-RSA-AES128-SHA256:!ECDHE-ECDSA-AES128-SHA256:!DHE-RSA-AES128-SHA:!DHE-RSA-AES128-SHA256",
    "AES-256-CBC": "!AES256-SHA:!AES256-SHA256:!ECDHE-RSA-AES256-SHA:!ECDHE-ECDSA-AES256-SHA"
    ":!ECDHE-RSA-AES256-SHA384:!ECDHE-ECDSA-AES256-SHA384:!DHE-RSA-AES256-SHA:!DHE-RSA-AES256-SHA256",
    "3DES-CBC": "!3DES",
    "ARCFOUR-128": "!RC4",
    "CAMELLIA-128-CBC": "!CAMELLIA128",
    "CAMELLIA-256-CBC": "!CAMELLIA256",
}
"""Ciphers of TLS 1.2 and older only: they can be left out whatever else is on. What leaves them out."""
SHARED_CIPHERS: Final = {
    "AES-128-GCM": "AES128",
    "AES-256-GCM": "AES256",
    "CHACHA20-POLY1305": "CHACHA20",
    "AES-128-CCM": "AESCCM",
}
"""Ciphers of TLS 1.3 as well, which Python cannot leave out there."""
EXCHANGES: Final = {
    "RSA": "!kRSA",
    "DHE-RSA": "!kDHE",
    "ECDHE-RSA": "!kECDHE+aRSA",
    "ECDHE-ECDSA": "!aECDSA",
}
MACS: Final = {"SHA1": "!SHA1", "MD5": "!MD5"}
_SWITCHES: Final = {**CIPHERS, **EXCHANGES, **MACS}

_HARMLESS: Final = frozenset(
    ("%COMPAT", "%SAFE_RENEGOTIATION", "%NO_TICKETS", "%NO_EXTENSIONS_SHUFFLE", "%LATEST_RECORD_VERSION")
)
"""Asks for what OpenSSL does anyway, or for a workaround it does not need."""


class Priority(Record):
    """A priority string's meaning. ciphers: OpenSSL's list, for TLS 1.2 and older."""

    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: str | None = None
    server_order: bool = False

    def apply(self, context: ssl.SSLContext) -> None:
        """Set a context up; raises InvalidArg when nothing is left to offer."""
        context.minimum_version, context.maximum_version = self.minimum, self.maximum
        if self.server_order:
            context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        if self.ciphers is not None:
            try:
                context.set_ciphers(self.ciphers)
            except ssl.SSLError as error:
                raise InvalidArg(f"the TLS priority leaves no cipher (OpenSSL's '{self.ciphers}')") from error


def parse(text: str | None) -> Priority:
    """Read a priority string; None and "" are the default. Raises InvalidArg with the word it is about."""
    if not text:
        return Priority()
    words = [word.strip() for word in text.split(":") if word.strip()]
    versions: set[ssl.TLSVersion] = set(OFFERED)
    ciphers, server_order = [_base(words[0], text)], False
    shared_off: list[str] = []
    for word in words[1:]:
        sign, name = word[0], word[1:]
        if word == "%SERVER_PRECEDENCE":
            server_order = True
        elif word in _HARMLESS:
            continue
        elif sign in "+-!" and name in ("VERS-ALL", "VERS-TLS-ALL"):
            versions = set(VERSIONS.values()) if sign == "+" else set()
        elif sign in "+-!" and name in VERSIONS:
            (versions.add if sign == "+" else versions.discard)(VERSIONS[name])
        elif sign in "-!" and name in ("VERS-SSL3.0", "VERS-SSL2.0", "VERS-DTLS-ALL"):
            continue
        elif sign in "-!" and name in SHARED_CIPHERS:
            shared_off.append(name)
            ciphers.append(f"!{SHARED_CIPHERS[name]}")
        elif sign in "-!" and name in _SWITCHES:
            ciphers.append(_SWITCHES[name])
        elif sign == "+" and (
            name in EXCHANGES or name in SHARED_CIPHERS or name in ("AES-128-CBC", "AES-256-CBC")
        ):
            continue  # offered anyway
        else:
            raise InvalidArg(
                f"TLS priority '{text}': '{word}' has no equivalent here; known are VERS-…, ciphers, key "
                "exchanges and MACs of TLS 1.2 with '-', and %SERVER_PRECEDENCE"
            )
    if shared_off and ssl.TLSVersion.TLSv1_3 in versions:
        raise InvalidArg(
            f"TLS priority '{text}': {', '.join(shared_off)} cannot be left out of TLS 1.3 here; "
            "leave out VERS-TLS1.3 too, or leave the ciphers in"
        )
    return _ordered(versions, ciphers, server_order, text)


def _base(word: str, text: str) -> str:
    if word.startswith("@"):
        # A policy of the system's, with what counts where it is not defined.
        word = word[1:].split(",")[-1]
        word = word if word in BASES else "SYSTEM"
    if word in _STRONG:
        raise InvalidArg(
            f"TLS priority '{text}': {word} leaves out ciphers of TLS 1.3, which cannot be done here; "
            "use NORMAL or SECURE128"
        )
    if word not in BASES:
        raise InvalidArg(
            f"TLS priority '{text}': it begins with '{word}', expected one of {', '.join(BASES)}"
        )
    return BASES[word]


def _ordered(versions: set[ssl.TLSVersion], ciphers: list[str], server_order: bool, text: str) -> Priority:
    if not versions:
        raise InvalidArg(f"TLS priority '{text}' leaves no version of TLS")
    known = list(VERSIONS.values())
    first, last = (known.index(pick(versions, key=known.index)) for pick in (min, max))
    if last - first + 1 != len(versions):
        raise InvalidArg(
            f"TLS priority '{text}' leaves out a version between others, which cannot be done here"
        )
    if first < known.index(ssl.TLSVersion.TLSv1_2):
        # OpenSSL signs in these versions only at its lowest level of security.
        ciphers.append("@SECLEVEL=0")
    changed = ciphers != ["DEFAULT"]
    return Priority(known[first], known[last], ":".join(ciphers) if changed else None, server_order)
