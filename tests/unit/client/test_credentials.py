"""auth.conf."""

from pathlib import Path

import pytest

from qvirt.client import uri
from qvirt.client.credentials import answerer, find, look_up, parse
from qvirt.errors import ConfigSyntax, SystemError_
from qvirt.net.sasl import Prompt

TEXT = """
# who I am
[credentials-test]
authname=fred
password=a secret = with signs

[credentials-defgrp]
username=joe
password=other

[auth-libvirt-test1.example.com]
credentials=test

[auth-libvirt-default]
credentials=defgrp
"""


def prompt(name: str) -> Prompt:
    return Prompt(name, f"Your {name}:", "", name == "password")


def test_groups() -> None:
    groups = parse(TEXT, "auth.conf")
    assert look_up(groups, "test1.example.com", "password", "x") == "a secret = with signs"
    assert look_up(groups, "elsewhere", "username", "x") == "joe"
    assert look_up(groups, "elsewhere", "realm", "x") is None
    assert look_up({}, "elsewhere", "realm", "x") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("password=x\n", r"auth.conf:1: expecting '\[GROUP\]'"),
        ("[a]\n\nwhat\n", "auth.conf:3"),
        ("[auth-libvirt-default]\n", "Missing item 'credentials'"),
        ("[auth-libvirt-default]\ncredentials=none\n", "Missing group 'credentials-none'"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    def read() -> None:
        look_up(parse(text, "auth.conf"), "host", "password", "auth.conf")

    with pytest.raises(ConfigSyntax, match=words):
        read()


def test_where_the_file_is(tmp_path: Path) -> None:
    named, own = tmp_path / "named", tmp_path / "libvirt/auth.conf"
    own.parent.mkdir()
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    target = uri.parse(f"qemu+tcp://host/system?authfile={named}")
    with pytest.raises(SystemError_, match=f"Failed to open file '{named}'"):
        find(target, environ)
    named.touch()
    own.touch()
    assert find(target, environ) == named
    assert find(target, {**environ, "LIBVIRT_AUTH_FILE": str(own)}) == own
    assert find(uri.parse("qemu+tcp://host/system"), environ) == own


def test_who_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "auth.conf"
    file.write_text(TEXT)
    asked: list[str] = []

    def ask(what: Prompt) -> str:
        asked.append(what.name)
        return "said"

    known = answerer(uri.parse(f"qemu+tcp://test1.example.com/system?authfile={file}"), ask, {})
    assert known(prompt("authname")) == "fred"
    assert known(prompt("password")) == "a secret = with signs"
    assert known(prompt("realm")) is None
    nobody = answerer(uri.parse("qemu+tcp://me@host/system"), ask, {"HOME": str(tmp_path)})
    assert nobody(prompt("authname")) == "me"
    assert nobody(prompt("password")) == "said"
    assert asked == ["password"]
    assert (
        answerer(uri.parse("qemu+tcp://host/system"), None, {"HOME": str(tmp_path)})(prompt("password"))
        is None
    )
