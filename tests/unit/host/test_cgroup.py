"""Where control groups are found, what a guest's are called, what is written into them by either version."""

from pathlib import Path

import pytest

from qvirt.errors import OperationInvalid
from qvirt.host import cgroup_tuning as knobs
from qvirt.host.bpf import READ, WRITE, Rule
from qvirt.host.cgroup import Group, Mounts, find_mounts, machine_name, partition_path
from qvirt.host.config import CONTROLLERS
from qvirt.security import devices


def test_mounts_of_both_versions() -> None:
    text = (
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        "cgroup /odd\\040place cgroup rw,memory 0 0\n"
        "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n"
        "cgroup2 /nowhere/unified cgroup2 rw 0 0\n"
    )
    found = find_mounts(text)
    assert found.v1 == {
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "memory": Path("/odd place"),
    }
    assert (found.v2, found.v2_has) == (Path("/nowhere/unified"), frozenset())


@pytest.mark.parametrize(
    ("id", "name", "root", "expected"),
    [
        (1, "guest", None, "qemu-1-guest.libvirt-qemu"),
        (12, "a b/c..d--e", None, "qemu-12-abc.d-e.libvirt-qemu"),
        (3, "-x", None, "qemu-3-x.libvirt-qemu"),
        (4, "a--b.-", None, "qemu-4-a-b.libvirt-qemu"),
        (5, "-.-", None, "qemu-5.libvirt-qemu"),
        (6, "a.$.b", None, "qemu-6-a.b.libvirt-qemu"),
        (1, "y" * 99, None, f"qemu-1-{'y' * 57}.libvirt-qemu"),
    ],
)
def test_names_are_libvirts(id: int, name: str, root: str | None, expected: str) -> None:
    assert machine_name(id, name, root) == expected
    assert machine_name(id, name, "/a") != machine_name(id, name, "/b")


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        ("/machine", "machine"),
        ("/machine/prod", "machine/prod.partition"),
        ("/user/x", "user/x.partition"),
        ("/prod/machine", "prod.partition/machine.partition"),
        ("/a.partition//b.c/", "a.partition/b.c"),
        ("/", ""),
        ("/../x", "_../x.partition"),
        ("/_a/.b", "__a.partition/_.b"),
        ("/cgroup.procs/x", "_cgroup.procs/x.partition"),
    ],
)
def test_partitions_are_named_as_libvirt_does(partition: str, expected: str) -> None:
    assert partition_path(partition) == expected


@pytest.fixture
def v2(tmp_path: Path) -> Group:
    """A group of version 2 alone, made of plain files."""
    folder = tmp_path / "machine/g"
    (folder / "vcpu0").mkdir(parents=True)
    for path in (tmp_path, folder):
        (path / "cgroup.controllers").write_text("cpu memory io\n")
    (folder / "vcpu0/cpu.max").write_text("max 100000\n")
    (folder / "cpu.weight").touch()
    (folder / "memory.max").write_text("max\n")
    (folder / "memory.swap.max").write_text("max\n")
    return Group(Mounts({}, tmp_path, frozenset(("cpu", "memory", "io"))), "machine/g", CONTROLLERS)


def test_version_two_has_other_files_and_words(v2: Group) -> None:
    assert knobs.bandwidth(v2, "vcpu0") == (100000, knobs.NO_QUOTA)
    knobs.set_bandwidth(v2, "vcpu0", 0, 5000)
    assert (v2.folder("cpu", "vcpu0") / "cpu.max").read_text() == "5000 100000"
    knobs.set_bandwidth(v2, "vcpu0", 20000, -1)
    assert (v2.folder("cpu", "vcpu0") / "cpu.max").read_text() == "max 20000"
    knobs.set_memory(v2, "hard_limit", 1000)
    knobs.set_memory(v2, "swap_hard_limit", 1500)
    assert (v2.folder("memory") / "memory.swap.max").read_text() == str(500 << 10)
    assert knobs.memory(v2, "swap_hard_limit") == 1500


def test_what_is_not_there_is_refused_in_libvirts_words(v2: Group) -> None:
    assert v2.version("blkio") == 2
    with pytest.raises(OperationInvalid, match="cgroup cpuset controller is not mounted"):
        v2.folder("cpuset")
    with pytest.raises(OperationInvalid, match="cgroup CPU controller is not mounted"):
        Group(v2.mounts, v2.path, ("memory",)).folder("cpu")
    with pytest.raises(OperationInvalid, match="blkio weight is valid only for bfq or cfq scheduler"):
        knobs.weight(v2)


def test_a_start_has_more_than_its_weight(v2: Group, tmp_path: Path) -> None:
    v1 = Group(Mounts({"cpu": tmp_path / "v1"}), "machine/g", CONTROLLERS)
    v1.folder("cpu").mkdir(parents=True)
    (v1.folder("cpu") / "cpu.shares").touch()
    for group, value, hasty, calm in (
        (v1, None, 4096, 1024),
        (v1, 512, 2048, 512),
        (v1, 200000, 262144, 200000),
        (v2, None, 400, 100),
        (v2, 9000, 10000, 9000),
    ):
        knobs.hasten(group, value)
        assert knobs.shares(group) == hasty
        knobs.calm(group, value)
        assert knobs.shares(group) == calm
    knobs.hasten(Group(Mounts(), "machine/g", CONTROLLERS), 1)  # nothing to do it with


def test_version_one_alone_lists_devices_in_files(tmp_path: Path) -> None:
    folder = tmp_path / "machine/g"
    folder.mkdir(parents=True)
    for name in ("devices.allow", "devices.deny"):
        (folder / name).touch()
    group = Group(Mounts({"devices": tmp_path}), "machine/g", CONTROLLERS)
    devices.confine(group, [Rule(2, 1, 3), Rule(1, 7, 0, READ), Rule(2, 136, None)])
    assert (folder / "devices.deny").read_text() == "a"
    assert (folder / "devices.allow").read_text() == "c 1:3 rwb 7:0 rc 136:* rw"  # a write for each
    devices.deny(group, [Rule(1, 7, 0, READ)])
    assert (folder / "devices.deny").read_text() == "b 7:0 r"


def test_rules_are_what_libvirts_map_holds() -> None:
    rule = Rule(1, 7, 2, READ | WRITE)
    assert (rule.key.hex(), rule.value.hex()) == ("0200000007000000", "01000600")
    assert Rule(2, 136, None).key.hex() == "ffffffff88000000"
    assert devices.rule_of("/dev/null") == Rule(2, 1, 3)
    assert devices.rule_of("/etc/passwd") is None


def test_version_two_keeps_the_limit_of_memory_and_swap_when_that_of_memory_changes(v2: Group) -> None:
    knobs.set_memory(v2, "hard_limit", 1000)
    knobs.set_memory(v2, "swap_hard_limit", 5000)
    knobs.set_memory(v2, "hard_limit", 3000)
    assert (knobs.memory(v2, "hard_limit"), knobs.memory(v2, "swap_hard_limit")) == (3000, 5000)
    assert (v2.folder("memory") / "memory.swap.max").read_text() == str(2000 << 10)
