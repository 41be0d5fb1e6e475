"""What guests get from a network's dnsmasq: names, service records, leases by DHCPv6, files by TFTP."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.network.test_networks import create, pid_of
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.root, pytest.mark.virsh]
PROJECT = Path(__file__).parents[3]
MAC = "52:54:00:a6:00:01"


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


@pytest.fixture(scope="module")
def daemon(host: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=host.prefix) as it:
        yield it


@pytest.fixture
def guest() -> Iterator[Namespace]:
    with namespace() as it:
        it.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        yield it


def plug(host: Namespace, guest: Namespace, bridge: str) -> None:
    """Put a guest's cable into a bridge."""
    host.cable("plug0", guest, "eth0")
    guest.ip("link", "set", "eth0", "address", MAC)
    host.ip("link", "set", "plug0", "master", bridge)


def ask(guest: Namespace, *words: str) -> dict[str, Any]:
    command = ("env", f"PYTHONPATH={PROJECT}", sys.executable, "-m", "tests.functional.network.asking")
    answer: dict[str, Any] = json.loads(guest.run(*command, *words).stdout)
    return answer


DNS = """<network><name>names</name><bridge name='vbnames' stp='off'/>
<domain name='lab.test' localOnly='yes'/>
<dns forwardPlainNames='no'><forwarder domain='else.test' addr='10.73.1.9'/>
<txt name='note' value='some words'/>
<srv service='ldap' protocol='tcp' domain='lab.test' target='dc.lab.test' port='389' priority='3' weight='2'/>
<host ip='10.73.1.5'><hostname>five</hostname><hostname>cinq</hostname></host></dns>
<ip address='10.73.1.1' prefix='24' localPtr='yes'>
<dhcp><range start='10.73.1.10' end='10.73.1.20'/></dhcp></ip></network>"""


def test_names_and_services(daemon: Daemon, host: Namespace, guest: Namespace) -> None:
    create(daemon, DNS)
    try:
        plug(host, guest, "vbnames")
        guest.ip("addr", "add", "10.73.1.7/24", "dev", "eth0")

        def dns(name: str, kind: str = "A") -> dict[str, Any]:
            return ask(guest, "dns", "10.73.1.1", name, kind)

        assert dns("cinq")["said"].endswith("\n\x49\x01\x05")
        assert dns("five.lab.test")["answers"] == 1
        assert "some words" in dns("note", "TXT")["said"]
        assert "\x00\x03\x00\x02\x01\x85\x02dc" in dns("_ldap._tcp.lab.test", "SRV")["said"]
        assert "five" in dns("5.1.73.10.in-addr.arpa", "PTR")["said"]
        # neither plain names nor those of the network's own domain are asked of others
        assert [dns(name)["code"] for name in ("nobody", "nobody.lab.test")] == [3, 3]
        pid = pid_of(daemon, "names")
        record = "<host ip='10.73.1.6'><hostname>six</hostname></host>"
        daemon.virsh("net-update", "names", "add", "dns-host", record, "--live")
        wait_until(lambda: dns("six")["answers"] == 1, "the new name is known")
        daemon.virsh("net-update", "names", "delete", "dns-host", record, "--live")
        wait_until(lambda: dns("six")["answers"] == 0, "it is forgotten")
        assert pid_of(daemon, "names") == pid
    finally:
        daemon.virsh("net-destroy", "names")
        host.ip("link", "del", "plug0")


SIX = """<network><name>six</name><bridge name='vbsix' stp='off'/>
<ip family='ipv6' address='fd73::1' prefix='64'>
<dhcp><range start='fd73::50' end='fd73::60'/>{host}</dhcp></ip></network>"""


@pytest.mark.parametrize(
    ("fixed", "pattern"),
    [("", r"fd73::5\w|fd73::60"), (f"<host id='00:03:00:01:{MAC}' name='seven' ip='fd73::7'/>", "fd73::7")],
)
def test_a_lease_of_a_network_without_ipv4(
    daemon: Daemon, host: Namespace, guest: Namespace, fixed: str, pattern: str
) -> None:
    create(daemon, SIX.format(host=fixed))
    try:
        plug(host, guest, "vbsix")
        wait_until(
            lambda: "fe80::" in guest.ip("addr", "show", "eth0"), "the card has an address of its link"
        )
        address = ask(guest, "dhcp6", "eth0", MAC)["address"]
        assert re.fullmatch(pattern, address)
        line = rf"{MAC} +ipv6 +{address}/64"
        with_ipv6 = host.run(
            *(sys.executable, "-m", "qvirt.cli.main", "-c", daemon.uri, "net", "doctor", "six")
        ).stdout
        assert "ok    the host answers at fd73::1" in with_ipv6
        assert "no lease by DHCPv6 was asked for" in with_ipv6
        wait_until(
            # dnsmasq writes its file right after it has answered
            lambda: re.search(line, daemon.virsh("net-dhcp-leases", "six", "--mac", MAC)),
            "the lease is known",
        )
        # routers are told of, too; an isolated network's is none
        wait_until(lambda: "fd73::/64" in guest.ip("-6", "route"), "the guest has heard of its network")
        assert "default" not in guest.ip("-6", "route")
    finally:
        daemon.virsh("net-destroy", "six")
        host.ip("link", "del", "plug0")


def test_a_file_to_boot_from(daemon: Daemon, host: Namespace, guest: Namespace) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("there is no TFTP client")
    folder = daemon.root / "boot"
    folder.mkdir(mode=0o755)
    daemon.root.chmod(0o755)
    (folder / "pxe.0").write_text("boot me")
    (folder / "pxe.0").chmod(0o644)
    create(
        daemon,
        "<network><name>boot</name><bridge name='vbboot' stp='off'/><ip address='10.72.1.1' prefix='24'>"
        f"<tftp root='{folder}'/><dhcp><range start='10.72.1.10' end='10.72.1.20'/><bootp file='pxe.0'/>"
        "</dhcp></ip></network>",
    )
    try:
        plug(host, guest, "vbboot")
        guest.ip("addr", "add", "10.72.1.7/24", "dev", "eth0")
        got = guest.run("busybox", "tftp", "-g", "-r", "pxe.0", "-l", "/dev/stdout", "10.72.1.1")
        assert got.stdout == "boot me"
    finally:
        daemon.virsh("net-destroy", "boot")
        host.ip("link", "del", "plug0")
