"""Texts: what a shell would make of them, as far as nothing has to be run."""

import pytest

from qvirt.errors import InvalidArg
from qvirt.qemu.importer.text import parse_commands


def argv(text: str) -> list[str]:
    (command,) = parse_commands(text)
    return list(command.argv)


def test_environment_binary_arguments() -> None:
    (command,) = parse_commands("LC_ALL=C QEMU_AUDIO_DRV=none /usr/bin/qemu -M pc -append 'a b'")
    assert command.env == {"LC_ALL": "C", "QEMU_AUDIO_DRV": "none"}
    assert command.argv == ("/usr/bin/qemu", "-M", "pc", "-append", "a b")


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("qemu -name 'a  b'", "a  b"),
        ('qemu -name "a \\"b\\" \\n"', 'a "b" \\n'),
        ("qemu -name a\\ b", "a b"),
        ("qemu -name a'b c'd", "ab cd"),
        ("qemu -name ''", ""),
        ("qemu \\\n  -name \\\n  x # a name", "x"),
        ("qemu -name a#b", "a#b"),
        ("qemu -name x >/dev/null 2>&1 &", "x"),
        ("exec qemu -name x", "x"),
        ("sudo LANG=C qemu -name x", "x"),
    ],
)
def test_words(text: str, last: str) -> None:
    assert argv(text)[-1] == last


def test_a_script() -> None:
    text = """#!/bin/sh
set -e
DISK=/srv/vm/a.img   # the disk
OPTS="-m 512 -smp 2"
export MAC='52:54:00:00:00:01'
mkdir -p "$(dirname $DISK)"
if [ -z "$DISPLAY" ]; then
    GFX="-nographic"
fi
exec qemu-system-x86_64 $OPTS -hda "$DISK" ${GFX} \\
    -net nic,macaddr=${MAC} -name "${NAME:-a guest}"
"""
    (command,) = parse_commands(text)
    assert command.line == 10
    assert command.argv == (
        "qemu-system-x86_64", "-m", "512", "-smp", "2", "-hda", "/srv/vm/a.img", "-nographic", "-net",
        "nic,macaddr=52:54:00:00:00:01", "-name", "a guest",
    )  # fmt: skip


def test_arrays() -> None:
    text = 'args=(-m 1G\n  -name "a b")\nargs+=(-usb)\nqemu-system-x86_64 "${args[@]}" "$@"\n'
    assert argv(text) == ["qemu-system-x86_64", "-m", "1G", "-name", "a b", "-usb"]


def test_what_only_running_would_tell_is_refused_where_it_is_used() -> None:
    assert argv("N=$(nproc)\nqemu -m 1\n") == ["qemu", "-m", "1"]
    with pytest.raises(InvalidArg, match=r"line 2: .*\$N \(\$\(nproc\)\)"):
        parse_commands("N=$(nproc)\nqemu -smp $N\n")
    with pytest.raises(InvalidArg, match="set nowhere above"):
        parse_commands("qemu -hda $IMG")


@pytest.mark.parametrize("text", ["", "# nothing", "echo hello", "qemu -name 'x", 'qemu "x', "a=(1"])
def test_refusals(text: str) -> None:
    with pytest.raises(InvalidArg):
        parse_commands(text)


def test_several_commands() -> None:
    assert [command.line for command in parse_commands("qemu -m 1 &\nqemu-kvm -m 2 && kvm -m 3\n")] == [
        1,
        2,
        2,
    ]
