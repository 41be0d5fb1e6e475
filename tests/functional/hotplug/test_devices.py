"""Disks and cards of a real guest come and go, by virsh."""

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
    with booted(daemon, NAME, linux_xml(linux, NAME, AGENT + SCSI)) as shell:
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
