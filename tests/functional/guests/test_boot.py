"""Linux guests that boot on each machine, and what they find there; consoles and channels to them."""

import socket

import pytest

from tests.functional.api.documents import PRELUDE
from tests.functional.guests.machines import AGENT, CONSOLE, Shell, booted, linux_xml, state, write
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_what_the_guest_finds(daemon: Daemon, linux: Guest, machine: str) -> None:
    extra = """
    <sysinfo type='smbios'>
      <bios><entry name='vendor'>Acme</entry></bios>
      <system><entry name='manufacturer'>Acme Ltd</entry><entry name='serial'>4711</entry></system>
    </sysinfo>
    <clock offset='variable' adjustment='-86400' basis='utc'><timer name='hpet' present='no'/></clock>"""
    text = linux_xml(
        linux,
        "finds",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        extra,
        machine=machine,
        cmdline="something=else",
        memory=256,
        vcpus="<vcpu current='2'>3</vcpu>",
    ).replace("</os>", "<smbios mode='sysinfo'/></os>")
    with booted(daemon, "finds", text) as guest:
        assert state(daemon, "finds") == "running (booted)"
        assert guest.ask("uname -m; nproc") == "x86_64\n2"
        assert "something=else" in guest.ask("cat /proc/cmdline")
        assert guest.ask("cd /sys/class/dmi/id; cat bios_vendor sys_vendor product_serial") == (
            "Acme\nAcme Ltd\n4711"
        )
        assert 180_000 < int(guest.ask("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo")) < 262_144
        assert guest.ask("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
        uuid = daemon.virsh("domuuid", "finds").strip()
        assert guest.ask("cat /sys/class/dmi/id/product_uuid") == uuid
        behind = int(daemon.python("import time; print(int(time.time()))")) - int(guest.ask("date +%s"))
        assert 86_340 < behind < 86_460
        live = daemon.virsh("dumpxml", "finds")
        assert f"machine='pc-{'i440fx' if machine == 'pc' else 'q35'}-" in live
        assert f"model='{'pci' if machine == 'pc' else 'pcie'}-root'" in live
        path = write(daemon, "again", live)
        daemon.virsh("domxml-to-native", "qemu-argv", path)


@pytest.mark.parametrize(("emulator", "cpu"), [("i386", "qemu32"), ("x86_64", "qemu64")])
def test_a_32_bit_machine(daemon: Daemon, emulator: str, cpu: str) -> None:
    text = f"""<domain type='qemu'><name>small</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
      <os><type arch='i686' machine='pc'>hvm</type><bios useserial='yes'/></os>
      <devices><emulator>/usr/bin/qemu-system-{emulator}</emulator>{CONSOLE}
      <video><model type='vga'/></video><graphics type='vnc'/></devices></domain>"""
    path = write(daemon, "small", text)
    daemon.virsh("create", path, "--paused")
    try:
        assert f"<model fallback='forbid'>{cpu}</model>" in daemon.virsh("dumpxml", "small")
        # nothing keeps what a machine says before its console is open
        daemon.python(
            PRELUDE.replace("@atexit.register", "")
            + """
d = conn.lookupByName("small")
stream = conn.newStream()
d.openConsole(None, stream)
d.resume()
seen = b""
while b"SeaBIOS" not in seen:
    got = stream.recv(4096)
    assert got, seen
    seen += got
stream.abort()
"""
        )
    finally:
        daemon.virsh("destroy", "small")


def test_the_cpu_it_has(daemon: Daemon) -> None:
    text = f"""<domain type='qemu'><name>cpu</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
      <os><type arch='x86_64' machine='pc'>hvm</type></os>
      <cpu mode='custom' match='exact' check='none'><model>EPYC</model></cpu>
      <devices>{CONSOLE}</devices></domain>"""
    path = write(daemon, "cpu", text)
    daemon.virsh("create", path, "--paused")
    try:
        live = daemon.virsh("dumpxml", "cpu")
        assert "<cpu mode='custom' match='exact' check='full'>" in live
        assert "<feature policy='require' name='hypervisor'/>" in live
        assert "<feature policy='disable' name='monitor'/>" in live  # QEMU's EPYC once had it
        asked = daemon.virsh("dumpxml", "cpu", "--migratable")
        assert "check='none'" in asked
        assert "hypervisor" not in asked
        daemon.kill()
        daemon.start()
        assert daemon.virsh("dumpxml", "cpu") == live
        assert daemon.virsh("dumpxml", "cpu", "--migratable") == asked
    finally:
        daemon.virsh("destroy", "cpu")
    # the live document asks for exactly what there is
    daemon.virsh("create", write(daemon, "again", live), "--paused")
    assert daemon.virsh("dumpxml", "cpu").count("<feature ") == live.count("<feature ")
    daemon.virsh("destroy", "cpu")
    full = write(daemon, "full", text.replace("check='none'", "check='full'"))
    refused = daemon.virsh_run("create", full)
    assert "guest CPU doesn't match specification: extra features: hypervisor" in refused.stderr
    assert not daemon.qemu_pids()
    other = write(daemon, "other", text.replace("<model>EPYC", "<model fallback='forbid'>pentiumpro"))
    refused = daemon.virsh_run("create", other)
    assert "CPU model pentiumpro is not supported by hypervisor" in refused.stderr


def test_a_channel_to_a_program_in_the_guest(daemon: Daemon, linux: Guest) -> None:
    bound = daemon.root / "bound.sock"
    devices = f"""
    <channel type='unix'><target type='virtio' name='org.example.own'/></channel>
    <channel type='pty'><target type='virtio' name='org.example.pty'/></channel>
    <channel type='unix'><source mode='bind' path='{bound}'/>
      <target type='virtio' name='org.example.unix'/></channel>
    <console type='pty'><target type='virtio'/></console>"""
    with booted(daemon, "lines", linux_xml(linux, "lines", devices + AGENT)) as guest:
        # a port that nobody has open on the host is at its end at once
        guest.ask(
            "for name in own unix; do"
            ' (until read line; do sleep 0.1; done; echo "$name heard $line")'
            " <>/dev/virtio-ports/org.example.$name >&0 & done"
        )
        daemon.python(
            PRELUDE.replace("@atexit.register", "")
            + """
d = conn.lookupByName("lines")
stream = conn.newStream()
d.openChannel("org.example.own", stream)
stream.send(b"one\\n")
got = b""
while b"own heard one" not in got:
    part = stream.recv(100)
    assert part, got
    got += part
same(fails(d.openChannel, "org.example.own", conn.newStream())[2],
     "operation failed: Active channel stream exists for this domain")
same(fails(d.openChannel, "org.example.pty", conn.newStream())[2],
     "internal error: channel channel1 is not using a UNIX socket")
stream.finish()
"""
        )
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(str(bound))
            peer.sendall(b"two\n")
            assert peer.recv(100).strip() == b"unix heard two"

        def is_open() -> bool:
            return "name='org.qemu.guest_agent.0' state='connected'/>" in daemon.virsh("dumpxml", "lines")

        wait_until(is_open, "the agent's channel is seen open")
        # the second console is the guest's hvc0
        guest.ask("(while read line; do echo hvc heard $line; done) </dev/hvc0 >/dev/hvc0 2>&1 &")
        second = Shell(daemon, "lines", "--devname", "console1")
        try:
            second.type_until("three", rb"hvc heard three")
        finally:
            second.close()


def test_a_console_for_one_at_a_time(daemon: Daemon, linux: Guest) -> None:
    with booted(daemon, "busy", linux_xml(linux, "busy")) as guest:
        assert guest.ask("echo here") == "here"
        refused = daemon.virsh_run("console", "busy", "--safe")
        assert "Active console session exists for this domain" in refused.stderr or "TTY" in refused.stderr
        other = Shell(daemon, "busy", "--force")
        try:
            assert other.booted().ask("echo there") == "there"
        finally:
            other.close()
