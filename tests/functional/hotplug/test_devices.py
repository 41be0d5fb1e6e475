"""Disks and cards of a real guest come and go, by virsh."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.guests.machines import AGENT, Shell, booted, linux_xml, listening
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

NAME = "plugs"
SCSI = "<controller type='scsi' index='0' model='virtio-scsi'/>"


@pytest.fixture(scope="module")
def guest(daemon: Daemon, linux: Guest) -> Iterator[Shell]:
    """A guest with its agent, which nothing is plugged into yet."""
    with booted(
        daemon, NAME, linux_xml(linux, NAME, AGENT + SCSI, "<iothreads>1</iothreads>", cmdline="modules=all")
    ) as shell:
        yield shell


def image(daemon: Daemon, name: str, mib: int = 8) -> Path:
    path = daemon.root / name
    with path.open("wb") as file:
        file.truncate(mib << 20)
    return path


def refusal(daemon: Daemon, *words: str) -> str:
    done = daemon.virsh_run(*words)
    assert done.returncode, done.stdout
    return done.stderr


def blocks(shell: Shell) -> list[str]:
    return shell.ask("ls /sys/block | grep -v loop").split()


def cards(shell: Shell) -> list[str]:
    return shell.ask("cat /sys/class/net/*/address").split()


def test_guest_sees_a_disk_come_and_go(daemon: Daemon, guest: Shell) -> None:
    path = image(daemon, "b.img")
    owner = path.stat().st_uid
    with listening(daemon) as said:
        daemon.virsh(
            *("attach-disk", NAME, str(path), "vdb", "--serial", "abc123", "--live"),
        )
        wait_until(lambda: "vdb" in blocks(guest) or "vda" in blocks(guest), "the guest has the disk")
        seen = next(name for name in blocks(guest) if name.startswith("vd"))
        assert guest.ask(f"cat /sys/block/{seen}/serial") == "abc123"
        assert guest.ask(f"cat /sys/block/{seen}/size") == str(8 << 11)
        assert guest.ask(f"echo hello >/dev/{seen}; sync; head -c 5 /dev/{seen}") == "hello"
        assert path.read_bytes()[:5] == b"hello"
        wait_until(lambda: "event 'device-added' for domain 'plugs': virtio-disk1" in said(), "added")
        daemon.virsh("detach-disk", NAME, "vdb", "--live")
        wait_until(lambda: "event 'device-removed' for domain 'plugs': virtio-disk1" in said(), "removed")
    assert not [name for name in blocks(guest) if name.startswith("vd")]
    assert "vdb" not in daemon.virsh("dumpxml", NAME)
    assert path.stat().st_uid == owner


def pick(daemon: Daemon, what: str) -> str:
    """Return a part of the live document, quoted as libvirt does."""
    return daemon.virsh("dumpxml", NAME, "--xpath", what).replace('"', "'")


def test_every_bus(daemon: Daemon, guest: Shell) -> None:
    """A disk on each bus that takes one while the guest runs; by target, by document and by alias it goes."""
    for name in ("v.img", "s.img", "u.img"):
        image(daemon, name)
    daemon.virsh(
        *("attach-disk", NAME, str(daemon.root / "s.img"), "sda", "--targetbus", "scsi", "--live"),
        *("--driver", "qemu", "--subdriver", "raw", "--cache", "none", "--io", "threads"),
        *("--wwn", "5000c50015ea71aa", "--serial", "scsi-one", "--mode", "readonly"),
    )
    wait_until(lambda: "sda" in blocks(guest), "the guest has the SCSI disk")
    assert guest.ask("cat /sys/block/sda/ro") == "1"
    scsi = pick(daemon, "//disk[target/@dev='sda']")
    assert "<driver name='qemu' type='raw' cache='none' io='threads'/>" in scsi
    assert "<address type='drive' controller='0' bus='0' target='0' unit='0'/>" in scsi
    daemon.virsh("attach-disk", NAME, str(daemon.root / "u.img"), "sdb", "--targetbus", "usb", "--live")
    usb = pick(daemon, "//disk[target/@dev='sdb']")
    assert "<address type='usb' bus='0' port='1'/>" in usb
    daemon.virsh(
        *("attach-disk", NAME, str(daemon.root / "v.img"), "vdq", "--live", "--iothread", "1"),
        *("--address", "pci:0000.00.1e.0", "--alias", "ua-quick"),
    )
    virtio = pick(daemon, "//disk[target/@dev='vdq']")
    assert "<driver name='qemu' type='raw' iothread='1'/>" in virtio
    assert "<alias name='ua-quick'/>" in virtio
    assert "bus='0x00' slot='0x1e' function='0x0'" in virtio
    wait_until(lambda: any(name.startswith("vd") for name in blocks(guest)), "the guest has the virtio disk")
    assert "target 'vdq' duplicated for disk sources" in refusal(
        daemon, "attach-disk", NAME, str(daemon.root / "v.img"), "vdq", "--live"
    )
    with listening(daemon) as said:
        daemon.virsh("detach-device-alias", NAME, "ua-quick", "--live")
        wait_until(lambda: "event 'device-removed' for domain 'plugs': ua-quick" in said(), "removed")
    daemon.virsh("detach-disk", NAME, "sdb")
    path = daemon.root / "scsi.xml"
    path.write_text(scsi)
    daemon.virsh("detach-device", NAME, str(path), "--live")
    wait_until(lambda: "sda" not in blocks(guest), "the guest has no SCSI disk")
    assert "<disk" not in daemon.virsh("dumpxml", NAME)
    assert "no device found with alias ua-quick" in refusal(daemon, "detach-device-alias", NAME, "ua-quick")


def test_images_on_images(daemon: Daemon, guest: Shell) -> None:
    """A chain is found and opened; when the disk goes, all of it is closed and given back."""
    base, top = image(daemon, "base.img"), daemon.root / "top.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(top)]
    subprocess.run(make, check=True)
    owners = [path.stat().st_uid for path in (base, top)]
    daemon.virsh("attach-disk", NAME, str(top), "vdb", "--live", "--subdriver", "qcow2")
    chain = pick(daemon, "//disk[target/@dev='vdb']")
    assert f"<source file='{base}'/>" in chain
    daemon.virsh("detach-disk", NAME, "vdb")
    wait_until(lambda: "vdb" not in daemon.virsh("dumpxml", NAME), "the guest lets the disk go")
    assert [path.stat().st_uid for path in (base, top)] == owners
    nodes = daemon.virsh("qemu-monitor-command", NAME, '{"execute":"query-named-block-nodes"}')
    assert str(base) not in nodes
    missing = daemon.root / "gone.img"
    message = refusal(daemon, "attach-disk", NAME, str(missing), "vdb", "--live")
    assert f"Cannot access storage file '{missing}'" in message


def test_running_and_configured(own_daemon: Daemon) -> None:
    """--persistent, --config, --current: which of the two documents changes."""
    daemon = own_daemon
    xml = "<domain type='qemu'><name>kept</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os>"
    xml += "<type arch='x86_64' machine='pc'>hvm</type></os><devices>" + SCSI + "</devices></domain>"
    path = daemon.root / "kept.xml"
    path.write_text(xml)
    daemon.virsh("define", str(path))
    for name in ("a.img", "b.img", "c.img"):
        image(daemon, name)

    def targets(*words: str) -> list[str]:
        return [line.split()[0] for line in daemon.virsh("domblklist", "kept", *words).splitlines() if line]

    def attach(name: str, target: str, *words: str) -> None:
        daemon.virsh("attach-disk", "kept", str(daemon.root / name), target, *words)

    attach("a.img", "sda", "--current")
    assert targets("--inactive") == ["sda"]
    assert "Requested operation is not valid: domain is not running" in refusal(
        daemon, "attach-disk", "kept", str(daemon.root / "b.img"), "sdb", "--live"
    )
    daemon.virsh("start", "kept")
    attach("b.img", "sdb", "--persistent")
    attach("c.img", "sdc", "--live")
    assert (targets(), targets("--inactive")) == (["sda", "sdb", "sdc"], ["sda", "sdb"])
    daemon.virsh("detach-disk", "kept", "sda", "--config")
    daemon.virsh("detach-disk", "kept", "sdb", "--persistent")
    assert (targets(), targets("--inactive")) == (["sda", "sdc"], [])
    live = daemon.virsh("dumpxml", "kept")
    daemon.kill()
    daemon.start()
    assert daemon.virsh("dumpxml", "kept") == live
    daemon.virsh("detach-disk", "kept", "sdc", "--live")
    assert targets() == ["sda"]
