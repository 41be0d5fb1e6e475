"""What follows when a guest powers off, reboots, crashes or lets its watchdog fire: the on_* actions."""

import asyncio
import logging
import os
import signal
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.constants.domain import (
    DomainLifecycle,
    DomainLifecycleAction,
    DomainRunningReason,
    DomainShutoffReason,
    DomainState,
)
from qvirt.constants.domain_event import DomainEventStoppedDetailType
from qvirt.errors import ConfigUnsupported, InvalidArg, QvirtError, SystemError_
from qvirt.model.domain import Domain as Definition
from qvirt.qemu.devices.base import HandedResource
from qvirt.qemu.validate import check_lifecycle
from qvirt.qmp import commands
from qvirt.runtime.jobs import Job
from qvirt.runtime.life import lending
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import order

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

#: seconds for writing a guest's memory
DUMP_DEADLINE = 3600.0

_ACTIONS = {
    DomainLifecycleAction.DESTROY: "destroy",
    DomainLifecycleAction.RESTART: "restart",
    DomainLifecycleAction.RESTART_RENAME: "rename-restart",
    DomainLifecycleAction.PRESERVE: "preserve",
    DomainLifecycleAction.COREDUMP_DESTROY: "coredump-destroy",
    DomainLifecycleAction.COREDUMP_RESTART: "coredump-restart",
}
_LIFECYCLES = {
    DomainLifecycle.POWEROFF: "on_poweroff",
    DomainLifecycle.REBOOT: "on_reboot",
    DomainLifecycle.CRASH: "on_crash",
}


async def set_lifecycle_action(domain: "Domain", type: int, action: int, flags: int) -> None:
    """Change what follows a power-off, reboot or crash."""
    field, word = _LIFECYCLES.get(type), _ACTIONS.get(action)
    if field is None or word is None:
        raise InvalidArg(f"unknown lifecycle type {type} or action {action}")
    if word.startswith("coredump") and field != "on_crash":
        event = field.removeprefix("on_")
        raise ConfigUnsupported(f"Lifecycle event '{event}' doesn't support '{word}' action")

    def change(definition: Definition) -> None:
        setattr(definition, field, word)
        check_lifecycle(definition)

    async def live(running: Running) -> None:
        change(running.definition.copy())  # refused before QEMU hears of it
        if field == "on_reboot":
            await commands.set_action(running, reboot="shutdown" if word == "destroy" else "reset")
        change(running.definition)

    await order.change(domain, "set lifecycle action", flags, live=live, config=change)


def power_off(domain: "Domain", running: Running) -> None:
    """Follow a power-off: end the QEMU, or reset it in place where a restart was asked for."""
    definition = running.definition
    if running.fake_reboot or definition.on_poweroff == "restart":
        domain.hypervisor.background(fake_reboot(domain, running), f"reboot of {domain.name}")
    elif definition.on_poweroff != "preserve":
        running.qemu.send(signal.SIGTERM)
        domain.hypervisor.background(_insist(domain, running), f"power-off of {domain.name}")


async def _insist(domain: "Domain", running: Running) -> None:
    """Make sure that a QEMU whose guest has powered off ends. @background."""
    if not await running.qemu.wait(10.0):
        log.warning("domain '%s': QEMU outlived SIGTERM after power-off; it is killed", domain.name)
        running.qemu.send(signal.SIGKILL)


async def fake_reboot(domain: "Domain", running: Running) -> None:
    """Reset the machine and let it run again: a reboot for a guest that only knows how to power off.

    @background: when QEMU does not take it, the domain ends.
    """
    try:
        async with domain.job(Job.MODIFY, "fake reboot"):
            if domain.running is not running:
                return
            crashed = domain.state == DomainState.CRASHED
            running.got_shutdown = False
            await commands.system_reset(running)
            running.running_reason = DomainRunningReason.CRASHED if crashed else DomainRunningReason.BOOTED
            await commands.cont(running)
            running.running_reason = None
            running.fake_reboot = False
            if domain.state != DomainState.RUNNING:
                domain.set_state(
                    DomainState.RUNNING,
                    DomainRunningReason.CRASHED if crashed else DomainRunningReason.BOOTED,
                )
        await domain.save_status()
    except QvirtError as error:
        log.error("domain '%s': the reboot failed: %s; QEMU is ended", domain.name, error)
        running.fake_reboot = False
        if running.process is not None:
            running.process.send(signal.SIGKILL)


def end(domain: "Domain", running: Running, reason: int, detail: int, word: str) -> None:
    """End a QEMU that has no use any more, and say why."""
    if running.stop_reason is None:
        running.stop_reason = (reason, detail, word)
    running.being_destroyed = True
    running.qemu.send(signal.SIGKILL)


def crashed(domain: "Domain", running: Running) -> None:
    """Follow a guest's panic as on_crash says."""
    action = running.definition.on_crash or "destroy"
    if action == "preserve":
        return
    domain.hypervisor.background(_after_crash(domain, running, action), f"crash of {domain.name}")


async def _after_crash(domain: "Domain", running: Running, action: str) -> None:
    """Dump, restart or end a guest that has panicked. @background."""
    if action.startswith("coredump-"):
        try:
            async with domain.job(Job.MODIFY, "core dump"):
                if domain.running is running:
                    await dump_memory(domain, running)
        except QvirtError as error:
            log.error("domain '%s': the core dump failed: %s", domain.name, error)
    if domain.running is not running:
        return
    if action in ("restart", "coredump-restart"):
        running.fake_reboot = True
        await fake_reboot(domain, running)
    else:
        end(
            domain,
            running,
            DomainShutoffReason.CRASHED,
            DomainEventStoppedDetailType.CRASHED,
            "crashed",
        )


async def watchdog_dump(domain: "Domain", running: Running) -> None:
    """Write the guest's memory because its watchdog fired, then let it run again. @background."""
    async with domain.job(Job.MODIFY, "watchdog dump"):
        if domain.running is not running:
            return
        await dump_memory(domain, running)
        await commands.cont(running)


async def dump_memory(domain: "Domain", running: Running) -> str:
    """Write the guest's memory into the instance's dump folder; returns the file's path.

    QEMU gets a descriptor, so the file stays ours (root 0600 in the system's instance).
    """
    chosen = domain.hypervisor.config.dump_path
    folder = Path(chosen) if chosen else domain.hypervisor.paths.lib / "dump"
    when = datetime.now().astimezone().strftime("%Y-%m-%d-%H:%M:%S")
    path = folder / f"{domain.name[:64]}-{when}"

    def create() -> int:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # the folder may be QEMU's user's, who could put a link to some file of ours there
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemError_(f"failed to create '{path}'", error) from error

    fd = await domain.hypervisor.files.run(f"dump of '{domain.name}'", create)
    reached = HandedResource(running.definition, str(path))
    try:
        await lending.give(domain, running, [reached])
        await commands.getfd(running, "qvirt-dump", fd)
        await running.execute(
            "dump-guest-memory", {"paging": False, "protocol": "fd:qvirt-dump"}, deadline=DUMP_DEADLINE
        )
    except (QvirtError, asyncio.CancelledError):
        drop = partial(path.unlink, missing_ok=True)
        await asyncio.shield(domain.hypervisor.files.run(f"dump of '{domain.name}'", drop))
        raise
    finally:
        os.close(fd)
        for failure in await asyncio.shield(lending.take_back(domain, running, [reached])):
            log.error("domain '%s': %s", domain.name, failure)
    return str(path)
