"""vCPUs that come and go, and the host CPUs that threads of a domain run on."""

from typing import Final

from qvirt.api.flags import PlainInvalidArg, check_exclusive, check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.constants.domain import DomainVcpuFlags as Vcpu
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg
from qvirt.runtime.tuning import pinning, vcpus
from qvirt.xml.codecs import parse_cpuset

_IMPACT: Final = Impact.LIVE | Impact.CONFIG
#: the highest CPU number an agent's or a client's list may name
_MOST_NUMBERS: Final = 4096


def cpus_of(cpumap: bytes) -> frozenset[int]:
    """Read a bit map of CPUs, lowest CPU in the lowest bit of the first byte."""
    return frozenset(i * 8 + bit for i, byte in enumerate(cpumap) for bit in range(8) if byte >> bit & 1)


def _selected(text: str, state: int) -> frozenset[int]:
    """Read the vCPUs a client names. Raises InvalidArg."""
    if state not in (0, 1):
        raise PlainInvalidArg(f"unsupported state value {state}: it is 0 or 1")
    try:
        chosen = parse_cpuset(text)
    except ValueError:
        raise InvalidArg(f"Failed to parse bitmap '{text}'") from None
    if chosen and max(chosen) >= _MOST_NUMBERS:
        raise InvalidArg(f"Failed to parse bitmap '{text}': the highest number is {_MOST_NUMBERS - 1}")
    if not chosen:
        raise InvalidArg("no vcpus selected for modification")
    return chosen


@remote
async def domain_set_vcpus(session: Session, dom: DomainHandle, nvcpus: int) -> None:
    """Change how many vCPUs a running domain has."""
    _check_count(nvcpus, "virDomainSetVcpus")
    await vcpus.set_count(find(session, dom), nvcpus, Vcpu.LIVE)


@remote
async def domain_set_vcpus_flags(session: Session, dom: DomainHandle, nvcpus: int, flags: int) -> None:
    """Change how many vCPUs there are: now or configured, current or maximum, or turned on by the guest."""
    known = Vcpu.LIVE | Vcpu.CONFIG | Vcpu.MAXIMUM | Vcpu.GUEST | Vcpu.HOTPLUGGABLE
    check_flags(flags, known, "qemuDomainSetVcpusFlags")
    _check_count(nvcpus, "virDomainSetVcpusFlags")
    check_exclusive(
        flags,
        ("VIR_DOMAIN_VCPU_GUEST", Vcpu.GUEST),
        ("VIR_DOMAIN_AFFECT_CONFIG", Vcpu.CONFIG),
        "virDomainSetVcpusFlags",
    )
    await vcpus.set_count(find(session, dom), nvcpus, flags)


def _check_count(count: int, function: str) -> None:
    if count == 0:
        raise InvalidArg(f"nvcpus in {function} must not be zero", domain=ErrorDomain.NONE)


@remote
async def domain_set_vcpu(session: Session, dom: DomainHandle, cpumap: str, state: int, flags: int) -> None:
    """Turn single vCPUs on or off."""
    check_flags(flags, _IMPACT, "qemuDomainSetVcpu")
    await vcpus.set_single(find(session, dom), _selected(cpumap, state), state == 1, flags)


@remote
async def domain_set_guest_vcpus(
    session: Session, dom: DomainHandle, cpumap: str, state: int, flags: int
) -> None:
    """Have the guest's agent turn single CPUs on or off."""
    check_flags(flags, 0, "qemuDomainSetGuestVcpus")
    await vcpus.set_guest(find(session, dom), _selected(cpumap, state), state == 1)


@remote
async def domain_pin_vcpu(session: Session, dom: DomainHandle, vcpu: int, cpumap: bytes) -> None:
    """Choose the host CPUs a vCPU of a running domain may use."""
    await pinning.pin_vcpu(find(session, dom), vcpu, cpus_of(cpumap), Impact.LIVE)


@remote
async def domain_pin_vcpu_flags(
    session: Session, dom: DomainHandle, vcpu: int, cpumap: bytes, flags: int
) -> None:
    """Choose the host CPUs a vCPU may use."""
    check_flags(flags, _IMPACT, "qemuDomainPinVcpuFlags")
    await pinning.pin_vcpu(find(session, dom), vcpu, cpus_of(cpumap), flags)


@remote
async def domain_pin_emulator(session: Session, dom: DomainHandle, cpumap: bytes, flags: int) -> None:
    """Choose the host CPUs the emulator's own threads may use."""
    check_flags(flags, _IMPACT, "qemuDomainPinEmulator")
    await pinning.pin_emulator(find(session, dom), cpus_of(cpumap), flags)


@remote
async def domain_pin_iothread(
    session: Session, dom: DomainHandle, iothreads_id: int, cpumap: bytes, flags: int
) -> None:
    """Choose the host CPUs an iothread may use."""
    check_flags(flags, _IMPACT, "qemuDomainPinIOThread")
    await pinning.pin_iothread(find(session, dom), iothreads_id, cpus_of(cpumap), flags)
