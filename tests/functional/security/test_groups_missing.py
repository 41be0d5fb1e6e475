"""Control groups that are not to be had, or not empty: said, and what would need them is refused."""

import subprocess
from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported, OperationInvalid
from qvirt.host.cgroup import Group, find_mounts, machine_name
from qvirt.host.config import CONTROLLERS
from qvirt.model.domain import parse_domain
from qvirt.runtime.life.cgroups import refuse_unlimited
from tests.functional.runtime.instance import document
from tests.support.daemon import Daemon, running_daemon, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.root]

LIMITED = "<memtune><hard_limit unit='MiB'>2048</hard_limit></memtune>"


def inside(script: str) -> tuple[str, ...]:
    """Return what starts a daemon in a mount namespace that a script has changed."""
    return ("unshare", "-m", "sh", "-ec", f'{script}\nexec "$@"', "sh")


def create(daemon: Daemon, name: str, extra: str = "") -> "subprocess.CompletedProcess[str]":
    path = daemon.root / f"{name}.xml"
    path.write_text(document(name, extra=extra))
    return daemon.virsh_run("create", str(path), "--paused")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("umount -R /sys/fs/cgroup", "no control groups are mounted: guests run without limits"),
        (
            "findmnt -rno TARGET -t cgroup,cgroup2 | while read -r x; do mount -o bind,remount,ro $x; done",
            "no control groups can be made",
        ),
    ],
    ids=["not mounted", "read only"],
)
def test_guests_run_without_but_not_with_limits(script: str, said: str) -> None:
    with running_daemon(prefix=inside(script)) as daemon:
        wait_until(lambda: said in daemon.log.read_text(), "the daemon says so")
        done = create(daemon, "plain")
        assert done.returncode == 0, done.stderr
        (pid,) = daemon.qemu_pids()
        assert ".libvirt-qemu" not in Path(f"/proc/{pid}/cgroup").read_text()
        assert "<partition>" not in daemon.virsh("dumpxml", "plain")
        done = create(daemon, "limited", LIMITED)
        assert done.returncode
        assert "cgroup memory controller is not mounted" in done.stderr


def test_a_hierarchy_that_is_read_only_is_done_without() -> None:
    mounts = find_mounts()
    if "memory" not in mounts.v1 or "cpu" not in mounts.v1 or mounts.v1["cpu"] == mounts.v1["memory"]:
        pytest.skip("version 1's hierarchies are not mounted apart")
    where = mounts.v1["memory"]
    with running_daemon(prefix=inside(f"mount -o bind,remount,ro {where}")) as daemon:
        said = f"control groups without memory ('{where}': Read-only file system)"
        wait_until(lambda: said in daemon.log.read_text(), "the daemon says so")
        done = create(daemon, "limited", LIMITED)
        assert done.returncode
        assert "cgroup memory controller is not mounted" in done.stderr
        done = create(daemon, "slow", "<cputune><quota>50000</quota></cputune>")
        assert done.returncode == 0, done.stderr
        assert "vcpu_quota     : 50000" in daemon.virsh("schedinfo", "slow")


@pytest.mark.parametrize(
    ("extra", "what", "controller"),
    [
        (LIMITED, "Memory", "memory"),
        ("<blkiotune><weight>300</weight></blkiotune>", "Block I/O", "blkio"),
        ("<cputune><emulator_quota>50000</emulator_quota></cputune>", "CPU", "CPU"),
        ("<cputune><shares>500</shares></cputune>", "CPU", "CPU"),
    ],
)
def test_limits_of_a_guest_that_can_have_no_groups(extra: str, what: str, controller: str) -> None:
    definition = parse_domain(document("none", extra=extra))
    with pytest.raises(ConfigUnsupported, match=f"{what} tuning is not available in session mode"):
        refuse_unlimited(definition, session=True)
    with pytest.raises(OperationInvalid, match=f"cgroup {controller} controller is not mounted"):
        refuse_unlimited(definition, session=False)


def test_pins_need_no_groups() -> None:
    definition = parse_domain(document("none", extra="<cputune><vcpupin vcpu='0' cpuset='0'/></cputune>"))
    refuse_unlimited(definition, session=True)


def test_what_an_earlier_guest_has_left_is_not_inherited(own_daemon: Daemon) -> None:
    mounts = find_mounts()

    def left(id: int) -> Group:
        path = f"machine/{machine_name(id, 'again', str(own_daemon.root))}"
        group = Group(mounts, path, CONTROLLERS)
        group.make()
        return group

    def limit(group: Group) -> Path:
        if not group.version("memory"):
            pytest.skip("no control groups with memory here")
        name = "memory.limit_in_bytes" if group.version("memory") == 1 else "memory.max"
        return group.folder("memory") / name

    group = left(1)
    usual = limit(group).read_text()
    limit(group).write_text("64M")
    assert create(own_daemon, "again").returncode == 0
    assert limit(group).read_text() == usual
    own_daemon.virsh("destroy", "again")
    assert not group.exists()
    # somebody is in there
    group = left(2)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            (group.folder("memory") / "cgroup.procs").write_text(str(stranger.pid))
            done = create(own_daemon, "again")
            assert done.returncode
            assert f"of an earlier guest still has process {stranger.pid} in it" in done.stderr
            assert stranger.poll() is None
            assert create(own_daemon, "again").returncode == 0  # under its next number
            own_daemon.virsh("destroy", "again")
        finally:
            stranger.kill()
    assert group.remove() == []
