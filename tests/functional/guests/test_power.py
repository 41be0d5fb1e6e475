"""Guests that are shut down, rebooted, reset, that end by themselves, and that panic."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.functional.guests.machines import AGENT, BOOT, Shell, linux_xml, listening, state, write
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


@contextmanager
def running(daemon: Daemon, name: str, text: str) -> Iterator[Shell]:
    """Define and start a guest that stays defined; undefine it after the block."""
    daemon.virsh("define", write(daemon, name, text))
    daemon.virsh("start", name)
    shell = Shell(daemon, name)
    try:
        yield shell.booted()
    finally:
        shell.close()
        if "shut off" not in state(daemon, name):
            daemon.virsh("destroy", name)
        daemon.virsh("undefine", name)


def comes_to(daemon: Daemon, name: str, wanted: str) -> None:
    """Wait for a state with its reason."""
    seen: list[str] = []

    def there() -> bool:
        seen[:] = [state(daemon, name)]
        return seen[0] == wanted

    try:
        wait_until(there, wanted, BOOT)
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {seen[0]}") from None


@pytest.mark.parametrize(
    ("machine", "mode"), [("pc", "acpi"), ("q35", "acpi"), ("pc", "agent"), ("pc", "both")]
)
def test_shutdown(daemon: Daemon, linux: Guest, machine: str, mode: str) -> None:
    with running(daemon, "ends", linux_xml(linux, "ends", AGENT if mode != "acpi" else "", machine=machine)):
        words = [] if mode == "both" else ["--mode", mode]
        daemon.virsh("shutdown", "ends", *words)
        comes_to(daemon, "ends", "shut off (shutdown)")
    assert not daemon.qemu_pids()


def test_a_guest_that_powers_itself_off(daemon: Daemon, linux: Guest) -> None:
    with running(daemon, "off", linux_xml(linux, "off")) as guest:
        guest.type("poweroff -f")
        comes_to(daemon, "off", "shut off (shutdown)")


def test_reboot_keeps_the_process(daemon: Daemon, linux: Guest) -> None:
    with running(daemon, "again", linux_xml(linux, "again", AGENT)) as guest:
        number, pids = daemon.virsh("domid", "again"), daemon.qemu_pids()
        for how in ("reboot --mode acpi", "reboot --mode agent", "reset", "by itself"):
            guest.ask("touch /before")
            if how == "by itself":
                guest.type("reboot -f")
            else:
                daemon.virsh(*how.split(), "--domain", "again")
            guest.boots_again()
            assert guest.ask("ls /before 2>&1").endswith("No such file or directory"), how
            assert (daemon.virsh("domid", "again"), daemon.qemu_pids()) == (number, pids), how
            assert state(daemon, "again").startswith("running ("), how


@pytest.mark.parametrize(
    ("element", "command", "wanted"),
    [
        ("<on_poweroff>destroy</on_poweroff>", "poweroff -f", "shut off (shutdown)"),
        ("<on_poweroff>restart</on_poweroff>", "poweroff -f", "boots"),
        ("<on_reboot>destroy</on_reboot>", "reboot -f", "shut off (shutdown)"),
        ("<on_reboot>restart</on_reboot>", "reboot -f", "boots"),
        ("<on_crash>destroy</on_crash>", "panic", "shut off (crashed)"),
        ("<on_crash>restart</on_crash>", "panic", "boots"),
        ("<on_crash>preserve</on_crash>", "panic", "crashed (panicked)"),
        ("<on_crash>coredump-destroy</on_crash>", "panic", "shut off (crashed)"),
        ("<on_crash>coredump-restart</on_crash>", "panic", "boots"),
    ],
)
def test_what_happens_at_the_end(
    daemon: Daemon, linux: Guest, element: str, command: str, wanted: str
) -> None:
    text = linux_xml(
        linux, "reacts", "<panic model='isa'/>", element, cmdline="modules=all", memory=128
    ).replace(" panic=-1", " panic=0")
    with running(daemon, "reacts", text) as guest:
        number = daemon.virsh("domid", "reacts")
        guest.type("echo c >/proc/sysrq-trigger" if command == "panic" else command)
        if wanted == "boots":
            guest.boots_again()
            assert daemon.virsh("domid", "reacts") == number
        else:
            comes_to(daemon, "reacts", wanted)
    dumps = list((daemon.root / "var/lib/libvirt/qemu/dump").glob("*reacts*"))
    assert bool(dumps) == ("coredump" in element)
    for dump in dumps:
        with dump.open("rb") as file:
            assert file.read(4) == b"\x7fELF"
        dump.unlink()


def test_the_events_of_a_panic(daemon: Daemon, linux: Guest) -> None:
    text = linux_xml(
        linux, "panics", "<panic model='isa'/>", "<on_crash>preserve</on_crash>", cmdline="modules=all"
    ).replace(" panic=-1", " panic=0")
    with running(daemon, "panics", text) as guest, listening(daemon) as heard:
        guest.type("echo c >/proc/sysrq-trigger")
        comes_to(daemon, "panics", "crashed (panicked)")
        daemon.virsh("reset", "panics")
        daemon.virsh("destroy", "panics")
        wait_until(lambda: "Stopped" in heard(), "the last event")
        life = re.findall(r"event 'lifecycle' for domain 'panics': (.*)", heard())
        assert life == ["Crashed Panicked", "Shutdown Finished after host request", "Stopped Destroyed"]
