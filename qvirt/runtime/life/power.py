"""Buttons: shutdown, reboot, reset, suspend, resume, sleep, NMI, keys."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qvirt.constants.domain import (
    DomainPausedReason,
    DomainRebootFlags,
    DomainRunningReason,
    DomainShutdownFlags,
    DomainState,
    KeycodeSet,
)
from qvirt.constants.host import NodeSuspendTarget
from qvirt.errors import (
    ArgumentUnsupported,
    InternalError,
    InvalidArg,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
)
from qvirt.qmp import commands
from qvirt.runtime.asking import guest, keycodes
from qvirt.runtime.jobs import Job
from qvirt.runtime.running import COMMAND_DEADLINE, Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: keys that may be pressed together; VIR_DOMAIN_SEND_KEY_MAX_KEYS
MAX_KEYS = 16


async def shutdown(domain: "Domain", flags: int) -> None:
    """Ask the guest to power off, through its agent or the power button."""
    await _ask_guest(domain, flags, reboot=False)


async def reboot(domain: "Domain", flags: int) -> None:
    """Ask the guest to reboot, through its agent, or by a power-off that becomes a reset."""
    await _ask_guest(domain, flags, reboot=True)


async def _ask_guest(domain: "Domain", flags: int, *, reboot: bool) -> None:
    """Press the button that ``flags`` choose. The two flag sets have the same numbers."""
    names = DomainRebootFlags if reboot else DomainShutdownFlags
    running = domain.need_running()
    wants_agent = bool(flags & names.GUEST_AGENT)
    wants_acpi = bool(flags & names.ACPI_POWER_BTN)
    use_agent = wants_agent or (not flags and _has_agent(running))
    definition = running.definition
    action = definition.on_reboot if reboot else definition.on_poweroff
    is_reboot = reboot if action != ("destroy" if reboot else "restart") else not reboot
    if use_agent:
        try:
            await guest.shutdown(domain, "reboot" if is_reboot else "powerdown")
        except QvirtError:
            # With nothing or both asked for, the button is the way out.
            if wants_agent and not wants_acpi:
                raise
        else:
            return
    async with domain.job(Job.MODIFY, "reboot" if reboot else "shutdown"):
        running = domain.need_running()
        running.fake_reboot = is_reboot
        await domain.save_status()
        await commands.system_powerdown(running)


def _has_agent(running: Running) -> bool:
    return running.agent_connected


async def reset(domain: "Domain") -> None:
    """Press the reset button."""
    async with domain.job(Job.MODIFY, "reset"):
        running = domain.need_running()
        await commands.system_reset(running)
        running.fake_reboot = False
        if domain.state == DomainState.CRASHED:
            domain.set_state(DomainState.PAUSED, DomainPausedReason.CRASHED)
        domain.save_soon()


async def suspend(domain: "Domain") -> None:
    """Stop the vCPUs; harmless when they are stopped."""
    async with domain.job(Job.MODIFY, "suspend"):
        running = domain.need_running()
        if domain.state == DomainState.PMSUSPENDED:
            raise OperationInvalid("domain is pmsuspended")
        if domain.state == DomainState.PAUSED:
            return
        await pause(domain, running, DomainPausedReason.USER)


async def pause(domain: "Domain", running: Running, reason: int) -> None:
    """Stop the vCPUs for a reason; the STOP event, which comes before the answer, tells everybody."""
    running.paused_reason = reason
    try:
        await running.execute("stop", deadline=COMMAND_DEADLINE)
    finally:
        running.paused_reason = None
    await domain.note_status()


async def resume(domain: "Domain") -> None:
    """Let the vCPUs run."""
    async with domain.job(Job.MODIFY, "resume"):
        running = domain.need_running()
        state = domain.state
        if state == DomainState.PMSUSPENDED:
            raise OperationInvalid("domain is pmsuspended")
        if state == DomainState.RUNNING:
            raise OperationInvalid("domain is already running")
        if (state == DomainState.CRASHED and domain.reason == 1) or state == DomainState.SHUTDOWN:
            raise OperationInvalid("domain is in a state that needs reset before resume")
        running.running_reason = DomainRunningReason.UNPAUSED
        try:
            await running.execute("cont", deadline=COMMAND_DEADLINE)
        finally:
            running.running_reason = None
        await domain.note_status()


async def pm_suspend(domain: "Domain", target: int, duration: int) -> None:
    """Put the guest to sleep through its agent."""
    if duration:
        raise ArgumentUnsupported("Duration not supported. Use 0 for now")
    words = {
        NodeSuspendTarget.MEM: "guest-suspend-ram",
        NodeSuspendTarget.DISK: "guest-suspend-disk",
        NodeSuspendTarget.HYBRID: "guest-suspend-hybrid",
    }
    if target not in words:
        raise InvalidArg(f"Unknown suspend target: {target}")
    running = domain.need_running()
    pm = running.definition.pm
    for kind, entry, name in (
        (NodeSuspendTarget.MEM, pm.suspend_to_mem, "S3"),
        (NodeSuspendTarget.DISK, pm.suspend_to_disk, "S4"),
    ):
        if target in (kind, NodeSuspendTarget.HYBRID) and entry is not None and entry.enabled is False:
            raise OperationUnsupported(f"{name} state is disabled for this domain")
    agent = await guest.agent_of(domain)
    await agent.send(words[target])


async def pm_wakeup(domain: "Domain") -> None:
    """Wake a sleeping guest."""
    async with domain.job(Job.MODIFY, "wakeup"):
        await commands.system_wakeup(domain.need_running())


async def inject_nmi(domain: "Domain") -> None:
    """Send an NMI to every vCPU."""
    async with domain.job(Job.MODIFY, "inject NMI"):
        await commands.inject_nmi(domain.need_running())


async def send_key(domain: "Domain", codeset: int, holdtime: int, codes: Sequence[int]) -> None:
    """Press keys together, translated from any of libvirt's code sets to QEMU's key numbers."""
    if len(codes) > MAX_KEYS:
        raise InvalidArg(f"nkeycodes in virDomainSendKey must be less than or equal to {MAX_KEYS}")
    running = domain.need_running()
    numbers: list[int] = []
    for code in codes:
        number = code if codeset == KeycodeSet.QNUM else keycodes.to_qnum(codeset, code)
        if number is None:
            raise InternalError(
                f"cannot translate keycode {code} of {keycodes.NAMES.get(codeset, codeset)} codeset "
                "to qnum keycode"
            )
        numbers.append(number)
    async with domain.job(Job.MODIFY, "send key"):
        running = domain.need_running()
        await commands.send_key(running, numbers, holdtime or None)
