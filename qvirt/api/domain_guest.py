"""The guest's own view: clock, file systems, names, addresses, mostly told by its agent."""

from typing import Final

from qvirt.api.flags import PlainInvalidArg, check_exclusive, check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import WireParam, encode
from qvirt.constants.domain import (
    DomainAuthorizedSSHKeysSetFlags,
    DomainGetHostnameFlags,
    DomainSetTimeFlags,
    DomainSetUserPasswordFlags,
)
from qvirt.constants.domain import DomainInterfaceAddressesSource as Source
from qvirt.errors import ArgumentUnsupported, InvalidArg, RpcError
from qvirt.runtime.asking import guest

_LIST_MAX: Final = 2048

FsInfoRow = tuple[str, str, str, list[str]]
InterfaceRow = tuple[str, str | None, list[tuple[int, str, int]]]


@remote
async def domain_get_time(session: Session, dom: DomainHandle, flags: int) -> tuple[int, int]:
    """Give the guest's clock: seconds and nanoseconds."""
    check_flags(flags, 0, "qemuDomainGetTime")
    return await find(session, dom).time()


@remote
async def domain_set_time(
    session: Session, dom: DomainHandle, seconds: int, nseconds: int, flags: int
) -> None:
    """Set the guest's clock, with SYNC from its own hardware clock."""
    check_flags(flags, DomainSetTimeFlags.SYNC, "qemuDomainSetTime")
    await find(session, dom).set_time(seconds, nseconds, sync=bool(flags & DomainSetTimeFlags.SYNC))


@remote
async def domain_get_fsinfo(session: Session, dom: DomainHandle, flags: int) -> tuple[list[FsInfoRow], int]:
    """Give the guest's mounted file systems."""
    check_flags(flags, 0, "qemuDomainGetFSInfo")
    found = (await find(session, dom).fs_info())[:256]
    return [(fs.mountpoint, fs.name, fs.fstype, list(fs.dev_alias)) for fs in found], len(found)


@remote
async def domain_fsfreeze(session: Session, dom: DomainHandle, mountpoints: list[str], flags: int) -> int:
    """Freeze file systems; give how many."""
    check_flags(flags, 0, "qemuDomainFSFreeze")
    return await find(session, dom).fs_freeze(mountpoints)


@remote
async def domain_fsthaw(session: Session, dom: DomainHandle, mountpoints: list[str], flags: int) -> int:
    """Thaw file systems; give how many."""
    check_flags(flags, 0, "qemuDomainFSThaw")
    if mountpoints:
        raise ArgumentUnsupported("specifying mountpoints is not supported")
    return await find(session, dom).fs_thaw(mountpoints)


@remote
async def domain_fstrim(
    session: Session,
    dom: DomainHandle,
    mountPoint: str | None,
    minimum: int,
    flags: int,
) -> None:
    """Give unused blocks back."""
    check_flags(flags, 0, "qemuDomainFSTrim")
    if mountPoint is not None:
        raise ArgumentUnsupported("Specifying mount point is not supported for now")
    await find(session, dom).fs_trim(mountPoint, minimum)


@remote
async def domain_get_hostname(session: Session, dom: DomainHandle, flags: int) -> str:
    """Give the guest's host name, from the network's leases or its agent."""
    known = DomainGetHostnameFlags.LEASE | DomainGetHostnameFlags.AGENT
    check_flags(flags, known, "qemuDomainGetHostname")
    if flags == known:
        raise PlainInvalidArg(
            "Flags 'VIR_DOMAIN_GET_HOSTNAME_LEASE' and 'VIR_DOMAIN_GET_HOSTNAME_AGENT' are mutually exclusive"
        )
    return await find(session, dom).hostname(flags)


@remote
async def domain_interface_addresses(
    session: Session, dom: DomainHandle, source: int, flags: int
) -> list[InterfaceRow]:
    """Give the guest's interfaces and addresses, from leases, agent or the host's neighbour table."""
    check_flags(flags, 0, "qemuDomainInterfaceAddresses")
    domain = find(session, dom)
    domain.need_running()
    if source not in (Source.LEASE, Source.AGENT, Source.ARP):
        raise ArgumentUnsupported(f"Unknown IP address data source {source}")
    found = await domain.interface_addresses(source)
    if len(found) > _LIST_MAX:
        raise RpcError(f"Number of interfaces, {len(found)} exceeds the max limit: {_LIST_MAX}")
    return [
        (each.name, each.hwaddr, [(addr.type, addr.addr, addr.prefix) for addr in each.addrs[:_LIST_MAX]])
        for each in found
    ]


@remote
async def domain_get_guest_info(
    session: Session, dom: DomainHandle, types: int, flags: int
) -> list[WireParam]:
    """Give what the agent tells about users, system, zone, host name, file systems, disks, interfaces."""
    check_flags(flags, 0, "qemuDomainGetGuestInfo")
    return encode((await find(session, dom).guest_info(types))[:_LIST_MAX])


@remote
async def domain_set_user_password(
    session: Session, dom: DomainHandle, user: str | None, password: str | None, flags: int
) -> None:
    """Set the password of a user of the guest."""
    check_flags(flags, DomainSetUserPasswordFlags.ENCRYPTED, "qemuDomainSetUserPassword")
    if user is None or password is None:
        raise InvalidArg("user and password in virDomainSetUserPassword must not be NULL")
    encrypted = bool(flags & DomainSetUserPasswordFlags.ENCRYPTED)
    await find(session, dom).set_user_password(user, password, encrypted=encrypted)


@remote
async def domain_authorized_ssh_keys_get(
    session: Session, dom: DomainHandle, user: str, flags: int
) -> list[str]:
    """Give the public keys that let somebody in by SSH as a user of the guest."""
    check_flags(flags, 0, "qemuDomainAuthorizedSSHKeysGet")
    return await guest.ssh_keys(find(session, dom), user)


@remote
async def domain_authorized_ssh_keys_set(
    session: Session, dom: DomainHandle, user: str, keys: list[str], flags: int
) -> None:
    """Set the public keys of a user of the guest, add some, or take some away."""
    append, remove = DomainAuthorizedSSHKeysSetFlags.APPEND, DomainAuthorizedSSHKeysSetFlags.REMOVE
    check_flags(flags, append | remove, "qemuDomainAuthorizedSSHKeysSet")
    check_exclusive(flags, ("append", append), ("remove", remove), "qemuDomainAuthorizedSSHKeysSet")
    chosen = {"append": bool(flags & append), "remove": bool(flags & remove)}
    await guest.set_ssh_keys(find(session, dom), user, keys, **chosen)


@remote
async def domain_get_guest_vcpus(session: Session, dom: DomainHandle, flags: int) -> list[WireParam]:
    """Give the vCPUs as the guest sees them."""
    check_flags(flags, 0, "qemuDomainGetGuestVcpus")
    return encode(await find(session, dom).guest_vcpus())


@remote
async def domain_agent_set_response_timeout(
    session: Session,
    dom: DomainHandle,
    timeout: int,  # noqa: ASYNC109 - the table's name
    flags: int,
) -> int:
    """Say how long the agent may take to answer, in seconds."""
    check_flags(flags, 0, "qemuDomainAgentSetResponseTimeout")
    if timeout < -2:
        raise InvalidArg(f"guest agent timeout '{timeout}' is less than the minimum '-2'")
    await find(session, dom).set_agent_response_timeout(timeout)
    return 0
