"""The kernel's records of refusals: read, matched with a guest, and what would allow them."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.model.seclabel import SecLabel
from qvirt.qemu.context import Dirs
from qvirt.runtime.life.refusals import not_permitted
from qvirt.security import denials
from qvirt.security.apparmor import model
from qvirt.security.apparmor.model import AppArmor
from qvirt.security.apparmor.remedies import rule_that_allows
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
        (
            'apparmor="DENIED" operation="signal" profile="q" requested_mask="receive" denied_mask="receive" '
            'signal=term peer="qvirtd"',
            '`signal (receive) set=(term) peer="qvirtd",`',
        ),
        (
            'apparmor="DENIED" operation="ptrace" profile="q" requested_mask="read" denied_mask="read" '
            'peer="a//b"',
            '`ptrace (read) peer="a//b",`',
        ),
        (
            'apparmor="DENIED" operation="mount" info="failed mntpnt match" error=-13 profile="q" name="/m/" '
            'fstype="tmpfs" srcname="none" flags="rw, nosuid"',
            '`mount fstype=tmpfs options=(rw, nosuid) "none" -> "/m/",`',
        ),
        ('apparmor="DENIED" operation="umount" profile="q" name="/m x/"', '`umount "/m x/",`'),
        ('apparmor="DENIED" operation="pivotroot" profile="q" name="/m/"', '`pivot_root "/m/",`'),
        (
            'apparmor="DENIED" operation="connect" profile="q" family="unix" sock_type="stream" protocol=0 '
            'requested_mask="send receive connect" denied_mask="send connect" addr=none peer_addr="@x" '
            'peer="other"',
            '`unix (send, connect) type=stream peer=(label="other"),`',
        ),
        (
            'apparmor="DENIED" operation="change_onexec" error=-13 profile="qvirtd" name="mine"',
            '`change_profile -> "mine",`',
        ),
        ('apparmor="DENIED" operation="userns_create" profile="q" requested="userns_create"', "`userns,`"),
        (APPARMOR.replace('"rw"', '"x"'), '`"/srv/x.img" ix,`'),
        (HEXED.replace(b"/srv/a b".hex().upper(), b"/a\n\xff".hex().upper()), '`"/a\\x0a\\xff" rw,`'),
        ('apparmor="DENIED" operation="file_perm" profile="q" name="" requested_mask="r"', ""),
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
        watch._read = lambda: iter([line.encode() for line in lines.pop(0)] if lines else [])

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


def apparmor_guard(folder: Path, monkeypatch: pytest.MonkeyPatch, daemon: str = "unconfined") -> Guard:
    monkeypatch.setattr(model, "confinement", lambda process: (daemon, ""))
    label = SecLabel(type="dynamic", model="apparmor", relabel=True, label=f"libvirt-{UUID}")
    return Guard((AppArmor(folder, Dirs()),), Guest(1, "a", UUID, "", [label]))


def refusals(guard: Guard, said: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(denials, "PATIENCE", 0.05)
    left = [[line.encode() for line in lines]]
    monkeypatch.setattr(
        Watch, "_audit", lambda watch: setattr(watch, "_read", lambda: iter(left.pop() if left else []))
    )

    async def main() -> list[str]:
        with guard.watch() as watch:
            return await guard.refusals(watch, said)

    return asyncio.run(main())


def test_what_qemu_does_without_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = apparmor_guard(tmp_path, monkeypatch)
    looked_at = APPARMOR.replace("/srv/x.img", "/sys/devices/system/node/").replace('"rw"', '"r"')
    assert refusals(guard, "'nosuch' is not a valid device model name", [looked_at], monkeypatch) == []
    (said,) = refusals(guard, "could not load PC BIOS", [looked_at, APPARMOR], monkeypatch)
    assert "'/srv/x.img'" in said
    (said,) = refusals(guard, "cannot read /sys/devices/system/node/: no", [looked_at], monkeypatch)
    assert "'/sys/devices/system/node/'" in said
    written = looked_at.replace('"r"', '"w"')
    assert len(refusals(guard, "it failed", [written], monkeypatch)) == 1
    many = [APPARMOR.replace("x.img", f"{number}.img") for number in range(100)]
    assert len(refusals(guard, "it failed", many, monkeypatch)) == 8


def test_helpers_and_the_launcher_are_the_guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = apparmor_guard(tmp_path, monkeypatch, "qvirtd")
    profile = f"libvirt-{UUID}"
    helper = APPARMOR.replace(profile, f"{profile}//swtpm")
    assert refusals(guard, "", [helper], monkeypatch) == [
        f"apparmor refused open (rw) on '/srv/x.img' to '{profile}//swtpm': allow it with the rule "
        f"`\"/srv/x.img\" rw,` in '{tmp_path.parent}/local/qvirt-helpers'"
    ]
    changed = f'apparmor="DENIED" operation="change_onexec" profile="qvirtd" name="{profile}" pid=7'
    assert refusals(guard, "", [changed], monkeypatch) == [
        f"apparmor refused change_onexec on '{profile}' to 'qvirtd': allow it with the rule "
        f"`change_profile -> \"{profile}\",` in profile 'qvirtd'"
    ]
    others = (
        APPARMOR.replace(profile, f"{profile}0"),
        APPARMOR.replace(profile, "qvirtd"),
        changed.replace(UUID, "another"),
    )
    assert refusals(guard, "", list(others), monkeypatch) == []


def test_nodes_that_no_list_of_devices_has_are_found_in_qemus_words() -> None:
    said = (
        "Could not open '/dev/loop1': Operation not permitted\ncan't load /dev/loop2: Failed to open file "
        "“/dev/loop2”: Operation not permitted\n'/dev/loop3': Permission denied"
    )
    assert not_permitted(said + said) == ["/dev/loop1", "/dev/loop2"]


def test_a_flood_of_others_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are read as they come, some at a time; no more than some are kept."""
    guard = apparmor_guard(tmp_path, monkeypatch)
    monkeypatch.setattr(denials, "_AT_ONCE", 10)
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading.setblocking(False)

    def read() -> Iterator[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield reading.recv(1000)

    def source(watch: Watch) -> None:
        watch._follow(reading.fileno(), read, reading.close)

    monkeypatch.setattr(Watch, "_audit", source)
    another = APPARMOR.replace(UUID, "another").encode()

    async def main() -> list[str]:
        with guard.watch() as watch:
            for number in range(3000):
                if number == 50:
                    writing.send(APPARMOR.encode())
                await asyncio.get_running_loop().sock_sendall(writing, another)
                await asyncio.sleep(0)
            assert len(watch._lines) == 1
            return await guard.refusals(watch, "")

    writing.setblocking(False)
    with writing:
        (said,) = asyncio.run(main())
    assert "'/srv/x.img'" in said
    assert reading.fileno() == -1


def test_a_kernel_without_records_is_suspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = apparmor_guard(tmp_path, monkeypatch)
    monkeypatch.setattr(denials, "are_recorded", lambda: False)
    (said,) = guard.suspicions("Could not open '/srv/x.img': Permission denied")
    assert said.startswith(f"AppArmor may be why, which confines the guest by 'libvirt-{UUID}': this kernel")
    assert guard.suspicions("no such device") == []
    monkeypatch.setattr(denials, "are_recorded", lambda: True)
    assert guard.suspicions("Could not open '/srv/x.img': Permission denied") == []


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
    monkeypatch.setattr(denials, "_BEHIND", 0.1)
    monkeypatch.setattr(Watch, "_audit", lambda watch: None)

    async def main() -> None:
        with Watch([f"libvirt-{UUID}"]) as watch:
            watch._read = lambda: itertools.repeat(APPARMOR.encode(), 300_000)
            (found,) = await watch.denials(lambda _: True)
            assert found.model == "apparmor"
            assert await watch.denials(lambda _: False) == []
            assert len(watch._seen) <= denials._MOST

    asyncio.run(asyncio.wait_for(main(), 30))
