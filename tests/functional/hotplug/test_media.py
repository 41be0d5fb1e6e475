"""Media of a real guest's drives, changed by virsh: every bus, trays, locks, files that fail."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.functional.guests.machines import Shell, booted, linux_xml, listening, make_image, shell, write
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

NAME = "drives"
CDROM = "<disk type='file' device='cdrom'><target dev='{}' bus='{}'{}/><readonly/></disk>"
DRIVES = "".join(
    (
        "<controller type='scsi' index='0' model='virtio-scsi'/><controller type='sata' index='0'/>",
        CDROM.format("hdc", "ide", ""),
        CDROM.format("sda", "scsi", ""),
        CDROM.format("sdb", "sata", ""),
        "<disk type='file' device='floppy'><target dev='fda'/></disk>",
    )
)

#: what the guest calls those it has drivers for
SEEN = {"sda": "/dev/sr0", "hdc": "/dev/sr1"}


@pytest.fixture(scope="module")
def guest(daemon: Daemon, linux: Guest) -> Iterator[Shell]:
    """A guest with empty drives."""
    with booted(daemon, NAME, linux_xml(linux, NAME, DRIVES, cmdline="modules=all")) as shell:
        yield shell


def medium(daemon: Daemon, name: str, text: str = "") -> Path:
    """Make a medium of root's alone, which is lent to QEMU while it is in a drive."""
    path = make_image(daemon.root / name, (text or name).encode())
    path.chmod(0o600)
    return path


def refusal(daemon: Daemon, *words: str) -> str:
    done = daemon.virsh_run(*words)
    assert done.returncode, done.stdout
    return done.stderr


def drive(daemon: Daemon, target: str) -> str:
    return daemon.virsh("dumpxml", NAME, "--xpath", f"//disk[target/@dev='{target}']").replace('"', "'")


def nodes(daemon: Daemon) -> str:
    answer = daemon.virsh("qemu-monitor-command", NAME, '{"execute":"query-named-block-nodes"}')
    return answer.rpartition('"id":')[0]


def content(shell: Shell, device: str, size: int) -> str:
    return shell.ask(f"head -c {size} {device} 2>/dev/null")


def _gives(ask: Callable[[], str], wanted: str) -> bool:
    return ask() == wanted


def test_attaching_a_drive_puts_a_medium_in(daemon: Daemon, guest: Shell) -> None:
    """As virsh did before it had change-media."""
    first, second = medium(daemon, "attached-1.img"), medium(daemon, "attached-2.img")
    try:
        for image in (first, second):
            attach = ("attach-disk", NAME, str(image), "hdc", "--type", "cdrom", "--mode", "readonly")
            daemon.virsh(*attach, "--live")
            assert f"file='{image}'" in drive(daemon, "hdc")
            seen = partial(content, guest, SEEN["hdc"], len(image.name))
            wait_until(partial(_gives, seen, image.name), "the guest reads what was put in")
        assert first.stat().st_uid == os.getuid()
    finally:
        daemon.virsh_run("change-media", NAME, "hdc", "--eject", "--force")


@pytest.mark.parametrize("target", ["hdc", "sda", "sdb", "fda"])
def test_insert_change_eject(daemon: Daemon, guest: Shell, target: str) -> None:
    """A medium is lent, put in, read, changed, and given back; nothing of it stays."""
    first, second = medium(daemon, f"{target}-1.img"), medium(daemon, f"{target}-2.img")
    change = ("change-media", NAME, target)
    assert "doesn't have media" in refusal(daemon, *change, "--eject")
    with listening(daemon) as said:
        daemon.virsh(*change, str(first), "--insert")
        assert f"<source file='{first}' index=" in drive(daemon, target)
        assert "already has media" in refusal(daemon, *change, str(second), "--insert")
        if target in SEEN:
            wait_until(lambda: content(guest, SEEN[target], 9) == first.name, "the guest reads the first one")
        daemon.virsh(*change, str(second), "--update", "--live")
        assert f"<source file='{second}' index=" in drive(daemon, target)
        assert str(first) not in nodes(daemon)
        assert first.stat().st_uid == os.getuid()
        if target in SEEN:
            wait_until(
                lambda: content(guest, SEEN[target], 9) == second.name, "the guest reads the second one"
            )
        if target != "fda":
            assert "event 'tray-change' for domain 'drives'" in said()
    daemon.virsh(*change, "--eject", "--current")
    assert "<source" not in drive(daemon, target)
    assert "tray=" not in drive(daemon, target)
    assert str(second) not in nodes(daemon)
    assert second.stat().st_uid == os.getuid()
    assert refusal(daemon, *change, "--eject") != ""


def test_locked_tray(daemon: Daemon, guest: Shell) -> None:
    """A guest that holds the tray is asked and refuses: the medium stays; by force it goes."""
    first, second = medium(daemon, "held.img"), medium(daemon, "taken.img")
    daemon.virsh("change-media", NAME, "hdc", str(first), "--insert")
    wait_until(lambda: content(guest, SEEN["hdc"], 8) == "held.img", "the guest reads the CD")
    guest.ask(f"exec 3<{SEEN['hdc']}")
    wait_until(lambda: '"locked":true' in _block(daemon), "the guest has locked the tray")
    before = nodes(daemon)
    error = refusal(daemon, "change-media", NAME, "hdc", str(second), "--update")
    assert "operation failed: timed out waiting to open tray of 'hdc'" in error
    assert nodes(daemon) == before
    assert f"<source file='{first}' index=" in drive(daemon, "hdc")
    assert second.stat().st_uid == os.getuid()
    assert content(guest, SEEN["hdc"], 8) == "held.img"
    daemon.virsh("change-media", NAME, "hdc", str(second), "--update", "--force")
    guest.ask("exec 3<&-")
    wait_until(
        lambda: content(guest, SEEN["hdc"], 9) == "taken.img", "the guest reads the CD it got by force"
    )
    daemon.virsh("change-media", NAME, "hdc", "--eject", "--force")
    assert first.stat().st_uid == second.stat().st_uid == os.getuid()


def _block(daemon: Daemon) -> str:
    return daemon.virsh("qemu-monitor-command", NAME, '{"execute":"query-block"}')


def test_medium_that_fails(daemon: Daemon, guest: Shell) -> None:
    """A file that is missing or no image of its format is refused, and the old medium stays where it was."""
    first = medium(daemon, "good.img")
    bad = medium(daemon, "bad.img", "QFI\\xfbnothing")
    daemon.virsh("change-media", NAME, "sda", str(first), "--insert")
    before = nodes(daemon)
    was = drive(daemon, "sda")
    error = refusal(daemon, "change-media", NAME, "sda", f"{daemon.root}/none.iso", "--update")
    assert f"Cannot access storage file '{daemon.root}/none.iso'" in error
    assert "No such file or directory" in error
    path = write(
        daemon,
        "update",
        f"<disk type='file' device='cdrom'><driver type='vdi'/><source file='{bad}'/>"
        "<target dev='sda' bus='scsi'/></disk>",
    )
    assert "Image not in VDI format" in refusal(daemon, "update-device", NAME, path, "--live")
    assert (nodes(daemon), drive(daemon, "sda")) == (before, was)
    assert bad.stat().st_uid == os.getuid()
    short = was.replace(
        "<target dev='sda' bus='scsi'/>", "<target dev='sda' bus='scsi'/><serial>other</serial>"
    )
    path = write(daemon, "update", short)
    assert "cannot modify field 'serial' of the disk" in refusal(daemon, "update-device", NAME, path)
    path = write(daemon, "update", was.replace("<source ", "<source startupPolicy='optional' "))
    daemon.virsh("update-device", NAME, path, "--live")
    assert "startupPolicy='optional'" in drive(daemon, "sda")
    assert nodes(daemon) == before
    daemon.virsh("change-media", NAME, "sda", "--eject")


def test_guest_opens_its_tray(daemon: Daemon, guest: Shell) -> None:
    """What the guest does to its tray is told, stands in the document, and does not hinder."""
    first, second = medium(daemon, "mine.img"), medium(daemon, "yours.img")
    daemon.virsh("change-media", NAME, "hdc", str(first), "--insert")
    wait_until(lambda: content(guest, SEEN["hdc"], 8) == "mine.img", "the guest reads the CD")
    with listening(daemon) as said:
        auto = "/proc/sys/dev/cdrom/autoeject"
        guest.ask(f"echo 1 >{auto}; head -c 1 {SEEN['hdc']} >/dev/null; echo 0 >{auto}")
        wait_until(lambda: "'tray-change' for domain 'drives' disk ide0-1-0: opened" in said(), "told")
    assert "tray='open'" in drive(daemon, "hdc")
    daemon.kill()
    daemon.start()
    assert "tray='open'" in drive(daemon, "hdc")
    daemon.virsh("change-media", NAME, "hdc", str(second), "--update")
    assert "tray=" not in drive(daemon, "hdc")
    with shell(daemon, NAME) as again:
        again.booted()
        wait_until(lambda: content(again, SEEN["hdc"], 9) == "yours.img", "the guest reads the new CD")
    daemon.virsh("change-media", NAME, "hdc", "--eject")
