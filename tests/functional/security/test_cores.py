"""Core scheduling: who shares a CPU core's threads with a guest. Needs such a kernel and CPU."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.host import core_scheduling
from tests.functional.runtime.instance import document
from tests.support.daemon import Daemon, make_root

pytestmark = [pytest.mark.qemu, pytest.mark.root]

SHARE = (
    "<filesystem type='mount'><driver type='virtiofs'/><source dir='/usr/share'/><target dir='share'/>"
    "</filesystem>"
)
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
GUEST = document("cores", SHARE, extra=f"<iothreads>1</iothreads>{SHARED}").replace(
    "<vcpu>1</vcpu>", "<vcpu current='2'>4</vcpu>"
)


def needs_cores() -> None:
    """Skip the test where the kernel does not schedule by cores, or no core has more than one thread."""
    try:
        core_scheduling.cookie_of(0)
    except OSError as error:
        why = {
            errno.EINVAL: "this kernel does not schedule by cores",
            errno.ENODEV: "no core has two threads",
        }
        pytest.skip(why[error.errno or 0])


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon that has not been started, so that it can be given a qemu.conf."""
    it = Daemon(make_root())
    (it.root / "etc/libvirt").mkdir(parents=True)
    try:
        yield it
    finally:
        it.clean()


def configure(daemon: Daemon, mode: str) -> None:
    (daemon.root / "etc/libvirt/qemu.conf").write_text(f'sched_core = "{mode}"\n')


def test_a_mode_that_does_not_exist_keeps_the_daemon_from_starting(daemon: Daemon) -> None:
    configure(daemon, "cpus")
    done = daemon.run_to_the_end()
    assert done.returncode
    assert "qemu.conf:1: Unknown sched_core value cpus, use one of none, vcpus, emulator, full" in done.stderr


def test_a_kernel_that_cannot_keeps_the_daemon_from_starting(daemon: Daemon) -> None:
    if core_scheduling.is_known():
        pytest.skip("this kernel schedules by cores")
    configure(daemon, "full")
    done = daemon.run_to_the_end()
    assert done.returncode
    assert "qemu.conf:1: SCHED_CORE not supported by kernel" in done.stderr


def cookies(daemon: Daemon) -> dict[str, set[int]]:
    """Return the cookies of a guest's threads: those of vCPUs, the others of QEMU, and its helper."""
    (pid,) = daemon.qemu_pids()
    found: dict[str, set[int]] = {"vcpu": set(), "qemu": set(), "helper": set()}
    for task in Path(f"/proc/{pid}/task").iterdir():
        kind = "vcpu" if "CPU " in (task / "comm").read_text() else "qemu"
        found[kind].add(core_scheduling.cookie_of(int(task.name)))
    helper = int((daemon.root / "run/libvirt/qemu").glob("*-fs0-fs.pid").__next__().read_text())
    for task in Path(f"/proc/{helper}/task").iterdir():
        found["helper"].add(core_scheduling.cookie_of(int(task.name)))
    return found


@pytest.mark.parametrize("mode", ["none", "vcpus", "emulator", "full"])
def test_what_is_separated(daemon: Daemon, mode: str) -> None:
    needs_cores()
    configure(daemon, mode)
    daemon.start()
    path = daemon.root / "cores.xml"
    path.write_text(GUEST)
    daemon.virsh("define", str(path))
    daemon.virsh("start", "cores")
    _check(cookies(daemon), mode)
    # also by a later daemon
    daemon.kill()
    daemon.start()
    daemon.virsh("setvcpus", "cores", "3")
    daemon.virsh("iothreadadd", "cores", "2")
    _check(cookies(daemon), mode)
    if mode != "none":
        assert core_scheduling.cookie_of(daemon.process.pid if daemon.process else 0) == 0
    daemon.virsh("destroy", "cores")


def _check(found: dict[str, set[int]], mode: str) -> None:
    own = {kind for kind, values in found.items() if values != {0}}
    assert own == {"none": set(), "vcpus": {"vcpu"}, "emulator": {"vcpu", "qemu"},
                   "full": {"vcpu", "qemu", "helper"}}[mode]  # fmt: skip
    assert len(set.union(*(found[kind] for kind in own), set())) == (1 if own else 0), found


def test_two_guests_share_no_core(daemon: Daemon) -> None:
    needs_cores()
    configure(daemon, "vcpus")
    daemon.start()
    for name in ("one", "two"):
        path = daemon.root / f"{name}.xml"
        path.write_text(document(name))
        daemon.virsh("create", str(path))
    seen = set()
    for pid in daemon.qemu_pids():
        for task in os.listdir(f"/proc/{pid}/task"):
            seen.add(core_scheduling.cookie_of(int(task)))
    assert len(seen - {0}) == 2
