"""Documents, clients and moments that go wrong: a clear error, nothing lost, nothing left behind."""

# ruff: noqa: E501 - the scripts quote whole messages

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.api.documents import PRELUDE, domain
from tests.support.daemon import PATIENCE, Daemon, make_root, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


def test_documents_that_make_no_sense(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
good = sys.argv[1]
before = conn.numOfDefinedDomains()
def refused(xml, *codes):
    code, where, message = fails(conn.defineXML, xml)
    assert code in codes, (code, message[:300])
    assert code != 1 or "failed unexpectedly" not in message, message
    return message
refused("", 35)
refused("<domain", 35)
refused("<domain>", 35)
refused("not xml", 35)
refused("<network/>", 27)
refused("<domain/>", 1, 21)
refused(good.replace("<name>odd</name>", ""), 21)
refused(good.replace("<name>odd</name>", "<name></name>"), 21)
refused(good.replace("<name>odd</name>", "<name>a/b</name>"), 27)
refused(good.replace("<memory unit='MiB'>32</memory>", "<memory unit='MiB'>much</memory>"), 27)
refused(good.replace("<memory unit='MiB'>32</memory>", "<memory unit='XiB'>32</memory>"), 8)
refused(good.replace("<vcpu>1</vcpu>", "<vcpu>0</vcpu>"), 1, 27)
refused(good.replace("<vcpu>1</vcpu>", "<vcpu>-1</vcpu>"), 27)
refused(good.replace("<vcpu>1</vcpu>", "<vcpu>99999999999999999999</vcpu>"), 27)
refused(good.replace("type='qemu'", "type='nonsense'"), 67)
refused(good.replace("x86_64' machine", "z80' machine"), 67)
refused(good.replace("machine='pc'", "machine='pcc'"), 27, 67)
refused(good.replace("/usr/bin/qemu-system-x86_64", "/nowhere/qemu"), 38)
import re
refused(re.sub("<uuid>.*</uuid>", "<uuid>nonsense</uuid>", good), 1)
# Deep, wide and expanding documents cost little and say why.
start = time.monotonic()
refused(good.replace("<devices>", "<metadata>" + "<a>" * 5000 + "</a>" * 5000 + "</metadata><devices>"), 35)
entities = "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY {b} '{('&%s;' % a) * 10}'>" for a, b in zip("abcdefgh", "bcdefghi")) + "]>"
refused(entities + good.replace("<name>odd", "<name>&i;"), 35, 27)
refused("<!DOCTYPE d [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>" + good.replace("<name>odd", "<name>&f;"), 35, 27)
laughing = entities + good.replace("<name>odd", "<name>&i;")
for call in (
    lambda: conn.createXML(laughing),
    lambda: conn.domainXMLToNative("qemu-argv", laughing),
    lambda: conn.defineXMLFlags(laughing, libvirt.VIR_DOMAIN_DEFINE_VALIDATE),
):
    same(fails(call)[0], 27)
d = conn.defineXML(good)
same(fails(d.attachDeviceFlags, entities + "<disk><serial>&i;</serial></disk>", libvirt.VIR_DOMAIN_AFFECT_CONFIG)[0], 27)
d.undefine()
refused(good.replace("<devices>", "<iothreads>4294967295</iothreads><devices>"), 27)
refused(good.replace("<devices>", "<devices><controller type='pci' index='2147483647' model='pci-bridge'/>"), 67)
refused(good.replace("<devices>", "<devices>" + "<input type='tablet'/>" * 20000), 27)
assert time.monotonic() - start < 5
same(conn.numOfDefinedDomains(), before)
# What is unknown is refused where it was asked for, with the place and the nearest name.
typo = good.replace("<vcpu>1</vcpu>", "<vcpuu>1</vcpuu>")
code, _, message = fails(conn.defineXMLFlags, typo, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
same(code, 92)
assert "'vcpuu'" in message and "line 5" in message and "'vcpu'" in message, message
conn.defineXML(typo).undefine()
""",
        domain("odd"),
    )


def test_a_long_document_and_a_long_string(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
good = sys.argv[1]
long = good.replace("<devices>", "<description>" + "x" * 3_000_000 + "</description><devices>")
d = conn.defineXML(long)
assert len(d.XMLDesc()) > 3_000_000
d.undefine()
same(fails(conn.lookupByName, "y" * 4_000_000)[0], 42)
""",
        domain("long"),
    )


def test_numbers_and_flags_out_of_range(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
d = conn.defineXML(sys.argv[1])
bit = 1 << 27
def flags(function, *arguments):
    code, _, message = fails(function, *arguments)
    assert code in (8, 74), (code, message)
    assert message.startswith("unsupported flags (0x8000000) in function qemu"), message
for function, arguments in (
    (d.XMLDesc, (bit,)), (d.createWithFlags, (bit,)), (d.destroyFlags, (bit,)), (d.undefineFlags, (bit,)),
    (d.shutdownFlags, (bit,)), (d.reboot, (bit,)), (d.reset, (bit,)), (d.state, (bit,)), (d.controlInfo, (bit,)),
    (d.injectNMI, (bit,)), (d.getTime, (bit,)), (d.fsInfo, (bit,)), (d.hostname, (bit,)), (d.vcpuPinInfo, (bit,)),
    (d.vcpusFlags, (bit,)), (d.screenshot, (conn.newStream(), 0, bit)), (conn.listAllDomains, (bit,)),
    (conn.createXML, (sys.argv[1], bit)), (conn.defineXMLFlags, (sys.argv[1], bit)),
    (d.openConsole, (None, conn.newStream(), bit)), (d.metadata, (0, None, bit)), (d.blockInfo, ("vda", bit)),
    (conn.getAllDomainStats, (0, bit)),
):
    flags(function, *arguments)
""",
        domain("flags"),
    )


def test_two_clients_do_the_same_at_once(daemon: Daemon) -> None:
    script = (
        PRELUDE.replace("@atexit.register", "")
        + """
import random
end = time.monotonic() + 5
expected = {9, 38, 42, 55, 68, 1}
count = 0
while time.monotonic() < end:
    try:
        d = conn.defineXML(sys.argv[1])
        d.create()
        random.choice((d.destroy, d.suspend, d.XMLDesc, d.undefine))()
        d.destroy()
        d.undefine()
    except libvirt.libvirtError as error:
        message = error.get_error_message()
        assert error.get_error_code() in expected and "unexpectedly" not in message, message
    count += 1
print(count)
"""
    )
    document = domain("contended", uid="99999999-2222-3333-4444-555555555555")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            assert int(daemon.python(script, document)) > 3
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    daemon.python(PRELUDE)
    wait_until(lambda: not daemon.qemu_pids(), "no QEMU is left")
    assert daemon.virsh("list", "--all", "--name").split() == []


def test_a_stopped_qemu_hurts_nobody_else(daemon: Daemon) -> None:
    daemon.python("conn.createXML(sys.argv[1])", domain("frozen"))
    (frozen,) = daemon.qemu_pids()
    daemon.python("conn.createXML(sys.argv[1])", domain("fine"))
    os.kill(frozen, signal.SIGSTOP)
    try:
        daemon.python(
            PRELUDE.replace("@atexit.register", "")
            + """
import threading
other = [libvirt.open(conn.getURI()) for _ in range(10)]
for each in other:
    threading.Thread(target=lambda c=each: fails(c.lookupByName("frozen").suspend), daemon=True).start()
until(lambda: conn.lookupByName("frozen").controlInfo()[0], "a call waits for the frozen one")
start = time.monotonic()
fine, frozen = conn.lookupByName("fine"), conn.lookupByName("frozen")
same(fine.info()[0], 1)
fine.suspend(); fine.resume()
same(frozen.state()[0], 1)
assert "<name>frozen</name>" in frozen.XMLDesc()
assert fine.memoryStats()["actual"]
conn.defineXML(sys.argv[1]).undefine()
assert time.monotonic() - start < 2, time.monotonic() - start
start = time.monotonic()
records = conn.getAllDomainStats()
same(sorted(d.name() for d, _ in records), ["fine", "frozen"])
assert time.monotonic() - start < 8, time.monotonic() - start
os._exit(0)     # threads still wait
""",
            domain("another"),
        )
    finally:
        os.kill(frozen, signal.SIGCONT)
        daemon.python(PRELUDE)


def test_clients_that_misbehave_by_the_hundred(daemon: Daemon) -> None:
    path = str(daemon.socket)
    garbage = (b"", b"\0", struct.pack(">I", 0xFFFFFFFF) * 10, b"\0\0\0\x1c" + b"\xff" * 24, os.urandom(500))
    sockets = []
    for number in range(300):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(path)
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(garbage[number % len(garbage)])
        sockets.append(sock)
    start = time.monotonic()
    assert "QEMU" in daemon.virsh("version")
    assert time.monotonic() - start < 20
    for sock in sockets:
        sock.close()
    assert daemon.process is not None
    assert daemon.process.poll() is None


def test_a_name_that_is_taken_at_create(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
one = conn.createXML(sys.argv[1])
code, _, message = fails(conn.createXML, sys.argv[2])
same((code, message), (9, f"operation failed: domain 'taken' already exists with uuid {one.UUIDString()}"))
same(fails(conn.createXML, sys.argv[1])[0], 55)
same(one.isActive(), 1)
""",
        domain("taken"),
        domain("taken"),
    )
    wait_until(lambda: not daemon.qemu_pids(), "no QEMU is left")


def test_a_qemu_that_dies_says_its_last_words(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
xml = sys.argv[1].replace("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ").replace(
    "</domain>", "<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline></domain>")
code, _, message = fails(conn.createXML, xml)
same(code, 1)
assert "process exited while connecting to monitor" in message and "-nonsense: invalid option" in message, message
same(fails(conn.lookupByName, "dies")[0], 42)
missing = sys.argv[1].replace("</emulator>", "</emulator><disk type='file' device='disk'><driver name='qemu' type='raw'/>"
    "<source file='/nowhere/disk.img'/><target dev='vda' bus='virtio'/></disk>")
code, _, message = fails(conn.createXML, missing)
assert "/nowhere/disk.img" in message and "No such file or directory" in message, message
""",
        domain("dies"),
    )
    wait_until(lambda: not daemon.qemu_pids(), "no QEMU is left")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a file system of its own with next to no room."""
    root = make_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k,mode=755", "qvirt-test", str(root)], check=True)
    yield root
    subprocess.run(["umount", "-l", str(root)], check=True)
    root.rmdir()


@pytest.mark.root
def test_a_full_disk_under_a_running_guest(small_disk: Path) -> None:
    daemon = Daemon(small_disk)
    try:
        daemon.start()
        daemon.python("conn.defineXML(sys.argv[1])", domain("fills"))
        fill(small_disk)
        done = daemon.virsh_run("start", "fills")
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert daemon.qemu_pids() == []
        left = {path.name for path in (small_disk / "run/libvirt/qemu").iterdir()}
        assert not any(name.startswith("fills") for name in left), left
        (small_disk / "filler").unlink()
        daemon.virsh("start", "fills")
        fill(small_disk)
        # what has happened in QEMU has happened, whether it can be written down or not
        daemon.virsh("suspend", "fills")
        assert daemon.virsh("domstate", "fills").strip() == "paused"
        daemon.virsh("resume", "fills")
        daemon.virsh("suspend", "fills")
        # what is nowhere but in the status file is old or new
        for where in ("--live", "--config"):
            done = daemon.virsh_run("desc", "fills", where, "--title", "new")
            assert "No space left on device" in done.stderr
            assert daemon.virsh("desc", "fills", where, "--title").strip() == ""
        daemon.kill()
        (small_disk / "filler").unlink()
        daemon.start()
        assert daemon.virsh("domstate", "fills").strip() == "paused"
        fill(small_disk)
        daemon.virsh("destroy", "fills")
        assert daemon.qemu_pids() == []
        daemon.virsh("undefine", "fills")
    finally:
        if daemon.process is not None:
            daemon.stop()


def fill(folder: Path) -> None:
    """Leave no room on a file system."""
    fd = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with contextlib.suppress(OSError):
            while os.write(fd, b"x" * 4096):
                pass
    finally:
        os.close(fd)


@pytest.mark.root
def test_a_full_disk_at_define(small_disk: Path) -> None:
    daemon = Daemon(small_disk)
    try:
        daemon.start()
        daemon.python("conn.defineXML(sys.argv[1])", domain("kept"))
        (small_disk / "filler").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
        daemon.python(
            PRELUDE.replace("@atexit.register", "")
            + """
old = conn.lookupByName("kept").XMLDesc()
new = sys.argv[1].replace("</name>", "</name><title>new</title>")
import re
new = re.sub("<uuid>.*</uuid>", f"<uuid>{conn.lookupByName('kept').UUIDString()}</uuid>", new)
code, _, message = fails(conn.defineXML, new)
same(code, 38)
assert "No space left on device" in message, message
same(conn.lookupByName("kept").XMLDesc(), old)
same(fails(conn.defineXML, sys.argv[2])[0], 38)
same([d.name() for d in conn.listAllDomains()], ["kept"])
""",
            domain("kept"),
            domain("no-room"),
        )
        (small_disk / "filler").unlink()
        daemon.kill()
        daemon.start()
        assert daemon.virsh("list", "--all", "--name").split() == ["kept"]
        assert "<title>" not in daemon.virsh("dumpxml", "kept")
        assert [path.name for path in (small_disk / "etc/libvirt/qemu").glob("*.xml*")] == ["kept.xml"]
    finally:
        if daemon.process is not None:
            daemon.stop()
