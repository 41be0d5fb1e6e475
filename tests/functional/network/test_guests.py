"""Guests on virtual networks: leases, the host, each other, the world beyond; in namespaces of the test."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import AGENT, booted, linux_xml, shell, write
from tests.support.daemon import Daemon, make_root, wait_until
from tests.support.guest import Guest
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh, pytest.mark.root]

MACS = ("52:54:00:a0:00:01", "52:54:00:a0:00:02")
BEYOND = "198.51.100.2"
DHCP = "<dhcp><range start='192.168.{0}.10' end='192.168.{0}.99'/></dhcp>"


def document(name: str, number: int, forward: str = "", more: str = "") -> str:
    return (
        f"<network><name>{name}</name>{forward}<bridge name='qvt-{name}' stp='off'/>{more}"
        f"<ip address='192.168.{number}.1' netmask='255.255.255.0'>{DHCP.format(number)}</ip></network>"
    )


def card(network: str, mac: str = MACS[0], more: str = "") -> str:
    return (
        f"<interface type='network'><mac address='{mac}'/><source network='{network}'/><model type='virtio'/>"
        f"{more}</interface>"
    )


@pytest.fixture(scope="module")
def beyond() -> Iterator[Namespace]:
    """The world: it knows the host, and no way to the networks behind it."""
    with namespace() as it:
        yield it


@pytest.fixture(scope="module")
def host(beyond: Namespace) -> Iterator[Namespace]:
    """The network of the machine that qvirtd runs on."""
    with namespace() as it:
        it.cable("up0", beyond, "down0")
        it.ip("addr", "add", "198.51.100.1/24", "dev", "up0")
        beyond.ip("addr", "add", f"{BEYOND}/24", "dev", "down0")
        it.ip("route", "add", "default", "via", BEYOND)
        yield it


@pytest.fixture(scope="module")
def daemon(host: Namespace) -> Iterator[Daemon]:
    """A qvirtd with networks of several kinds."""
    it = Daemon(make_root(), prefix=host.prefix)
    try:
        it.start()
        for name, text in (
            ("nat", document("nat", 161, "<forward mode='nat'/>")),
            ("alone", document("alone", 162)),
            ("route", document("route", 163, "<forward mode='route'/>")),
            ("open", document("open", 164, "<forward mode='open'/>")),
            ("idle", document("idle", 165)),
            (
                "pool",
                "<network><name>pool</name><forward mode='bridge'><interface dev='up0'/></forward></network>",
            ),
        ):
            done = it.virsh_run("net-define", write(it, name, text))
            if done.returncode == 0 and name != "idle":
                done = it.virsh_run("net-start", name)
            if re.search("not supported|makes no bridges|unknown procedure", done.stderr):
                pytest.skip(f"no networks here: {done.stderr.strip()}")
            assert done.returncode == 0, done.stderr
        yield it
        for name in ("nat", "alone", "route", "open", "pool"):
            it.virsh_run("net-destroy", name)
    finally:
        it.clean()


def lease(daemon: Daemon, network: str, mac: str) -> str:
    """Wait for a guest's lease and return its address."""

    def found() -> str | None:
        for line in daemon.virsh("net-dhcp-leases", network).splitlines():
            if mac in line:
                return str(re.findall(r"(192\.168\.\d+\.\d+)/", line)[0])
        return None

    wait_until(found, f"{mac} has its lease")
    address = found()
    assert address is not None
    return address


def works(shell_answer: str) -> bool:
    return "0% packet loss" in shell_answer and "100% packet loss" not in shell_answer


def test_two_guests_on_a_nat_network(daemon: Daemon, host: Namespace, linux: Guest) -> None:
    first = linux_xml(linux, "first", AGENT + card("nat"))
    second = linux_xml(linux, "second", card("nat", MACS[1]))
    with (
        booted(daemon, "first", first) as one,
        booted(daemon, "second", second) as two,
        contextlib.ExitStack() as consoles,
    ):
        mine, other = (lease(daemon, "nat", mac) for mac in MACS)
        wait_until(lambda: mine in one.ask("ip addr show eth0"), "the guest has taken its address")
        wait_until(lambda: other in two.ask("ip addr show eth0"), "the other guest has taken its address")
        assert works(one.ask("ping -c 2 192.168.161.1"))
        assert works(one.ask(f"ping -c 2 {other}"))
        assert works(one.ask(f"ping -c 2 {BEYOND}"))
        listed = [line.split() for line in daemon.virsh("domiflist", "first").splitlines() if line.strip()]
        tap = listed[0][0]
        assert listed == [[tap, "network", "nat", "virtio", MACS[0]]]
        assert f"{mine}/24" in daemon.virsh("domifaddr", "first")
        merged = daemon.qvirt("domifaddr", "first").stdout
        assert re.search(rf"{MACS[0]} +ipv4 +{mine}/24 +lease", merged)
        ports = daemon.virsh("net-port-list", "nat").split()
        assert len(ports) == 2
        xml = daemon.virsh("dumpxml", "first")
        assert re.search(r"<source network='nat' portid='[0-9a-f-]{36}' bridge='qvt-nat'/>", xml)
        assert "connections='2'" in daemon.virsh("net-dumpxml", "nat")

        daemon.kill()
        daemon.start()
        one, two = (consoles.enter_context(shell(daemon, name)).booted() for name in ("first", "second"))
        assert works(one.ask(f"ping -c 2 {BEYOND}"))
        assert works(one.ask(f"ping -c 2 {other}"))
        assert daemon.virsh("net-port-list", "nat").split() == ports
        assert lease(daemon, "nat", MACS[0]) == mine
        assert daemon.virsh("dumpxml", "first") == xml

        # a network that went and came has its guests again
        daemon.virsh("net-destroy", "nat")
        daemon.virsh("net-start", "nat")
        wait_until(
            lambda: json.loads(host.ip("-j", "link", "show", tap))[0].get("master") == "qvt-nat",
            "the guest is plugged in again",
        )
        wait_until(lambda: works(one.ask("ping -c 2 192.168.161.1")), "the guest reaches the host again")

        # a tap that vanishes takes nothing else along
        host.ip("link", "del", tap)
        assert "running" in daemon.virsh("domstate", "first")
        assert works(two.ask("ping -c 2 192.168.161.1"))
    wait_until(lambda: not daemon.virsh("net-port-list", "nat").split(), "the ports are given back")
    assert not {name for name in host.links() if name.startswith("vnet")}


@pytest.mark.parametrize(("network", "number", "out"), [("alone", 162, False), ("route", 163, True)])
def test_how_far_a_guest_gets(
    daemon: Daemon, beyond: Namespace, linux: Guest, network: str, number: int, out: bool
) -> None:
    beyond.ip("route", "replace", f"192.168.{number}.0/24", "via", "198.51.100.1")
    with booted(daemon, network, linux_xml(linux, network, card(network))) as guest:
        mine = lease(daemon, network, MACS[0])
        wait_until(lambda: mine in guest.ask("ip addr show eth0"), "the guest has taken its address")
        assert works(guest.ask(f"ping -c 2 192.168.{number}.1"))
        assert works(guest.ask(f"ping -c 2 -W 1 {BEYOND}")) == out


def test_a_guest_on_a_device_of_the_host(daemon: Daemon, beyond: Namespace, linux: Guest) -> None:
    with booted(daemon, "macvtap", linux_xml(linux, "macvtap", card("pool"))) as guest:
        assert "<interface type='direct'>" in daemon.virsh("dumpxml", "macvtap")
        guest.ask("ip addr add 198.51.100.7/24 dev eth0")
        wait_until(lambda: works(guest.ask(f"ping -c 1 -W 1 {BEYOND}")), "the guest reaches the world")


def test_what_cannot_be_plugged_in(daemon: Daemon, host: Namespace, linux: Guest) -> None:
    before = host.links()
    for interface, message in (
        (card("idle"), "network 'idle' is not active"),
        (card("nowhere"), "Network not found: no network with matching name 'nowhere'"),
        (card("nat", more="<vlan><tag id='7'/></vlan>"), "vlan tag not supported for this connection type"),
        (card("nat", more="<filterref filter='clean-traffic'/>"), "network filter 'clean-traffic'"),
    ):
        done = daemon.virsh_run("create", write(daemon, "lost", linux_xml(linux, "lost", interface)))
        assert message in done.stderr
    assert host.links() == before
    assert not daemon.virsh("net-port-list", "nat").split()


def test_a_bridge_that_somebody_removed(daemon: Daemon, host: Namespace, linux: Guest) -> None:
    daemon.virsh("net-start", "idle")
    host.ip("link", "del", "qvt-idle")
    path = write(daemon, "lost", linux_xml(linux, "lost", card("idle")))
    said = daemon.virsh_run("create", path).stderr
    assert "No such device" in said
    assert said.strip().endswith("virsh net-destroy idle; virsh net-start idle")
    assert not daemon.virsh("net-port-list", "idle").split()
    daemon.virsh("net-destroy", "idle")
    daemon.virsh("net-start", "idle")
    assert "qvt-idle" in host.links()
    daemon.virsh("net-destroy", "idle")
    assert not {name for name in host.links() if name.startswith("vnet")}


def test_the_doctor(daemon: Daemon, host: Namespace) -> None:
    def doctor(network: str) -> "subprocess.CompletedProcess[str]":
        words = (sys.executable, "-m", "qvirt.cli.main", "-c", daemon.uri, "net", "doctor", network)
        return host.run(*words, check=False)

    before = host.links()
    healthy = doctor("nat")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    for said in ("lease of 192.168.161.", "net-dhcp-leases", "answers at 192.168.161.1", f"{BEYOND} answers"):
        assert said in healthy.stdout
    assert doctor("alone").returncode == 0
    assert "start it: virsh net-start idle" in doctor("idle").stdout
    assert "no bridge to put a probe into" in doctor("pool").stderr
    # a firewall of somebody else's
    host.run("nft", "add table inet other; add chain inet other input { type filter hook input priority 5; }")
    host.run("nft", "add rule inet other input iifname qvt-nat udp dport 67 drop")
    sick = doctor("nat")
    host.run("nft", "delete table inet other")
    assert sick.returncode == 1
    assert "no lease" in sick.stdout
    assert "UDP port 67" in sick.stdout
    assert host.links() == before
