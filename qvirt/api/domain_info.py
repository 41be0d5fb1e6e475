"""Reading a domain: state, info, document, labels, messages, jobs."""

from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import WireParam
from qvirt.constants.domain import DomainGetJobStatsFlags, DomainMessageType
from qvirt.constants.domain import DomainXMLFlags as Xml
from qvirt.errors import OperationInvalid

_XML_FLAGS: Final = Xml.SECURE | Xml.INACTIVE | Xml.UPDATE_CPU | Xml.MIGRATABLE


@remote
def domain_get_state(session: Session, dom: DomainHandle, flags: int) -> tuple[int, int]:
    """Give state and reason."""
    check_flags(flags, 0, "qemuDomainGetState")
    domain = find(session, dom)
    return domain.state, domain.reason


@remote
async def domain_get_info(session: Session, dom: DomainHandle) -> tuple[int, int, int, int, int]:
    """Give state, maximum and current memory in KiB, vCPUs, CPU time in ns."""
    info = await find(session, dom).info()
    return info.state, info.max_mem, info.memory, info.nr_virt_cpu, info.cpu_time


@remote
def domain_get_control_info(session: Session, dom: DomainHandle, flags: int) -> tuple[int, int, int]:
    """Give the state of the monitor, its error, and for how long in ms."""
    check_flags(flags, 0, "qemuDomainGetControlInfo")
    info = find(session, dom).control_info()
    return info.state, info.details, info.state_time


@remote
async def domain_get_xml_desc(session: Session, dom: DomainHandle, flags: int) -> str:
    """Give the document."""
    check_flags(flags, _XML_FLAGS, "qemuDomainGetXMLDesc")
    if flags & Xml.MIGRATABLE:
        # The other host needs the passwords, too.
        flags |= Xml.SECURE
    return await find(session, dom).xml_desc(flags)


@remote
def domain_get_os_type(session: Session, dom: DomainHandle) -> str:
    """Give the type of operating system, hvm."""
    return find(session, dom).os_type()


@remote
def domain_is_active(session: Session, dom: DomainHandle) -> int:
    """Tell whether it runs."""
    return int(find(session, dom).active)


@remote
def domain_is_persistent(session: Session, dom: DomainHandle) -> int:
    """Tell whether it has a definition."""
    return int(find(session, dom).persistent)


@remote
def domain_is_updated(session: Session, dom: DomainHandle) -> int:
    """Tell whether its definition was changed while it ran."""
    return int(find(session, dom).updated)


@remote
def domain_has_managed_save_image(session: Session, dom: DomainHandle, flags: int) -> int:
    """Tell whether it was put to sleep by managed save."""
    check_flags(flags, 0, "qemuDomainHasManagedSaveImage")
    return int(find(session, dom).has_managed_save)


@remote
def domain_get_messages(session: Session, dom: DomainHandle, flags: int) -> list[str]:
    """Give what is worth knowing about it: tainting, deprecation."""
    check_flags(flags, DomainMessageType.DEPRECATION | DomainMessageType.TAINTING, "qemuDomainGetMessages")
    return find(session, dom).messages(flags)[:2048]


@remote
def domain_get_security_label(session: Session, dom: DomainHandle) -> tuple[bytes, int]:
    """Give the first label of its process, and whether it is enforced."""
    labels = find(session, dom).security_labels()
    if not labels:
        return b"\0", 0
    return labels[0].label.encode()[:4096] + b"\0", int(labels[0].enforcing)


@remote
def domain_get_security_label_list(
    session: Session, dom: DomainHandle
) -> tuple[list[tuple[bytes, int]], int]:
    """Give the labels of its process, one per security driver."""
    labels = find(session, dom).security_labels()[:64]
    return [(each.label.encode()[:4096] + b"\0", int(each.enforcing)) for each in labels], len(labels)


@remote
def domain_get_job_info(session: Session, dom: DomainHandle) -> tuple[int, ...]:
    """Give how far its job has come."""
    info = find(session, dom).job_info()
    return (info.type, info.time_elapsed, info.time_remaining, *(0,) * 9)


@remote
def domain_get_job_stats(session: Session, dom: DomainHandle, flags: int) -> tuple[int, list[WireParam]]:
    """Give how far its job has come, in parameters."""
    known = DomainGetJobStatsFlags.COMPLETED | DomainGetJobStatsFlags.KEEP_COMPLETED
    check_flags(flags, known, "qemuDomainGetJobStats")
    domain = find(session, dom)
    if flags & DomainGetJobStatsFlags.COMPLETED:
        # The statistics of the last job are kept only by jobs that do not exist yet.
        return 0, []
    return domain.job_info().type, []


@remote
def domain_abort_job(session: Session, dom: DomainHandle) -> None:
    """Stop the job under way."""
    find(session, dom).job_info()
    raise OperationInvalid("no job is active on the domain")
