"""The QEMU-specific program: monitor and agent commands, raw monitor events."""

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, Handle, find, handle, uuid_text
from qvirt.api.registry import qemu
from qvirt.api.session import Session
from qvirt.constants.qemu import ConnectDomainQemuMonitorEventRegisterFlags as MonitorEventFlags
from qvirt.constants.qemu import DomainQemuAgentCommandTimeout, DomainQemuMonitorCommandFlags
from qvirt.errors import InvalidArg


@qemu
async def domain_monitor_command(session: Session, dom: DomainHandle, cmd: str, flags: int) -> str:
    """Run a QMP command, or with HMP one of the human monitor; the domain is tainted by it."""
    check_flags(flags, DomainQemuMonitorCommandFlags.HMP, "qemuDomainQemuMonitorCommand")
    hmp = bool(flags & DomainQemuMonitorCommandFlags.HMP)
    return await find(session, dom).monitor_command(cmd, hmp=hmp)


@qemu
async def domain_monitor_command_with_files(
    session: Session, dom: DomainHandle, cmd: str, flags: int, *, fds: list[int]
) -> str:
    """The same with descriptors, which QEMU takes by ``getfd`` or ``add-fd``."""
    check_flags(flags, DomainQemuMonitorCommandFlags.HMP, "qemuDomainQemuMonitorCommandWithFiles")
    if len(fds) > 1:
        raise InvalidArg("at most 1 fd can be passed to qemu along with a command")
    hmp = bool(flags & DomainQemuMonitorCommandFlags.HMP)
    return await find(session, dom).monitor_command(cmd, hmp=hmp, fds=tuple(fds))


@qemu
async def domain_attach(session: Session, pid_value: int, flags: int) -> Handle:
    """Make a domain of a running QEMU that somebody else started, by its process id."""
    check_flags(flags, 0, "qemuDomainQemuAttach")
    return handle(await session.hypervisor.adopt(pid_value))


@qemu
async def domain_agent_command(
    session: Session,
    dom: DomainHandle,
    cmd: str,
    timeout: int,  # noqa: ASYNC109 - the table's name
    flags: int,
) -> str | None:
    """Run a command in the guest agent; timeout in seconds, or one of the special values."""
    check_flags(flags, 0, "qemuDomainQemuAgentCommand")
    if timeout < DomainQemuAgentCommandTimeout.MIN:
        raise InvalidArg(
            f"guest agent timeout '{timeout}' is less than the minimum '{DomainQemuAgentCommandTimeout.MIN}'"
        )
    return await find(session, dom).agent_command(cmd, timeout)


@qemu
def connect_domain_monitor_event_register(
    session: Session, dom: DomainHandle | None, event: str | None, flags: int
) -> int:
    """Send raw monitor events, all or those whose name matches; give the callback id they carry."""
    known = MonitorEventFlags.REGEX | MonitorEventFlags.NOCASE
    check_flags(flags, known, "qemuConnectDomainQemuMonitorEventRegister")
    return session.subscriptions.register_raw(uuid_text(dom.uuid) if dom else None, event, flags)


@qemu
def connect_domain_monitor_event_deregister(
    session: Session,
    callbackID: int,
) -> None:
    """Send them no more."""
    session.subscriptions.deregister_raw(callbackID)
