"""Devices that are attached, detached and updated: in the definition, in the running guest, or in both.

One mechanism for every kind. A device is the steps its records make; played forward they plug it, their
undoing played backward takes it out. The status file names a device before anything is made for it, so that
whoever comes after a crash finds either the whole device or something to take away.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from qvirt.constants.domain import DomainDeviceModifyFlags
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, OperationFailed, OperationTimeout, QvirtError
from qvirt.model.devices import parse_device
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.domain import Domain as Definition
from qvirt.qemu import plug
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import handler
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Step
from qvirt.qmp.commands import as_objects
from qvirt.qmp.errors import MonitorClosed, QmpError
from qvirt.runtime import live
from qvirt.runtime.events import DeviceAdded, DeviceRemoved
from qvirt.runtime.jobs import Job
from qvirt.runtime.life import refusals
from qvirt.runtime.life.launch import Passed
from qvirt.runtime.plugging import drives, hostside, pci, unplug
from qvirt.runtime.plugging.unplug import Outcome
from qvirt.runtime.running import COMMAND_DEADLINE, Running
from qvirt.runtime.tuning.order import change

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: how often what a device leaves is tried to be taken away while QEMU holds it
_CLEARINGS = 5
#: how QEMU says that it holds a node, an object or a character device
_HELD = re.compile(r"in use|busy")
#: how often a guest may close the tray of a drive while its medium changes
_REOPENINGS = 5

Played: TypeAlias = list[tuple[Device, Step]]


async def attach(domain: "Domain", xml: str, flags: int) -> None:
    """Add the device a document describes; flags: DomainDeviceModifyFlags."""
    dev = parse_device(xml)

    async def check(running: Definition | None, config: Definition | None) -> None:
        # what is made up, such as a MAC address, is the same in both
        either = running if running is not None else config
        if either is not None:
            handler(dev).defaults(dev, await _context(domain, either))

    async def on_config(definition: Definition) -> None:
        plug.define(dev.copy(), await _context(domain, definition))

    async def on_live(running: Running) -> None:
        if _is_drive_of(dev, running.definition):
            await _update(domain, running, dev.copy(), force=False)
        else:
            await _plug(domain, running, dev.copy())

    await change(domain, "attach device", flags, live=on_live, config=on_config, check=check, soon=True)


def _is_drive_of(dev: Device, definition: Definition) -> bool:
    """Tell whether a drive is one the guest has: attaching it again puts the medium in."""
    return (
        isinstance(dev, Disk)
        and dev.is_removable
        and any(known.name == dev.name and known.is_removable for known in definition.devices.disks)
    )


async def detach(domain: "Domain", xml: str, flags: int) -> None:
    """Remove the device a document means. A guest that has not let go of it in time goes on having it."""
    wanted = parse_device(xml, names_only=True)

    def find(ctx: Context, is_live: bool) -> Device:
        plug.check_detach(wanted, live=is_live)
        return plug.find(wanted.copy(), ctx, live=is_live)

    await _detach(domain, flags, find, wait=True)


async def detach_alias(domain: "Domain", alias: str, flags: int) -> None:
    """Remove the device that has an alias; the guest is asked, and not waited for."""

    def find(ctx: Context, is_live: bool) -> Device:
        for dev in ctx.domain.devices.all():
            if dev.alias.name == alias:
                plug.check_detach(dev, live=is_live)
                return dev
        raise InternalError(f"no device found with alias {alias}", domain=ErrorDomain.DOMAIN)

    await _detach(domain, flags, find, wait=False)


async def _detach(
    domain: "Domain", flags: int, find: Callable[[Context, bool], Device], *, wait: bool
) -> None:
    async def on_config(definition: Definition) -> None:
        ctx = await _context(domain, definition)
        plug.undefine(find(ctx, False), ctx)

    async def on_live(running: Running) -> None:
        ctx = await hostside.context(domain, running)
        dev = find(ctx, True)
        handler(dev).check_unplug(dev, ctx)
        await _unplug(domain, running, dev, ctx, wait=wait)

    await change(domain, "detach device", flags, live=on_live, config=on_config, soon=True)


async def update(domain: "Domain", xml: str, flags: int) -> None:
    """Make a device what a document says. flags: DomainDeviceModifyFlags, FORCE: whatever the guest says."""
    new = parse_device(xml)
    force = bool(flags & DomainDeviceModifyFlags.FORCE)

    async def on_config(definition: Definition) -> None:
        plug.redefine(new.copy(), await _context(domain, definition))

    async def on_live(running: Running) -> None:
        await _update(domain, running, new.copy(), force=force)

    await change(domain, "update device", flags, live=on_live, config=on_config)


async def _context(domain: "Domain", definition: Definition) -> Context:
    documents = domain.hypervisor.documents
    return documents.context(definition, await documents.caps_for(definition), abi_update=True)


# -------------------------------------------------------------------------- plugging


async def _plug(domain: "Domain", running: Running, dev: Device) -> None:
    """Plug a device, and the controllers it needs, into a running guest."""
    hv = domain.hypervisor
    definition, mark = running.definition, running.footprint
    ctx = await hostside.context(domain, running, passing=True, new=dev)
    passed = ctx.launch
    assert isinstance(passed, Passed)  # noqa: S101 - for the type checker
    ctx.domain = definition.copy()
    devices = plug.place(dev, ctx)
    name = partial(plug.name, devices, ctx)
    needs = await hostside.look(domain, running, devices, ctx, name, plugging=True)
    for one in devices:
        plug.enter(one, definition)
    running.touch(devices)
    mark.plugging = [str(one.alias.name) for one in devices]
    played: Played = []
    try:
        await hostside.claim(domain, running, devices, needs, passed)
        made = plug.steps(devices, ctx)
        steps = [(dev, step) for step in passed.steps()] + made
        await _play(domain, running, steps, played)
        await live.after_plug(domain, running, devices)
    except BaseException as error:
        if isinstance(error, QvirtError):
            await refusals.explain(domain, running, error)
        await asyncio.shield(_take_back(domain, running, devices, played, ctx))
        raise
    finally:
        passed.close()
    hv.checkpoint("device plugged")
    mark.plugging = []
    running.touch(devices)
    domain.publish(DeviceAdded(domain.ref, str(dev.alias.name)))


async def _play(domain: "Domain", running: Running, steps: Played, played: Played) -> None:
    """Run steps in order, adding those that have been done to ``played``.

    The backends are sent at once, as only QEMU knows of them; one whose forerunner was refused is refused,
    too, or is undone with the rest. The guest is shown nothing before all that it needs is there.
    """
    with running.guard.watch() as watch:
        try:
            await _play_watched(domain, running, steps, played)
        except QmpError as error:
            raise await refusals.enriched(domain, running, watch, error) from None


async def _play_watched(domain: "Domain", running: Running, steps: Played, played: Played) -> None:
    first = next((at for at, (_, step) in enumerate(steps) if not step.is_backend), len(steps))
    for batch in (steps[:first], *([pair] for pair in steps[first:])):
        asked = [
            asyncio.ensure_future(_execute(running, step, step.command, step.arguments, fds=step.fds))
            for _, step in batch
        ]
        try:
            answers = await asyncio.gather(*asked, return_exceptions=True)
        except BaseException:
            played += batch  # they may have been done
            raise
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        played += [
            pair
            for pair, answer in zip(batch, answers, strict=True)
            if not isinstance(answer, BaseException) or isinstance(answer, OperationTimeout)
        ]
        if failed:
            raise failed[0]
        for _, step in batch:
            if step.tray is not None:
                await unplug.tray_open(running, step.tray)
        if answers:
            domain.hypervisor.checkpoint(f"{batch[-1][1].command} done")


async def _execute(
    running: Running, step: Step, command: str, arguments: dict[str, JsonValue], fds: Sequence[int] = ()
) -> None:
    """Run a step's command, or its undoing; a tray that the guest has closed meanwhile is opened again."""
    for left in range(_REOPENINGS, -1, -1):
        try:
            await running.execute(command, arguments, fds=fds, deadline=COMMAND_DEADLINE)
        except QmpError as error:
            if step.reopen is None or not left or "is not open" not in error.desc:
                raise
            log.info("domain '%s': %s; it is opened again", running.definition.name, error.desc)
            await running.execute(*step.reopen, deadline=COMMAND_DEADLINE)
        else:
            return


async def _undo(running: Running, played: Played) -> list[Device]:
    """Take back what was done, the last first. Returns the devices the guest has not let go of.

    What such a device needs stays; the rest goes when the guest lets go.
    """
    kept: list[Device] = []
    for dev, step in reversed(played):
        if step.undo is None or any(dev is one for one in kept):
            continue
        try:
            if step.device is None:
                await _execute(running, step, *step.undo)
            elif await unplug.ask(running, step.device) is not Outcome.GONE:
                kept.append(dev)
        except MonitorClosed:
            return []  # QEMU has ended, and everything with it
        except QvirtError as error:
            log.info("domain '%s': undoing '%s': %s", running.definition.name, step.command, error)
    return kept


async def _take_back(
    domain: "Domain", running: Running, devices: Sequence[Device], played: Played, ctx: BuildContext
) -> None:
    """Undo a plugging that failed half way."""
    kept = await _undo(running, played)
    gone = [dev for dev in devices if all(dev is not one for one in kept)]
    for dev in gone:
        plug.leave(dev, running.definition)
    running.footprint.plugging = []
    running.touch(gone)
    _log(domain, await hostside.release(domain, running, gone, ctx))
    await domain.save_status()


# ------------------------------------------------------------------------ unplugging


async def _unplug(domain: "Domain", running: Running, dev: Device, ctx: BuildContext, *, wait: bool) -> None:
    """Ask the guest to let go of a device, and take away what is left when it has."""
    patience = unplug.PATIENCE if wait else 0.0
    for id in reversed(plug.frontends(dev, ctx)):
        outcome = await unplug.ask(running, id, patience=patience)
        if outcome is Outcome.REFUSED:
            raise OperationFailed(f"unplug of device was rejected by the guest: '{id}' stays")
        if outcome is Outcome.PENDING:
            return
    domain.hypervisor.checkpoint("device deleted")
    await _take_out(domain, running, dev, ctx)


async def _take_out(
    domain: "Domain", running: Running, dev: Device, ctx: BuildContext, *, quiet: bool = False
) -> None:
    """Take away what is left of a device that the guest has let go of. quiet: nobody was told of it."""
    left = await _clear(domain, running, list(plug.leftovers(dev, ctx)))
    for _ in range(_CLEARINGS):
        if not left:
            break
        # who came too late to hear that QEMU is done with the device tries again all the same
        await unplug.deleted(running, str(dev.alias.name))
        left = await _clear(domain, running, left)
    plug.leave(dev, running.definition)
    running.touch([dev])
    _log(domain, await hostside.release(domain, running, [dev], ctx))
    domain.hypervisor.checkpoint("device's host side released")
    if not quiet:
        domain.publish(DeviceRemoved(domain.ref, str(dev.alias.name)))


async def _clear(
    domain: "Domain", running: Running, commands: list[tuple[str, dict[str, JsonValue]]]
) -> list[tuple[str, dict[str, JsonValue]]]:
    """Take away backends. Returns what QEMU still holds, as it is not quite done with the device."""
    asked = [running.execute(*command, deadline=COMMAND_DEADLINE) for command in commands]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    domain.hypervisor.checkpoint("device's backends removed")
    failed: list[tuple[str, dict[str, JsonValue]]] = []
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(answer, QmpError):
            log.info("domain '%s': %s", domain.name, answer)
            if _HELD.search(answer.desc):
                failed.append(command)
        elif isinstance(answer, BaseException):
            raise answer
    return failed


async def take_late(domain: "Domain", running: Running, alias: str) -> None:
    """Take away what is left of a device that the guest let go of when nobody waited for it. @background."""
    while domain.running is running and not running.finishing:
        try:
            async with domain.job(Job.MODIFY, "device unplugged"):
                if domain.running is not running or running.finishing:
                    return
                ctx = await hostside.context(domain, running)
                for dev in list(running.definition.devices.all()):
                    if dev.alias.name == alias:
                        await _take_out(domain, running, dev, ctx)
                        await domain.save_status()
                return
        except OperationTimeout:
            continue  # somebody has had the job for long: the device is gone all the same


async def after_reconnect(domain: "Domain", running: Running) -> None:
    """Bring the live definition and the guest together: what came or went while nobody watched.

    A device that was being plugged and is not whole is taken away; one that the guest let go of goes, too;
    one that was being changed is what the definition says.
    """
    mark = running.footprint
    await _finish_change(domain, running)
    await drives.after_reconnect(running)
    peripheral = await running.execute("qom-list", {"path": "/machine/peripheral"})
    there = (
        {str(item.get("name")) for item in peripheral if isinstance(item, dict)}
        if isinstance(peripheral, list)
        else set()
    )
    there |= await _without_id(running)
    missing = [
        dev
        for dev in running.definition.devices.all()
        if dev.alias.name is not None and dev.alias.name not in there
    ]
    plugged = [alias for alias in mark.plugging if alias in there]
    if missing:
        ctx = await hostside.context(domain, running)
        for dev in reversed(missing):
            half = dev.alias.name in mark.plugging
            if half or _should_be_there(dev, ctx):
                await _take_out(domain, running, dev, ctx, quiet=half)
    mark.plugging = []
    for alias in plugged:
        domain.publish(DeviceAdded(domain.ref, alias))


async def _without_id(running: Running) -> set[str]:
    """Return our names of the devices there are that QEMU has without an id."""
    paths = running.names.devices()
    if not paths:
        return set()
    folder = "/machine/peripheral-anon"
    listed = as_objects(await running.execute("qom-list", {"path": folder}), "qom-list")
    there = {f"{folder}/{item.get('name')}" for item in listed}
    return {ours for ours, path in paths.items() if not path.startswith(f"{folder}/") or path in there}


def _should_be_there(dev: Device, ctx: BuildContext) -> bool:
    """Tell whether a device is one that QEMU has under its alias, as long as the guest has it."""
    if not handler(dev).live:
        return False
    try:
        return dev.alias.name in plug.frontends(dev, ctx)
    except QvirtError:
        return False


# ---------------------------------------------------------------------------- updating


async def _update(domain: "Domain", running: Running, new: Device, *, force: bool) -> None:
    """Make a device of a running guest what a new description says."""
    ctx = await hostside.context(domain, running, passing=True)
    passed = ctx.launch
    assert isinstance(passed, Passed)  # noqa: S101 - for the type checker
    plug.check_update(new)
    old, twin = _prepare_update(running, new, ctx)
    needs = await hostside.look(domain, running, [new], ctx, partial(plug.name_beside, new, twin, ctx))
    try:
        steps = [(new, step) for step in plug.update(twin, new, ctx, force=force)]
    except QvirtError:
        pci.drop(running, needs.functions)
        raise
    played: Played = []
    mark = running.footprint
    mark.changing = new.to_xml()
    try:
        await hostside.change(domain, running, old, new, needs, ctx, passed)
        try:
            await _play(domain, running, steps, played)
        except BaseException:
            await asyncio.shield(_change_back(domain, running, old, new, played, ctx))
            raise
        plug.settle(old, new, running.definition)
        running.touch()
        mark.changing = old.to_xml()
        await domain.save_status()  # from here on it is the old one that is taken away
        domain.hypervisor.checkpoint("device changed")
        _log(domain, await hostside.forget(domain, running, old, ctx))
        domain.hypervisor.checkpoint("device's old host side released")
    finally:
        mark.changing = ""
        passed.close()


def _prepare_update(running: Running, new: Device, ctx: BuildContext) -> tuple[Device, Device]:
    """Complete the new description of a device; returns the old one, and its twin in a definition of its own.

    The context's domain, which was the live definition, is a copy of it from then on, with the new one in it.
    """
    old = plug.find(new, ctx, live=True, update=True)
    place = next(i for i, dev in enumerate(ctx.domain.devices.list_of(old)) if dev is old)
    ctx.domain = running.definition.copy()
    twin = ctx.domain.devices.list_of(old)[place]
    plug.replace(twin, new, ctx)
    return old, twin


async def _change_back(
    domain: "Domain", running: Running, old: Device, new: Device, played: Played, ctx: BuildContext
) -> None:
    """Undo an update that failed half way."""
    await _undo(running, played)
    _log(domain, await hostside.change_back(domain, running, old, new, ctx))


async def _finish_change(domain: "Domain", running: Running) -> None:
    """Bring a device that was being updated to what the live definition says, and take the other one away.

    All the steps that lead to the other one are undone; those that were not taken are passed over.
    """
    mark = running.footprint
    if not mark.changing:
        return
    new = parse_device(mark.changing)
    ctx = await hostside.context(domain, running)
    try:
        plug.restore(plug.find(new, ctx, live=True, update=True), new)
        old, twin = _prepare_update(running, new, ctx)
        plug.name_beside(new, twin, ctx)
        steps = [(new, step) for step in plug.update(twin, new, ctx, force=True)]
        await _change_back(domain, running, old, new, steps, ctx)
    except QvirtError as error:
        log.error("domain '%s': what was being changed cannot be put back: %s", domain.name, error)
    mark.changing = ""
    running.touch()


def _log(domain: "Domain", failures: Sequence[str]) -> None:
    for failure in failures:
        log.error("domain '%s': %s", domain.name, failure)
