"""Today's emulator in the words one types."""

import shlex

import pytest

from qvirt.errors import InvalidArg
from qvirt.qemu.complete import complete
from qvirt.qemu.dialect.older import build_older
from qvirt.qemu.dialect.plain import Plain, by_hand, parse_dialect, plain_caps
from qvirt.qemu.importer import Imported
from qvirt.qemu.names import assign_aliases
from qvirt.record import replace
from tests.support import pure
from tests.unit.qemu.importer.lines import imported


def exported(made: Imported) -> list[str]:
    """Write what a command line became by hand again."""
    ctx = pure.context(made.domain)
    complete(made.domain, ctx)
    assign_aliases(made.domain, ctx)
    plain = plain_caps(ctx.caps)
    ctx = replace(ctx, caps=plain)
    return build_older(made.domain, ctx, plain, lambda switches: by_hand(switches, ctx)).argv()


def again(line: str) -> list[str]:
    return exported(imported(f"qemu-system-x86_64 -nodefaults {line}", offers_kvm=False))


def test_images_keep_what_was_said_of_them() -> None:
    text = shlex.join(again(
        "-drive file=/a,format=qcow2,if=virtio,cache=none,aio=native,discard=unmap,serial=S,werror=stop"
    ))  # fmt: skip
    assert "-drive file=/a,format=qcow2,cache=none,aio=native,discard=unmap,if=none" in text
    assert "serial=S" in text
    assert "werror=stop" in text
    assert "-blockdev" not in text
    assert "{" not in text


def test_an_image_that_forgets() -> None:
    assert "snapshot=on" in shlex.join(again("-drive file=/a,format=qcow2,if=virtio,snapshot=on"))
    whole = again("-hda /a -snapshot")
    assert "-snapshot" in whole
    assert "snapshot=on" not in shlex.join(whole)


@pytest.mark.parametrize(
    ("netdev", "expected"),
    [
        ("tap,ifname=t0,script=no,downscript=no,vhost=on", "ifname=t0,script=no,downscript=no,vhost=on"),
        ("tap,ifname=t0,script=/up,downscript=/down", "ifname=t0,script=/up,downscript=/down"),
        ("bridge,br=br7", "br=br7"),
    ],
)
def test_taps_by_name(netdev: str, expected: str) -> None:
    text = shlex.join(again(f"-netdev {netdev},id=n -device virtio-net-pci,netdev=n"))
    assert expected in text
    assert "fd=" not in text


def test_what_only_a_daemon_needs_is_left_out() -> None:
    made = again("-device virtio-rng-pci")
    text = shlex.join(made)
    assert "masterKey0" not in text
    assert "charmonitor" not in text
    assert "rng-builtin" not in text
    assert not {"-S", "-no-shutdown", "-mon"} & set(made)
    assert "driver=virtio-rng-pci" in text or "virtio-rng-pci,id=" in text


@pytest.mark.parametrize(("machine", "controller"), [("pc", "piix3-usb-uhci"), ("q35", "ich9-usb-ehci1")])
def test_the_chipsets_own_usb_is_a_word(machine: str, controller: str) -> None:
    text = shlex.join(again(f"-M {machine} -usb -device usb-tablet"))
    assert controller not in text
    assert "usb=on" in text
    assert "bus=usb-bus.0" in text


def test_usb_devices_and_host_devices() -> None:
    text = shlex.join(again("-device qemu-xhci -device vfio-pci,host=01:00.0,x-vga=on"))
    assert "vfio-pci,host=01:00.0," in text
    assert "x-vga=on" in text


def test_names() -> None:
    assert parse_dialect("plain") == Plain()
    assert parse_dialect("0.12") == (0, 12, 0)
    with pytest.raises(InvalidArg, match="dialect 'plane'"):
        parse_dialect("plane")
