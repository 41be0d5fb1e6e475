"""QEMUs that somebody else started become domains, by the stock virsh and by qvirt."""

import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvirt.cli.commands.adopt import all_pids
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.guest import Guest

EMULATOR = "/usr/bin/qemu-system-x86_64"


class Qmp:
    """A plain monitor client, for what was done before anybody adopted."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        wait_until(lambda: self._connects(path), "the monitor takes connections")
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def _connects(self, path: Path) -> bool:
        try:
            self.sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def __call__(self, command: str, **arguments: object) -> Any:
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@contextlib.contextmanager
def qemu(folder: Path, words: str, monitor: str = "-qmp unix:{}/q.sock,server=on,wait=off") -> Iterator[int]:
    """Run a QEMU of somebody else's, in its own folder, without a window."""
    argv = [EMULATOR, *shlex.split(words), "-display", "none", *shlex.split(monitor.format(folder))]
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def mine() -> Iterator[Daemon]:
    """A daemon of this module's own, which is killed and comes back."""
    with running_daemon() as daemon:
        yield daemon


def folder_of(daemon: Daemon, name: str) -> Path:
    """Make a folder with images, which the daemon's end takes away."""
    folder = daemon.root / name
    folder.mkdir()
    folder.chmod(0o755)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / "a.qcow2"), "64M"], check=True)
    for image in ("b.img", "c.img", "d.img", "e.img"):
        (folder / image).write_bytes(bytes(1 << 20))
    return folder


LEGACY = (
    "-m 64 -hda a.qcow2 -cdrom b.img -net nic,model=e1000 -net user -serial pty -device virtio-serial "
    "-device virtio-scsi-pci -drive if=none,id=d1,file=d.img,format=raw -device virtio-blk-pci,drive=d1"
)
MODERN = (
    "-name modern -uuid 7b3c1d9e-0000-4000-8000-00000000000{} -nodefaults -m 64 -machine q35 "
    "-device virtio-scsi-pci,id=scsi -blockdev driver=file,filename=a.qcow2,node-name=fa "
    "-blockdev driver=qcow2,file=fa,node-name=qa -device scsi-hd,drive=qa,id=mydisk,bus=scsi.0 "
    "-netdev user,id=n0 -device virtio-net-pci,netdev=n0,id=nic0,mac=52:54:00:11:22:33 "
    "-device pcie-root-port,id=rp1,chassis=1 -device pcie-root-port,id=rp2,chassis=2 "
    "-chardev pty,id=con -device isa-serial,chardev=con,id=ser -device virtio-balloon-pci,id=bal "
    "-drive if=none,id=cd,media=cdrom,file=b.img,format=raw -device ide-cd,drive=cd,id=thecd"
)


def test_an_old_command_line(mine: Daemon) -> None:
    folder = folder_of(mine, "old")
    with qemu(folder, LEGACY) as pid:
        before = Qmp(folder / "q.sock")
        before("blockdev-change-medium", device="ide1-cd0", filename=str(folder / "c.img"), format="raw")
        before.close()
        name = f"attach-pid-{pid}"
        mine.virsh("qemu-attach", str(pid))
        assert name in mine.virsh("list", "--name").split()
        disks = mine.virsh("domblklist", name)
        assert re.search(rf"hda\s+{folder}/a.qcow2", disks)
        assert re.search(rf"hdc\s+{folder}/c.img", disks)
        assert re.search(rf"vda\s+{folder}/d.img", disks)
        assert "managing externally launched configuration" in mine.virsh("dominfo", name)
        assert int(re.findall(r"block.0.rd.bytes=(\d+)", mine.virsh("domstats", "--block", name))[0]) >= 0
        mine.virsh("domblkstat", name, "vda")
        mine.virsh("suspend", name)
        assert mine.virsh("domstate", name).strip() == "paused"
        mine.virsh("resume", name)
        # into the controller that has no id, out again; the medium comes and goes
        mine.virsh("attach-disk", name, str(folder / "e.img"), "sdb", "--targetbus", "scsi")
        assert "sdb" in mine.virsh("domblklist", name)
        mine.virsh("detach-disk", name, "sdb")
        mine.virsh("change-media", name, "hdc", str(folder / "b.img"), "--update", "--force")
        assert re.search(rf"hdc\s+{folder}/b.img", mine.virsh("domblklist", name))
        mine.virsh("domif-setlink", name, "52:54:00:12:34:56", "down")

        mine.kill()
        mine.start()
        assert mine.virsh("domstate", name).strip() == "running"
        assert "e1000" in mine.virsh("dumpxml", name)
        mine.virsh("change-media", name, "hdc", "--eject", "--force")
        mine.virsh("domblkstat", name, "hda")
        again = mine.virsh_run("qemu-attach", str(pid))
        assert again.returncode
        assert f"'{name}' (pid {pid})" in again.stderr

        # for the next start under full management
        mine.virsh("define", "/dev/stdin", input=mine.virsh("dumpxml", "--inactive", name))
        mine.virsh("destroy", name)
        assert mine.virsh("domstate", name).strip() == "shut off"
        mine.virsh("start", name)
        mine.virsh("destroy", name)
        mine.virsh("undefine", name)


def test_what_was_plugged_in_before(mine: Daemon) -> None:
    folder = folder_of(mine, "new")
    with qemu(folder, MODERN.format(1)) as pid:
        before = Qmp(folder / "q.sock")
        hot = {"driver": "file", "filename": str(folder / "d.img")}
        before("blockdev-add", **{"driver": "raw", "node-name": "hot", "file": hot})
        before("device_add", driver="virtio-blk-pci", id="hotdisk", drive="hot", bus="rp1", serial="HOT")
        before("blockdev-change-medium", id="thecd", filename=str(folder / "c.img"), format="raw")
        before("device_del", id="mydisk")  # SCSI goes without asking the guest
        before.close()
        assert pid in all_pids()
        done = mine.qvirt("adopt", str(folder / "q.sock"))
        assert done.stdout.strip() == f"Domain 'modern' adopted from pid {pid}", done.stderr
        xml = mine.virsh("dumpxml", "modern")
        for alias in ("hotdisk", "thecd", "scsi", "nic0", "ser", "bal", "rp2"):
            assert f"<alias name='{alias}'/>" in xml
        assert "mydisk" not in xml
        assert "<serial>HOT</serial>" in xml
        assert f"{folder}/c.img" in xml
        assert "ua-" not in xml
        assert mine.virsh("domuuid", "modern").strip() == "7b3c1d9e-0000-4000-8000-000000000001"
        mine.virsh("attach-disk", "modern", str(folder / "e.img"), "sdb", "--targetbus", "scsi")
        mine.kill()
        mine.start()
        assert "sdb" in mine.virsh("domblklist", "modern")
        mine.virsh("detach-disk", "modern", "sdb")
        assert mine.virsh("domblkinfo", "modern", "vda")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "modern" not in mine.virsh("list", "--all", "--name"), "the domain is gone")


def test_a_guest_shuts_down(mine: Daemon, linux: Guest) -> None:
    folder = folder_of(mine, "linux")
    words = (
        f"-name guest=alive -nodefaults -m 160 -kernel {linux.kernel} -initrd {linux.initrd} "
        f"-append '{linux.cmdline}' -serial file:console.log -drive if=virtio,file=a.qcow2,format=qcow2"
    )
    with qemu(folder, words) as pid:
        console = folder / "console.log"
        wait_until(lambda: console.exists() and b"ready" in console.read_bytes(), "the guest is up", 90)
        mine.virsh("qemu-attach", str(pid))
        disk = mine.virsh("domblklist", "alive")
        assert re.search(rf"vda\s+{folder}/a.qcow2", disk)
        mine.virsh("attach-disk", "alive", str(folder / "e.img"), "vdb")
        events = subprocess.Popen(
            ["virsh", "-c", mine.uri, "event", "alive", "lifecycle", "--loop", "--timeout", "60"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert events.stdout is not None
        try:
            while not select.select([events.stdout], [], [], 0.1)[0]:  # until virsh has subscribed
                mine.virsh("suspend", "alive")
                mine.virsh("resume", "alive")
            mine.virsh("shutdown", "alive", "--mode", "acpi")
            told = ""
            while "Stopped" not in told and "timed out" not in told:
                told += events.stdout.readline()
        finally:
            events.kill()
            events.wait()
        assert "Resumed" in told
        assert "Shutdown Finished" in told
        assert "Stopped Shutdown" in told
        assert "alive" not in mine.virsh("list", "--all", "--name")


@pytest.mark.parametrize(
    ("monitor", "sentence"),
    [
        ("-monitor none", "No monitor connection for pid {}: its monitor is the human one"),
        ("-monitor stdio", "a monitor cannot be added to a QEMU that runs"),
        ("-qmp stdio -monitor none", "Cannot connect to monitor connection of type 'stdio' for pid {}"),
        ("-qmp tcp:127.0.0.1:0,server=on,wait=off", "Cannot connect to monitor connection of type 'tcp'"),
    ],
)
def test_a_monitor_out_of_reach(mine: Daemon, tmp_path: Path, monitor: str, sentence: str) -> None:
    with qemu(tmp_path, "-nodefaults -m 16 -S", monitor) as pid:
        wait_until(lambda: os.readlink(f"/proc/{pid}/exe") == EMULATOR, "QEMU runs")
        done = mine.virsh_run("qemu-attach", str(pid))
    assert done.returncode
    assert sentence.format(pid) in done.stderr
    assert "-qmp unix:PATH,server=on,wait=off" in done.stderr


def test_in_the_background(mine: Daemon) -> None:
    """QEMU has left the folder that its paths begin in; one of them is a file of mounts of its own."""
    folder = folder_of(mine, "behind")
    (folder / "own").mkdir()
    words = (
        "-name behind -nodefaults -m 16 -S -display none -daemonize -pidfile pid "
        "-qmp unix:q.sock,server=on,wait=off -drive if=virtio,file=a.qcow2,format=qcow2 "
        "-drive if=virtio,file=own/hidden.img,format=raw"
    )
    script = "mount -t tmpfs none own && truncate -s 1M own/hidden.img && exec " + f"{EMULATOR} {words}"
    start = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    subprocess.run(start, cwd=folder, env={"PATH": os.environ["PATH"]}, check=True)
    pid = int((folder / "pid").read_text())
    try:
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        mine.virsh("qemu-attach", str(pid))
        disks = mine.virsh("domblklist", "behind")
        assert re.search(rf"vda\s+{folder}/a.qcow2", disks)
        assert re.search(rf"vdb\s+{folder}/own/hidden.img", disks)
        log = mine.root / "var/log/libvirt/qemu/behind.log"
        told = f"since it was started: '{folder}/own/hidden.img' is a file of its own mounts"
        wait_until(lambda: told in log.read_text(), "the log says so")
        assert "a.qcow2' is a file" not in log.read_text()
    finally:
        mine.virsh_run("destroy", "behind")


def test_refusals(mine: Daemon, tmp_path: Path) -> None:
    assert "Unable to resolve /proc/" in mine.virsh_run("qemu-attach", "4194303").stderr
    assert "is no QEMU" in mine.virsh_run("qemu-attach", str(os.getpid())).stderr
    assert "which QEMU?" in mine.qvirt("adopt").stderr
    assert "no process id and no socket" in mine.qvirt("adopt", str(tmp_path / "none")).stderr
    words = "-name taken -nodefaults -m 16 -S"
    document = (
        "<domain type='qemu'><name>taken</name><memory>16384</memory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )
    mine.virsh("define", "/dev/stdin", input=document)
    with qemu(tmp_path, words) as pid:
        busy = Qmp(tmp_path / "q.sock")
        assert "another program is connected" in mine.virsh_run("qemu-attach", str(pid)).stderr
        busy.close()
        refused = mine.virsh_run("qemu-attach", str(pid))
        assert "domain 'taken' already exists with uuid" in refused.stderr
        mine.virsh("undefine", "taken")
        # nothing of the refusals is left: it goes now
        assert "and defined" in mine.qvirt("adopt", "--define", str(pid)).stdout
        assert mine.virsh("domstate", "taken").strip() == "paused"
        assert f"(pid {pid}) exists already" in mine.qvirt("adopt", str(pid)).stderr
        mine.virsh("destroy", "taken")
        mine.virsh("undefine", "taken")
    assert not list((mine.root / "run/libvirt/qemu").glob("taken*"))


def test_every_qemu_at_once() -> None:
    """In a process namespace, where there are no others than the test's."""
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, "-m", "tests.functional.api.adopting"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
