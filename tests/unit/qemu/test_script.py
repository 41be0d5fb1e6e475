"""Scripts that start a domain by themselves: what is in them, and that a shell reads it as it is meant."""

import subprocess

import pytest

from qvirt.errors import ConfigUnsupported
from qvirt.qemu import script
from qvirt.qemu.build import build
from qvirt.qemu.names import assign_aliases
from qvirt.record import replace
from tests.support.pure import completed, context

GUEST = """<domain type='qemu'><name>it's $a `b`</name><memory>131072</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{}</devices></domain>"""


def written(devices: str = "", **bridges: str) -> str:
    domain = completed(GUEST.format(devices))
    script.check(domain)
    ctx = replace(context(domain), dirs=script.DIRS)
    assign_aliases(domain, ctx)
    needs = script.Needs()
    command = build(domain, ctx)
    switches = script.standalone(command.switches, ctx, bridges, needs)
    return script.write(domain, replace(command, switches=switches), ctx, needs)


def test_a_shell_reads_it() -> None:
    text = written(
        "<interface type='bridge'><source bridge='br0'/></interface><graphics type='vnc' passwd='x'/>"
    )
    subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=30)


@pytest.mark.parametrize("word", ["", "plain", "a b", "it's", '"$x"', "`id`", "a\\b", "$(id)", "*", "-x\n"])
def test_words_come_out_as_they_went_in(word: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"printf %s {script.shell_word(word)}"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == word


def test_stand_ins_become_variables() -> None:
    word = script.shell_word(f"{script.RUN}/x y,id=@qvirt-tap@")
    done = subprocess.run(
        ["sh", "-c", f"run='/a b' tap=t0; printf '%s|' {word}"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == "/a b/x y,id=t0|"


def test_taps_have_names_and_go_into_their_bridge() -> None:
    text = written("<interface type='network'><source network='lan'/></interface>", lan="virbr7")
    assert 'ip link set dev "$tap_net0" master virbr7' in text
    assert '"ifname":"' in text
    assert '"fd"' not in text


def test_a_network_without_a_bridge_is_refused() -> None:
    with pytest.raises(ConfigUnsupported, match="network 'lan'"):
        written("<interface type='network'><source network='lan'/></interface>")


def test_a_macvtap_is_opened_by_the_shell() -> None:
    text = written("<interface type='direct'><source dev='eth0' mode='bridge'/></interface>")
    assert '3<>"/dev/tap$index_net0"' in text
    assert '"fd":"3"' in text


def test_passwords_are_asked_for_and_not_written() -> None:
    text = written("<graphics type='vnc' passwd='geheim'/>")
    assert "geheim" not in text
    assert "SECRET_VNC_PASSWORD" in text
    assert "password-secret=vnc-password" in text


def test_nobody_waits_for_a_monitor() -> None:
    lines = [line.strip(" \\") for line in written().splitlines()]
    assert "-S" not in lines
    assert "-no-shutdown" not in lines
    assert "${PAUSED:+-S}" in lines


def test_what_a_script_cannot_prepare_is_refused() -> None:
    with pytest.raises(ConfigUnsupported, match=r"a script cannot start .*transient"):
        written(
            "<disk type='file'><driver type='qcow2'/><source file='/a'/><target dev='vda'/>"
            "<transient/></disk>"
        )
