"""Which scheduling policies a guest's threads have: ``<vcpusched>``, ``<iothreadsched>`` and the like."""

import errno
import os

from qvirt.errors import SystemError_
from qvirt.host.cgroup import Group
from qvirt.model.cputune import REALTIME, Scheduler
from qvirt.qemu import vcpu_slots
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import pinning

_POLICIES = {
    "batch": os.SCHED_BATCH,
    "idle": os.SCHED_IDLE,
    "fifo": os.SCHED_FIFO,
    "rr": os.SCHED_RR,
}


async def schedule_at_start(running: Running) -> None:
    """Give the threads of a new QEMU the policies the document says. Raises SystemError_."""
    definition = running.definition
    tune = definition.__dict__.get("cputune")
    if tune is None:
        return
    if tune.emulatorsched is not None:
        _schedule(running.group, "emulator", running.pid, tune.emulatorsched)
    if tune.vcpuscheds:
        for number in vcpu_slots.online(definition):
            schedule_vcpu(running, number)
    if tune.iothreadscheds:
        for number, thread in (await pinning.iothread_threads(running)).items():
            schedule_iothread(running, number, thread)


def schedule_vcpu(running: Running, number: int) -> None:
    """Give one vCPU's thread its policy. Raises SystemError_."""
    tune = running.definition.__dict__.get("cputune")
    thread = running.vcpu_threads[number] if number < len(running.vcpu_threads) else 0
    for sched in tune.vcpuscheds if tune is not None else ():
        if number in sched.vcpus:
            if not thread:
                raise SystemError_(
                    f"cannot set the scheduler of vcpu {number}, which has no thread of its own",
                    OSError(errno.ESRCH, os.strerror(errno.ESRCH)),
                )
            _schedule(running.group, f"vcpu{number}", thread, sched)


def schedule_iothread(running: Running, number: int, thread: int) -> None:
    """Give one iothread's thread its policy. Raises SystemError_."""
    tune = running.definition.__dict__.get("cputune")
    for sched in tune.iothreadscheds if tune is not None else ():
        if number in sched.iothreads:
            _schedule(running.group, f"iothread{number}", thread, sched)


def _schedule(group: Group | None, name: str, thread: int, wanted: Scheduler) -> None:
    try:
        os.sched_setscheduler(thread, _POLICIES[wanted.scheduler], os.sched_param(wanted.priority or 0))
    except OSError as error:
        hint = ""
        if wanted.scheduler in REALTIME and error.errno == errno.EPERM:
            hint = f": {_no_realtime(group, name)}"
        line = f" (line {wanted.line})" if wanted.line else ""
        raise SystemError_(
            f"Cannot set scheduler parameters for pid {thread}: {name} is to have '{wanted.scheduler}' by "
            f"<{wanted.tag}>{line}{hint}",
            error,
        ) from error


def _no_realtime(group: Group | None, name: str) -> str:
    """Say why a thread may not have a real-time policy."""
    if group is not None and group.version("cpu") == 1:
        share = group.folder("cpu", name) / "cpu.rt_runtime_us"
        if not share.exists():
            share = group.folder("cpu") / "cpu.rt_runtime_us"
        if share.exists() and not int(share.read_text()):
            return f"'{share}' is 0, and so may be those above it"
    return "the daemon needs CAP_SYS_NICE"
