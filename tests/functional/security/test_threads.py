"""What the threads of a guest may do and how they are counted: schedulers, locked memory, perf; by virsh."""

import json
import os
import re
from pathlib import Path

import pytest

from qvirt.runtime.life import limits
from tests.functional.runtime.instance import document
from tests.support.daemon import Daemon, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


def define(daemon: Daemon, name: str, extra: str, *, kvm: bool = False) -> None:
    path = daemon.root / f"{name}.xml"
    text = document(name, extra=extra).replace("<vcpu>1<", "<vcpu current='2'>3<")
    path.write_text(text.replace("type='qemu'", "type='kvm'") if kvm else text)
    daemon.virsh("define", str(path))


def pid_of(daemon: Daemon, name: str) -> int:
    return int((daemon.root / f"run/libvirt/qemu/{name}.pid").read_text())


def threads(pid: int) -> dict[str, int]:
    """Return a process's threads by name."""
    folder = Path(f"/proc/{pid}/task")
    return {(task / "comm").read_text().strip(): int(task.name) for task in folder.iterdir()}


def refusal(daemon: Daemon, *words: str) -> str:
    """Return what virsh says of something that is refused; '' when it is done."""
    done = daemon.virsh_run(*words)
    return done.stderr if done.returncode else ""


def test_threads_have_their_schedulers(daemon: Daemon) -> None:
    tune = (
        "<iothreads>2</iothreads><cputune><emulatorsched scheduler='batch'/>"
        "<vcpusched vcpus='0-1' scheduler='idle'/><iothreadsched iothreads='2' scheduler='batch'/></cputune>"
    )
    define(daemon, "sched", tune)
    daemon.virsh("start", "sched", "--paused")
    pid = pid_of(daemon, "sched")
    found = threads(pid)
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.sched_getscheduler(found["CPU 0/TCG"]) == os.SCHED_IDLE
    assert os.sched_getscheduler(found["CPU 1/TCG"]) == os.SCHED_IDLE
    assert os.sched_getscheduler(found["IO iothread2"]) == os.SCHED_BATCH
    assert "<vcpusched vcpus='0' scheduler='idle'/>" in daemon.virsh("dumpxml", "sched")
    daemon.virsh("iothreadadd", "sched", "3", "--live")
    assert "IO iothread3" in threads(pid)
    daemon.virsh("destroy", "sched")


def test_a_realtime_policy_works_or_is_refused_with_the_reason(daemon: Daemon) -> None:
    define(daemon, "realtime", "<cputune><vcpusched vcpus='0' scheduler='rr' priority='3'/></cputune>")
    done = refusal(daemon, "start", "realtime", "--paused")
    if done:
        pattern = r"Cannot set scheduler parameters for pid \d+: vcpu0 is to have 'rr' by <vcpusched>"
        assert re.search(pattern, done)
        assert "rt_runtime_us' is 0" in done or "CAP_SYS_NICE" in done
        assert "shut off" in daemon.virsh("domstate", "realtime")
    else:
        thread = threads(pid_of(daemon, "realtime"))["CPU 0/TCG"]
        assert os.sched_getscheduler(thread) == os.SCHED_RR
        assert os.sched_getparam(thread).sched_priority == 3
        daemon.virsh("destroy", "realtime")


@pytest.mark.skipif(os.path.exists("/sys/fs/resctrl/info"), reason="this host has resctrl")
def test_a_share_of_the_cache_is_kept_and_refused_at_start(daemon: Daemon) -> None:
    tune = "<cachetune vcpus='0'><cache id='0' level='3' type='both' size='3' unit='MiB'/></cachetune>"
    define(daemon, "cache", f"<cputune>{tune}</cputune>", kvm=True)
    assert "<cache id='0' level='3' type='both' size='3' unit='MiB'/>" in daemon.virsh("dumpxml", "cache")
    said = refusal(daemon, "start", "cache")
    assert "Resource control is not supported on this host: <cachetune> (line" in said
    tune = "<memorytune vcpus='0'><node id='0' bandwidth='60'/></memorytune>"
    daemon.virsh("undefine", "cache")
    define(daemon, "cache", f"<cputune>{tune}</cputune>", kvm=True)
    assert "<memorytune> (line" in refusal(daemon, "start", "cache")


def test_locked_memory_is_locked_or_refused_before_anything_runs(daemon: Daemon) -> None:
    define(daemon, "locked", "<memoryBacking><locked/></memoryBacking>")
    said = refusal(daemon, "start", "locked", "--paused")
    if limits._may_raise():
        assert said == ""
        status = Path(f"/proc/{pid_of(daemon, 'locked')}/status").read_text()
        assert int(status.partition("VmLck:")[2].split()[0]) > 0
        assert (
            "Max locked memory         unlimited"
            in Path(f"/proc/{pid_of(daemon, 'locked')}/limits").read_text()
        )
        daemon.virsh("destroy", "locked")
    else:
        assert "cannot limit locked memory to unlimited: the daemon itself is limited to" in said
        assert "CAP_SYS_RESOURCE" in said


@pytest.fixture
def counted(daemon: Daemon) -> Daemon:
    """A daemon with a guest that runs, on a host that counts."""
    define(daemon, "counted", "<perf><event name='task_clock' enabled='yes'/></perf>")
    said = refusal(daemon, "start", "counted")
    if "unable to open host cpu perf event" in said:
        pytest.skip(said)
    return daemon


def figures(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"perf\.(\w+)=(\d+)", text)}


def test_events_are_counted_from_the_start_and_on_request(counted: Daemon) -> None:
    virsh = counted.virsh
    assert figures(virsh("domstats", "--perf", "counted"))["task_clock"] > 0
    said = json.loads(
        counted.python("import json; print(json.dumps(conn.lookupByName('counted').perfEvents()))")
    )
    assert {name for name, enabled in said.items() if enabled} == {"task_clock"}
    assert {"cmt", "cpu_clock", "emulation_faults"} < set(said)
    virsh("perf", "counted", "--enable", "cpu_clock,page_faults", "--disable", "task_clock", "--live")
    first = figures(virsh("domstats", "--perf", "counted"))
    assert set(first) == {"cpu_clock", "page_faults"}
    wait_until(
        lambda: figures(virsh("domstats", "--perf", "counted"))["cpu_clock"] > first["cpu_clock"],
        "the clock goes on",
    )
    assert "<event name='cpu_clock' enabled='yes'/>" in virsh("dumpxml", "counted")
    assert "cpu_clock" not in virsh("dumpxml", "counted", "--inactive")
    virsh("perf", "counted", "--enable", "cpu_migrations", "--config")
    assert "<event name='cpu_migrations' enabled='yes'/>" in virsh("dumpxml", "counted", "--inactive")
    counted.kill()
    counted.start()
    assert set(figures(virsh("domstats", "--perf", "counted"))) == {"cpu_clock", "page_faults"}
    refused = refusal(counted, "perf", "counted", "--enable", "cpu_clock,cmt", "--live")
    assert "unable to open host cpu perf event for cmt: Operation not supported" in refused
    virsh("destroy", "counted")
    assert figures(virsh("domstats", "--perf", "counted")) == {}
