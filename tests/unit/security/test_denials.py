"""The kernel's records of refusals: read, matched with a guest, and what would allow them."""

import asyncio
import itertools
from pathlib import Path

import pytest

from qvirt.model.seclabel import SecLabel
from qvirt.qemu.context import Dirs
from qvirt.security import denials
from qvirt.security.apparmor import model
from qvirt.security.apparmor.model import AppArmor
from qvirt.security.apparmor.rules import rule_that_allows
from qvirt.security.denials import Denial, Watch, parse
from qvirt.security.model import Guest
from qvirt.security.stack import Guard

UUID = "11111111-2222-3333-4444-555555555555"
APPARMOR = (
    'audit: type=1400 audit(1795998429.820:10): apparmor="DENIED" operation="open" '
    f'profile="libvirt-{UUID}" name="/srv/x.img" pid=165 comm="qemu-system-x86" requested_mask="rw" '
    'denied_mask="rw" fsuid=64055 ouid=0'
)
HEXED = APPARMOR.replace('"/srv/x.img"', b"/srv/a b".hex().upper()).replace('"rw"', '"wrc"')
CAPABILITY = (
    f'audit(1.2:3): apparmor="DENIED" operation="capable" profile="libvirt-{UUID}" pid=7 comm="qemu" '
    'capability=12  capname="net_admin"'
)
SELINUX = (
    'type=1400 audit(1.2:3): avc:  denied  { read open } for  pid=42 comm="qemu" path="/srv/x.img" dev="vda" '
    "ino=5 scontext=system_u:system_r:svirt_t:s0:c1,c2 tcontext=system_u:object_r:var_t:s0 tclass=file "
    "permissive=0"
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (APPARMOR, ("apparmor", f"libvirt-{UUID}", "rw", "/srv/x.img", 165)),
        (HEXED, ("apparmor", f"libvirt-{UUID}", "wrc", "/srv/a b", 165)),
        (CAPABILITY, ("apparmor", f"libvirt-{UUID}", "net_admin", "", 7)),
        (SELINUX, ("selinux", "system_u:system_r:svirt_t:s0:c1,c2", "read open", "/srv/x.img", 42)),
    ],
)
def test_records_are_read(line: str, expected: tuple[object, ...]) -> None:
    found = parse(line)
    assert found is not None
    assert (found.model, found.label, found.what, found.path, found.pid) == expected


@pytest.mark.parametrize("line", ["", APPARMOR.replace("DENIED", "ALLOWED"), "usb 1-1: new device"])
def test_other_lines_are_none(line: str) -> None:
    assert parse(line) is None


def denial(line: str) -> Denial:
    found = parse(line)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (APPARMOR, '`"/srv/x.img" rw,`'),
        (HEXED, '`"/srv/a b" rw,`'),
        (CAPABILITY, "`capability net_admin,`"),
        (
            f'apparmor="DENIED" operation="create" profile="libvirt-{UUID}" pid=7 family="packet" '
            'sock_type="raw" protocol=768 requested_mask="create" denied_mask="create"',
            "`network packet raw,`",
        ),
        (f'apparmor="DENIED" operation="signal" profile="libvirt-{UUID}" requested_mask="send"', ""),
    ],
)
def test_the_rule_that_would_allow_it(line: str, rule: str) -> None:
    assert rule_that_allows(denial(line)) == rule


def test_a_guest_is_told_of_its_own_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each, the others' left out; a record that comes late is waited for."""
    monkeypatch.setattr(model, "confinement", lambda process: ("unconfined", ""))
    harmless = APPARMOR.replace("/srv/x.img", "/sys/devices/system/node/")
    lines = [[], [harmless, APPARMOR, APPARMOR.replace(UUID, "another"), APPARMOR]]

    def source(watch: Watch) -> None:
        watch._read = lambda: iter(lines.pop(0) if lines else [])

    monkeypatch.setattr(Watch, "_audit", source)
    label = SecLabel(type="dynamic", model="apparmor", relabel=True, label=f"libvirt-{UUID}")
    guard = Guard((AppArmor(tmp_path, Dirs()),), Guest(1, "a", UUID, "", [label]))

    async def main() -> list[str]:
        with guard.watch() as watch:
            return await guard.refusals(watch, "Could not open '/srv/x.img'")

    assert asyncio.run(main()) == [
        f"apparmor refused open (rw) on '/srv/x.img' to 'libvirt-{UUID}': allow it with the rule "
        f"`\"/srv/x.img\" rw,` in '{tmp_path}/libvirt-{UUID}'"
    ]


def test_who_is_not_labelled_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(watch: Watch) -> None:
        raise AssertionError("it looks")

    monkeypatch.setattr(Watch, "_audit", never)
    monkeypatch.setattr(denials, "PATIENCE", 1e9)
    guard = Guard()

    async def main() -> list[str]:
        with guard.watch() as watch:
            return await guard.refusals(watch)

    assert asyncio.run(main()) == []


def test_refusals_without_end_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest may be refused something faster than we can read of it."""
    monkeypatch.setattr(denials, "PATIENCE", 0.05)

    async def main() -> None:
        with Watch(wanted=False) as watch:
            watch._looks = True
            watch._read = lambda: itertools.repeat(APPARMOR, 300_000)
            (found,) = await watch.denials(lambda _: True)
            assert found.model == "apparmor"
            assert await watch.denials(lambda _: False) == []
            assert len(watch._seen) <= denials._MOST

    asyncio.run(asyncio.wait_for(main(), 30))
