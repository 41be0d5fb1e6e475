"""Settings for clients that come over a network."""

import pytest

from qvirt.daemon.config import make_config
from qvirt.daemon.remote_config import RemoteConfig
from qvirt.errors import ConfigSyntax
from qvirt.host.conf import parse_conf


def read(text: str) -> RemoteConfig:
    return make_config(parse_conf(text, "libvirtd.conf")).remote


def test_defaults_are_libvirts() -> None:
    config = read("")
    assert (config.listen_tls, config.listen_tcp) == (True, False)
    assert (config.tls_port, config.tcp_port) == ("16514", "16509")
    assert (config.auth_tls, config.auth_tcp, config.tcp_min_ssf) == ("none", "sasl", 56)
    assert config.tls_allowed_dn_list is None


def test_what_can_be_said() -> None:
    config = read(
        'listen_tls = 0\nlisten_tcp = 1\nlisten_addr = "::1"\ntls_port = "1234"\ntcp_port = "ssh"\n'
        'tls_allowed_dn_list = []\nsasl_allowed_username_list = ["a", "b*"]\ntcp_min_ssf = 112\n'
        'tls_no_verify_certificate = 1\ntls_priority = "NORMAL:-VERS-TLS1.2"\nmax_queued_clients = 7\n'
        'ca_file = "/a"\ncert_file = "/b"\nkey_file = "/c"\ncrl_file = "/d"\nauth_tls = "sasl"\n'
    )
    assert (config.listen_tls, config.listen_tcp, config.listen_addr) == (False, True, "::1")
    assert config.tls_allowed_dn_list == ()
    assert config.sasl_allowed_username_list == ("a", "b*")
    assert (config.tcp_min_ssf, config.max_queued_clients) == (112, 7)
    assert (config.ca_file, config.crl_file, config.auth_tls) == ("/a", "/d", "sasl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listen_tls = 2", "libvirtd.conf:2: listen_tls: expected 0 or 1"),
        ('listen_tcp = "yes"', "libvirtd.conf:2: listen_tcp: expected 0 or 1"),
        ("tls_port = 16514", "libvirtd.conf:2: tls_port: expected a quoted string"),
        ('tls_port = "99999"', "there is no port 99999"),
        ('tcp_port = "no-such"', "neither a port's number nor a service"),
        ('auth_tcp = "polkit"', "unsupported auth 'polkit' for a network"),
        ('auth_unix_rw = "magic"', "libvirtd.conf:2: auth_unix_rw: unsupported auth 'magic'"),
        ("tcp_min_ssf = 55", "minimum SSF levels lower than 56 are not supported"),
        ("max_queued_clients = -1", "is no number it can have"),
        ("tls_allowed_dn_list = 1", "expected a list of quoted strings"),
        ('tls_priority = "SECURE256"', "SECURE256 leaves out ciphers"),
        ('ca_file = "/x"', "No server certificate path set to match ca_file"),
        ('ca_file = "/x"\ncert_file = "/y"', "No server key path set to match ca_file"),
        ("tls_prt = 1", "unknown setting 'tls_prt'; did you mean 'tls_port'"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigSyntax) as caught:
        read(f"# a comment\n{text}\n")
    assert words in str(caught.value)
