"""The screen, keyboard and power switch of a running guest."""

import re
import struct
from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import Shell, booted, linux_xml
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

DEVICES = """
<graphics type='vnc' port='-1' autoport='yes'/>
<video><model type='vga'/></video>
<input type='keyboard' bus='virtio'/><input type='tablet' bus='virtio'/>"""


@pytest.fixture(scope="module")
def guest(daemon: Daemon, linux: Guest) -> Iterator[Shell]:
    """A guest called ``seen`` with a screen, a PS/2 keyboard and virtio input devices."""
    text = linux_xml(linux, "seen", DEVICES, cmdline="modules=all")
    with booted(daemon, "seen", text) as shell:
        yield shell


def test_screenshot(daemon: Daemon, guest: Shell) -> None:
    target = daemon.root / "shot"
    said = daemon.virsh("screenshot", "seen", str(target))
    assert f"Screenshot saved to {target}, with type of image/" in said or said.strip() == ""
    data = target.read_bytes()
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", data[16:24])
    else:
        size = re.match(rb"P6\n(\d+) (\d+)\n255\n", data)
        assert size is not None, data[:20]
        width, height = int(size[1]), int(size[2])
    assert width >= 640
    assert height >= 400
    assert "no such screen" in daemon.virsh_run("screenshot", "seen", str(target), "--screen", "3").stderr
    assert not list((daemon.root / "var/cache/libvirt/qemu").glob("*screendump*"))


def test_keys_arrive(daemon: Daemon, guest: Shell) -> None:
    events = guest.ask(
        "for e in /sys/class/input/event*; do echo ${e##*/} $(cat $e/device/name); done"
    ).splitlines()
    boards = [line.split()[0] for line in events if "Keyboard" in line or "keyboard" in line]
    assert len(boards) == 2, events
    # 24 bytes an event: two of time, then type, code, value; QEMU gives keys to the newest keyboard
    listed = " ".join(f"/dev/input/{board}" for board in boards)
    guest.ask(f"for e in {listed}; do cat $e >>/keys & done")
    daemon.virsh("send-key", "seen", "KEY_A", "KEY_B", "--holdtime", "50")
    daemon.virsh("send-key", "seen", "--codeset", "win32", "0x43")

    def typed() -> bool:
        seen = guest.ask('hexdump -v -e \'24/1 "%02x" "\\n"\' /keys')
        return all(f"0100{code:02x}0001000000" in seen for code in (30, 48, 46))

    wait_until(typed, "keys A, B and C are seen")
    guest.ask("killall cat")


def test_nmi(daemon: Daemon, guest: Shell) -> None:
    before = guest.ask("grep NMI /proc/interrupts").split()[1]
    daemon.virsh("inject-nmi", "seen")
    wait_until(
        lambda: int(guest.ask("grep NMI /proc/interrupts").split()[1]) > int(before),
        "the guest counts an NMI",
    )


def test_magic_keys(daemon: Daemon, guest: Shell) -> None:
    guest.ask("echo 1 >/proc/sys/kernel/sysrq; dmesg -n 8; dmesg -c >/dev/null")
    daemon.virsh("send-key", "seen", "KEY_LEFTALT", "KEY_SYSRQ", "KEY_H")
    guest.until(rb"sysrq: HELP", 30)
    guest.ask("dmesg -n 1")
