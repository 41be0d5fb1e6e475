"""Disks of many buses and formats, read and written by the guest itself."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.functional.guests.machines import booted, linux_xml, make_image, make_qcow2, write
from tests.support.daemon import Daemon
from tests.support.guest import Guest

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


def disk(
    path: Path | str, target: str, more: str = "", *, driver: str = "type='raw'", attrs: str = ""
) -> str:
    """Make a ``<disk>`` of a file; the bus follows from more or from the target's name."""
    bus = {"vd": "virtio", "sd": "scsi", "hd": "ide", "fd": "fdc"}[target[:2]]
    return (
        f"<disk type='file' {attrs}><driver name='qemu' {driver}/><source file='{path}'/>"
        f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
    )


def chain(folder: Path) -> list[Path]:
    """Make base (raw) <- middle <- top, where each has a block of its own."""
    base = make_image(folder / "base.img", b"from base")
    middle = make_qcow2(folder / "middle.qcow2", backing=base)
    top = make_qcow2(folder / "top.qcow2", backing=middle, backing_format="qcow2")
    for path, offset, text in ((middle, 65536, "m"), (top, 131072, "t")):
        subprocess.run(
            ["qemu-io", "-c", f"write -P {ord(text)} {offset} 512", str(path)],
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
    return [base, middle, top]


def iso(path: Path, text: str) -> Path:
    """Make a CD image with one file ``note``."""
    source = path.with_suffix(".d")
    source.mkdir()
    (source / "note").write_text(text)
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-V", "NOTES", "-o", str(path), str(source)],
        check=True,
        timeout=60,
        capture_output=True,
    )
    path.chmod(0o644)
    return path


def test_what_the_guest_reads(daemon: Daemon, linux: Guest) -> None:
    folder = daemon.root
    base, middle, top = chain(folder)
    shared = folder / "shared.d"
    shared.mkdir()
    (shared / "hello.txt").write_text("a file of the host")
    devices = "".join(
        [
            disk(make_image(folder / "a.img", b"virtio raw"), "vda",
                 "<boot order='1'/><serial>raw-one</serial>",
                 driver="type='raw' cache='writeback' io='threads' discard='unmap' detect_zeroes='unmap'"),
            disk(top, "vdb", driver="type='qcow2' cache='none'"),
            disk(make_image(folder / "ro.img", b"read only"), "vdc", "<readonly/>"),
            disk(make_image(folder / "sh.img", b"shareable"), "vdd", "<shareable/>",
                 driver="type='raw' cache='none'"),
            disk(make_image(folder / "s.img", b"scsi disk"), "sda",
                 "<serial>scsi-one</serial><wwn>5000c50015ea71ad</wwn><vendor>ACME</vendor><product>Disk</product>"),
            disk(make_image(folder / "h.img", b"ide disk"), "hda", "<serial>ide-one</serial>"),
            f"<disk type='dir'><driver name='qemu' type='fat'/><source dir='{shared}'/>"
            "<target dev='vde' bus='virtio'/><readonly/></disk>",
            disk(make_image(folder / "f.img", b"floppy", 1474560), "fda", attrs="device='floppy'"),
            "<disk type='file' device='cdrom'><target dev='hdd' bus='ide'/><readonly/></disk>",
            "<controller type='scsi' index='0' model='virtio-scsi'/>",
        ]
    )  # fmt: skip
    before = {path: path.read_bytes() for path in (base, middle)}
    text = linux_xml(linux, "reads", devices, cmdline="modules=all")
    with booted(daemon, "reads", text) as guest:
        # disks of one bus are told apart by their serial number or by what they hold
        def first(device: str, count: int) -> str:
            return guest.ask(f"dd if=/dev/{device} bs={count} count=1 2>/dev/null")

        assert first("vda", 10) == "virtio raw"
        assert guest.ask("cat /sys/block/vda/serial") == "raw-one"
        assert first("vdb", 9) == "from base"
        assert guest.ask("dd if=/dev/vdb bs=512 skip=128 count=1 2>/dev/null | head -c 3") == "mmm"
        assert guest.ask("dd if=/dev/vdb bs=512 skip=256 count=1 2>/dev/null | head -c 3") == "ttt"
        assert first("vdc", 9) == "read only"
        assert guest.ask("cat /sys/block/vdc/ro") == "1"
        assert first("vdd", 9) == "shareable"
        assert "QEMU VVFAT" in guest.ask("dd if=/dev/vde bs=512 count=1024 2>/dev/null | strings")
        held = guest.ask("for d in sda sdb; do head -c 9 /dev/$d; echo; done").splitlines()
        assert sorted(line.rstrip("\0") for line in held) == ["ide disk", "scsi disk"]
        names = guest.ask("cat /sys/block/sd?/device/model")
        assert "Disk" in names
        assert "QEMU HARDDISK" in names
        # what it writes arrives in the image on top, and in no other
        guest.ask("printf written | dd of=/dev/vdb bs=512 seek=1 conv=notrunc; sync")
        guest.ask("printf written | dd of=/dev/vda bs=512 seek=1 conv=notrunc; sync")
        live = daemon.virsh("dumpxml", "reads")
        assert f"<source file='{middle}'/>" in live
        assert live.count("<backingStore type='file' index=") == 2
        stats = daemon.virsh("domstats", "reads", "--block", "--backing")
        assert len(re.findall(r"block\.(\d+)\.name=vdb", stats)) == 3
        count = int(re.findall(r"block.count=(\d+)", stats)[0])
        assert count == len(re.findall(r"block\.\d+\.name=", stats))
        number = re.findall(rf"block\.(\d+)\.path={middle}", stats)[0]
        assert f"block.{number}.capacity=" in stats
        assert f"block.{number}.rd.reqs" not in stats  # the guest reads the one on top
        listed = daemon.virsh("domblklist", "reads").split()
        assert listed[listed.index("hdd") : listed.index("hdd") + 2] == ["hdd", "-"]
        daemon.virsh("domxml-to-native", "qemu-argv", write(daemon, "again", live))
    assert (folder / "a.img").read_bytes()[512:519] == b"written"
    assert {path: path.read_bytes() for path in (base, middle)} == before
    shown = subprocess.run(
        ["qemu-io", "-c", "read -v 512 16", str(top)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "written" in shown


@pytest.mark.parametrize(("machine", "bus", "target"), [("pc", "ide", "hda"), ("pc", "scsi", "sda")])
def test_a_cd_is_mounted(daemon: Daemon, linux: Guest, machine: str, bus: str, target: str) -> None:
    path = daemon.root / f"{bus}.iso"
    if not path.exists():
        try:
            iso(path, f"read from {bus}")
        except FileNotFoundError:
            pytest.skip("no xorriso to make a CD image")
    scsi = "<controller type='scsi' index='0' model='virtio-scsi'/>" if bus == "scsi" else ""
    devices = f"""{scsi}<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
      <source file='{path}'/><target dev='{target}' bus='{bus}'/><readonly/></disk>"""
    with booted(
        daemon, "cd", linux_xml(linux, "cd", devices, machine=machine, cmdline="modules=all")
    ) as guest:
        guest.ask("mkdir /cd; mount -t iso9660 /dev/sr0 /cd")
        assert guest.ask("cat /cd/note") == f"read from {bus}"


def test_limits_hold(daemon: Daemon, linux: Guest) -> None:
    tune = "<iotune><read_bytes_sec>1048576</read_bytes_sec></iotune>"
    image = make_image(daemon.root / "slow.img", b"slow", 4 << 20)
    with booted(daemon, "slow", linux_xml(linux, "slow", disk(image, "vda", tune))) as guest:
        began = float(guest.ask("cat /proc/uptime").split()[0])
        guest.ask("dd if=/dev/vda of=/dev/null bs=64k", 60)
        assert float(guest.ask("cat /proc/uptime").split()[0]) - began > 2


def test_a_transient_disk_forgets(daemon: Daemon, linux: Guest) -> None:
    image = make_image(daemon.root / "transient.img", b"before")
    text = linux_xml(linux, "forgets", disk(image, "vda", "<transient/>"))
    with booted(daemon, "forgets", text) as guest:
        guest.ask("printf after | dd of=/dev/vda conv=notrunc; sync")
        assert guest.ask("head -c 5 /dev/vda") == "after"
    assert image.read_bytes().startswith(b"before")
    assert not list(daemon.root.glob("transient.img.*"))


def test_a_block_device(daemon: Daemon, linux: Guest) -> None:
    image = make_image(daemon.root / "loop.img", b"by a loop")
    made = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False, timeout=30
    )
    if made.returncode:
        pytest.skip(f"no loop device to be had: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        devices = f"""<disk type='block'><driver name='qemu' type='raw' io='native' cache='none'/>
          <source dev='{device}'/><target dev='vda' bus='virtio'/></disk>"""
        with booted(daemon, "block", linux_xml(linux, "block", devices)) as guest:
            assert guest.ask("head -c 9 /dev/vda") == "by a loop"
            assert daemon.virsh("domblkinfo", "block", "vda").split()[1] == str(1 << 20)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)
