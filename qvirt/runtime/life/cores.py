"""``sched_core``: what of a guest shares the threads of a CPU core with nobody else.

    vcpus      its vCPUs' threads
    emulator   QEMU with all its threads
    full       QEMU and its helpers

A guest has one group, which holds what its members make, too. All but `settle` block; SystemError_ is
raised for what the kernel refuses.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from qvirt.errors import SystemError_
from qvirt.host import core_scheduling
from qvirt.host.core_scheduling import PROCESS, THREAD
from qvirt.qemu import vcpu_slots
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.hypervisor import Hypervisor


async def settle(hv: "Hypervisor", work: Callable[[str], None]) -> None:
    """Do one of these below for the mode of this daemon, off the loop."""
    mode = hv.config.sched_core
    if mode != "none":
        await hv.files.run("core scheduling", partial(work, mode))


def separate_qemu(running: Running, mode: str) -> None:
    """Separate a QEMU that waits to be executed, for ``full`` together with its helpers."""
    if mode in ("emulator", "full"):
        _put(running.pid, PROCESS, _helpers(running) if mode == "full" else ())


def separate_helper(running: Running, pid: int, mode: str) -> None:
    """Separate a helper that waits to be executed, together with what its guest has already."""
    if mode == "full":
        qemu = [running.pid] if running.process is not None else []
        _put(pid, PROCESS, [*qemu, *(other for other in _helpers(running) if other != pid)])


def separate_vcpus(running: Running, mode: str) -> None:
    """Put the vCPUs of a guest that has not begun to run into a group."""
    threads = _threads(running)
    if mode == "vcpus" and threads:
        _put(threads[0], THREAD)
        for thread in threads[1:]:
            _put(thread, THREAD, threads[:1])


def join_vcpus(running: Running, numbers: Iterable[int], mode: str) -> None:
    """Put vCPUs that were plugged in into the group of those before them."""
    if mode != "vcpus":
        return
    threads = _threads(running)
    new = [running.vcpu_threads[number] for number in numbers]
    others = [thread for thread in threads if thread not in new]
    for thread in new if others else ():
        _put(thread, THREAD, others)


def _threads(running: Running) -> list[int]:
    """Return the threads of the vCPUs there are, which may share one."""
    known = running.vcpu_threads
    online = vcpu_slots.online(running.definition)
    return list(dict.fromkeys(known[number] for number in online if number < len(known) and known[number]))


def _helpers(running: Running) -> list[int]:
    return [one.process.pid for one in running.helpers.values() if not one.process.is_gone]


def _put(id: int, kind: int, owners: Iterable[int] = ()) -> None:
    """Put a thread or a process into the group of the first of these that lives, else into a new one."""
    try:
        for owner in owners:
            try:
                core_scheduling.join(owner, id, kind)
            except ProcessLookupError:
                continue
            else:
                return
        core_scheduling.separate(id, kind)
    except ProcessLookupError:
        pass  # it has ended itself, which is told elsewhere
    except OSError as error:
        raise SystemError_(f"Unable to set SCHED_CORE of process {id}", error) from error
