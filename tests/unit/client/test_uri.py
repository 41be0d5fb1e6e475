"""URIs in all their forms."""

import pytest

from qvirt.client.uri import CLIENT_PARAMETERS, Uri, parse
from qvirt.errors import QvirtError


@pytest.mark.parametrize(
    ("text", "driver", "transport", "user", "host", "port", "path", "name"),
    [
        ("qemu:///system", "qemu", "unix", None, "", None, "/system", "qemu:///system"),
        ("qemu:///session", "qemu", "unix", None, "", None, "/session", "qemu:///session"),
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
        ("qemu:/system", "maybe you want qemu:///system"),
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
