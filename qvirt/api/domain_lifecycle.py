"""Starting, stopping and everything between."""

from typing import Final

from qvirt.api.domain_define import CREATE_FLAGS
from qvirt.api.flags import PlainInvalidArg, check_flags
from qvirt.api.handle import DomainHandle, Handle, find, handle
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.domain import DomainCreateFlags, DomainDestroyFlags, KeycodeSet
from qvirt.constants.domain import DomainLifecycle as Lifecycle
from qvirt.constants.domain import DomainLifecycleAction as Action
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.constants.domain import DomainRebootFlags as Reboot
from qvirt.constants.domain import DomainShutdownFlags as Shutdown
from qvirt.constants.host import NodeSuspendTarget
from qvirt.errors import ArgumentUnsupported, InvalidArg

_START_FLAGS: Final = (
    CREATE_FLAGS & ~DomainCreateFlags.START_VALIDATE
    | DomainCreateFlags.START_BYPASS_CACHE
    | DomainCreateFlags.START_FORCE_BOOT
)


@remote
async def domain_create(session: Session, dom: DomainHandle) -> None:
    """Start a defined domain."""
    await find(session, dom).start()


@remote
async def domain_create_with_flags(session: Session, dom: DomainHandle, flags: int) -> Handle:
    """Start a defined domain."""
    check_flags(flags, _START_FLAGS, "qemuDomainCreateWithFlags")
    domain = find(session, dom)
    autodestroy = bool(flags & DomainCreateFlags.START_AUTODESTROY)
    if autodestroy:
        session.owns_domains = True
    await domain.start(
        paused=bool(flags & DomainCreateFlags.START_PAUSED),
        autodestroy=session if autodestroy else None,
        bypass_cache=bool(flags & DomainCreateFlags.START_BYPASS_CACHE),
        force_boot=bool(flags & DomainCreateFlags.START_FORCE_BOOT),
        reset_nvram=bool(flags & DomainCreateFlags.START_RESET_NVRAM),
    )
    return handle(domain)


@remote
async def domain_create_with_files(
    session: Session, dom: DomainHandle, flags: int, *, fds: list[int]
) -> Handle:
    """Start a defined domain with descriptors; only containers take any, as in libvirt."""
    if fds:
        raise ArgumentUnsupported("passing file descriptors to a domain: this driver takes none")
    return await domain_create_with_flags(session, dom, flags)


@remote
async def domain_destroy(session: Session, dom: DomainHandle) -> None:
    """End a domain at once."""
    await find(session, dom).destroy()


@remote
async def domain_destroy_flags(session: Session, dom: DomainHandle, flags: int) -> None:
    """End a domain; GRACEFUL never kills."""
    check_flags(flags, DomainDestroyFlags.GRACEFUL | DomainDestroyFlags.REMOVE_LOGS, "qemuDomainDestroyFlags")
    await find(session, dom).destroy(
        graceful=bool(flags & DomainDestroyFlags.GRACEFUL),
        remove_logs=bool(flags & DomainDestroyFlags.REMOVE_LOGS),
    )


@remote
async def domain_shutdown(session: Session, dom: DomainHandle) -> None:
    """Ask the guest to shut down."""
    await find(session, dom).shutdown()


@remote
async def domain_shutdown_flags(session: Session, dom: DomainHandle, flags: int) -> None:
    """Ask the guest to shut down, by agent or power button."""
    check_flags(flags, Shutdown.ACPI_POWER_BTN | Shutdown.GUEST_AGENT, "qemuDomainShutdownFlags")
    await find(session, dom).shutdown(flags)


@remote
async def domain_reboot(session: Session, dom: DomainHandle, flags: int) -> None:
    """Ask the guest to reboot."""
    check_flags(flags, Reboot.ACPI_POWER_BTN | Reboot.GUEST_AGENT, "qemuDomainReboot")
    await find(session, dom).reboot(flags)


@remote
async def domain_reset(session: Session, dom: DomainHandle, flags: int) -> None:
    """Press the reset button."""
    check_flags(flags, 0, "qemuDomainReset")
    await find(session, dom).reset()


@remote
async def domain_suspend(session: Session, dom: DomainHandle) -> None:
    """Stop the vCPUs."""
    await find(session, dom).suspend()


@remote
async def domain_resume(session: Session, dom: DomainHandle) -> None:
    """Let the vCPUs run again."""
    await find(session, dom).resume()


@remote
async def domain_pm_suspend_for_duration(
    session: Session, dom: DomainHandle, target: int, duration: int, flags: int
) -> None:
    """Put the guest to sleep through its agent."""
    check_flags(flags, 0, "qemuDomainPMSuspendForDuration")
    if duration:
        raise ArgumentUnsupported("Duration not supported. Use 0 for now")
    if target not in (NodeSuspendTarget.MEM, NodeSuspendTarget.DISK, NodeSuspendTarget.HYBRID):
        raise InvalidArg(f"Unknown suspend target: {target}")
    await find(session, dom).pm_suspend(target, duration)


@remote
async def domain_pm_wakeup(session: Session, dom: DomainHandle, flags: int) -> None:
    """Wake a sleeping guest."""
    check_flags(flags, 0, "qemuDomainPMWakeup")
    await find(session, dom).pm_wakeup()


@remote
async def domain_inject_nmi(session: Session, dom: DomainHandle, flags: int) -> None:
    """Send an NMI."""
    check_flags(flags, 0, "qemuDomainInjectNMI")
    await find(session, dom).inject_nmi()


@remote
async def domain_send_key(
    session: Session, dom: DomainHandle, codeset: int, holdtime: int, keycodes: list[int], flags: int
) -> None:
    """Press keys together; holdtime in ms."""
    check_flags(flags, 0, "qemuDomainSendKey")
    if not KeycodeSet.LINUX <= codeset <= KeycodeSet.QNUM:
        raise PlainInvalidArg(f"Unsupported codeset '{codeset}'")
    await find(session, dom).send_key(codeset, holdtime, keycodes)


@remote
async def domain_set_lifecycle_action(
    session: Session, dom: DomainHandle, type: int, action: int, flags: int
) -> None:
    """Change what happens on poweroff, reboot or crash."""
    if not Lifecycle.POWEROFF <= type <= Lifecycle.CRASH:
        raise InvalidArg(f"invalid lifecycle type '{type}'")
    if not Action.DESTROY <= action <= Action.COREDUMP_RESTART:
        raise InvalidArg(f"invalid lifecycle action '{action}'")
    check_flags(flags, Impact.LIVE | Impact.CONFIG, "qemuDomainSetLifecycleAction")
    await find(session, dom).set_lifecycle_action(type, action, flags)
