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
        x509.check_peer(chain(cert, authority.cert), "client", lists)
    with pytest.raises(CertificateError, match="is not signed by that authority"):
        x509.read_lists(authority.folder / "cacrl.pem", [other.cert])


def test_an_old_list_is_no_list(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "Old")
    cert, _ = authority.issue("client", "c")
    authority.revoke(days=-0.001)
    lists = x509.read_lists(authority.folder / "cacrl.pem", [authority.cert])
    with pytest.raises(CertificateError, match="revocation data are old and have been superseded"):
        x509.check_peer(chain(cert, authority.cert), "client", lists)


def chain(*certs: crypto.Certificate) -> list[bytes]:
    return [cert.public_bytes(Encoding.DER) for cert in certs]


class Below:
    """A root, an authority below it, and a client of that one."""

    def __init__(self, folder: Path) -> None:
        self.root = Authority.create(folder / "root", "Root")
        self.middle = Authority.create(folder / "middle", "Middle", by=self.root)
        self.cert, _ = self.middle.issue("client", "c")
        self.chain = chain(self.cert, self.middle.cert, self.root.cert)
        self.file = folder / "lists.pem"

    def lists(self, *names: str, trusted: bool = False) -> list[crypto.CertificateRevocationList]:
        """Read lists as they come in one file, the authority in the middle known or not."""
        self.file.write_bytes(
            b"".join((self.file.parent / name / "cacrl.pem").read_bytes() for name in names)
        )
        known = [self.root.cert, self.middle.cert] if trusted else [self.root.cert]
        return x509.read_lists(self.file, known)


@pytest.mark.parametrize("trusted", [False, True])
def test_each_step_of_a_chain_may_be_revoked(tmp_path: Path, trusted: bool) -> None:
    below = Below(tmp_path)
    assert x509.check_peer(below.chain, "client", below.lists("root", "middle", trusted=trusted)) == "CN=c"
    below.middle.revoke(below.cert)
    assert x509.check_peer(below.chain, "client", below.lists("root", trusted=trusted)) == "CN=c"
    with pytest.raises(CertificateError, match=r"has been revoked: 'CN=c', serial [0-9a-f]+$"):
        x509.check_peer(below.chain, "client", below.lists("root", "middle", trusted=trusted))
    other = chain(below.middle.issue("client", "d")[0]) + below.chain[1:]
    assert x509.check_peer(other, "client", below.lists("middle", trusted=trusted)) == "CN=d"
    below.root.revoke(below.middle.cert)
    with pytest.raises(CertificateError, match=r"revoked: 'CN=Middle', serial .*, which vouches for 'CN=d'"):
        x509.check_peer(other, "client", below.lists("root", "middle", trusted=trusted))


def test_an_old_list_counts_for_whom_it_is_about(tmp_path: Path) -> None:
    below = Below(tmp_path)
    near = chain(below.root.issue("client", "near")[0], below.root.cert)
    below.middle.revoke(days=-0.001)
    assert x509.check_peer(near, "client", below.lists("root", "middle")) == "CN=near"
    with pytest.raises(
        CertificateError, match="superseded: for 'CN=c' the list of 'CN=Middle' counts, which"
    ):
        x509.check_peer(below.chain, "client", below.lists("root", "middle"))
    below.middle.revoke()
    assert x509.check_peer(below.chain, "client", below.lists("root", "middle")) == "CN=c"


def test_a_list_in_anothers_name(tmp_path: Path) -> None:
    """It revokes nobody; where the authority is known it is not even read."""
    below = Below(tmp_path)
    Authority.create(tmp_path / "forged", "Middle").revoke(below.cert)
    assert x509.check_peer(below.chain, "client", below.lists("forged")) == "CN=c"
    with pytest.raises(CertificateError, match="'CN=Middle' is not signed by that authority"):
        below.lists("forged", trusted=True)


def test_ones_own_chain(tmp_path: Path) -> None:
    below = Below(tmp_path)
    root, middle = below.root.cert, below.middle.cert
    assert x509.why_untrusted(below.cert, [middle, root], [root]) is None
    assert x509.why_untrusted(below.cert, [middle], [middle]) is None
    assert x509.why_untrusted(below.cert, [root], [root]) == "The certificate hasn't got a known issuer."
    below.root.revoke(middle)
    for authorities in ([root], [root, middle]):
        reason = x509.why_untrusted(below.cert, [middle, root], authorities, below.lists("root", "middle"))
        assert reason == "The certificate has been revoked."


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


def test_a_certificate_that_is_none() -> None:
    """OpenSSL has let it pass, and may take more than the library that reads it afterwards."""
    with pytest.raises(x509.CertificateError, match="Unable to import"):
        x509.check_peer([b"0\x03\x02\x01\x00"], "client", [])
