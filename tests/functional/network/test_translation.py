"""Under which address and port guests come out: a probe in a network, and who hears it beyond."""

import ipaddress
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.network.test_networks import create
from tests.support.daemon import Daemon, running_daemon
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.root, pytest.mark.virsh]

INSIDE = {4: "10.74.1.7", 6: "fd74::7"}
BEYOND = {4: "198.51.100.2", 6: "fd98::2"}
LENGTHS = {4: 24, 6: 64}
#: beyond: hear COUNT datagrams and say who sent them
LISTEN = """
import json, socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((sys.argv[1], 7777))
    sock.settimeout(30)
    print("ready", flush=True)
    print(json.dumps([sock.recvfrom(9)[1][:2] for _ in range(int(sys.argv[2]))]), flush=True)
"""
#: inside: send COUNT datagrams, each from a socket and a port of its own
SEND = """
import socket, sys
for number in range(int(sys.argv[2])):
    with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        sock.sendto(b"x", (sys.argv[1], 7777))
"""


@pytest.fixture(scope="module")
def beyond() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


@pytest.fixture(scope="module")
def host(beyond: Namespace) -> Iterator[Namespace]:
    with namespace() as it:
        it.cable("up0", beyond, "down0")
        for version, own in ((4, "198.51.100.1"), (6, "fd98::1")):
            it.ip("addr", "add", f"{own}/{LENGTHS[version]}", "dev", "up0", *_NODAD[version])
            beyond.ip(
                "addr", "add", f"{BEYOND[version]}/{LENGTHS[version]}", "dev", "down0", *_NODAD[version]
            )
        yield it


_NODAD: dict[int, tuple[str, ...]] = {4: (), 6: ("nodad",)}


@pytest.fixture(scope="module")
def daemon(host: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=host.prefix) as it:
        yield it


@pytest.fixture
def inside() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


def heard(beyond: Namespace, inside: Namespace, version: int, count: int = 4) -> list[tuple[str, int]]:
    """Send datagrams from inside; return the addresses and ports they seem to come from."""
    target = BEYOND[version]
    with beyond.start(sys.executable, "-c", LISTEN, target, str(count)) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline().strip() == "ready"
        inside.run(sys.executable, "-c", SEND, target, str(count))
        found: list[Any] = json.loads(listener.stdout.readline())
    return [(str(address), int(port)) for address, port in found]


@pytest.mark.parametrize(
    ("version", "forward", "addresses", "ports"),
    [
        (4, "<forward mode='nat'/>", ("198.51.100.1", "198.51.100.1"), (1024, 65535)),
        (
            4,
            "<forward mode='nat'><nat><port start='2000' end='2007'/></nat></forward>",
            ("198.51.100.1", "198.51.100.1"),
            (2000, 2007),
        ),
        (
            4,
            "<forward mode='nat' dev='up0'><nat><address start='198.51.100.10' end='198.51.100.12'/>"
            "<port start='3000' end='3999'/></nat></forward>",
            ("198.51.100.10", "198.51.100.12"),
            (3000, 3999),
        ),
        (
            6,
            "<forward mode='nat'><nat ipv6='yes'><port start='4000' end='4099'/></nat></forward>",
            ("fd98::1", "fd98::1"),
            (4000, 4099),
        ),
        (4, "<forward mode='route'/>", (INSIDE[4], INSIDE[4]), (1024, 65535)),
        (6, "<forward mode='nat'/>", (INSIDE[6], INSIDE[6]), (1024, 65535)),
        (6, "<forward mode='open'/>", (INSIDE[6], INSIDE[6]), (1024, 65535)),
    ],
)
def test_under_which_address_guests_come_out(
    daemon: Daemon,
    host: Namespace,
    beyond: Namespace,
    inside: Namespace,
    version: int,
    forward: str,
    addresses: tuple[str, str],
    ports: tuple[int, int],
) -> None:
    create(
        daemon,
        f"<network><name>out</name>{forward}<bridge name='vbout' stp='off'/>"
        "<ip address='10.74.1.1' prefix='24'/><ip family='ipv6' address='fd74::1' prefix='64'/></network>",
    )
    try:
        host.cable("plug0", inside, "eth0")
        host.ip("link", "set", "plug0", "master", "vbout")
        own, length = INSIDE[version], LENGTHS[version]
        inside.ip("addr", "add", f"{own}/{length}", "dev", "eth0", *_NODAD[version])
        inside.ip("route", "add", "default", "via", "10.74.1.1" if version == 4 else "fd74::1")
        first, last = (ipaddress.ip_address(address) for address in addresses)
        for address, port in heard(beyond, inside, version):
            assert int(first) <= int(ipaddress.ip_address(address)) <= int(last)
            assert ports[0] <= port <= ports[1]
    finally:
        daemon.virsh("net-destroy", "out")
        host.ip("link", "del", "plug0")
