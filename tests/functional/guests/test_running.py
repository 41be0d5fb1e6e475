"""What is read of a guest while it works, and that a suspended guest really stands still."""

import re
import time
from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import Shell, booted, linux_xml, make_image
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

MAC = "52:54:00:01:02:03"
SIZE = 4 << 20


@pytest.fixture(scope="module")
def guest(daemon: Daemon, linux: Guest) -> Iterator[Shell]:
    """A guest called ``works`` with a disk on an iothread, an interface and a balloon that reports."""
    image = make_image(daemon.root / "works.img", b"begin", SIZE)
    devices = f"""
    <disk type='file'><driver name='qemu' type='raw' iothread='1'/><source file='{image}'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>
    <memballoon model='virtio'><stats period='1'/></memballoon>"""
    text = linux_xml(linux, "works", devices, vcpus="<vcpu>2</vcpu><iothreads>2</iothreads>")
    with booted(daemon, "works", text) as shell:
        yield shell


def numbers(text: str) -> dict[str, int]:
    """Read lines of ``name=number`` or ``name number``."""
    return {name: int(value) for name, value in re.findall(r"^\s*(\S+?)[ =](\d+)$", text, re.M)}


def test_times_grow_with_work(daemon: Daemon, guest: Shell) -> None:
    before = numbers(daemon.virsh("domstats", "works"))
    guest.ask("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    after = numbers(daemon.virsh("domstats", "works"))
    assert after["cpu.time"] > before["cpu.time"]
    assert max(after[f"vcpu.{n}.time"] - before[f"vcpu.{n}.time"] for n in range(2)) > 0
    assert (after["vcpu.current"], after["vcpu.maximum"], after["vcpu.0.state"]) == (2, 2, 1)
    total = daemon.virsh("cpu-stats", "works", "--total")
    assert float(re.findall(r"cpu_time\s+([\d.]+) seconds", total)[0]) > 0
    cpus = daemon.virsh("vcpuinfo", "works")
    assert re.findall(r"VCPU: +(\d)", cpus) == ["0", "1"]
    assert len(re.findall(r"CPU time: +[\d.]+s", cpus)) == 2
    assert [line.split()[0] for line in daemon.virsh("iothreadinfo", "works").splitlines() if line] == [
        "1",
        "2",
    ]


def test_disk_counters_grow_with_reading_and_writing(daemon: Daemon, guest: Shell) -> None:
    before = numbers(daemon.virsh("domstats", "works", "--block"))
    assert guest.ask("dd if=/dev/vda bs=5 count=1 2>/dev/null") == "begin"
    guest.ask(
        "dd if=/dev/vda of=/dev/null bs=64k; dd if=/dev/zero of=/dev/vda bs=4k count=16 seek=1 conv=fsync"
    )
    after = numbers(daemon.virsh("domstats", "works", "--block"))
    assert after["block.0.rd.bytes"] - before["block.0.rd.bytes"] >= SIZE - 4096
    assert after["block.0.wr.bytes"] - before["block.0.wr.bytes"] >= 16 * 4096
    assert after["block.0.wr.reqs"] > before["block.0.wr.reqs"]
    assert after["block.0.fl.reqs"] > before["block.0.fl.reqs"]
    assert (after["block.count"], after["block.0.capacity"]) == (1, SIZE)
    stats = {
        line.split()[1]: int(line.split()[2])
        for line in daemon.virsh("domblkstat", "works", "vda").splitlines()
        if line
    }
    assert stats["wr_bytes"] >= 16 * 4096
    info = dict(re.findall(r"(\w+): +(\d+)", daemon.virsh("domblkinfo", "works", "vda")))
    assert int(info["Capacity"]) == SIZE
    listed = [line.split() for line in daemon.virsh("domblklist", "works", "--details").splitlines() if line]
    assert listed == [["file", "disk", "vda", str(daemon.root / "works.img")]]


def test_memory_as_the_guest_sees_it(daemon: Daemon, guest: Shell) -> None:
    wait_until(lambda: "unused" in daemon.virsh("dommemstat", "works"), "the balloon reports")
    stats = numbers(daemon.virsh("dommemstat", "works"))
    assert stats["actual"] == 192 * 1024
    assert 0 < stats["unused"] < stats["available"] < stats["actual"]
    assert stats["rss"] > 50_000
    first = stats["last_update"]
    wait_until(
        lambda: numbers(daemon.virsh("dommemstat", "works"))["last_update"] > first,
        "the balloon reports again",
    )
    in_bulk = numbers(daemon.virsh("domstats", "works", "--balloon"))
    assert in_bulk["balloon.current"] == stats["actual"]
    assert in_bulk["balloon.available"] == stats["available"]


def test_interfaces(daemon: Daemon, guest: Shell) -> None:
    (line,) = [line.split() for line in daemon.virsh("domiflist", "works").splitlines() if line]
    assert line == ["-", "user", "-", "virtio", MAC]
    assert numbers(daemon.virsh("domstats", "works", "--interface"))["net.count"] == 1
    other = "52:54:00:99:99:99"
    assert f"'{other}' is not a known interface" in daemon.virsh_run("domifstat", "works", other).stderr


def test_a_suspended_guest_stands_still(daemon: Daemon, guest: Shell) -> None:
    def uptime() -> float:
        return float(guest.ask("cat /proc/uptime").split()[0])

    began = uptime(), time.monotonic()
    daemon.virsh("suspend", "works")
    assert daemon.virsh("domstate", "works", "--reason").strip() == "paused (user)"
    stopped = numbers(daemon.virsh("domstats", "works", "--vcpu"))
    # time has to pass: what is shown is that the guest does not see it
    time.sleep(2)
    still = numbers(daemon.virsh("domstats", "works", "--vcpu"))
    assert still["vcpu.0.time"] - stopped["vcpu.0.time"] < 50_000_000
    daemon.virsh("resume", "works")
    assert daemon.virsh("domstate", "works", "--reason").strip() == "running (unpaused)"
    ended = uptime(), time.monotonic()
    assert ended[1] - began[1] > 2
    assert ended[0] - began[0] < ended[1] - began[1] - 1.5


def test_the_whole_of_it_defines_again(daemon: Daemon, guest: Shell) -> None:
    live = daemon.virsh("dumpxml", "works")
    for wanted in ("<alias name='virtio-disk0'/>", "<alias name='net0'/>", "<alias name='balloon0'/>"):
        assert wanted in live
    line = daemon.virsh("domxml-to-native", "qemu-argv", "--domain", "works")
    assert '"driver":"virtio-blk-pci","iothread":"iothread1"' in line


def test_who_answers_for_how_long(daemon: Daemon, guest: Shell) -> None:
    assert daemon.virsh("domcontrol", "works").strip() == "ok"
    assert "None" in daemon.virsh("domjobinfo", "works")
    assert "VM status: running" in daemon.virsh("qemu-monitor-command", "works", "--hmp", "info status")
    info = daemon.virsh("dominfo", "works")
    assert re.search(r"^CPU time: +[1-9]", info, re.M)
    assert re.search(r"^Used memory: +196608 KiB$", info, re.M)
    assert re.search(r"^Messages: +tainted: custom monitor control commands issued$", info, re.M)
