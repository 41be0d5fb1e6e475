"""A real guest with its TPM, its shared folders and what serves them: swtpm, virtiofsd, QEMU's own 9p."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.guests.machines import Shell, booted, linux_xml, shell, write
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


def test_tpm_and_shared_folders(daemon: Daemon, full_linux: Guest, shares: dict[str, Path]) -> None:
    banks = "<active_pcr_banks><sha256/></active_pcr_banks>"
    devices = tpm(inside=banks) + folder(shares["fs"], "fs") + folder(shares["ninep"], "ninep", driver="")
    text = linux_xml(
        full_linux, "helped", devices, f"<uuid>{UUID}</uuid>{SHARED_MEMORY}", machine="q35", cmdline="modules=all"
    )
    daemon.virsh("define", write(daemon, "helped", text))
    daemon.virsh("start", "helped")
    with shell(daemon, "helped") as guest:
        guest.booted()
        print(guest.ask("dmesg | grep -i -E 'tpm|virtiofs|9p'; ls /dev/tpm*; cat /modules/extra"))
        print(guest.ask("mkdir /fs /ninep; mount -t virtiofs fs /fs; mount -t 9p -o trans=virtio ninep /ninep"))
        print(guest.ask("cat /fs/hello /ninep/hello; ls /sys/class/tpm/tpm0/"))
        print(guest.ask("cat /sys/class/tpm/tpm0/pcr-sha256/0"))
        print(command(guest, DEFINE), command(guest, WRITE), command(guest, READ))
    os.system(f"find {daemon.root}/run {daemon.root}/var -ls | grep -E 'tpm|fs' ; cat {daemon.root}/var/log/libvirt/qemu/helped-*; cat {daemon.root}/run/libvirt/qemu/helped.xml | grep -A3 '<helper'")
    print(helpers(daemon, "swtpm"), helpers(daemon, "virtiofsd"))
    daemon.virsh("destroy", "helped")
    print(helpers(daemon, "swtpm"), helpers(daemon, "virtiofsd"))
