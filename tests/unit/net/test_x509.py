"""Whether certificates are fit for their use."""

import datetime
import logging
import shutil
from pathlib import Path

import pytest
from cryptography import x509 as crypto
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from qvirt.errors import InvalidArg, OperationFailed, SystemError_
from qvirt.net import places, x509
from qvirt.net.authority import Authority, general_name, write_pair
from qvirt.net.x509 import CertificateError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca") / "ca", "An authority")


def ago(days: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)


def test_a_set_that_is_fit(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("server", "host", hosts=["::1", "host"])
    write_pair(tmp_path / "cert.pem", tmp_path / "key.pem", cert, key)
    x509.check_set(
        tmp_path / "cert.pem", authority.folder / "cacert.pem", authority.folder / "cacrl.pem", "server"
    )
    x509.check_key(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert "for clients that connect to host, ::1" in x509.describe(tmp_path / "cert.pem", "server")


def test_times(authority: Authority) -> None:
    late, _ = authority.issue("client", "late", days=1, begin=ago(2))
    early, _ = authority.issue("client", "early", days=1, begin=ago(-2))
    with pytest.raises(CertificateError, match="The client certificate X has expired"):
        x509.check(late, "X", "client")
    with pytest.raises(CertificateError, match="The client certificate X is not yet active"):
        x509.check(early, "X", "client")


def test_purpose_counts_where_it_is_critical(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    cert, _ = authority.issue("client", "c", purpose="server", critical=True)
    with pytest.raises(CertificateError, match="purpose does not allow use for with a TLS client"):
        x509.check(cert, "X", "client")
    cert, _ = authority.issue("client", "c", purpose="server")
    with caplog.at_level(logging.WARNING):
        x509.check(cert, "X", "client")
    assert "purpose does not allow use for with a TLS client" in caplog.text


def test_an_authority_is_no_server_and_a_server_no_authority(authority: Authority) -> None:
    with pytest.raises(CertificateError, match="basic constraints show a CA, but we need one for a server"):
        x509.check(authority.cert, "X", "server")
    cert, _ = authority.issue("server", "host")
    with pytest.raises(CertificateError, match="basic constraints do not show a CA"):
        x509.check(cert, "X", "server", is_ca=True)


def test_trust(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "An authority")
    cert, _ = authority.issue("client", "c")
    assert x509.why_untrusted(cert, [authority.cert], [authority.cert]) is None
    # of the same name, but another key
    assert x509.why_untrusted(cert, [other.cert], [other.cert]) == "The certificate is not trusted."
    assert "known issuer" in str(x509.why_untrusted(cert, [], []))
    authority.revoke(cert)
    lists = x509.read_lists(authority.folder / "cacrl.pem", [authority.cert])
    assert "revoked" in str(x509.why_untrusted(cert, [authority.cert], [authority.cert], lists))
    with pytest.raises(CertificateError, match=r"has been revoked: 'CN=c', serial"):
        x509.check_peer(cert.public_bytes(Encoding.DER), "client", lists)
    with pytest.raises(CertificateError, match="is not signed by an authority"):
        x509.read_lists(authority.folder / "cacrl.pem", [other.cert])


def test_an_old_list_is_no_list(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "Old")
    cert, _ = authority.issue("client", "c")
    authority.revoke(days=-0.001)
    lists = x509.read_lists(authority.folder / "cacrl.pem", [authority.cert])
    with pytest.raises(CertificateError, match="revocation data are old and have been superseded"):
        x509.check_peer(cert.public_bytes(Encoding.DER), "client", lists)


def test_names_in_the_certificates_order() -> None:
    name = crypto.Name(
        [
            crypto.NameAttribute(NameOID.COUNTRY_NAME, "GB"),
            crypto.NameAttribute(NameOID.ORGANIZATION_NAME, "Ink, Paper + Co"),
            crypto.NameAttribute(NameOID.COMMON_NAME, " #1 "),
        ]
    )
    assert x509.distinguished_name(name) == "C=GB,O=Ink\\, Paper \\+ Co,CN=\\ #1\\ "


def test_what_is_no_authority(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="there is no authority"):
        Authority.load(tmp_path)
    authority = Authority.create(tmp_path, "One")
    with pytest.raises(OperationFailed, match="is there already"):
        Authority.create(tmp_path, "Two")
    (tmp_path / "cakey.pem").write_text("nothing\n")
    with pytest.raises(CertificateError, match="cannot read the authority"):
        Authority.load(authority.folder)
    with pytest.raises(InvalidArg, match="no host's name"):
        general_name("hóst")


def test_where_clients_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SYSTEM", tmp_path / "pki")
    monkeypatch.setattr(places.system, "__defaults__", (tmp_path / "pki",))
    home = tmp_path / "home"
    with pytest.raises(SystemError_, match=r"Cannot read CA certificate '.*pki/CA/cacert.pem': No such file"):
        places.find_client(None, euid=1000, home=str(home))
    authority = Authority.create(tmp_path / "pki/CA", "Everybody's")
    found = places.find_client(None, euid=1000, home=str(home))
    assert (found.ca, found.cert) == (tmp_path / "pki/CA/cacert.pem", None)
    assert found.crl == tmp_path / "pki/CA/cacrl.pem"
    own = home / ".pki/libvirt"
    write_pair(own / "clientcert.pem", own / "clientkey.pem", *authority.issue("client", "me"))
    assert places.find_client(None, euid=1000, home=str(home)).cert == own / "clientcert.pem"
    assert places.find_client(None, euid=0, home=str(home)).cert is None
    shutil.copy(tmp_path / "pki/CA/cacert.pem", own)
    assert places.find_client(str(own), euid=0, home=None).key == own / "clientkey.pem"
    with pytest.raises(SystemError_, match="Cannot read CA certificate"):
        places.find_client(str(tmp_path), euid=0, home=None)
