"""vCPUs, host CPUs and iothreads of a domain."""

from collections.abc import Iterable
from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import STRING_OKAY, WireParam, encode
from qvirt.constants.domain import DomainModificationImpact as Impact
from qvirt.constants.domain import DomainVcpuFlags as Vcpu
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg, OperationUnsupported, RpcError

_VCPUS_MAX: Final = 16384
_MAPS_MAX: Final = 8388608
_CPUS_ASKED_MAX: Final = 128
_IMPACT: Final = Impact.LIVE | Impact.CONFIG

VcpuRow = tuple[int, int, int, int]


def cpu_map(cpus: Iterable[int], length: int) -> bytes:
    """Make a bit map of CPUs, ``length`` bytes, lowest CPU in the lowest bit of the first byte."""
    data = bytearray(length)
    for cpu in cpus:
        if cpu < length * 8:
            data[cpu >> 3] |= 1 << (cpu & 7)
    return bytes(data)


def _check_maps(count: int, maplen: int) -> None:
    if count < 0 or maplen < 0 or count > _VCPUS_MAX:
        raise RpcError("maxinfo > REMOTE_VCPUINFO_MAX")
    if count * maplen > _MAPS_MAX:
        raise RpcError("maxinfo * maplen > REMOTE_CPUMAPS_MAX")


@remote
def domain_get_max_vcpus(session: Session, dom: DomainHandle) -> int:
    """Give how many vCPUs it may have."""
    return find(session, dom).max_vcpus()


@remote
async def domain_get_vcpus_flags(session: Session, dom: DomainHandle, flags: int) -> int:
    """Count vCPUs: now or configured, current or maximum, or as the guest sees them."""
    known = Vcpu.LIVE | Vcpu.CONFIG | Vcpu.MAXIMUM | Vcpu.GUEST
    check_flags(flags, known, "qemuDomainGetVcpusFlags")
    return await find(session, dom).vcpu_count(flags)


@remote
async def domain_get_vcpus(
    session: Session, dom: DomainHandle, maxinfo: int, maplen: int
) -> tuple[list[VcpuRow], bytes]:
    """Give state, time and host CPU of each vCPU, and the host CPUs it may use."""
    _check_maps(maxinfo, maplen)
    vcpus = (await find(session, dom).vcpus())[:maxinfo]
    rows = [(each.number, each.state, each.cpu_time, each.cpu) for each in vcpus]
    return rows, b"".join(cpu_map(each.affinity, maplen) for each in vcpus)


@remote
def domain_get_vcpu_pin_info(
    session: Session, dom: DomainHandle, ncpumaps: int, maplen: int, flags: int
) -> tuple[bytes, int]:
    """Give the host CPUs each vCPU may use."""
    check_flags(flags, _IMPACT, "qemuDomainGetVcpuPinInfo")
    _check_maps(ncpumaps, maplen)
    pins = find(session, dom).vcpu_pins(flags)[:ncpumaps]
    return b"".join(cpu_map(pin, maplen) for pin in pins), len(pins)


@remote
def domain_get_emulator_pin_info(
    session: Session, dom: DomainHandle, maplen: int, flags: int
) -> tuple[bytes, int]:
    """Give the host CPUs the emulator's own threads may use."""
    check_flags(flags, _IMPACT, "qemuDomainGetEmulatorPinInfo")
    _check_maps(1, maplen)
    return cpu_map(find(session, dom).emulator_pin(flags), maplen), 1


@remote
async def domain_get_iothread_info(
    session: Session, dom: DomainHandle, flags: int
) -> tuple[list[tuple[int, bytes]], int]:
    """Give each iothread and the host CPUs it may use."""
    check_flags(flags, _IMPACT, "qemuDomainGetIOThreadInfo")
    threads = await find(session, dom).iothread_info(flags)
    rows = []
    for thread in threads:
        length = max(thread.affinity, default=0) // 8 + 1
        rows.append((thread.iothread_id, cpu_map(thread.affinity, length)))
    return rows, len(rows)


@remote
async def domain_get_cpu_stats(
    session: Session, dom: DomainHandle, nparams: int, start_cpu: int, ncpus: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give CPU times in all (start_cpu -1) or by host CPU; 0 for nparams or ncpus asks how many there are.

    A reply over several CPUs has nparams places for each; the client finds them by the count of
    parameters per CPU.
    """
    check_flags(flags, STRING_OKAY, "qemuDomainGetCPUStats")
    if nparams > 16:
        raise RpcError("nparams too large")
    if ncpus > _CPUS_ASKED_MAX:
        raise RpcError("ncpus too large")
    total, per_cpu = await find(session, dom).cpu_stats()
    if start_cpu == -1:
        return (encode(total[:nparams], flags), min(nparams, len(total))) if nparams else ([], len(total))
    if ncpus == 0 and nparams == 0:
        return [], max(session.instance.node.cpus()[0], default=-1) + 1
    if not per_cpu:
        raise OperationUnsupported(
            "operation 'getCpuacctPercpuUsage' not supported for backend 'cgroup V2'",
            domain=ErrorDomain.CGROUP,
        )
    width = max((len(params) for params in per_cpu.values()), default=0)
    if nparams == 0:
        return [], width
    if start_cpu < 0 or start_cpu > max(per_cpu, default=-1):
        raise InvalidArg(f"start_cpu {start_cpu} larger than maximum of {max(per_cpu, default=-1)}")
    wire: list[WireParam] = []
    for cpu in range(start_cpu, min(start_cpu + ncpus, max(per_cpu) + 1)):
        wire += encode(per_cpu.get(cpu, [])[:nparams], flags)
    return wire, min(nparams, width)
