"""The connection itself: open, close, what it can do, and what the driver is."""

import os
from typing import Final

from qvirt.api.flags import PlainInvalidArg, check_flags
from qvirt.api.registry import SUB_DRIVERS, remote, remote_any, remote_early
from qvirt.api.session import Identity, Session
from qvirt.api.typed_params import WireParam, decode
from qvirt.constants.common import TypedParameterType
from qvirt.constants.error import ErrorDomain
from qvirt.constants.host import ConnectFlags
from qvirt.errors import AccessDenied, InternalError, InvalidArg, NoConnect
from qvirt.record import replace

LIB_VERSION: Final = 9_000_000
"""The release of libvirt whose behaviour this is: major * 1000000 + minor * 1000 + micro."""

KEEPALIVE: Final = 10
_FEATURES: Final = frozenset((3, 4, *range(6, 17)))
"""What libvirt's own QEMU driver answers 1 for."""

_IDENTITY: Final = {
    "user-name": (TypedParameterType.STRING, ""),
    "unix-user-id": (TypedParameterType.ULLONG, "uid"),
    "group-name": (TypedParameterType.STRING, ""),
    "unix-group-id": (TypedParameterType.ULLONG, "gid"),
    "process-id": (TypedParameterType.LLONG, "pid"),
    "process-time": (TypedParameterType.ULLONG, "started"),
    "sasl-user-name": (TypedParameterType.STRING, "sasl_user"),
    "x509-distinguished-name": (TypedParameterType.STRING, "x509_dn"),
    "selinux-context": (TypedParameterType.STRING, ""),
}
"""virConnectSetIdentity's parameters: their types, and what of an identity they are; "" for none."""

_MAX_VCPUS: Final = 16
"""What libvirt says for emulated guests."""


@remote_early
def connect_open(session: Session, name: str | None, flags: int) -> None:
    """Open the connection to the driver a URI names; bits of flags beyond read-only are the client's own."""
    if session.driver:
        raise InternalError("connection already open", domain=ErrorDomain.RPC)
    uri = name or session.instance.default_uri
    session.driver = driver_of(uri, privileged=session.instance.privileged)
    session.uri = uri
    if flags & ConnectFlags.RO:
        session.readonly = True


def driver_of(uri: str, *, privileged: bool) -> str:
    """Give the driver a URI names, as CONNECT_GET_TYPE says it; raises NoConnect, InternalError."""
    scheme, found, rest = uri.partition("://")
    host, slash, path = rest.partition("#")[0].partition("?")[0].partition("/")
    if not found or host or (scheme != "qemu" and scheme not in SUB_DRIVERS):
        raise NoConnect(uri)
    path = slash + path
    allowed = "/system" if privileged else "/session"
    if path != allowed and not (privileged and scheme == "qemu" and path == "/session"):
        raise InternalError(f"unexpected {scheme} URI path '{path}', try {scheme}://{allowed}", domain=0)
    return "QEMU" if scheme == "qemu" else scheme


@remote_early
def connect_close(session: Session) -> None:
    """Close the connection once this is answered."""
    session.end()


@remote_early
def connect_supports_feature(session: Session, feature: int) -> int:
    """Tell whether the driver has a feature; asking for keepalive starts ours."""
    if feature == KEEPALIVE:
        session.start_keepalive()
        return 1
    session.require_open()
    return int(feature in _FEATURES)


@remote_any
def connect_get_type(session: Session) -> str:
    """Give the driver's name."""
    return session.driver


@remote_any
def connect_get_uri(session: Session) -> str:
    """Give the URI it was opened with."""
    return session.uri


@remote_any
def connect_get_lib_version(session: Session) -> int:
    """Give the release of libvirt this behaves as."""
    return LIB_VERSION


@remote_any
def connect_is_secure(session: Session) -> int:
    """Say yes: the driver is on this machine; the transport is for the client to judge."""
    return 1


@remote_any
def connect_set_identity(session: Session, params: list[WireParam], flags: int) -> None:
    """Speak for somebody else from now on, as daemons do that pass calls on; root and our own user may."""
    check_flags(flags, 0, "qemuConnectSetIdentity")
    who = session.identity
    if who.uid not in (0, os.geteuid()):
        raise AccessDenied("only root and the daemon's own user may speak for somebody else")
    said = decode(params, {name: type_ for name, (type_, _) in _IDENTITY.items()})
    changes = {field: said[name] for name, (_, field) in _IDENTITY.items() if field and name in said}
    # whoever it is, it is not the process that speaks
    session.identity = replace(Identity(), **changes)


@remote
async def connect_get_version(session: Session) -> int:
    """Give the version of the host's own emulator."""
    return await session.instance.node.emulator_version()


@remote
async def connect_get_hostname(session: Session) -> str:
    """Give the host's name."""
    return await session.instance.node.hostname()


@remote
def connect_get_max_vcpus(session: Session, type: str | None) -> int:
    """Give how many vCPUs a guest of a type (kvm, qemu) may have."""
    kind = ("qemu" if type is None else type).lower()
    if kind == "qemu":
        return _MAX_VCPUS
    if kind == "kvm":
        return session.instance.node.kvm_max_vcpus()
    raise InvalidArg(f"unknown type '{type}'")


@remote
async def connect_get_capabilities(session: Session) -> str:
    """Give the host's and the emulators' capabilities."""
    return await session.instance.node.capabilities()


@remote
async def connect_get_domain_capabilities(
    session: Session,
    emulatorbin: str | None,
    arch: str | None,
    machine: str | None,
    virttype: str | None,
    flags: int,
) -> str:
    """Give what a domain on one emulator, machine and accelerator may have."""
    check_flags(flags, 1, "qemuConnectGetDomainCapabilities")
    return await session.instance.node.domain_capabilities(emulatorbin, arch, machine, virttype)


@remote
async def connect_get_sysinfo(session: Session, flags: int) -> str:
    """Give the host's SMBIOS tables as a document."""
    check_flags(flags, 0, "qemuConnectGetSysinfo")
    return await session.instance.node.sysinfo()


@remote
def connect_get_cpu_model_names(
    session: Session, arch: str, need_results: int, flags: int
) -> tuple[list[str], int]:
    """Give the CPU models known for an architecture."""
    check_flags(flags, 0, "qemuConnectGetCPUModelNames")
    names = session.instance.node.cpu_model_names(arch)
    return (names if need_results else []), len(names)


@remote
async def connect_compare_cpu(session: Session, xml: str, flags: int) -> int:
    """Compare a CPU with the host's."""
    check_flags(flags, 3, "qemuConnectCompareCPU")
    return await session.instance.node.compare_cpu(xml, flags)


@remote
async def connect_baseline_cpu(
    session: Session,
    xmlCPUs: list[str],
    flags: int,
) -> str:
    """Give the richest CPU that all of some hosts can be."""
    check_flags(flags, 3, "qemuConnectBaselineCPU")
    _check_cpus(xmlCPUs, "virConnectBaselineCPU")
    return await session.instance.node.baseline_cpu(xmlCPUs, flags)


@remote
async def connect_compare_hypervisor_cpu(
    session: Session,
    emulator: str | None,
    arch: str | None,
    machine: str | None,
    virttype: str | None,
    xmlCPU: str,
    flags: int,
) -> int:
    """Compare a CPU with what the hypervisor can give a guest here."""
    check_flags(flags, 3, "qemuConnectCompareHypervisorCPU")
    return await session.instance.node.compare_hypervisor_cpu(
        emulator, arch, machine, virttype, xmlCPU, flags
    )


@remote
async def connect_baseline_hypervisor_cpu(
    session: Session,
    emulator: str | None,
    arch: str | None,
    machine: str | None,
    virttype: str | None,
    xmlCPUs: list[str],
    flags: int,
) -> str:
    """Give the richest CPU that the hypervisor can give a guest on all of some hosts."""
    check_flags(flags, 3, "qemuConnectBaselineHypervisorCPU")
    _check_cpus(xmlCPUs, "virConnectBaselineHypervisorCPU")
    return await session.instance.node.baseline_hypervisor_cpu(
        emulator, arch, machine, virttype, xmlCPUs, flags
    )


def _check_cpus(documents: list[str], function: str) -> None:
    if not documents:
        raise PlainInvalidArg(f"ncpus in {function} must be greater than zero", domain=ErrorDomain.NONE)
