"""Texts: what a shell would make of them, as far as nothing has to be run."""

import shutil
import subprocess
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from qvirt.errors import InvalidArg
from qvirt.qemu.importer import emulator_target
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


@pytest.mark.parametrize(
    "front",
    [
        "exec", "nohup", "setsid", "sudo", "sudo -E -u qemu", "sudo --user=qemu --", "doas -u me",
        "nice -n 5",
        "nice -5", "ionice -c 2 -n0", "chrt -r 1", "taskset -c 0-3", "taskset 0xf", "numactl -N 0 -m 0",
        "numactl --cpunodebind=0 --membind 0 --", "timeout -k 5 60", "stdbuf -oL", "strace -f -o /t",
        "gdb --args",
        "gdb -ex run --args", "ip netns exec blue", "cgexec -g cpu:vm", "systemd-run --scope -p CPUQuota=50%",
        "screen -dmS vm", "xvfb-run -a", "env -i", "/usr/bin/env", "sudo nice -n 1 taskset -c 1", "time", "$",
        "sudo -u qemu numactl -C 0,2", "unshare -n", "command", "if ! sudo", "xterm -e",
    ],
)  # fmt: skip
def test_programs_in_front(front: str) -> None:
    (command,) = parse_commands(f"{front} qemu-system-x86_64 -m 512 -name qemu")
    assert command.argv == ("qemu-system-x86_64", "-m", "512", "-name", "qemu")


def test_variables_behind_programs_in_front() -> None:
    for text in ("sudo A=1 B='x y' kvm -m 1", "env A=1 B='x y' kvm -m 1", "A=1 env B='x y' kvm -m 1"):
        (command,) = parse_commands(text)
        assert command.env == {"A": "1", "B": "x y"}
        assert command.argv == ("kvm", "-m", "1")


def test_a_service() -> None:
    text = "start-stop-daemon --start --pidfile /p --exec /usr/bin/kvm -- -m 512 -pidfile /p"
    assert argv(text) == ["/usr/bin/kvm", "-m", "512", "-pidfile", "/p"]


@pytest.mark.parametrize(
    "text",
    [
        "sh -c 'kvm -m 512 -name \"a b\"'",
        "M=512\nsu - me -c \"kvm -m $M -name 'a b'\"",
        "CMD='kvm -m 512'\neval \"$CMD -name 'a b'\"",
        "tmux new-session -d -s vm 'kvm -m 512 -name \"a b\"'",
    ],
)
def test_texts_that_a_shell_is_given(text: str) -> None:
    assert argv(text) == ["kvm", "-m", "512", "-name", "a b"]


def test_here_documents_are_no_commands() -> None:
    text = """usage() {
cat <<EOF
It's how: qemu-system-x86_64 -m "
EOF
	cat <<-'END' >/dev/null
	kvm -m 7
	END
}
kvm -m 1
"""
    assert argv(text) == ["kvm", "-m", "1"]


def test_questions_run_nothing() -> None:
    text = "if ! command -v qemu-system-x86_64 >/dev/null; then exit 1; fi\nwhich kvm\nkvm -m 1\n"
    assert argv(text) == ["kvm", "-m", "1"]
    assert argv("Q=$(which qemu-system-arm)\n$Q -m 1") == ["qemu-system-arm", "-m", "1"]
    assert argv("exec `command -v kvm 2>/dev/null` -m 1") == ["kvm", "-m", "1"]


def test_declared_arrays_and_trimmed_variables() -> None:
    text = """declare -a OPTS=(-m 512
    # -smp 4
    -name 'a b')   # the guest
local -r IMG=/srv/vm/disk.qcow2
kvm "${OPTS[@]}" -hda "${IMG##*/}" -cdrom "${IMG%.qcow2}.iso" -k ${KEYS:-${LANGUAGE:-de}}
"""
    assert argv(text) == [
        "kvm", "-m", "512", "-name", "a b", "-hda", "disk.qcow2", "-cdrom", "/srv/vm/disk.iso", "-k", "de",
    ]  # fmt: skip


def test_a_comment_ends_a_continued_line() -> None:
    assert argv("kvm -m 1 \\\n  # -smp 2 \\\n  -usb\n") == ["kvm", "-m", "1"]


def test_what_only_wrappers_want_to_know_does_not_matter() -> None:
    assert argv("taskset -c $CPUS kvm -m 1 2> >(tee /log)") == ["kvm", "-m", "1"]
    with pytest.raises(InvalidArg, match="home folder"):
        parse_commands("kvm -hda ~/a.img")


def test_windows() -> None:
    assert argv("qemu-system-x86_64.exe -m 1\r\n") == ["qemu-system-x86_64.exe", "-m", "1"]
    assert emulator_target("qemu-system-x86_64w.exe") == ("x86_64", False)
    assert argv("kvm -m \\\r\n 1\r\n") == ["kvm", "-m", "1"]


#: pieces of words, each of which a shell reads as one piece or as none
_PIECES = st.sampled_from(
    [
        "a", "-x", "b=c", ",", "'", "'x  y'", '"p q"', '"$A"', "$A", "${A}", "${B:-d e}", '"${B:-d e}"',
        "\\ ", "\\$",
        "${A:+on}", '"${L[@]}"', "${L[*]}", "$'t\\tq'", '"\\$A \\\\ \\" \\n"', "#", "\\\n", "~x", "=~",
        "${P##*/}",
        "${P%.*}", '"${P#/}"', "''", '""', "%", "{}", "@", "*.none", "^", "\\'", '"\'"', "'\"'",
        "${B-}", "!",
    ]
)  # fmt: skip
_SETUP = "set -f\nA='one  two'\nL=(1 '2 3' '')\nP=/srv/x.tar.gz\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(_PIECES, min_size=1, max_size=4).map("".join), max_size=6))
def test_words_are_those_that_bash_makes(words: list[str]) -> None:
    line = "qemu-system-x86_64 " + " ".join(words)
    program = f"{_SETUP}qemu-system-x86_64() {{ printf '%s\\0' \"$@\" END; }}\n{line}\n"
    ran = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, check=False, timeout=30)
    assume(not ran.returncode and not ran.stderr and ran.stdout.endswith(b"END\0"))
    expected = ran.stdout.decode().split("\0")[:-2]
    with suppress(InvalidArg):  # a variable that is not set, which is nothing to a shell
        (command,) = parse_commands(f"{_SETUP}{line}\n")
        assert list(command.argv[1:]) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x0=aaaaaaaa\n" + "".join(f"x{i + 1}=$x{i}$x{i}$x{i}$x{i}\n" for i in range(40)) + "qemu -name $x40",
         "variables become too long"),
        ("y=(a a)\n" + "y=(${y[@]} ${y[@]})\n" * 60 + "qemu ${y[@]}", "variables become too long"),
        ("x='sh -c \"$x\"'\nqemu -name " + '"${a:-' * 3000 + '}"' * 3000, "nested too deep"),
        ("x=" + "a" * 500_000 + "\nqemu -name ${x##*b*c*d}", "a part of a long value"),
        ("qemu -name x\n" * 200_000, "the limit is"),
    ],
)  # fmt: skip
def test_texts_made_to_hurt(text: str, said: str) -> None:
    with pytest.raises(InvalidArg, match=said):
        parse_commands(text)
