"""Which host CPUs a guest's threads run on: by their affinity, and by their control groups."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from qvirt.constants.common import TypedParameterType
from qvirt.errors import InternalError, InvalidArg, OperationInvalid, SystemError_
from qvirt.host.cgroup_tuning import set_cpus
from qvirt.host.sysfs import load
from qvirt.model.cputune import EmulatorPin, IothreadPin, VcpuPin
from qvirt.model.domain import Domain as Definition
from qvirt.qemu import vcpu_slots
from qvirt.qemu.smp import iothread_ids
from qvirt.qmp import commands
from qvirt.runtime.events import Tunable
from qvirt.runtime.running import Running
from qvirt.runtime.tuning.order import change
from qvirt.xml.codecs import format_cpuset, parse_cpuset

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: where the kernel lists the CPUs there are
_ONLINE = "/sys/devices/system/cpu/online"


def bind(thread: int, cpus: Iterable[int]) -> None:
    """Let a thread run on these host CPUs only. Raises SystemError_."""
    try:
        os.sched_setaffinity(thread, cpus)
    except ProcessLookupError:
        pass  # it has ended, as workers of QEMU's do
    except OSError as error:
        raise SystemError_(f"cannot set CPU affinity on process {thread}", error) from error


async def _bind(domain: "Domain", running: Running, name: str, thread: int, cpus: frozenset[int]) -> None:
    """Let a thread, ``vcpu0`` by name, run on these host CPUs only."""
    group = running.group

    def work() -> None:
        if group is not None and group.version("cpuset"):
            set_cpus(group, name, cpus)
        bind(thread, cpus)

    await domain.hypervisor.files.run(f"CPUs of '{domain.name}'", work)


def pin_vcpu_thread(running: Running, number: int) -> None:
    """Put a vCPU's thread where the document wants it. Raises SystemError_."""
    if number < len(running.vcpu_threads) and running.vcpu_threads[number]:
        _pin(running, "vcpu", number, running.vcpu_threads[number])


def pin_iothread_thread(running: Running, number: int, thread: int) -> None:
    """Put an iothread's thread where the document wants it. Raises SystemError_."""
    _pin(running, "iothread", number, thread)


def _pin(running: Running, kind: str, number: int, thread: int) -> None:
    """Bind a thread to its own CPUs, else to all: what QEMU makes has those of its other threads."""
    cpus = cpus_of(running.definition, kind, number)
    if cpus is None and emulator_cpus(running.definition):
        cpus = parse_cpuset(load(_ONLINE).strip())
    if cpus:
        bind(thread, cpus)


def cpus_of(definition: Definition, kind: str, number: int) -> frozenset[int] | None:
    """Return the host CPUs of a thread, ``vcpu`` or ``iothread`` of a number; None for all of them."""
    tune = definition.cputune if "cputune" in definition.__dict__ else None
    pins: dict[int, frozenset[int]] = {}
    if tune is not None:
        pins = (
            {pin.vcpu: pin.cpuset for pin in tune.vcpupins}
            if kind == "vcpu"
            else {pin.iothread: pin.cpuset for pin in tune.iothreadpins}
        )
    return pins.get(number) or _shared(definition)


def emulator_cpus(definition: Definition) -> frozenset[int] | None:
    """Return the host CPUs of QEMU's own threads; None for all of them."""
    tune = definition.cputune if "cputune" in definition.__dict__ else None
    own = tune.emulatorpin.cpuset if tune is not None and tune.emulatorpin is not None else None
    return own or _shared(definition)


def _shared(definition: Definition) -> frozenset[int] | None:
    return definition.vcpu.cpuset if definition.vcpu is not None else None


async def pin_at_start(running: Running) -> None:
    """Put every thread of a new QEMU where the document wants it. Raises SystemError_."""
    definition = running.definition
    tune = definition.cputune if "cputune" in definition.__dict__ else None
    cpus = emulator_cpus(definition)
    if not cpus and (tune is None or not (tune.vcpupins or tune.iothreadpins)):
        return
    iothreads = await iothread_threads(running) if iothread_ids(definition) else {}
    if cpus:
        # those of vCPUs and iothreads may be in groups that have none of these CPUs
        for thread in {int(name) for name in os.listdir(f"/proc/{running.pid}/task")} - {
            *running.vcpu_threads,
            *iothreads.values(),
        }:
            bind(thread, cpus)
    for number in vcpu_slots.online(definition):
        pin_vcpu_thread(running, number)
    for number, thread in iothreads.items():
        pin_iothread_thread(running, number, thread)


async def iothread_threads(running: Running) -> dict[int, int]:
    """Return each iothread's kernel thread, by its number."""
    found = {}
    for thread in await commands.query_iothreads(running):
        number = thread.id.removeprefix("iothread")
        if number.isdecimal() and running.has_thread(thread.thread_id):
            found[int(number)] = thread.thread_id
    return found


def _published(domain: "Domain", what: str, cpus: frozenset[int]) -> None:
    kind = TypedParameterType.STRING
    domain.publish(Tunable(domain.ref, ((f"cputune.{what}", kind, format_cpuset(cpus)),)))


async def pin_vcpu(domain: "Domain", number: int, cpus: frozenset[int], flags: int) -> None:
    """virDomainPinVcpuFlags."""

    def check(running: Definition | None, config: Definition | None) -> None:
        for definition, word in ((running, "live"), (config, "persistent")):
            if definition is not None and number >= vcpu_slots.most(definition):
                raise InvalidArg(
                    f"vcpu {number} is out of range of {word} cpu count {vcpu_slots.most(definition)}"
                )
        if not cpus:
            raise InvalidArg("Empty cpu list for pinning")

    async def on_live(running: Running) -> None:
        if not any(running.vcpu_threads):
            raise OperationInvalid("cpu affinity is not supported")
        if number in vcpu_slots.online(running.definition):
            thread = running.vcpu_threads[number] if number < len(running.vcpu_threads) else 0
            if not thread:
                raise OperationInvalid("cpu affinity is not supported")
            await _bind(domain, running, f"vcpu{number}", thread, cpus)
        note(running.definition)
        _published(domain, f"vcpupin{number}", cpus)

    def note(definition: Definition) -> None:
        tune = definition.cputune
        others = [pin for pin in tune.vcpupins if pin.vcpu != number]
        tune.vcpupins = sorted([*others, VcpuPin(vcpu=number, cpuset=cpus)], key=lambda pin: pin.vcpu)

    await change(domain, "pin vcpu", flags, live=on_live, config=note, check=check)


async def pin_emulator(domain: "Domain", cpus: frozenset[int], flags: int) -> None:
    """virDomainPinEmulator: QEMU's main thread and those it makes from now on."""
    if not cpus:
        raise InvalidArg("Empty cpu list for pinning")

    async def on_live(running: Running) -> None:
        await _bind(domain, running, "emulator", running.pid, cpus)
        note(running.definition)
        _published(domain, "emulatorpin", cpus)

    def note(definition: Definition) -> None:
        definition.cputune.emulatorpin = EmulatorPin(cpuset=cpus)

    await change(domain, "pin emulator", flags, live=on_live, config=note)


async def pin_iothread(domain: "Domain", number: int, cpus: frozenset[int], flags: int) -> None:
    """virDomainPinIOThread."""

    def check(running: Definition | None, config: Definition | None) -> None:
        if not cpus:
            raise InvalidArg("Empty iothread cpumap list for pinning")
        for definition, word in ((running, "iothread"), (config, "iothreadid")):
            if definition is not None and number not in {one.id for one in iothread_ids(definition)}:
                raise InvalidArg(f"{word} {number} not found")

    async def on_live(running: Running) -> None:
        thread = (await iothread_threads(running)).get(number)
        if thread is None:
            raise InternalError(f"QEMU does not know iothread {number}")
        await _bind(domain, running, f"iothread{number}", thread, cpus)
        note(running.definition)
        _published(domain, f"iothreadpin{number}", cpus)

    def note(definition: Definition) -> None:
        tune = definition.cputune
        others = [pin for pin in tune.iothreadpins if pin.iothread != number]
        tune.iothreadpins = sorted(
            [*others, IothreadPin(iothread=number, cpuset=cpus)], key=lambda pin: pin.iothread
        )

    await change(domain, "pin iothread", flags, live=on_live, config=note, check=check)
