"""One guest, written for QEMUs of many ages."""

import pytest

from qvirt.errors import ConfigUnsupported, InvalidArg
from qvirt.model.domain import parse_domain
from qvirt.qemu.complete import complete
from qvirt.qemu.dialect.ages import age_caps, facts_at, parse_age
from qvirt.qemu.dialect.facts import UNSAID
from qvirt.qemu.dialect.older import build_older
from qvirt.qemu.names import assign_aliases
from qvirt.record import replace
from tests.support.pure import context

GUEST = """<domain type='qemu'><name>old</name><memory>131072</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu</emulator>
<disk type='file'><driver name='qemu' type='qcow2'/><source file='/a'/><target dev='hda' bus='ide'/></disk>
<disk type='file' device='cdrom'><source file='/b'/><target dev='hdc' bus='ide'/></disk>
<interface type='user'><mac address='52:54:00:00:00:09'/><model type='rtl8139'/></interface>
<serial type='pty'/><input type='tablet' bus='usb'/><sound model='ac97'/>
<graphics type='sdl'/><video><model type='vga'/></video>{more}</devices></domain>"""


def written(age: str, more: str = "") -> list[str]:
    """Return the guest's options for an age, one switch with its value per item."""
    version = parse_age(age)
    domain = parse_domain(GUEST.format(more=more))
    caps = age_caps(version, emulator="/usr/bin/qemu", target="x86_64")
    ctx = replace(context(domain), caps=caps)
    complete(domain, ctx)
    assign_aliases(domain, ctx)
    return [" ".join(switch.to_argv()) for switch in build_older(domain, ctx, caps).switches]


def test_before_devices_everything_has_a_switch_of_its_own() -> None:
    options = written("0.9")
    assert {
        "-M pc", "-no-kqemu", "-monitor pty", "-usb", "-usbdevice tablet", "-soundhw ac97", "-std-vga",
        "-drive file=/a,if=ide,index=0", "-drive file=/b,media=cdrom,if=ide,index=2", "-serial pty",
        "-net nic,macaddr=52:54:00:00:00:09,vlan=0,model=rtl8139", "-net user,vlan=0", "-parallel none",
    } <= set(options)  # fmt: skip
    assert not any(option.startswith(("-device", "-chardev", "-uuid")) for option in options)


def test_the_first_devices() -> None:
    options = written("0.12")
    assert "-drive file=/a,format=qcow2,if=none,id=drive-ide0-0-0" in options
    assert "-device ide-drive,bus=ide.0,unit=0,drive=drive-ide0-0-0,id=ide0-0-0" in options
    assert "-device rtl8139,vlan=0,id=net0,mac=52:54:00:00:00:09,bus=pci.0,addr=0x3" in options
    assert {"-net user,vlan=0,name=hostnet0", "-vga std", "-sdl", "-boot c", "-M pc"} <= set(options)


@pytest.mark.parametrize(
    ("age", "there", "not_there"),
    [
        ("0.13", "-nodefconfig", "-display"),
        ("0.13", "-netdev user,id=hostnet0", "-net"),
        ("1.0", "-machine pc,accel=tcg", "-M"),
        ("1.1", "-no-user-config", "-nodefconfig"),
        ("1.2", "-device VGA,id=video0,vgamem_mb=16,bus=pci.0,addr=0x2", "-vga"),
        ("2.0", "-realtime mlock=off", "-overcommit"),
        ("2.1", "-name guest=old,debug-threads=on", "-blockdev"),
        ("2.12", "-accel tcg", "-drive"),
    ],
)
def test_what_came_and_went(age: str, there: str, not_there: str) -> None:
    options = written(age)
    assert there in options
    assert not any(option.split()[0] == not_there for option in options)


def test_what_an_age_does_not_have_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigUnsupported, match=r"line \d+\) needs an emulator with -device"):
        written("0.11", "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>")


def test_ages() -> None:
    assert parse_age("2.x") == (2, 12, 0)
    assert parse_age("1.5.3") == (1, 5, 3)
    for text in ("0.8", "3.0", "old", ""):
        with pytest.raises(InvalidArg, match="dialect"):
            parse_age(text)


def test_facts_that_no_text_shows_are_explained() -> None:
    named = {fact for fact in facts_at(parse_age("2.x")) if fact.startswith("@")}
    assert named <= set(UNSAID)
