"""Networks with odd names and numbers, on hosts where something is in the way: clear answers, no traces."""

from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from tests.functional.network.test_networks import create
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.root, pytest.mark.virsh]


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


@pytest.fixture(scope="module")
def daemon(host: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=host.prefix) as it:
        yield it


def document(name: str, more: str = "", ip: str = "<ip address='10.76.1.1' prefix='24'/>") -> str:
    return f"<network><name>{name}</name><forward mode='nat'/><bridge name='vbodd'/>{more}{ip}</network>"


IPV6 = "<ip family='ipv6' address='fd76::1' prefix='64'/>"


def forwards(host: Namespace, family: str) -> bool:
    path = {"ipv4": "ipv4/ip_forward", "ipv6": "ipv6/conf/all/forwarding"}[family]
    return host.run("cat", f"/proc/sys/net/{path}").stdout.strip() == "1"


@pytest.mark.parametrize(
    "name",
    ["with space", "quo&quot;te", "tab&#9;x", "a #b", "back\\slash", "ünïcode", "&lt;x>", "semi;colon"],
)
def test_odd_names(daemon: Daemon, host: Namespace, name: str) -> None:
    dhcp = "<ip address='10.76.1.1' prefix='24'><dhcp><range start='10.76.1.2' end='10.76.1.9'/></dhcp></ip>"
    path = daemon.root / "odd.xml"
    path.write_text(document(name, ip=dhcp))
    name = unescape(name)
    daemon.virsh("net-define", str(path))
    try:
        daemon.virsh("net-start", name)
        record = "<host ip='10.76.1.8'><hostname>eight</hostname></host>"
        daemon.virsh("net-update", name, "add", "dns-host", record, "--live", "--config")
        assert "Active:         yes" in daemon.virsh("net-info", name)
        daemon.virsh("net-destroy", name)
    finally:
        daemon.virsh("net-undefine", name)
    assert host.links() == {"lo"}
    assert not list((daemon.root / "var/lib/libvirt/dnsmasq").iterdir())
    assert [path.name for path in (daemon.root / "run/libvirt/network").iterdir()] == ["autostarted"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (document("small", "<mtu size='60'/>"), "Cannot set interface MTU on 'vbodd' to 60"),
        (document("big", "<mtu size='70000'/>"), "Cannot set interface MTU on 'vbodd' to 70000"),
        (document("six", "<mtu size='1000'/>", IPV6), "its MTU of 1000 is below the 1280 that IPv6 needs"),
        (
            document("zone").replace("'vbodd'", "'vbodd' zone='work'"),
            "internal error: zone work requested for network zone but firewalld is not active",
        ),
    ],
)
def test_what_the_host_cannot_give(daemon: Daemon, host: Namespace, text: str, says: str) -> None:
    before = [forwards(host, family) for family in ("ipv4", "ipv6")]
    assert says in create(daemon, text, check=False)
    assert host.links() == {"lo"}
    assert "vbodd" not in host.run("nft", "list", "ruleset").stdout
    assert [forwards(host, family) for family in ("ipv4", "ipv6")] == before


def test_a_start_that_fails_lets_nothing_be_forwarded() -> None:
    with namespace() as net, running_daemon(prefix=net.prefix) as daemon:
        path = daemon.root / "no-such-folder"
        tftp = f"<ip address='10.76.1.1' prefix='24'><tftp root='{path}'/></ip>"
        assert str(path) in create(daemon, document("no-folder", ip=tftp), check=False)
        assert not forwards(net, "ipv4")
        create(daemon, document("well"))
        assert forwards(net, "ipv4")
        daemon.virsh("net-destroy", "well")


def test_an_ipv6_range_is_in_use(daemon: Daemon, host: Namespace) -> None:
    host.ip("link", "add", "other0", "type", "bridge")
    host.ip("addr", "add", "fd76::7/48", "dev", "other0", "nodad")
    host.ip("link", "set", "other0", "up")
    try:
        said = create(daemon, document("clash", ip=IPV6), check=False)
        assert "already in use by interface other0: fd76::/64" in said
        assert host.links() == {"lo", "other0"}
    finally:
        host.ip("link", "del", "other0")


def test_a_host_that_lives_by_advertisements_is_not_cut_off(tmp_path: Path) -> None:
    """A kernel that forwards IPv6 forgets what routers told it, unless its administrator says otherwise."""
    with namespace() as net, namespace() as router, running_daemon(prefix=net.prefix) as daemon:
        net.cable("up0", router, "down0")
        router.ip("addr", "add", "fd75::1/64", "dev", "down0", "nodad")
        words = ["dnsmasq", "-k", "-C", "/dev/null", "--port=0", "-i", "down0", "--enable-ra", "-u", "root"]
        words += ["--dhcp-range=fd75::,ra-only", f"--pid-file={tmp_path}/pid", "--bind-dynamic"]
        with router.start(*words):
            wait_until(lambda: "default" in net.ip("-6", "route"), "the host has heard of its router")
            said = create(daemon, document("cutting", ip=IPV6), check=False)
            assert "sysctl net.ipv6.conf.up0.accept_ra=2" in said
            assert net.links() == {"lo", "up0"}
            assert not forwards(net, "ipv6")
            net.run("sysctl", "-qw", "net.ipv6.conf.up0.accept_ra=2")
            create(daemon, document("kept", ip=IPV6))
            assert forwards(net, "ipv6")
            assert "default" in net.ip("-6", "route")
            daemon.virsh("net-destroy", "kept")


def test_only_what_is_translated_has_ports(daemon: Daemon) -> None:
    create(daemon, document("only6", ip=IPV6))
    assert "<nat>" not in daemon.virsh("net-dumpxml", "only6")
    daemon.virsh("net-destroy", "only6")


def test_leases_and_ports_that_cannot_be_told(daemon: Daemon) -> None:
    path = daemon.root / "idle.xml"
    path.write_text(document("idle"))
    daemon.virsh("net-define", str(path))
    try:
        assert "invalid MAC address: zz" in daemon.virsh_run("net-dhcp-leases", "idle", "--mac", "zz").stderr
        assert daemon.virsh("net-dhcp-leases", "idle", "--mac", "52:54:0:0:0:1").strip() == ""
        assert "network 'idle' is not active" in daemon.virsh_run("net-port-list", "idle").stderr
    finally:
        daemon.virsh("net-undefine", "idle")
