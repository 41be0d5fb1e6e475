"""Limits of guests through the stock client: what virsh sets is what the kernel has, at the next start."""

import os
import re
from pathlib import Path

import pytest

from qvirt.host import cgroup_tuning as knobs
from qvirt.host.cgroup import Group, find_mounts, machine_name
from qvirt.host.config import CONTROLLERS
from tests.functional.runtime.instance import document
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.skipif(os.geteuid() != 0, reason="only root has control groups")]

TUNE = """<cputune><shares>2048</shares><period>100000</period><quota>50000</quota>
<emulator_period>200000</emulator_period><emulator_quota>150000</emulator_quota>
<vcpupin vcpu='0' cpuset='0'/><emulatorpin cpuset='0'/></cputune>
<memtune><hard_limit unit='KiB'>1048576</hard_limit></memtune>"""


def start(daemon: Daemon, name: str, extra: str = "") -> Group:
    """Define and start a guest, and return its groups."""
    path = daemon.root / f"{name}.xml"
    path.write_text(document(name, extra=extra))
    daemon.virsh("define", str(path))
    daemon.virsh("start", name, "--paused")
    id = int(daemon.virsh("domid", name))
    mounts = find_mounts()
    group = Group(mounts, f"machine/{machine_name(id, name, str(daemon.root))}", CONTROLLERS)
    for controller in ("cpu", "cpuset", "memory"):
        if not group.version(controller):
            pytest.skip(f"no control groups with {controller} here")
    return group


def said(text: str) -> dict[str, str]:
    return {
        key.strip(): value.strip() for key, _, value in (x.partition(":") for x in text.splitlines()) if key
    }


def test_haste_ends_with_the_start(daemon: Daemon) -> None:
    group = start(daemon, "plain")
    assert knobs.shares(group) == (1024 if group.version("cpu") == 1 else 100)


def test_what_the_document_says_is_in_force_from_the_start(daemon: Daemon) -> None:
    group = start(daemon, "said", TUNE)
    found = said(daemon.virsh("schedinfo", "said"))
    assert found["Scheduler"] == "posix"
    assert (found["cpu_shares"], found["vcpu_period"], found["vcpu_quota"]) == ("2048", "100000", "50000")
    assert (found["emulator_period"], found["emulator_quota"]) == ("200000", "150000")
    assert said(daemon.virsh("memtune", "said"))["hard_limit"] == "1048576"
    assert (group.folder("cpuset", "vcpu0") / "cpuset.cpus").read_text().strip() == "0"
    assert (group.folder("cpuset", "emulator") / "cpuset.cpus").read_text().strip() == "0"
    daemon.virsh("destroy", "said")
    assert not group.exists()
    found = said(daemon.virsh("schedinfo", "said"))
    assert (found["cpu_shares"], found["vcpu_quota"], found["global_quota"]) == ("2048", "50000", "0")


def test_changes_reach_the_kernel_and_the_definition(daemon: Daemon) -> None:
    group = start(daemon, "live")
    daemon.virsh("schedinfo", "live", "--live", "--config", "cpu_shares=512", "vcpu_quota=25000")
    assert (group.folder("cpu", "vcpu0") / "cpu.cfs_quota_us").read_text().strip() == "25000"
    assert said(daemon.virsh("schedinfo", "live", "--config"))["cpu_shares"] == "512"
    daemon.virsh("memtune", "live", "--hard-limit", "2097152", "--live")
    assert said(daemon.virsh("memtune", "live"))["hard_limit"] == "2097152"
    assert said(daemon.virsh("memtune", "live", "--config"))["hard_limit"] == "unlimited"
    assert "<hard_limit unit='KiB'>2097152</hard_limit>" in daemon.virsh("dumpxml", "live")
    daemon.virsh("numatune", "live", "--nodeset", "0", "--live")
    assert said(daemon.virsh("numatune", "live"))["numa_nodeset"] == "0"
    daemon.virsh("vcpupin", "live", "0", "1")
    assert (group.folder("cpuset", "vcpu0") / "cpuset.cpus").read_text().strip() == "1"
    daemon.virsh("emulatorpin", "live", "0")
    assert (group.folder("cpuset", "emulator") / "cpuset.cpus").read_text().strip() == "0"
    # a daemon that is killed finds it all again
    daemon.kill()
    daemon.start()
    assert said(daemon.virsh("schedinfo", "live"))["vcpu_quota"] == "25000"
    assert said(daemon.virsh("memtune", "live"))["hard_limit"] == "2097152"
    daemon.virsh("destroy", "live")
    assert not group.exists()


def test_each_kind_of_thread_has_cpus_of_its_own(daemon: Daemon) -> None:
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("this takes two CPUs")
    path = daemon.root / "pinned.xml"
    pins = (
        "<iothreads>2</iothreads><cputune><vcpupin vcpu='0' cpuset='1'/><emulatorpin cpuset='0'/>"
        "<iothreadpin iothread='2' cpuset='1'/></cputune>"
    )
    text = document("pinned", extra=pins).replace("<vcpu>1<", "<vcpu current='2'>4<")
    path.write_text(text)
    daemon.virsh("create", str(path))
    (pid,) = [
        pid for pid in daemon.qemu_pids() if b"guest=pinned," in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]

    def cpus() -> dict[str, set[int]]:
        tasks = [
            (int(task.name), (task / "comm").read_text()) for task in Path(f"/proc/{pid}/task").iterdir()
        ]
        kinds = re.compile(r"(CPU \d|IO iothread\d)?")
        found: dict[str, set[int]] = {}
        for thread, name in tasks:
            said = kinds.match(name)
            found.setdefault((said and said[1]) or "", set()).update(os.sched_getaffinity(thread))
        return found

    every = {int(n) for n in range(os.cpu_count() or 1)} & os.sched_getaffinity(0)
    expected = {"": {0}, "CPU 0": {1}, "CPU 1": every, "IO iothread1": every, "IO iothread2": {1}}
    assert cpus() == expected
    # what QEMU makes later has the CPUs of its main thread at first
    daemon.virsh("setvcpus", "pinned", "3", "--live")
    daemon.virsh("iothreadadd", "pinned", "5")
    assert cpus() == {**expected, "CPU 2": every, "IO iothread5": every}
    daemon.virsh("destroy", "pinned")


def test_block_io(daemon: Daemon) -> None:
    group = start(daemon, "blk")
    disk = next((p for p in ("/dev/vda", "/dev/sda", "/dev/loop0") if Path(p).is_block_device()), None)
    if disk is None or not group.version("blkio"):
        pytest.skip("no block device, or no control group for it")
    daemon.virsh("blkiotune", "blk", "--device-read-bytes-sec", f"{disk},1048576", "--live", "--config")
    assert said(daemon.virsh("blkiotune", "blk", "--config"))["device_read_bytes_sec"] == f"{disk},1048576"
    if group.version("blkio") == 1:
        text = (group.folder("blkio") / "blkio.throttle.read_bps_device").read_text()
        assert text.strip().endswith(" 1048576")
    daemon.virsh("destroy", "blk")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("schedinfo", "bad", "vcpu_period=10"), "value of 'vcpu_period' is out of range [1000, 1000000]"),
        (("memtune", "bad", "--hard-limit", "2048", "--swap-hard-limit", "1024"),
         "memory hard_limit tunable value must be lower than or equal to swap_hard_limit"),
        (("blkiotune", "bad", "--device-weights", "/dev/null,5x"), "unable to parse blkio device"),
    ],
)  # fmt: skip
def test_refusals(daemon: Daemon, words: tuple[str, ...], error: str) -> None:
    if "bad" not in daemon.virsh("list", "--all", "--name"):
        start(daemon, "bad")
    done = daemon.virsh_run(*words)
    assert done.returncode
    assert error in done.stderr


def test_how_memory_is_spread_stays_while_a_guest_runs(daemon: Daemon) -> None:
    start(daemon, "spread", "<numatune><memory mode='strict' nodeset='0'/></numatune>")
    try:
        done = daemon.virsh_run("numatune", "spread", "--mode", "interleave", "--live")
        assert done.returncode
        assert "can't change numatune mode for running domain" in done.stderr
    finally:
        daemon.virsh("destroy", "spread")
        daemon.virsh("undefine", "spread")
