"""vCPUs of a domain: how many, which, plugged and unplugged while it runs; those the agent turns on."""

import re
from functools import partial
from typing import TYPE_CHECKING

from qvirt.constants.domain import DomainVcpuFlags
from qvirt.errors import (
    InternalError,
    InvalidArg,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
)
from qvirt.model.domain import Domain as Definition
from qvirt.qemu import vcpu_slots
from qvirt.qemu.vcpu_slots import Slot
from qvirt.qmp import commands
from qvirt.qmp.commands import as_objects
from qvirt.qmp.wire import JsonObject, JsonValue
from qvirt.runtime import live
from qvirt.runtime.asking import guest
from qvirt.runtime.jobs import Job
from qvirt.runtime.life import cgroups, cores, resctrl
from qvirt.runtime.plugging import unplug
from qvirt.runtime.plugging.unplug import Outcome
from qvirt.runtime.running import COMMAND_DEADLINE, Running
from qvirt.runtime.tuning import pinning, scheduling
from qvirt.runtime.tuning.order import change
from qvirt.xml.codecs import format_cpuset

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: software emulation keeps the CPU's object, so that only the deletion of its interrupt controller is told
_PATH = re.compile(r"/machine/peripheral/(vcpu[0-9]+)(?:/.*)?")


async def set_count(domain: "Domain", count: int, flags: int) -> None:
    """Set how many vCPUs there are; flags: DomainVcpuFlags."""
    if flags & DomainVcpuFlags.GUEST:
        await _set_guest_count(domain, count)
        return
    if flags & DomainVcpuFlags.MAXIMUM:
        await change(
            domain,
            "set vcpus",
            flags,
            live=_nothing,
            config=lambda definition: vcpu_slots.set_config_maximum(definition, count),
            check=_refuse_live_maximum,
        )
        return
    hotpluggable = bool(flags & DomainVcpuFlags.HOTPLUGGABLE)

    def check(running: Definition | None, config: Definition | None) -> None:
        for definition, word in ((running, "live"), (config, "persistent")):
            if definition is not None and count > vcpu_slots.most(definition):
                raise InvalidArg(
                    f"requested vcpus is greater than max allowable vcpus for the {word} domain: "
                    f"{count} > {vcpu_slots.most(definition)}"
                )

    async def on_live(running: Running) -> None:
        slots = await _slots(running)
        now = frozenset(vcpu_slots.online(running.definition))
        await _move(domain, running, vcpu_slots.slots_for_count(slots, now, count), on=count > len(now))

    await change(
        domain,
        "set vcpus",
        flags,
        live=on_live,
        config=lambda it: vcpu_slots.set_config_count(it, count, hotpluggable=hotpluggable),
        check=check,
    )


async def _nothing(running: Running) -> None:
    """Stand for what is refused before."""


def _refuse_live_maximum(running: Definition | None, config: Definition | None) -> None:
    if running is not None:
        raise OperationInvalid("maximum vcpu count of a live domain can't be modified")


async def set_single(domain: "Domain", wanted: frozenset[int], on: bool, flags: int) -> None:
    """Turn the vCPUs of these numbers on or off."""

    def check(running: Definition | None, config: Definition | None) -> None:
        for definition, word in ((config, "persistent"), (running, "live")):
            if definition is not None and max(wanted) >= vcpu_slots.most(definition):
                raise InvalidArg(f"vcpu {max(wanted)} is not present in {word} config")

    async def on_live(running: Running) -> None:
        now = frozenset(vcpu_slots.online(running.definition))
        await _move(domain, running, vcpu_slots.slots_of(await _slots(running), now, wanted, on), on=on)

    await change(
        domain,
        "set vcpu",
        flags,
        live=on_live,
        config=lambda definition: vcpu_slots.set_config_vcpus(definition, wanted, on),
        check=check,
    )


async def _slots(running: Running) -> list[Slot]:
    return vcpu_slots.read_slots(await commands.query_hotpluggable_cpus(running))


async def _move(domain: "Domain", running: Running, slots: list[Slot], *, on: bool) -> None:
    """Plug or unplug slots one after the other; those done before one that fails stay done."""
    if on:
        _check_room(running, sum(len(slot.numbers) for slot in slots))
    for slot in slots:
        if on:
            await _plug(running, slot)
            domain.hypervisor.checkpoint("vcpu plugged")
        else:
            await _unplug(running, slot)
            domain.hypervisor.checkpoint("vcpu unplugged")
        await refresh(running)
        await cgroups.place_threads(domain, running)
        if on:
            for number in slot.numbers:
                pinning.pin_vcpu_thread(running, number)
                scheduling.schedule_vcpu(running, number)
                await resctrl.join_vcpu(domain, running, number)
            await cores.settle(domain.hypervisor, partial(cores.join_vcpus, running, slot.numbers))


def _check_room(running: Running, more: int) -> None:
    """Raise OperationFailed where QEMU would end.

    Its software emulation has a place for each vCPU there may be, and takes another one for a vCPU that comes
    back after it was unplugged (tcg_register_thread); beyond the last it aborts, and the guest with it.
    """
    definition, gone = running.definition, running.vcpus_gone
    now, most = len(vcpu_slots.online(definition)), vcpu_slots.most(definition)
    if definition.type == "qemu" and now + gone + more > most:
        raise OperationFailed(
            f"cannot plug {more} more into domain '{definition.name}': {gone} of its vCPUs were unplugged "
            f"since it was started, and QEMU without KVM ends when it makes more than {most}, the maximum, "
            "in one run; shut it down and start it again"
        )


async def _plug(running: Running, slot: Slot) -> None:
    command, arguments = slot.device().to_qmp()
    await running.execute(command, arguments, deadline=COMMAND_DEADLINE)


async def _unplug(running: Running, slot: Slot) -> None:
    alias = str(slot.alias)
    match await unplug.ask(running, alias):
        case Outcome.PENDING:
            raise OperationTimeout(
                "vcpu unplug request timed out. Unplug result must be manually inspected in the domain: the "
                f"guest has not let go of '{alias}' within {unplug.PATIENCE:g} s, and may still"
            )
        case Outcome.REFUSED:
            raise OperationFailed(f"unplug of device was rejected by the guest: '{alias}' stays")


async def refresh(running: Running) -> None:
    """Write down which vCPUs the guest has and their threads."""
    slots = await _slots(running)
    cpus = as_objects(await running.execute("query-cpus-fast"), "query-cpus-fast")
    before = vcpu_slots.online(running.definition)
    live.take_cpus(running, cpus)
    vcpu_slots.take_slots(running.definition, slots, cpus)
    running.vcpus_gone += len(set(before) - set(vcpu_slots.online(running.definition)))
    running.touch()


async def plug_at_start(running: Running) -> None:
    """Plug the hot-pluggable vCPUs the guest boots with, in the document's order."""
    late = vcpu_slots.booted_late(running.definition)
    if not late:
        return
    slots = {slot.first: slot for slot in await _slots(running)}
    for number in late:
        if number in slots:
            await _plug(running, slots[number])
    await refresh(running)


async def after_reconnect(running: Running) -> None:
    """Take what came or went while nobody watched."""
    definition = running.definition
    if definition.vcpus is not None or definition.vcpus_current < vcpu_slots.most(definition):
        before = definition.vcpus
        slots = await _slots(running)
        if before is not None or any(slot.alias is not None for slot in slots):
            await refresh(running)


def alias_of(data: JsonObject) -> str | None:
    """Return the alias of the vCPU that a DEVICE_DELETED is about; None for other devices."""
    found = _PATH.fullmatch(str(data.get("path")))
    return found[1] if found is not None else None


async def take_late(domain: "Domain", running: Running) -> None:
    """Note vCPUs the guest let go of late. @background."""
    async with domain.job(Job.MODIFY, "vcpu unplugged"):
        if domain.running is running:
            await refresh(running)
            await cgroups.place_threads(domain, running)
            await domain.save_status()


# ------------------------------------------------------------------------- agent


async def _cpus_of_guest(domain: "Domain") -> dict[int, JsonObject]:
    answer = as_objects(await guest.ask(domain, "guest-get-vcpus"), "guest-get-vcpus")
    return {number: item for item in answer if isinstance(number := item.get("logical-id"), int)}


async def _turn(domain: "Domain", numbers: list[int], on: bool) -> None:
    """Have the agent turn CPUs on or off; it may do fewer at once than it is asked."""
    while numbers:
        asked: list[JsonValue] = [{"logical-id": number, "online": on} for number in numbers]
        done = await guest.ask(domain, "guest-set-vcpus", {"vcpus": asked})
        if not isinstance(done, int) or not 0 < done <= len(numbers):
            raise InternalError(f"guest agent failed to set vCPU state of {numbers[0]}")
        numbers = numbers[done:]


async def _set_guest_count(domain: "Domain", count: int) -> None:
    async with domain.job(Job.MODIFY, "set guest vcpus"):
        now = domain.need_running().definition.vcpus_current
        if count > now:
            raise InvalidArg(
                "requested vcpu count is greater than the count of enabled vcpus in the domain: "
                f"{count} > {now}"
            )
        cpus = await _cpus_of_guest(domain)
        on = [number for number, item in cpus.items() if item.get("online")]
        off = [number for number, item in cpus.items() if not item.get("online")]
        if count > len(cpus):
            raise InternalError(f"guest agent reports less cpu than requested: {len(cpus)}, not {count}")
        free = [number for number in on if cpus[number].get("can-offline")]
        if len(on) - len(free) > count:
            raise InternalError(f"Cannot offline enough CPUs: {len(on) - len(free)} have to stay on")
        if count > len(on):
            await _turn(domain, off[: count - len(on)], True)
        else:
            await _turn(domain, free[: len(on) - count], False)


async def set_guest(domain: "Domain", wanted: frozenset[int], on: bool) -> None:
    """Turn CPUs on or off within the guest."""
    async with domain.job(Job.MODIFY, "set guest vcpus"):
        cpus = await _cpus_of_guest(domain)
        for number in sorted(wanted & set(cpus)):
            if not on and cpus[number].get("online") and not cpus[number].get("can-offline"):
                raise InvalidArg(f"vCPU '{number}' is not offlinable")
        if missing := wanted - set(cpus):
            raise InvalidArg(f"guest is missing vCPUs '{format_cpuset(missing)}'")
        await _turn(domain, sorted(wanted), on)
