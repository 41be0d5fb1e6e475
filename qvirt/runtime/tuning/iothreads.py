"""Iothreads of a domain: made, removed and set while it runs and in its definition."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InvalidArg, QvirtError
from qvirt.model.domain import Domain as Definition
from qvirt.model.vcpu import Iothread
from qvirt.qemu.smp import iothread_ids, iothread_object
from qvirt.qmp import commands
from qvirt.runtime.life import cgroups
from qvirt.runtime.running import COMMAND_DEADLINE, Running
from qvirt.runtime.tuning import pinning, scheduling
from qvirt.runtime.tuning.order import change

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: libvirt's parameter -> QEMU's property
PROPERTIES = {
    "poll_max_ns": "poll-max-ns",
    "poll_grow": "poll-grow",
    "poll_shrink": "poll-shrink",
    "thread_pool_min": "thread-pool-min",
    "thread_pool_max": "thread-pool-max",
}

#: what QEMU's numbers hold
_MOST = 2**31 - 1


def _find(definition: Definition, number: int) -> Iothread | None:
    return next((one for one in iothread_ids(definition) if one.id == number), None)


def _take(definition: Definition, threads: list[Iothread]) -> None:
    definition.iothreads = len(threads) or None
    definition.iothreadids.iothreads = threads


def _need(definition: Definition, number: int) -> Iothread:
    found = _find(definition, number)
    if found is None:
        raise InvalidArg(f"cannot find IOThread '{number}' in iothreadids list", domain=ErrorDomain.DOMAIN)
    return found


def _check_unused(definition: Definition, number: int) -> None:
    for disk in definition.devices.disks:
        if disk.driver.iothread == number:
            raise InvalidArg(f"cannot remove IOThread {number} since it is being used by disk '{disk.name}'")
    for controller in definition.devices.controllers:
        if controller.driver.iothread == number:
            raise InvalidArg(f"cannot remove IOThread '{number}' since it is being used by controller")


async def add(domain: "Domain", number: int, flags: int) -> None:
    """Make an iothread."""
    if number == 0:
        raise InvalidArg("invalid value of 0 for iothread_id")

    def check(running: Definition | None, config: Definition | None) -> None:
        for definition in (running, config):
            if definition is not None and _find(definition, number) is not None:
                raise InvalidArg(
                    f"an IOThread is already using iothread_id '{number}'", domain=ErrorDomain.DOMAIN
                )

    async def on_live(running: Running) -> None:
        command, arguments = iothread_object(Iothread(id=number)).to_qmp()
        await running.execute(command, arguments, deadline=COMMAND_DEADLINE)
        note(running.definition)
        domain.hypervisor.checkpoint("iothread added")
        try:
            await _settle(domain, running, number)
        except QvirtError:
            await commands.object_del(running, f"iothread{number}")
            _take(running.definition, [x for x in iothread_ids(running.definition) if x.id != number])
            await cgroups.place_threads(domain, running)
            raise

    def note(definition: Definition) -> None:
        _take(definition, [*iothread_ids(definition), Iothread(id=number)])

    await change(domain, "add iothread", flags, live=on_live, config=note, check=check)


async def _settle(domain: "Domain", running: Running, number: int) -> None:
    """Put a new iothread where the document wants it. Raises SystemError_."""
    await cgroups.place_threads(domain, running)
    thread = (await pinning.iothread_threads(running)).get(number)
    if thread is not None:
        pinning.pin_iothread_thread(running, number, thread)
        scheduling.schedule_iothread(running, number, thread)


async def remove(domain: "Domain", number: int, flags: int) -> None:
    """Remove an iothread that nothing uses."""
    if number == 0:
        raise InvalidArg("invalid value of 0 for iothread_id")

    def check(running: Definition | None, config: Definition | None) -> None:
        for definition in (running, config):
            if definition is not None:
                _need(definition, number)
                _check_unused(definition, number)

    async def on_live(running: Running) -> None:
        await commands.object_del(running, f"iothread{number}")
        note(running.definition)
        domain.hypervisor.checkpoint("iothread removed")
        await cgroups.place_threads(domain, running)

    def note(definition: Definition) -> None:
        _take(definition, [one for one in iothread_ids(definition) if one.id != number])
        if "cputune" in definition.__dict__:
            tune = definition.cputune
            tune.iothreadpins = [pin for pin in tune.iothreadpins if pin.iothread != number]
            tune.iothreadscheds = [one for one in tune.iothreadscheds if number not in one.iothreads]

    await change(domain, "remove iothread", flags, live=on_live, config=note, check=check)


async def after_reconnect(running: Running) -> None:
    """Take iothreads that were made or removed when the last daemon ended before it could write it down."""
    definition = running.definition
    known = iothread_ids(definition)
    there = set(await pinning.iothread_threads(running))
    if there == {one.id for one in known}:
        return
    kept = [one for one in known if one.id in there]
    _take(definition, kept + [Iothread(id=number) for number in sorted(there - {one.id for one in kept})])
    running.touch()


async def set_parameters(domain: "Domain", number: int, values: Mapping[str, int], flags: int) -> None:
    """Set how an iothread polls (while it runs) and how large its thread pool is."""
    if number == 0:
        raise InvalidArg("invalid value of 0 for iothread_id")

    def check(running: Definition | None, config: Definition | None) -> None:
        for definition in (running, config):
            if definition is not None and _find(definition, number) is None:
                raise InvalidArg(f"cannot find IOThread '{number}' in iothreadids")
        if config is not None and any(name.startswith("poll_") for name in values):
            raise ConfigUnsupported("configuring persistent polling values is not supported")

        too_much = next((name for name in values if values[name] > _MOST and name in PROPERTIES), None)
        if running is not None and too_much is not None:
            raise ConfigUnsupported(
                f"{PROPERTIES[too_much]} ({values[too_much]}) must be less than or equal to {_MOST}"
            )

    async def on_live(running: Running) -> None:
        before = _need(running.definition, number)
        # a new least size above the old most one is set after the most
        raise_first = values.get("thread_pool_min", 0) > (before.thread_pool_max or 64)
        names = sorted(values, key=list(PROPERTIES).index, reverse=raise_first)
        for name in names:
            path = f"/objects/iothread{number}"
            await commands.qom_set(running, path, PROPERTIES[name], values[name])
        note(running.definition)

    def note(definition: Definition) -> None:
        pools = {name: value for name, value in values.items() if name.startswith("thread_pool_")}
        if not pools:
            return
        threads = iothread_ids(definition)
        for thread in threads:
            if thread.id == number:
                for name, value in pools.items():
                    setattr(thread, name, value if value >= 0 else None)
                thread.check()
        _take(definition, threads)

    await change(domain, "set iothread", flags, live=on_live, config=note, check=check)
