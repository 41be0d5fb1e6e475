"""passt's command line, as libvirt words it."""

import pytest
from lxml import etree

from qvirt.model.devices.interface import Interface
from qvirt.qemu.devices.interface import passt_socket
from qvirt.runtime.helpers.passt import command


def interface(inside: str) -> Interface:
    made = Interface.from_xml(
        etree.fromstring(f"<interface type='user'><backend type='passt'/>{inside}</interface>")
    )
    made.alias.name = "net0"
    return made


def words(inside: str) -> list[str]:
    return command("/run/1-guest-net0.socket", "/run/1-guest-net0-passt.pid", interface(inside))


def test_the_least() -> None:
    socket, pid = "/run/1-guest-net0.socket", "/run/1-guest-net0-passt.pid"
    expected = ["passt", "--foreground", "--one-off", "--socket", socket, "--pid", pid, "--quiet"]
    assert words("") == expected
    assert passt_socket("/run", 1, "guest", interface("")) == socket


def test_a_long_name_keeps_the_socket_short() -> None:
    socket = passt_socket("/run", 7, "x" * 200, interface(""))
    assert socket == f"/run/7-{'x' * 20}-net0.socket"


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<source dev='eth0'/>", ["--interface", "eth0"]),
        ("<mtu size='1400'/>", ["--mtu", "1400"]),
        ("<ip address='10.0.0.5' family='ipv4' prefix='24'/>", ["--address", "10.0.0.5", "--netmask", "24"]),
        ("<ip address='2001:db8::5' family='ipv6' prefix='64'/>", ["--address", "2001:db8::5"]),
        ("<portForward proto='tcp'/>", ["--tcp-ports", "all"]),
        (
            "<portForward proto='tcp' address='127.0.0.1' dev='lo'><range start='22' to='2'/></portForward>",
            ["--tcp-ports", "127.0.0.1%lo/22:2"],
        ),
        (
            "<portForward proto='udp'><range start='5000' end='5020' to='6000'/>"
            "<range start='5010' end='5015' exclude='yes'/></portForward>",
            ["--udp-ports", "5000-5020:6000-6020,~5010-5015"],
        ),
    ],
)
def test_what_may_be_said(inside: str, expected: list[str]) -> None:
    assert words(inside)[8:] == expected
