"""URIs in all their forms."""

import pytest

from qvirt.client.uri import CLIENT_PARAMETERS, Uri, parse
from qvirt.errors import QvirtError


@pytest.mark.parametrize(
    ("text", "driver", "transport", "user", "host", "port", "path", "name"),
    [
        ("qemu:///system", "qemu", "unix", None, "", None, "/system", "qemu:///system"),
        ("qemu:///session", "qemu", "unix", None, "", None, "/session", "qemu:///session"),
        ("qemu:/system", "qemu", "unix", None, "", None, "/system", "qemu:///system"),
        ("qemu:/session", "qemu", "unix", None, "", None, "/session", "qemu:///session"),
        ("qemu:", "qemu", "unix", None, "", None, "", "qemu://"),
        ("qemu:////system", "qemu", "unix", None, "", None, "//system", "qemu:////system"),
        ("QEMU:///system", "QEMU", "unix", None, "", None, "/system", "QEMU:///system"),
        ("qemu+unix:/system", "qemu", "unix", None, "", None, "/system", "qemu:///system"),
        ("qemu+UNIX:///system", "qemu", "unix", None, "", None, "/system", "qemu:///system"),
        ("qemu+tcp:/system", "qemu", "tcp", None, "", None, "/system", "qemu:///system"),
        ("qemu+ssh:///system", "qemu", "ssh", None, "", None, "/system", "qemu:///system"),
        ("qemu+ssh://a%40b@Host/system", "qemu", "ssh", "a@b", "Host", None, "/system", "qemu:///system"),
        ("qemu+ssh://me:x@h/system", "qemu", "ssh", "me:x", "h", None, "/system", "qemu:///system"),
        (
            "qemu+tcp://[fe80::1%25a]/system",
            "qemu",
            "tcp",
            None,
            "fe80::1%a",
            None,
            "/system",
            "qemu:///system",
        ),
        ("qemu://h:/system", "qemu", "tls", None, "h", None, "/system", "qemu:///system"),
        ("test:///default", "test", "unix", None, "", None, "/default", "test:///default"),
        (
            "test+tcp://localhost:5000/default",
            "test",
            "tcp",
            None,
            "localhost",
            5000,
            "/default",
            "test:///default",
        ),
        ("test:///path/of/file", "test", "unix", None, "", None, "/path/of/file", "test:///path/of/file"),
        ("remote+unix:///system", "remote", "unix", None, "", None, "/system", ""),
        ("qemu:///system#part", "qemu", "unix", None, "", None, "/system", "qemu:///system#part"),
        ("qemu+unix:///system", "qemu", "unix", None, "", None, "/system", "qemu:///system"),
        ("qemu://host/system", "qemu", "tls", None, "host", None, "/system", "qemu:///system"),
        ("qemu+tls://host:99/system", "qemu", "tls", None, "host", 99, "/system", "qemu:///system"),
        ("qemu+tcp://10.0.0.1/system", "qemu", "tcp", None, "10.0.0.1", None, "/system", "qemu:///system"),
        ("qemu+ssh://me@host:2222/system", "qemu", "ssh", "me", "host", 2222, "/system", "qemu:///system"),
        ("qemu+tcp://[::1]:16509/system", "qemu", "tcp", None, "::1", 16509, "/system", "qemu:///system"),
        ("qemu+ext:///system?command=/x", "qemu", "ext", None, "", None, "/system", "qemu:///system"),
        ("qemu+libssh2://h/system", "qemu", "libssh2", None, "h", None, "/system", "qemu:///system"),
        ("remote+tcp://host/", "remote", "tcp", None, "host", None, "/", ""),
        ("network:///system", "network", "unix", None, "", None, "/system", "network:///system"),
        ("", "", "unix", None, "", None, "", ""),
    ],
)
def test_forms(
    text: str,
    driver: str,
    transport: str,
    user: str | None,
    host: str,
    port: int | None,
    path: str,
    name: str,
) -> None:
    uri = parse(text)
    assert (uri.driver, uri.transport, uri.user, uri.host, uri.port, uri.path, uri.name) == (
        driver, transport, user, host, port, path, name,
    )  # fmt: skip


@pytest.mark.parametrize("parameter", sorted(CLIENT_PARAMETERS - {"name"}))
def test_the_daemon_never_sees_the_clients_parameters(parameter: str) -> None:
    uri = parse(f"qemu:///system?{parameter}=x&other=a%20b")
    assert uri.parameter(parameter) == "x"
    assert uri.name == "qemu:///system?other=a%20b"


def test_parameters_whatever_their_case() -> None:
    uri = parse("qemu:///system?SOCKET=/x&No_Verify=1&Other=2")
    assert uri.parameter("socket") == "/x"
    assert uri.is_set("no_verify")
    assert uri.name == "qemu:///system?Other=2"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("mode=direct", {"mode": "direct"}),
        ("socket=/opt/libvirt/run/libvirt/libvirt-sock", {"socket": "/opt/libvirt/run/libvirt/libvirt-sock"}),
        ("mode=legacy;socket=/a", {"mode": "legacy", "socket": "/a"}),
        ("socket=/a;b&mode=auto", {"socket": "/a;b", "mode": "auto"}),
        ("command=/opt/openssh/bin/ssh", {"command": "/opt/openssh/bin/ssh"}),
        ("name=qemu:///system", {"name": "qemu:///system"}),
        ("name=qemu%3A%2F%2F%2Fsystem", {"name": "qemu:///system"}),
        ("no_verify=1&no_tty=0", {"no_verify": "1", "no_tty": "0"}),
        ("pkipath=/tmp/pki/client", {"pkipath": "/tmp/pki/client"}),
        ("sshauth=privkey,agent", {"sshauth": "privkey,agent"}),
        ("known_hosts=/root/.ssh/known_hosts&known_hosts_verify=ignore",
         {"known_hosts": "/root/.ssh/known_hosts", "known_hosts_verify": "ignore"}),
        ("tls_priority=NORMAL:-VERS-SSL3.0", {"tls_priority": "NORMAL:-VERS-SSL3.0"}),
        ("tls_priority=NORMAL:%2BVERS-TLS1.2:%25COMPAT", {"tls_priority": "NORMAL:+VERS-TLS1.2:%COMPAT"}),
        ("netcat=/opt/netcat/bin/nc", {"netcat": "/opt/netcat/bin/nc"}),
        ("proxy=native", {"proxy": "native"}),
        ("keyfile=/root/.ssh/example_key", {"keyfile": "/root/.ssh/example_key"}),
        ("authfile=/etc/auth.conf&auth=sasl.gssapi", {"authfile": "/etc/auth.conf", "auth": "sasl.gssapi"}),
        ("no_sanity=1", {"no_sanity": "1"}),
        ("socket=/a&socket=/b", {"socket": "/b"}),
        ("socket=", {"socket": ""}),
    ],
)  # fmt: skip
def test_every_parameter_of_libvirts(query: str, expected: dict[str, str]) -> None:
    uri = parse(f"qemu+ssh://me@host/system?{query}")
    assert {
        name: uri.parameter(name) for name in CLIENT_PARAMETERS if uri.parameter(name) is not None
    } == expected
    assert uri.name == expected.get("name", "qemu:///system")
    assert parse(str(uri)) == uri


def test_name_overrules() -> None:
    assert parse("qemu:///system?name=qemu:///session").name == "qemu:///session"


def test_plus_in_a_query_is_a_plus() -> None:
    assert parse("qemu:///system?socket=/a+b").parameter("socket") == "/a+b"


@pytest.mark.parametrize(
    "text",
    [
        "qemu:///system",
        "qemu+tcp://[::1]:1/system",
        "qemu+ssh://me@h/system?keyfile=/k",
        "qemu://h/system",
        "",
    ],
)
def test_as_text_again(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("qemu+smoke://h/system", "transport in URL not recognised"),
        ("qemu+unix://h/system", "using unix socket and remote server 'h' is not supported"),
        ("qemu:system", "maybe you want qemu:///system"),
        ("qemu://system?socket=/a", "maybe you want qemu:///system"),
        ("qemu://host", "maybe you want qemu:///host"),
        ("%71emu:/system", "Unable to parse URI"),
        ("qemu+tcp://h:70000/system", "there is no port 70000"),
        ("qemu://system", "maybe you want qemu:///system"),
        ("system", "maybe you want qemu:///system"),
        ("qemu+tcp://h:port/system", "Unable to parse URI"),
        ("qemu+tcp://[::1/system", "Unable to parse URI"),
    ],
)
def test_nonsense_is_refused_with_a_hint(text: str, sentence: str) -> None:
    with pytest.raises(QvirtError, match=sentence):
        parse(text)


def test_yes_or_no_parameters() -> None:
    assert parse("qemu+ssh://h/system?no_tty=1").is_set("no_tty")
    assert not parse("qemu+ssh://h/system?no_tty=0").is_set("no_tty")
    assert not Uri().is_set("no_tty")
    with pytest.raises(QvirtError, match="no_tty: 'x' is not a number"):
        parse("qemu+ssh://h/system?no_tty=x").is_set("no_tty")
