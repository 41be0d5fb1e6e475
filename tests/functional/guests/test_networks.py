"""Interfaces of real guests on the host's network: bridges, taps and macvtap."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.functional.api.documents import domain
from tests.functional.guests.machines import AGENT, booted, linux_xml, write
from tests.support.daemon import Daemon
from tests.support.guest import Guest
from tests.support.netns import devices_of

pytestmark = [pytest.mark.qemu, pytest.mark.virsh, pytest.mark.root]

MAC = "52:54:00:0b:0c:0d"


def ip(*words: str, check: bool = True) -> str:
    """Run ip and return what it prints."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=30)
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def link(kind: str, name: str) -> Iterator[str]:
    """Make a network device of the host for a block."""
    made = subprocess.run(
        ["ip", "link", "add", name, "type", kind], capture_output=True, text=True, check=False, timeout=30
    )
    if made.returncode:
        pytest.skip(f"no {kind} device can be made here: {made.stderr.strip()}")
    try:
        ip("link", "set", name, "up")
        yield name
    finally:
        ip("link", "del", name, check=False)


def names() -> set[str]:
    """Return the network devices there are."""
    return set(os.listdir("/sys/class/net"))


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_a_guest_on_a_bridge(daemon: Daemon, linux: Guest) -> None:
    number = os.getpid() % 250 + 1
    ours, guests = f"198.18.{number}.1", f"198.18.{number}.2"
    with link("bridge", f"qvb{os.getpid()}") as bridge:
        ip("addr", "add", f"{ours}/24", "dev", bridge)
        devices = f"""{AGENT}<interface type='bridge'><mac address='{MAC}'/><source bridge='{bridge}'/>
          <model type='virtio'/><mtu size='1400'/></interface>"""
        with booted(daemon, "bridged", linux_xml(linux, "bridged", devices)) as guest:
            (row,) = rows(daemon.virsh("domiflist", "bridged"))
            tap = row[0]
            assert row == [tap, "bridge", bridge, "virtio", MAC]
            assert re.fullmatch(r"vnet\d+", tap)
            assert f"master {bridge}" in ip("link", "show", tap)
            assert "mtu 1400" in ip("link", "show", tap)
            assert f"link/ether fe{MAC[2:]}" in ip("link", "show", tap)
            assert daemon.virsh("domif-getlink", "bridged", tap).split()[-1] == "up"
            guest.ask(f"ip addr add {guests}/24 dev eth0; until ping -c 1 -W 1 {ours}; do :; done >/dev/null")
            guest.ask(f"ping -c 3 -s 1000 {ours}")
            assert "mtu 1400" in guest.ask("ip link show eth0")
            stats = {name: int(value) for _, name, value in rows(daemon.virsh("domifstat", "bridged", tap))}
            # seen from the guest: what it sent is tx
            assert stats["tx_bytes"] > 3000
            assert stats["rx_bytes"] > 3000
            assert daemon.virsh("domifstat", "bridged", MAC)
            bulk = daemon.virsh("domstats", "bridged", "--interface")
            assert f"net.0.name={tap}" in bulk
            assert int(re.findall(r"net.0.rx.bytes=(\d+)", bulk)[0]) > 3000
            arp = rows(daemon.virsh("domifaddr", "bridged", "--source", "arp"))
            assert [row[1:] for row in arp] == [[MAC, "ipv4", f"{guests}/0"]]
            live = daemon.virsh("dumpxml", "bridged")
            assert f"<target dev='{tap}'/>" in live
            assert "<alias name='net0'/>" in live
        assert tap not in names()


def test_taps_of_other_kinds(daemon: Daemon) -> None:
    own = f"qvt{os.getpid()}"
    text = domain(
        "taps",
        f"<interface type='ethernet'><target dev='{own}'/><model type='e1000'/></interface>"
        "<interface type='ethernet'><model type='virtio'/><driver queues='2'/></interface>"
        "<interface type='ethernet'><link state='down'/></interface>"
        "<interface type='user'><model type='rtl8139'/></interface>",
    ).replace("<vcpu>1<", "<vcpu>2<")
    daemon.virsh("create", write(daemon, "taps", text), "--paused")
    try:
        listed = rows(daemon.virsh("domiflist", "taps"))
        assert [row[1] for row in listed] == ["ethernet", "ethernet", "ethernet", "user"]
        assert listed[0][0] == own
        taps = {row[0] for row in listed[:3]}
        assert len(taps) == 3
        assert taps <= names()
        assert '"mq":true' in (daemon.root / "var/log/libvirt/qemu/taps.log").read_text()
        assert daemon.virsh("domif-getlink", "taps", listed[2][0]).split()[-1] == "down"
    finally:
        daemon.virsh("destroy", "taps")
    assert names().isdisjoint(taps)


def test_scripts_and_addresses_of_a_tap(daemon: Daemon) -> None:
    log, script = daemon.root / "scripts.log", daemon.root / "script"
    script.write_text(f'#!/bin/sh\necho "$1" "$(cat /sys/class/net/$1/operstate 2>&1)" >>{log}\n')
    script.chmod(0o755)
    number = os.getpid() % 250 + 1
    text = domain(
        "scripted",
        f"""<interface type='ethernet'><source>
        <ip address='198.19.{number}.1' family='ipv4' prefix='24' peer='198.19.{number}.2'/>
        <route family='ipv4' address='203.0.113.0' prefix='24' gateway='198.19.{number}.2'/></source>
        <script path='{script}'/><downscript path='{script}'/></interface>""",
    )
    daemon.virsh("create", write(daemon, "scripted", text), "--paused")
    try:
        (row,) = rows(daemon.virsh("domiflist", "scripted"))
        assert log.read_text().split()[:1] == row[:1]
        assert f"inet 198.19.{number}.1 peer 198.19.{number}.2/24" in ip("addr", "show", "dev", row[0])
        assert f"203.0.113.0/24 via 198.19.{number}.2" in ip("route", "show", "dev", row[0])
        assert "tainted: network configuration using opaque shell scripts" in daemon.virsh(
            "dominfo", "scripted"
        )
    finally:
        daemon.virsh("destroy", "scripted")
    assert [line.split()[0] for line in log.read_text().splitlines()] == row[:1] * 2
    script.write_text("#!/bin/sh\necho 'not today' >&2; exit 3\n")
    refused = daemon.virsh_run("create", write(daemon, "scripted", text))
    assert f"{script} vnet" in refused.stderr
    assert "unexpected exit status 3: not today" in refused.stderr
    assert not daemon.qemu_pids()


def test_macvtap(daemon: Daemon) -> None:
    with link("veth", f"qvm{os.getpid()}") as lower:
        text = domain(
            "direct",
            f"<interface type='direct'><mac address='{MAC}'/><source dev='{lower}' mode='bridge'/>"
            "<model type='virtio'/></interface>",
        )
        done = daemon.virsh_run("create", write(daemon, "direct", text), "--paused")
        if "Operation not supported" in done.stderr or "not supported" in done.stderr:
            pytest.skip(f"no macvtap here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        try:
            (row,) = rows(daemon.virsh("domiflist", "direct"))
            assert row[1:] == ["direct", lower, "virtio", MAC]
            assert row[0] in names()
            assert MAC in ip("link", "show", row[0])
        finally:
            daemon.virsh("destroy", "direct")
        assert row[0] not in names()


def test_what_is_not_there(daemon: Daemon) -> None:
    mac = f"52:54:00:99:{os.getpid() >> 8 & 255:02x}:{os.getpid() & 255:02x}"
    for interface, message in (
        ("<interface type='bridge'><source bridge='no-such-br'/></interface>", "no-such-br"),
        (
            "<interface type='network'><source network='default'/></interface>",
            "Network not found: no network with matching name 'default'",
        ),
        ("<interface type='direct'><source dev='no-such-dev'/></interface>", "no-such-dev"),
    ):
        addressed = interface.replace("<source", f"<mac address='{mac}'/><source")
        done = daemon.virsh_run("create", write(daemon, "lost", domain("lost", addressed)))
        assert message in done.stderr
    assert not devices_of(mac)
    assert not daemon.qemu_pids()
