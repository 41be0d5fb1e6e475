"""qemu.conf: libvirt's grammar and what becomes of the values."""

import os
from pathlib import Path

import pytest

from qvirt.errors import ConfigSyntax
from qvirt.host.config import make_config, parse_conf, read_config, resolve_user


def test_grammar() -> None:
    text = """# comment
user = "libvirt-qemu"   # behind
group='kvm'
dynamic_ownership = 0
nvram = [
  "/a:/b", # one
  '/c:/d',
]
empty = []
long = \"\"\"two
lines\"\"\"
"""
    assert parse_conf(text, "f") == {
        "user": "libvirt-qemu",
        "group": "kvm",
        "dynamic_ownership": 0,
        "nvram": ["/a:/b", "/c:/d"],
        "empty": [],
        "long": "two\nlines",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "f:1: expecting an assignment"),
        ("\n\na = ", "f:3: expecting a value"),
        ("a = [ 'x' 'y' ]", "f:1: expecting ',' or ']'"),
        ("= 1", "f:1: expecting a name"),
        ("a = 'open", "f:1: expecting a value"),
    ],
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(ConfigSyntax) as caught:
        parse_conf(text, "f")
    assert caught.value.detail == message


def test_values_reach_the_settings() -> None:
    config = make_config(
        {"vnc_listen": "192.0.2.1", "spice_tls": 1, "max_core": "unlimited", "remote_display_port_min": 6000},
        privileged=False,
    )
    assert config.settings.vnc_listen == "192.0.2.1"
    assert config.settings.spice_tls is True
    assert config.max_core is None
    assert config.display_ports == (6000, 65535)
    assert config.user is None


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ConfigSyntax, match="remote_display_port_min 10"):
        make_config({"remote_display_port_min": 10}, privileged=False)
    with pytest.raises(ConfigSyntax, match="expecting a number"):
        make_config({"dynamic_ownership": "yes"}, privileged=False)
    with pytest.raises(ConfigSyntax, match="Failed to parse user 'nobody-of-that-name'"):
        make_config({"user": "nobody-of-that-name"}, privileged=True)


def test_users_by_name_and_number() -> None:
    assert resolve_user("root", "root").uid == 0
    assert resolve_user("+4711", "+4712").gid == 4712
    assert make_config({"user": "root", "group": "root"}, privileged=True).user is None


def test_missing_file_means_the_defaults(tmp_path: Path) -> None:
    config = read_config(tmp_path / "none.conf", privileged=False)
    assert config.settings.vnc_listen == "127.0.0.1"
    assert config.max_core == 0
    bad = tmp_path / "qemu.conf"
    bad.write_text("user = \n")
    with pytest.raises(ConfigSyntax, match=os.fspath(bad)):
        read_config(bad, privileged=False)
