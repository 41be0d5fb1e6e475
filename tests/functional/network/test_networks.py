"""Networks on the host, and their bad days: real bridges, dnsmasq and nft, in a namespace of the test."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def document(name: str, number: int, forward: str = "<forward mode='nat'/>", more: str = "") -> str:
    return (
        f"<network><name>{name}</name>{forward}<bridge name='vb{number}'/>{more}"
        f"<ip address='10.77.{number}.1' prefix='24'><dhcp><range start='10.77.{number}.10' "
        f"end='10.77.{number}.99'/></dhcp></ip></network>"
    )


def create(daemon: Daemon, text: str, *, check: bool = True) -> str:
    path = daemon.root / "network.xml"
    path.write_text(text)
    done = daemon.virsh_run("net-create", str(path))
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + done.stderr


def pid_of(daemon: Daemon, name: str) -> int:
    (path,) = daemon.root.rglob(f"network/{name}.pid")
    try:
        return int(path.read_text() or 0)
    except ValueError:
        return 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_start_and_stop(daemon: Daemon, host: Namespace) -> None:
    create(daemon, document("one", 1))
    assert "10.77.1.1/24" in host.ip("addr", "show", "dev", "vb1")
    assert "masquerade" in host.run("nft", "list", "table", "inet", "qvirt_network").stdout
    pid = pid_of(daemon, "one")
    assert alive(pid)
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    bounding = int(status.partition("CapBnd:\t")[2].split()[0], 16)
    assert bounding & ~sum(1 << bit for bit in (0, 6, 7, 8, 10, 12, 13)) == 0  # see dnsmasq.py
    create(daemon, document("two", 2, ""))
    daemon.virsh("net-destroy", "one")
    assert "vb1" not in host.links()
    wait_until(lambda: not alive(pid), "dnsmasq ends")
    left = host.run("nft", "list", "table", "inet", "qvirt_network").stdout
    assert "vb2" in left
    assert "vb1" not in left
    daemon.virsh("net-destroy", "two")
    assert "qvirt_network" not in host.run("nft", "list", "ruleset").stdout
    assert not list(daemon.root.rglob("one.conf"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (document("clash", 3), "already in use by interface vb2"),
        (document("taken", 2).replace("10.77.2", "10.77.4"), "bridge name 'vb2' already in use"),
        (document("long", 4).replace("vb4", "a-name-of-a-bridge"), "at most 15 characters"),
    ],
)
def test_what_is_in_use(daemon: Daemon, host: Namespace, text: str, says: str) -> None:
    host.ip("link", "add", "vb2", "type", "bridge")
    host.ip("addr", "add", "10.77.3.7/24", "dev", "vb2")
    host.ip("link", "set", "vb2", "up")
    try:
        assert says in create(daemon, text, check=False)
        assert host.links() == {"lo", "vb2"}
    finally:
        host.ip("link", "del", "vb2")


def test_rules_come_back(daemon: Daemon, host: Namespace) -> None:
    create(daemon, document("rules", 5))
    try:
        host.run("nft", "flush", "ruleset")
        wait_until(lambda: "vb5" in host.run("nft", "list", "ruleset").stdout, "the rules are there again")
    finally:
        daemon.virsh("net-destroy", "rules")


def test_dnsmasq_dies_and_comes_back(daemon: Daemon, host: Namespace) -> None:
    create(daemon, document("dying", 6))
    try:
        pid = pid_of(daemon, "dying")
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: pid_of(daemon, "dying") != pid and alive(pid_of(daemon, "dying")), "dnsmasq runs again"
        )
        again = pid_of(daemon, "dying")
    finally:
        daemon.virsh("net-destroy", "dying")
    for ended in (pid, again):
        assert not Path(f"/proc/{ended}").exists()  # collected, too


def test_dnsmasq_refuses(daemon: Daemon, host: Namespace) -> None:
    text = document("refused", 7, more="").replace(
        "<network>", "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>"
    )
    option = "<dnsmasq:options><dnsmasq:option value='no-such-option'/></dnsmasq:options></network>"
    assert "unexpected exit status" in create(daemon, text.replace("</network>", option), check=False)
    assert host.links() == {"lo"}
    assert "vb7" not in host.run("nft", "list", "ruleset").stdout
    assert not list(daemon.root.rglob("refused.*"))


def test_the_daemon_is_killed(daemon: Daemon, host: Namespace) -> None:
    create(daemon, document("kept", 8))
    pid = pid_of(daemon, "kept")
    daemon.kill()
    host.ip("link", "del", "vb8")
    host.run("nft", "flush", "ruleset")
    daemon.start()
    assert "kept" in daemon.virsh("net-list")
    assert pid_of(daemon, "kept") == pid
    assert "10.77.8.1/24" in host.ip("addr", "show", "dev", "vb8")
    assert "vb8" in host.run("nft", "list", "ruleset").stdout
    daemon.virsh("net-destroy", "kept")
    assert host.links() == {"lo"}


def test_dnsmasq_dies_just_before_an_update(daemon: Daemon, host: Namespace) -> None:
    create(daemon, document("twice", 9))
    try:
        for number in range(3):
            os.kill(pid_of(daemon, "twice"), signal.SIGKILL)
            text = f"<range start='10.77.9.{110 + number}' end='10.77.9.{110 + number}'/>"
            daemon.virsh("net-update", "twice", "add", "ip-dhcp-range", text, "--live")
            assert alive(pid_of(daemon, "twice"))
        (conf,) = daemon.root.rglob("dnsmasq/twice.conf")
        assert host.run("pgrep", "-fc", f"conf-file={conf}").stdout.strip() == "1"
        os.kill(pid_of(daemon, "twice"), signal.SIGKILL)
        wait_until(lambda: alive(pid_of(daemon, "twice")), "it is still watched")
    finally:
        daemon.virsh("net-destroy", "twice")


def test_definitions_written_by_hand(daemon: Daemon, host: Namespace) -> None:
    """What such a one lacks it gets once; one that has another's uuid is left alone, and reported."""
    daemon.stop()
    folder = daemon.root / "etc/libvirt/qemu/networks"
    plain = document("by-hand", 12).replace("<bridge name='vb12'/>", "")
    (folder / "by-hand.xml").write_text(plain)
    daemon.start()
    try:
        first = daemon.virsh("net-dumpxml", "by-hand")
        assert "<bridge name='virbr0' " in first
        daemon.stop()
        uuid = first.partition("<uuid>")[2].partition("</uuid>")[0]
        twin = document("twin", 13).replace("</name>", f"</name><uuid>{uuid}</uuid>")
        (folder / "twin.xml").write_text(twin)
        daemon.start()
        assert daemon.virsh("net-dumpxml", "by-hand") == first
        assert "twin" not in daemon.virsh("net-list", "--all", "--name")
        assert f"network 'by-hand' has its uuid {uuid}" in daemon.log.read_text()
        assert (folder / "twin.xml").read_text() == twin
        daemon.virsh("net-start", "by-hand")
        assert "virbr0" in host.links()
        daemon.virsh("net-destroy", "by-hand")
    finally:
        (folder / "twin.xml").unlink(missing_ok=True)
        daemon.virsh("net-undefine", "by-hand")
