"""Definitions: define, undefine, rename, autostart, create from a document."""

from typing import Final

from qvirt.api.flags import PlainInvalidArg, check_exclusive, check_flags
from qvirt.api.handle import DomainHandle, Handle, find, handle
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.domain import DomainCreateFlags, DomainDefineFlags
from qvirt.constants.domain import DomainUndefineFlags as Undefine
from qvirt.errors import ArgumentUnsupported

CREATE_FLAGS: Final = (
    DomainCreateFlags.START_PAUSED
    | DomainCreateFlags.START_AUTODESTROY
    | DomainCreateFlags.START_VALIDATE
    | DomainCreateFlags.START_RESET_NVRAM
)

_UNDEFINE_FLAGS: Final = (
    Undefine.MANAGED_SAVE
    | Undefine.SNAPSHOTS_METADATA
    | Undefine.NVRAM
    | Undefine.KEEP_NVRAM
    | Undefine.CHECKPOINTS_METADATA
    | Undefine.TPM
    | Undefine.KEEP_TPM
)


@remote
async def domain_define_xml(session: Session, xml: str) -> Handle:
    """Keep a definition."""
    return handle(await session.hypervisor.define(xml))


@remote
async def domain_define_xml_flags(session: Session, xml: str, flags: int) -> Handle:
    """Keep a definition, checked strictly with VALIDATE."""
    check_flags(flags, DomainDefineFlags.VALIDATE, "qemuDomainDefineXMLFlags")
    validate = bool(flags & DomainDefineFlags.VALIDATE)
    return handle(await session.hypervisor.define(xml, validate=validate))


@remote
async def domain_create_xml(session: Session, xml_desc: str, flags: int) -> Handle:
    """Start a domain that exists only while it runs."""
    check_flags(flags, CREATE_FLAGS, "qemuDomainCreateXML")
    autodestroy = bool(flags & DomainCreateFlags.START_AUTODESTROY)
    if autodestroy:
        session.owns_domains = True
    return handle(
        await session.hypervisor.create(
            xml_desc,
            paused=bool(flags & DomainCreateFlags.START_PAUSED),
            autodestroy=session if autodestroy else None,
            validate=bool(flags & DomainCreateFlags.START_VALIDATE),
            reset_nvram=bool(flags & DomainCreateFlags.START_RESET_NVRAM),
        )
    )


@remote
async def domain_create_xml_with_files(
    session: Session, xml_desc: str, flags: int, *, fds: list[int]
) -> Handle:
    """Start a domain with descriptors; only containers take any, as in libvirt."""
    if fds:
        raise ArgumentUnsupported("passing file descriptors to a new domain: this driver takes none")
    return await domain_create_xml(session, xml_desc, flags)


@remote
async def domain_undefine(session: Session, dom: DomainHandle) -> None:
    """Forget a definition."""
    await find(session, dom).undefine()


@remote
async def domain_undefine_flags(session: Session, dom: DomainHandle, flags: int) -> None:
    """Forget a definition, and what belongs to it as the flags say."""
    check_flags(flags, _UNDEFINE_FLAGS, "qemuDomainUndefineFlags")
    for one, other in (("NVRAM", "KEEP_NVRAM"), ("TPM", "KEEP_TPM")):
        check_exclusive(
            flags,
            (f"VIR_DOMAIN_UNDEFINE_{one}", getattr(Undefine, one)),
            (f"VIR_DOMAIN_UNDEFINE_{other}", getattr(Undefine, other)),
            "qemuDomainUndefineFlags",
        )
    await find(session, dom).undefine(flags)


@remote
async def domain_rename(session: Session, dom: DomainHandle, new_name: str | None, flags: int) -> int:
    """Give an inactive domain another name."""
    if not new_name:
        raise PlainInvalidArg("string new_name in virDomainRename must not be empty")
    check_flags(flags, 0, "qemuDomainRename")
    await find(session, dom).rename(new_name)
    return 0


@remote
def domain_get_autostart(session: Session, dom: DomainHandle) -> int:
    """Tell whether it starts with the daemon."""
    return int(find(session, dom).autostart)


@remote
async def domain_set_autostart(session: Session, dom: DomainHandle, autostart: int) -> None:
    """Start it with the daemon, or not."""
    await find(session, dom).set_autostart(bool(autostart))


@remote
def domain_get_autostart_once(session: Session, dom: DomainHandle) -> int:
    """Tell whether it starts at the next boot of the host, once."""
    return int(find(session, dom).autostart_once)


@remote
async def domain_set_autostart_once(session: Session, dom: DomainHandle, autostart: int) -> None:
    """Start it at the next boot of the host, once, or not."""
    await find(session, dom).set_autostart_once(bool(autostart))
