"""Programs beside the command: what they say, and that none is waited for too long or left behind."""

import asyncio
import os
from pathlib import Path

import pytest

from qvirt.cli import beside
from qvirt.cli.command import CommandError


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_an_answer() -> None:
    answer = asyncio.run(beside.ask("json.tool", "--compact", text='{"a": 1}', late="too late"))
    assert (answer.status, answer.out.strip(), answer.said) == (0, '{"a":1}', "")


def test_a_complaint() -> None:
    answer = asyncio.run(beside.ask("json.tool", text="{", late="too late"))
    assert answer.status == 1
    assert answer.out == ""
    assert answer.said.startswith("Expecting")


def test_one_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "DEADLINE", 0.2)
    before = _children()
    with pytest.raises(CommandError, match=r"the sum was not found within 0\.2 s"):
        asyncio.run(beside.ask("timeit", "-n", "1000000000000", "pass", late="the sum was not found"))
    assert _children() <= before


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("qemu:///system", "/etc/libvirt/qemu.conf"),
        ("qemu:///system?socket=/var/run/libvirt/libvirt-sock", "/etc/libvirt/qemu.conf"),
        ("qemu+unix:///system?socket=/run/libvirt/virtqemud-sock", "/etc/libvirt/qemu.conf"),
        ("qemu:///system?socket=/srv/tree/run/libvirt/libvirt-sock", "/srv/tree/etc/libvirt/qemu.conf"),
        ("qemu:///system?socket=/srv/forwarded-sock", "/etc/libvirt/qemu.conf"),
        ("qemu:///session", os.devnull),
    ],
)
def test_which_settings_a_daemon_reads(address: str, path: str) -> None:
    assert beside.settings_of(address) == path
