"""Which socket a URI means."""

import os
import stat
from pathlib import Path

import pytest

from qvirt.client.config import ClientConfig
from qvirt.client.sockets import Host, choose, find_daemon
from qvirt.client.uri import parse
from qvirt.errors import QvirtError

USER = {"XDG_RUNTIME_DIR": "/run/user/7", "VIRTD_PATH": "/opt/daemon"}


def chosen(
    uri: str,
    *present: str,
    euid: int = 0,
    readonly: bool = False,
    mode: str | None = None,
    environ: dict[str, str] | None = None,
) -> tuple[str, str | None]:
    host = Host(euid, USER if environ is None else environ, lambda path: path in present)
    choice = choose(parse(uri), readonly=readonly, config=ClientConfig(remote_mode=mode), host=host)
    return choice.path, choice.daemon


@pytest.mark.parametrize(
    ("uri", "present", "path"),
    [
        ("qemu:///system", (), "/run/libvirt/libvirt-sock"),
        ("qemu:///system", ("/run/libvirt/virtqemud-sock",), "/run/libvirt/virtqemud-sock"),
        ("network:///system", ("/run/libvirt/virtnetworkd-sock",), "/run/libvirt/virtnetworkd-sock"),
        ("network:///system", ("/run/libvirt/virtqemud-sock",), "/run/libvirt/libvirt-sock"),
        ("qemu:///system?mode=direct", (), "/run/libvirt/virtqemud-sock"),
        ("qemu:///system?mode=legacy", ("/run/libvirt/virtqemud-sock",), "/run/libvirt/libvirt-sock"),
        ("qemu:///system?socket=/x/y", ("/run/libvirt/virtqemud-sock",), "/x/y"),
        ("", ("/run/libvirt/virtqemud-sock",), "/run/libvirt/libvirt-sock"),
        ("qemu:///session", (), "/run/libvirt/libvirt-sock"),
    ],
)
def test_root(uri: str, present: tuple[str, ...], path: str) -> None:
    assert chosen(uri, *present) == (path, None)


def test_read_only() -> None:
    assert chosen("qemu:///system", readonly=True)[0] == "/run/libvirt/libvirt-sock-ro"
    present = "/run/libvirt/virtqemud-sock-ro"
    assert chosen("qemu:///system", present, readonly=True)[0] == present
    assert chosen("qemu:///session", euid=7, readonly=True)[0] == "/run/user/7/libvirt/libvirt-sock"


def test_a_user_has_a_daemon_of_their_own_which_may_be_started() -> None:
    assert chosen("qemu:///session", euid=7) == ("/run/user/7/libvirt/libvirt-sock", "/opt/daemon/libvirtd")
    assert chosen("", euid=7) == ("/run/user/7/libvirt/libvirt-sock", "/opt/daemon/libvirtd")
    assert chosen("qemu:///system", euid=7) == ("/run/libvirt/libvirt-sock", None)
    no_autostart = {**USER, "LIBVIRT_AUTOSTART": "0"}
    assert chosen("qemu:///session", euid=7, environ=no_autostart)[1] is None
    assert chosen("qemu:///session", euid=7, environ={"HOME": "/h"})[0] == "/h/.cache/libvirt/libvirt-sock"


def test_mode_from_the_configuration() -> None:
    assert chosen("qemu:///system", mode="direct")[0] == "/run/libvirt/virtqemud-sock"
    assert chosen("qemu:///system?mode=legacy", mode="direct")[0] == "/run/libvirt/libvirt-sock"


@pytest.mark.parametrize(("uri", "sentence"), [
    ("qemu:///system?mode=sideways", "Unknown remote mode 'sideways'"),
    ("remote:///?mode=direct", "driver 'remote' has no daemon of its own"),
])  # fmt: skip
def test_modes_that_make_no_sense(uri: str, sentence: str) -> None:
    with pytest.raises(QvirtError, match=sentence):
        chosen(uri)


def test_the_daemon_is_searched_in_the_path(tmp_path: Path) -> None:
    program = tmp_path / "virtnetworkd"
    program.write_text("#!/bin/sh\n")
    program.chmod(stat.S_IRWXU)
    host = Host(7, {"PATH": f"/nowhere:{tmp_path}"}, os.path.exists)
    assert find_daemon("virtnetworkd", host) == str(program)
    assert find_daemon("virtunheardofd", host) is None
