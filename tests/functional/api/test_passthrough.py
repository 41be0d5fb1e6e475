"""What goes to QEMU past the model: its own arguments, overruled properties and abilities, its monitor.

Each of it leaves a taint: in the log, in the status file, and in what ``virsh dominfo`` says.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE, Daemon, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
GUEST = """<domain type='qemu' xmlns:qemu='{ns}'><name>{name}</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='ua-noise'/></rng></devices>
{more}</domain>"""
OWN = """
<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='virtio-rng-pci.vectors=3'/>
<qemu:env name='QVIRT_TEST' value='a b'/></qemu:commandline>
<qemu:capabilities><qemu:add capability='usb-hub'/><qemu:del capability='thread-context'/></qemu:capabilities>
<qemu:override><qemu:device alias='ua-noise'><qemu:frontend>
<qemu:property name='max-bytes' type='unsigned' value='4096'/>
<qemu:property name='period' type='unsigned' value='1000'/></qemu:frontend></qemu:device></qemu:override>"""


def document(name: str, more: str = "") -> str:
    return GUEST.format(ns=QEMU, name=name, more=more)


def create(daemon: Daemon, name: str, more: str = "") -> subprocess.CompletedProcess[str]:
    return daemon.virsh_run("create", "/dev/stdin", "--paused", input=document(name, more))


@pytest.fixture
def own(daemon: Daemon) -> Iterator[str]:
    """A guest with everything of the ``qemu:`` namespace."""
    assert create(daemon, "own", OWN).returncode == 0
    try:
        yield "own"
    finally:
        daemon.virsh("destroy", "own")


@pytest.fixture
def plain(daemon: Daemon) -> Iterator[str]:
    """A guest with nothing of it."""
    assert create(daemon, "plain").returncode == 0
    try:
        yield "plain"
    finally:
        daemon.virsh("destroy", "plain")


def messages(daemon: Daemon, name: str) -> set[str]:
    return set(re.findall(r"tainted: .*", daemon.virsh("dominfo", name)))


def asked(daemon: Daemon, name: str, command: str, **arguments: object) -> object:
    """Ask the monitor; returns the answer."""
    text = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(daemon.virsh("qemu-monitor-command", name, text))["return"]


def test_what_the_user_wrote_reaches_qemu(daemon: Daemon, own: str) -> None:
    (pid,) = (pid for pid in daemon.qemu_pids() if b"guest=own," in Path(f"/proc/{pid}/cmdline").read_bytes())
    assert b"QVIRT_TEST=a b" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    path = "/machine/peripheral/ua-noise"
    assert asked(daemon, own, "qom-get", path=path, property="vectors") == 3
    assert asked(daemon, own, "qom-get", path=path, property="max-bytes") == 4096
    assert asked(daemon, own, "qom-get", path=path, property="period") == 1000


def test_each_leaves_its_taint(daemon: Daemon, own: str) -> None:
    wanted = {
        "tainted: custom configuration parameters specified",
        "tainted: hypervisor feature autodetection override",
        "tainted: custom device configuration",
    }
    assert wanted <= messages(daemon, own)
    flags = ("custom-argv", "custom-hypervisor-feature", "custom-device")
    status = (daemon.root / "run/libvirt/qemu/own.xml").read_text()
    log = (daemon.root / "var/log/libvirt/qemu/own.log").read_text()
    for flag in flags:
        assert f"<taint flag='{flag}'/>" in status
        assert f"is tainted: {flag}" in log


def test_a_plain_guest_has_none_of_them(daemon: Daemon, plain: str) -> None:
    assert not any("custom" in line or "override" in line for line in messages(daemon, plain))


def test_commands_in_both_languages_and_with_a_file(daemon: Daemon, plain: str) -> None:
    assert asked(daemon, plain, "query-name") == {"name": "plain"}
    assert "VM status: paused" in daemon.virsh("qemu-monitor-command", plain, "--hmp", "info status")
    with tempfile.TemporaryFile() as file:
        command = json.dumps({"execute": "add-fd", "arguments": {"fdset-id": 7, "opaque": "ours"}})
        done = subprocess.run(
            ["virsh", "-q", "-c", daemon.uri, "qemu-monitor-command", plain, "--pass-fds", str(file.fileno()),
             command],
            pass_fds=[file.fileno()], capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["return"]["fdset-id"] == 7
    sets = asked(daemon, plain, "query-fdsets")
    assert isinstance(sets, list)
    assert [x["opaque"] for one in sets if one["fdset-id"] == 7 for x in one["fds"]] == ["ours"]
    assert "tainted: custom monitor control commands issued" in messages(daemon, plain)
    wait_until(
        lambda: "custom-monitor" in (daemon.root / "run/libvirt/qemu/plain.xml").read_text(),
        "the status file",
    )


def test_events_of_the_monitor(daemon: Daemon, plain: str) -> None:
    with subprocess.Popen(
        ["stdbuf", "-oL", "virsh", "-q", "-c", daemon.uri, "qemu-monitor-event", "--domain", plain,
         "--event", "resu", "--regex", "--no-case", "--timeout", str(int(PATIENCE))],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"},
    ) as listener:  # fmt: skip
        assert listener.stdout is not None
        # each of these makes the event; the listener needs only one of them
        for _ in range(100):
            daemon.virsh("resume", plain)
            daemon.virsh("suspend", plain)
            if listener.poll() is not None:
                break
        said = listener.stdout.read()
    assert listener.returncode == 0
    assert said.startswith("event RESUME at ")
    assert "for domain 'plain'" in said


def test_a_taint_outlives_the_daemon(own_daemon: Daemon) -> None:
    assert create(own_daemon, "own", OWN).returncode == 0
    before = messages(own_daemon, "own")
    own_daemon.kill()
    own_daemon.start()
    assert messages(own_daemon, "own") == before
    own_daemon.virsh("destroy", "own")


def test_the_name_of_no_capability(daemon: Daemon) -> None:
    more = "<qemu:capabilities><qemu:add capability='nonsense'/></qemu:capabilities>"
    refused = create(daemon, "odd", more)
    assert refused.returncode == 1
    assert "invalid qemu namespace capability 'nonsense'" in refused.stderr


def test_an_ability_that_is_taken_away_is_not_used(daemon: Daemon) -> None:
    """A machine whose emulator is said to have no virtio-vga gets the card without VGA."""
    less = "<qemu:capabilities><qemu:del capability='virtio-vga'/></qemu:capabilities>"
    video = "<graphics type='vnc' port='5999'/><video><model type='virtio'/></video></devices>"
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        for more, wanted in (("", '"driver":"virtio-vga"'), (less, '"driver":"virtio-gpu-pci"')):
            file.seek(0)
            file.truncate()
            file.write(document("odd", more).replace("</devices>", video))
            file.flush()
            assert wanted in daemon.virsh("domxml-to-native", "qemu-argv", file.name)
