"""A real guest with its TPM, its shared folders and what serves them: swtpm, virtiofsd, QEMU's own 9p."""

import os
import pwd
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.guests.machines import BOOT, PROMPT, Shell, linux_xml, shell, write
from tests.support.daemon import Daemon, wait_until
from tests.support.guest import Guest

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.virsh,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed"),
    pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm-tools is not installed"),
]

UUID = "7a1b2c3d-1111-2222-3333-444455556666"
SHARED_MEMORY = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"

#: NV_DefineSpace, NV_Write and NV_Read of four bytes at index 0x01500001, for the owner without a password
SESSION = "\\x00\\x00\\x00\\x09\\x40\\x00\\x00\\x09\\x00\\x00\\x00\\x00\\x00"
OWNER, INDEX = "\\x40\\x00\\x00\\x01", "\\x01\\x50\\x00\\x01"
DEFINE = (
    f"\\x80\\x02\\x00\\x00\\x00\\x2d\\x00\\x00\\x01\\x2a{OWNER}{SESSION}\\x00\\x00"
    f"\\x00\\x0e{INDEX}\\x00\\x0b\\x00\\x02\\x00\\x02\\x00\\x00\\x00\\x04"
)
WRITE = (
    f"\\x80\\x02\\x00\\x00\\x00\\x27\\x00\\x00\\x01\\x37{OWNER}{INDEX}{SESSION}"
    "\\x00\\x04\\xca\\xfe\\xf0\\x0d\\x00\\x00"
)
READ = f"\\x80\\x02\\x00\\x00\\x00\\x23\\x00\\x00\\x01\\x4e{OWNER}{INDEX}{SESSION}\\x00\\x04\\x00\\x00"

#: what they answer: success, without parameters; for the reading, success, and the bytes follow
DONE = "80020000001300000000000000000000010000"
READ_HEAD = "80020000001900000000000000060004"


def tpm(model: str = "tpm-crb", inside: str = "", version: str = "2.0", more: str = "") -> str:
    return f"<tpm model='{model}'><backend type='emulator' version='{version}'{more}>{inside}</backend></tpm>"


def folder(path: Path, tag: str, driver: str = "<driver type='virtiofs'/>", inside: str = "") -> str:
    return (
        f"<filesystem type='mount'>{driver}{inside}<source dir='{path}'/><target dir='{tag}'/></filesystem>"
    )


def helpers(daemon: Daemon, program: str) -> list[int]:
    """Return the helper processes of a daemon's guests."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == program.encode() and str(daemon.root).encode() in b" ".join(words):
            found.append(int(entry.name))
    return sorted(found)


def command(guest: Shell, words: str) -> str:
    """Send a command to the guest's TPM and return its answer in hex."""
    return guest.ask(f"(printf '{words}' >&3; hexdump -ve '1/1 \"%02x\"' <&3) 3<>/dev/tpm0").strip()


@pytest.fixture
def shares(daemon: Daemon) -> Iterator[dict[str, Path]]:
    """Folders of the host: by virtiofs, by 9p, one to be plugged in, and one that is nobody's business."""
    made = {name: daemon.root / f"share-{name}" for name in ("fs", "ninep", "plug", "other")}
    for name, path in made.items():
        path.mkdir()
        path.chmod(0o777)
        (path / "hello").write_text(f"from the host by {name}")
    yield made
    for path in made.values():
        shutil.rmtree(path)


def status(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def check_confinement(daemon: Daemon, shares: dict[str, Path]) -> None:
    """Look at the processes that serve the guest from outside, as the kernel sees them."""
    (emulator,) = helpers(daemon, "swtpm")
    serving = helpers(daemon, "virtiofsd")
    assert len(serving) == 2  # one waits for the other, which is in a namespace of its own
    inside = next(pid for pid in serving if status(pid)["NSpid"].split()[1:] == ["1"])
    for pid in (emulator, inside):
        assert status(pid)["NoNewPrivs"] == "1"
        assert status(pid)["Seccomp"] == "2"
        assert int(status(pid)["CapBnd"], 16) == 0
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(status(emulator)[name], 16) == 0
    tss = pwd.getpwnam("tss")
    assert status(emulator)["Uid"].split() == [str(tss.pw_uid)] * 4
    # all that virtiofsd has for a file system is the folder it serves
    assert sorted(os.listdir(f"/proc/{inside}/root")) == sorted(os.listdir(shares["fs"]))
    assert os.stat(f"/proc/{inside}/root").st_ino == os.stat(shares["fs"]).st_ino
    assert (
        int(status(inside)["CapEff"], 16) & (1 << 21 | 1 << 12 | 1 << 19) == 0
    )  # sys_admin, net_admin, ptrace
    qemu = int((daemon.root / "run/libvirt/qemu/helped.pid").read_text())
    for pid in (emulator, *serving):
        assert group(pid) == group(qemu)


def group(pid: int) -> list[str]:
    """Return the guest's control groups that a process is in."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return sorted(line for line in lines if "libvirt-qemu" in line and "vcpu" not in line)


def boots(it: Shell) -> Shell:
    """Wait for the prompt; this kernel takes its time."""
    it.type_until("", PROMPT, 3 * BOOT)
    return it


def test_tpm_and_shared_folders(daemon: Daemon, full_linux: Guest, shares: dict[str, Path]) -> None:
    banks = "<active_pcr_banks><sha256/></active_pcr_banks>"
    devices = (
        tpm(inside=banks)
        + folder(shares["fs"], "fs", inside="<binary xattr='on'><cache mode='always'/></binary>")
        # QEMU's user, who serves this one, cannot make files of others: it writes down whose they are
        + folder(shares["ninep"], "ninep", driver="").replace(
            "type='mount'", "type='mount' accessmode='mapped'"
        )
        + "<controller type='pci' index='0' model='pcie-root'/>"
        + "<controller type='pci' model='pcie-root-port'/>" * 6
    )
    text = linux_xml(full_linux, "helped", devices, f"<uuid>{UUID}</uuid>{SHARED_MEMORY}", machine="q35",
                     cmdline="modules=all")  # fmt: skip
    state = daemon.root / "var/lib/libvirt/swtpm" / UUID
    daemon.virsh("define", write(daemon, "helped", text))
    assert not state.exists()
    daemon.virsh("start", "helped")
    found = os.stat(state / "tpm2")
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, pwd.getpwnam("tss").pw_uid)
    with shell(daemon, "helped") as guest:
        boots(guest)
        assert guest.ask("cat /sys/class/tpm/tpm0/tpm_version_major") == "2"
        measured = guest.ask("cat /sys/class/tpm/tpm0/pcr-sha256/0")
        assert re.fullmatch("[0-9A-F]{64}", measured)
        assert measured != "0" * 64  # the firmware has measured itself
        assert command(guest, DEFINE) == command(guest, WRITE) == DONE
        assert guest.ask("mkdir /fs /ninep /plug; mount -t virtiofs fs /fs && echo mounted") == "mounted"
        assert guest.ask("mount -t 9p -o trans=virtio ninep /ninep && echo mounted") == "mounted"
        assert guest.ask("cat /fs/hello") == "from the host by fs"
        assert guest.ask("cat /ninep/hello") == "from the host by ninep"
        guest.ask("echo from the guest >/fs/made; chmod 640 /fs/made; chown 4711:4712 /fs/made; sync")
        made = shares["fs"] / "made"
        assert made.read_text() == "from the guest\n"
        assert (made.stat().st_uid, made.stat().st_gid, made.stat().st_mode & 0o777) == (4711, 4712, 0o640)
        assert guest.ask("echo 9p >/ninep/made && cat /ninep/made") == "9p"
        # no way out of the folder
        os.symlink(shares["other"] / "hello", shares["fs"] / "escape")
        assert "No such file" in guest.ask("cat /fs/escape")
        check_confinement(daemon, shares)

        before = helpers(daemon, "swtpm") + helpers(daemon, "virtiofsd")
        daemon.kill()
        daemon.start()
        assert helpers(daemon, "swtpm") + helpers(daemon, "virtiofsd") == before
    with shell(daemon, "helped") as guest:
        guest.type_until("", PROMPT)
        assert guest.ask("cat /fs/made") == "from the guest"

        plugged = write(daemon, "plug", folder(shares["plug"], "plug"))
        daemon.virsh("attach-device", "helped", plugged)
        assert len(helpers(daemon, "virtiofsd")) == 4
        wait_until(
            lambda: guest.ask("mount -t virtiofs plug /plug && echo mounted") == "mounted", "it is plugged in"
        )
        assert guest.ask("cat /plug/hello; umount /plug") == "from the host by plug"
        daemon.virsh("detach-device", "helped", plugged)
        wait_until(lambda: len(helpers(daemon, "virtiofsd")) == 2, "its virtiofsd goes with it")
        assert "plug" not in daemon.virsh("dumpxml", "helped")
    daemon.virsh("destroy", "helped")
    assert helpers(daemon, "swtpm") + helpers(daemon, "virtiofsd") == []
    assert not list((daemon.root / "run").rglob("*helped*"))

    daemon.virsh("start", "helped")
    with shell(daemon, "helped") as guest:
        boots(guest)
        assert command(guest, READ) == f"{READ_HEAD}cafef00d0000010000"
        assert guest.ask("cat /sys/class/tpm/tpm0/pcr-sha256/0") == measured
    daemon.virsh("destroy", "helped")
    daemon.virsh("undefine", "helped")
    assert not state.exists()
