"""Limits that cannot be had: refused as a whole, and what is kept can always be read again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.host.cgroup import Group, find_mounts, machine_name
from qvirt.host.config import CONTROLLERS
from tests.functional.runtime.instance import document
from tests.functional.security.test_tuning import said, start
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.skipif(os.geteuid() != 0, reason="only root has control groups")]

#: one iothread, and no more than half of a CPU for all of the guest
HALF = """<iothreads>1</iothreads><cputune><global_period>100000</global_period>
<global_quota>50000</global_quota></cputune>"""


def test_several_values_of_which_the_kernel_refuses_one_change_nothing(daemon: Daemon) -> None:
    if start(daemon, "half", HALF).version("cpu") != 1:
        pytest.skip("version 2 takes limits above those around them")
    before = daemon.virsh("schedinfo", "half"), daemon.virsh("dumpxml", "half")
    words = ("cpu_shares=512", "vcpu_quota=20000", "emulator_quota=30000", "iothread_quota=90000")
    done = daemon.virsh_run("schedinfo", "half", "--live", *words)
    assert done.returncode
    assert "iothread1/cpu" in done.stderr
    assert (daemon.virsh("schedinfo", "half"), daemon.virsh("dumpxml", "half")) == before


def test_an_iothread_that_cannot_have_its_limits_is_not_kept(daemon: Daemon) -> None:
    group = start(
        daemon, "lone", HALF.replace("</cputune>", "<iothread_quota>40000</iothread_quota></cputune>")
    )
    if group.version("cpu") != 1:
        pytest.skip("version 2 takes limits above those around them")
    # somebody lowers what there is for all
    (group.folder("cpu", "iothread1") / "cpu.cfs_quota_us").write_text("10000")
    (group.folder("cpu") / "cpu.cfs_quota_us").write_text("20000")
    done = daemon.virsh_run("iothreadadd", "lone", "7")
    assert done.returncode
    assert "iothread7/cpu.cfs_quota_us" in done.stderr
    assert "iothread7" not in group.threads()
    assert "id='7'" not in daemon.virsh("dumpxml", "lone")
    (group.folder("cpu") / "cpu.cfs_quota_us").write_text("50000")
    daemon.virsh("iothreadadd", "lone", "7")
    assert (group.folder("cpu", "iothread7") / "cpu.cfs_quota_us").read_text() == "40000\n"
    # those that were there keep what they had been given
    assert (group.folder("cpu", "iothread1") / "cpu.cfs_quota_us").read_text() == "10000\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("schedinfo", "numbers", "cpu_shares=1"), "shares '1' must be in range [2, 262144]"),
        (("schedinfo", "numbers", "cpu_shares=262145"), "shares '262145' must be in range [2, 262144]"),
        (
            ("blkiotune", "numbers", "--device-read-iops-sec", "/dev/loop0,4294967296"),
            "invalid value '4294967296' for parameter 'device_read_iops_sec' of device '/dev/loop0'",
        ),
        (
            ("blkiotune", "numbers", "--device-write-bytes-sec", "/dev/loop0,18446744073709551616"),
            "invalid value '18446744073709551616' for parameter 'device_write_bytes_sec'",
        ),
        (
            ("blkiotune", "numbers", "--device-weights", "/dev/loop0,"),
            "invalid value '' for parameter 'device_weight' of device '/dev/loop0'",
        ),
        (
            ("blkiotune", "numbers", "--device-weights", "/dev/loop0,5,/dev/loop1"),
            "unable to parse blkio device 'device_weight' '/dev/loop0,5,/dev/loop1'",
        ),
    ],
)
@pytest.mark.parametrize("what", ["--live", "--config"])
def test_numbers_that_no_document_holds_are_refused(
    daemon: Daemon, words: tuple[str, ...], error: str, what: str
) -> None:
    if "numbers" not in daemon.virsh("list", "--name"):
        start(daemon, "numbers")
    done = daemon.virsh_run(*words, what)
    assert done.returncode
    assert error in done.stderr


def test_a_start_with_no_shares_at_all_is_refused(daemon: Daemon) -> None:
    path = daemon.root / "none.xml"
    path.write_text(document("none", extra="<cputune><shares>0</shares></cputune>"))
    daemon.virsh("define", str(path))
    done = daemon.virsh_run("start", "none")
    assert done.returncode
    assert "shares '0' must be in range" in done.stderr


@pytest.fixture
def partition() -> Iterator[str]:
    """A name for a partition, which is taken away afterwards wherever it was made."""
    name = f"qv{os.getpid()}"
    yield name
    for folder in _folders(name):
        folder.rmdir()


def _folders(name: str) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"*/machine/{name}.partition"),
            *Path("/sys/fs/cgroup").glob(f"machine/{name}.partition")]  # fmt: skip


def test_a_partition_that_nobody_has_made_is_refused(daemon: Daemon, partition: str) -> None:
    path = daemon.root / "part.xml"
    path.write_text(
        document("part", extra=f"<resource><partition>/machine/{partition}</partition></resource>")
    )
    daemon.virsh("define", str(path))
    done = daemon.virsh_run("start", "part", "--paused")
    assert done.returncode
    assert f"/machine/{partition}.partition': No such file or directory" in done.stderr
    assert not _folders(partition)
    mounts = find_mounts()
    for base in {*mounts.v1.values(), *([mounts.v2] if mounts.v2 is not None else [])}:
        if base != mounts.v1.get("pids"):
            folder = base / f"machine/{partition}.partition"
            folder.mkdir(parents=True)
            if base == mounts.v1.get("cpuset"):
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (folder / name).write_text((folder.parent / name).read_text())
    daemon.virsh("start", "part", "--paused")
    name = machine_name(int(daemon.virsh("domid", "part")), "part", str(daemon.root))
    group = Group(mounts, f"machine/{partition}.partition/{name}", CONTROLLERS)
    assert group.tasks("emulator")
    assert f"<partition>/machine/{partition}</partition>" in daemon.virsh("dumpxml", "part")
    assert said(daemon.virsh("schedinfo", "part"))["cpu_shares"] == ("1024" if mounts.v1 else "100")
    daemon.virsh("destroy", "part")
    assert all(not list(folder.glob("qemu-*")) for folder in _folders(partition))


def test_a_guest_that_names_no_partition_is_told_it(daemon: Daemon) -> None:
    start(daemon, "told")
    assert "<partition>/machine</partition>" in daemon.virsh("dumpxml", "told")
    assert "<partition>" not in daemon.virsh("dumpxml", "told", "--inactive")


#: what is asked of a running guest -> code and domain of libvirt's error
ERRORS = {
    "setSchedulerParametersFlags({'cpu_shares': 1}, 1)": (8, 54),
    "setMemoryParameters({'hard_limit': 4 << 20, 'swap_hard_limit': 10}, 1)": (8, 20),
    "setBlkioParameters({'device_read_iops_sec': '/dev/nosuch,5'}, 1)": (38, 54),
    "setBlkioParameters({'device_read_iops_sec': '/dev/null,5'}, 1)": (38, 54),
    "setBlkioParameters({'device_read_iops_sec': '/dev/loop0,5,x'}, 1)": (8, 20),
    "setNumaParameters({'numa_nodeset': 'x'}, 1)": (8, 0),
    "setNumaParameters({'numa_nodeset': '77'}, 1)": (67, 0),
    "setNumaParameters({'numa_mode': 1}, 1)": (67, 20),
    "delIOThread(9, 1)": (8, 20),
    "setIOThreadParams(9, {'poll_max_ns': 5}, 1)": (8, 10),
}


def test_errors_are_those_of_libvirt(daemon: Daemon) -> None:
    start(daemon, "codes")
    code = """
libvirt.registerErrorHandler(lambda *_: None, None)
dom = conn.lookupByName("codes")
for words in sys.argv[1:]:
    try:
        eval("dom." + words)
        print(0, 0)
    except libvirt.libvirtError as error:
        print(error.get_error_code(), error.get_error_domain())
"""
    said = [tuple(map(int, line.split())) for line in daemon.python(code, *ERRORS).splitlines()]
    assert dict(zip(ERRORS, said, strict=True)) == ERRORS
