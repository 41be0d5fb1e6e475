"""What old emulators print, read."""

import pytest

from qvirt.qemu.dialect.help_text import help_caps, parse_devices, parse_help, parse_machines

HELP = """\
QEMU PC emulator version 0.12.4 (qemu-kvm-0.12.4), Copyright (c) somebody
usage: qemu [options] [disk_image]

Standard options:
-M machine      select emulated machine (-M ? for list)
-fda/-fdb file  use 'file' as floppy disk 0/1 image
-drive [file=file][,if=type][,bus=n][,cache=writethrough|writeback|none][,format=f]
       [,serial=s][,aio=threads|native]
                use 'file' as a drive image, or not=this
-vga [std|cirrus|none]
                select video card type
-device driver[,options]  add device
-qmp dev        like -monitor but opens in 'control' mode.
-no-kvm         disable KVM hardware virtualization

During emulation, the following keys are useful:
"""


def test_switches_and_their_parameters() -> None:
    said = parse_help(HELP)
    assert said.version_number == 12004
    assert said.kvm == 0
    assert {"-M", "-fda", "-fdb", "-drive:format", "-drive:serial", "-drive:cache=none", "-vga:none"} <= (
        said.facts
    )
    assert "-drive:not" not in said.facts
    assert "-chardev" not in said.facts


def test_what_was_not_finished_does_not_count() -> None:
    assert "-qmp" not in parse_help(HELP).facts
    assert "-qmp" in parse_help(HELP.replace("'control' mode", "'control' mode, for libvirt")).facts
    assert "-qmp" in parse_help(HELP.replace("0.12.4", "0.13.0")).facts


def test_a_version_stands_for_what_no_text_says() -> None:
    assert "@drive-units" in parse_help(HELP).facts
    assert "@primary-video" not in parse_help(HELP).facts


def test_no_qemu() -> None:
    with pytest.raises(ValueError, match="names no version"):
        parse_help("BusyBox v1.35\nusage: busybox\n")


def test_devices() -> None:
    text = 'name "virtio-blk-pci", bus PCI, alias "virtio-blk"\nname "lsi", bus PCI\n'
    text += "virtio-blk-pci.scsi=on/off\n"
    assert parse_devices(text) == {"virtio-blk-pci", "virtio-blk", "lsi", "virtio-blk-pci.scsi"}


def test_machines() -> None:
    text = "Supported machines are:\npc         Standard PC (alias of pc-0.12)\n"
    text += "pc-0.12    Standard PC (default)\n"
    (machine,) = parse_machines(text)
    assert (machine.name, machine.alias, machine.is_default) == ("pc-0.12", "pc", True)


def test_capabilities() -> None:
    caps = help_caps("/opt/qemu-kvm", HELP, 'name "rtl8139", bus PCI\nvirtio-net-pci.rombar=uint32\n')
    assert caps.target == "x86_64"
    assert caps.kvm
    assert caps.has_device("rtl8139")
    assert not caps.has_device("e1000")
    assert caps.option_has("drive", "format")
    assert caps.says("@rom")
