"""GnuTLS's priority strings as settings of OpenSSL."""

import ssl

import pytest

from qvirt.errors import InvalidArg
from qvirt.net.priority import BASES, CIPHERS, EXCHANGES, MACS, SHARED_CIPHERS, parse

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def context(text: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    parse(text).apply(made)
    return made


def names(text: str) -> set[str]:
    return {cipher["name"] for cipher in context(text).get_ciphers()}


@pytest.mark.parametrize("text", [None, "", "NORMAL", "@LIBVIRT,SYSTEM", "NORMAL:%COMPAT:+ECDHE-RSA"])
def test_what_changes_nothing(text: str | None) -> None:
    made = parse(text)
    assert (made.minimum, made.maximum, made.ciphers) == (V12, V13, None)


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("NORMAL:-VERS-TLS1.3", (V12, V12)),
        ("NORMAL:-VERS-TLS1.2", (V13, V13)),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3", (V13, V13)),
        ("NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2:+VERS-TLS1.3", (V12, V13)),
        ("NORMAL:+VERS-TLS1.1", (ssl.TLSVersion.TLSv1_1, V13)),
        ("NORMAL:-VERS-SSL3.0", (V12, V13)),
    ],
)
def test_versions(text: str, versions: tuple[ssl.TLSVersion, ssl.TLSVersion]) -> None:
    made = context(text)
    assert (made.minimum_version, made.maximum_version) == versions


def test_ciphers_are_left_out() -> None:
    assert "ECDHE-RSA-AES128-SHA" in names("NORMAL")
    assert "AES128-SHA" not in names("PFS")
    without = names("NORMAL:-AES-128-CBC")
    assert not {name for name in without if "AES128-SHA" in name}
    assert "ECDHE-RSA-AES128-GCM-SHA256" in without
    only = names("NORMAL:-VERS-TLS1.3:-AES-128-GCM:-CHACHA20-POLY1305")
    assert not {
        name for name in only if "AES128" in name or "CHACHA20" in name if not name.startswith("TLS_")
    }


@pytest.mark.parametrize("name", [*CIPHERS, *EXCHANGES, *MACS])
def test_every_switch_is_one_openssl_knows(name: str) -> None:
    assert len(names(f"NORMAL:-{name}")) <= len(names("NORMAL"))


@pytest.mark.parametrize("name", SHARED_CIPHERS)
def test_a_cipher_of_tls13_is_not_left_out_in_silence(name: str) -> None:
    with pytest.raises(InvalidArg, match=f"{name} cannot be left out of TLS 1.3"):
        parse(f"NORMAL:-{name}")
    assert context(f"NORMAL:-VERS-TLS1.3:-{name}")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("SECURE256", "SECURE256"),
        ("WHATEVER", "'WHATEVER', expected one of NORMAL"),
        ("NORMAL:+GROUP-X25519", r"'\+GROUP-X25519' has no equivalent"),
        ("NORMAL:-VERS-ALL", "leaves no version"),
        ("NORMAL:-VERS-TLS1.2:+VERS-TLS1.1", "leaves out a version between"),
        ("NORMAL:%UNSAFE_RENEGOTIATION", "%UNSAFE_RENEGOTIATION"),
    ],
)
def test_what_is_refused_by_name(text: str, word: str) -> None:
    with pytest.raises(InvalidArg, match=word):
        parse(text)


def test_bases_are_all_good_for_a_context() -> None:
    for base in BASES:
        assert names(base)
    assert context("NORMAL:%SERVER_PRECEDENCE").options & ssl.OP_CIPHER_SERVER_PREFERENCE
