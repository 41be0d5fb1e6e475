"""Limits on a disk's traffic by virsh: in QEMU, in the documents and over a kill; its size and its mark."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.guests.machines import listening, make_image, write
from tests.support.daemon import Daemon, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

NAME = "limited"
DISK = "<disk type='file'><source file='{}'/><target dev='{}'/></disk>"


@pytest.fixture(scope="module")
def guest(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, with a guest of two disks and an empty drive held before its first instruction."""
    disks = [DISK.format(make_image(daemon.root / f"{name}.img", b""), name) for name in ("vda", "vdb")]
    document = f"""<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>32</memory>
      <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{"".join(disks)}
      <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk></devices></domain>"""
    daemon.virsh("define", write(daemon, NAME, document))
    daemon.virsh("start", NAME, "--paused")
    yield daemon
    daemon.virsh("destroy", NAME)


def tune(daemon: Daemon, *words: str) -> str:
    return daemon.virsh("blkdeviotune", NAME, *words)


def shown(daemon: Daemon, *words: str) -> dict[str, str]:
    """Return the limits that are set, as virsh shows them."""
    listed = re.findall(r"(\w+)\s*: (\S*)", tune(daemon, *words))
    assert len(listed) == 20
    return {name: value for name, value in listed if value not in ("", "0")}


def in_qemu(daemon: Daemon, disk: str) -> dict[str, Any]:
    """Return the limits that QEMU has of a disk."""
    answer = json.loads(daemon.virsh("qemu-monitor-command", NAME, '{"execute": "query-block"}'))
    (entry,) = (item for item in answer["return"] if f"virtio-disk{'ab'.index(disk[-1])}/" in item["qdev"])
    inserted = entry["inserted"]
    named = {name: inserted[name] for name in inserted if name.startswith(("bps", "iops"))}
    return {name: value for name, value in named.items() if value and not name.endswith("_length")}


def test_set_seen_and_taken_off(guest: Daemon) -> None:
    assert shown(guest, "vda", "--live") == {}
    with listening(guest) as said:
        tune(guest, "vda", "--total-bytes-sec", "1000", "--total-bytes-sec-max", "2000", "--live")
        told = "blkdeviotune.total_bytes_sec_max: 2000"
        wait_until(lambda: told in said(), "the change is told")
        assert "blkdeviotune.disk: vda" in said()
    assert in_qemu(guest, "vda") == {"bps": 1000, "bps_max": 2000}
    # a family that is not named stays as it was
    tune(guest, "vda", "--read-iops-sec", "5", "--size-iops-sec", "512", "--live")
    assert in_qemu(guest, "vda") == {
        "bps": 1000,
        "bps_max": 2000,
        "iops_rd": 5,
        "iops_size": 512,
    }
    assert shown(guest, str(guest.root / "vda.img")) == {
        "total_bytes_sec": "1000",
        "total_bytes_sec_max": "2000",
        "read_iops_sec": "5",
        "size_iops_sec": "512",
    }
    assert shown(guest, "vda", "--config") == {}
    guest.kill()
    guest.start()
    assert shown(guest, "vda")["total_bytes_sec"] == "1000"
    tune(guest, "vda", "--total-bytes-sec", "0", "--total-bytes-sec-max", "0", "--live")
    tune(guest, "vda", "--read-iops-sec", "0", "--size-iops-sec", "0", "--live")
    assert in_qemu(guest, "vda") == {}
    assert "<iotune>" not in guest.virsh("dumpxml", NAME)


def test_a_group_has_its_limits_together(guest: Daemon) -> None:
    tune(guest, "vda", "--write-bytes-sec", "1M", "--group-name", "both", "--live", "--config")
    tune(guest, "vdb", "--write-bytes-sec", "2M", "--group-name", "both", "--live", "--config")
    for disk in ("vda", "vdb"):
        assert in_qemu(guest, disk) == {"bps_wr": 2 << 20}
        for words in ((), ("--config",)):
            assert shown(guest, disk, *words) == {"write_bytes_sec": "2097152", "group_name": "both"}
    for disk in ("vda", "vdb"):
        tune(guest, disk, "--write-bytes-sec", "0", "--live", "--config")
    assert "iotune" not in guest.virsh("dumpxml", NAME, "--inactive")


@pytest.mark.parametrize(
    ("disk", "words", "sentence"),
    [
        ("vda", "--total-bytes-sec 9 --read-bytes-sec 1",
         "total and read/write of bytes_sec cannot be set at the same time"),
        ("vda", "--total-iops-sec-max 9 --write-iops-sec-max 1",
         "total and read/write of iops_sec_max cannot be set at the same time"),
        ("vda", "--total-bytes-sec-max 100",
         "unsupported configuration: cannot reset 'total_bytes_sec' when 'total_bytes_sec_max' is set"),
        ("vda", "--read-bytes-sec 8 --read-bytes-sec-max 7",
         "value 'read_bytes_sec_max' cannot be smaller than 'read_bytes_sec'"),
        ("vda", "--size-iops-sec 100", "iops size requires an iops value to be set"),
        ("vda", "--group-name g",
         "creating a new group/updating existing with all tune parameters zero is not supported"),
        ("vda", "--total-iops-sec 9999999999999999",
         "argument unsupported: block I/O throttle limit value must be no more than 1000000000000000"),
        ("vdz", "--total-iops-sec 9", "invalid argument: disk 'vdz' not found in domain"),
        ("vdz", "--total-iops-sec 9 --config",
         "invalid argument: missing persistent configuration for disk 'vdz'"),
        ("vdz", "--config", "invalid argument: disk 'vdz' was not found in the domain config"),
        ("vda", "--live --config", "'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive"),
        ("hdc", "--total-iops-sec 9", "unable to execute QEMU command 'block_set_io_throttle'"),
    ],
)  # fmt: skip
def test_refused(guest: Daemon, disk: str, words: str, sentence: str) -> None:
    before = guest.virsh("dumpxml", NAME), guest.virsh("dumpxml", NAME, "--inactive")
    done = guest.virsh_run("blkdeviotune", NAME, disk, *words.split())
    assert done.returncode
    assert sentence in done.stderr
    assert (guest.virsh("dumpxml", NAME), guest.virsh("dumpxml", NAME, "--inactive")) == before


def test_in_the_definition_alone(guest: Daemon) -> None:
    """It is for the next start, so what QEMU would say is not asked."""
    tune(guest, "vdb", "--size-iops-sec", "100", "--config")
    assert shown(guest, "vdb", "--config") == {"size_iops_sec": "100"}
    assert in_qemu(guest, "vdb") == {}
    tune(guest, "vdb", "--size-iops-sec", "0", "--config")
    assert shown(guest, "vdb", "--config") == {}


def test_another_size(guest: Daemon) -> None:
    def capacity() -> str:
        return guest.virsh("domblkinfo", NAME, "vdb").split()[1]

    assert capacity() == str(1 << 20)
    guest.virsh("blockresize", NAME, "vdb", "3M")
    assert capacity() == str(3 << 20)
    guest.virsh("blockresize", NAME, str(guest.root / "vdb.img"), "2097152b")
    assert (guest.root / "vdb.img").stat().st_size == 2 << 20
    for disk, sentence in (
        ("vdz", "disk 'vdz' was not found in the domain config"),
        ("hdc", "can't resize empty or readonly disk 'hdc'"),
    ):
        done = guest.virsh_run("blockresize", NAME, disk, "3M")
        assert done.returncode
        assert sentence in done.stderr
    too_large = str((1 << 64) // 1024)
    code = "d = conn.lookupByName(sys.argv[2]); d.blockResize('vdb', int(sys.argv[3]))"
    with pytest.raises(AssertionError, match="size must be less than"):
        guest.python(
            "import sys, libvirt; conn = libvirt.open(sys.argv[1]); " + code, guest.uri, NAME, too_large
        )


def test_a_word_when_it_has_grown(guest: Daemon) -> None:
    """What is written is written by QEMU's own tool, as no guest runs here."""
    guest.virsh("domblkthreshold", NAME, "vda", "8192")
    stats = guest.virsh("domstats", NAME, "--block")
    assert "block.0.threshold=8192" in stats
    with listening(guest) as said:
        write_there = 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write 64k 512"'
        guest.virsh("qemu-monitor-command", NAME, "--hmp", write_there)
        wait_until(lambda: "block-threshold" in said(), "the event comes")
        assert re.search(r"dev: vda\S* ?\(?.*8192 5", said()), said()
    for disk in ("vdz", "vda[77]"):
        done = guest.virsh_run("domblkthreshold", NAME, disk, "1")
        assert done.returncode
        assert f"failed to find disk '{disk}'" in done.stderr
