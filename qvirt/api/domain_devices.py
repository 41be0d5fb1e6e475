"""Disks and network interfaces of a domain, as read; a disk of another size."""

from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.api.typed_params import STRING_OKAY, WireParam, encode_counted
from qvirt.constants.common import TypedParameterType as Type
from qvirt.constants.domain import DomainBlockResizeFlags
from qvirt.errors import NumericalOverflow, RpcError
from qvirt.runtime.records import Param
from qvirt.runtime.tuning import block

_BLOCK_PARAMS_MAX: Final = 16
_DISK_ERRORS_MAX: Final = 256
#: KiB that are 64 bits of bytes
_MOST_KIB: Final = (2**64 - 1) // 1024

_BLOCK_PARAMS: Final = (
    ("wr_bytes", "wr_bytes"),
    ("wr_operations", "wr_req"),
    ("rd_bytes", "rd_bytes"),
    ("rd_operations", "rd_req"),
    ("flush_operations", "flush_req"),
    ("wr_total_times", "wr_total_times"),
    ("rd_total_times", "rd_total_times"),
    ("flush_total_times", "flush_total_times"),
)
"""Parameter names and the counters they show, in libvirt's order."""


@remote
async def domain_block_stats(
    session: Session, dom: DomainHandle, path: str
) -> tuple[int, int, int, int, int]:
    """Give read and write counters of a disk, or with an empty path of all."""
    stats = await find(session, dom).block_stats(path)
    return stats.rd_req, stats.rd_bytes, stats.wr_req, stats.wr_bytes, stats.errs


@remote
async def domain_block_stats_flags(
    session: Session, dom: DomainHandle, path: str, nparams: int, flags: int
) -> tuple[list[WireParam], int]:
    """Give all counters of a disk as parameters."""
    check_flags(flags, STRING_OKAY, "qemuDomainBlockStatsFlags")
    if nparams < 0 or nparams > _BLOCK_PARAMS_MAX:
        raise RpcError("nparams too large")
    stats = await find(session, dom).block_stats(path)
    params = [
        Param(name, Type.LLONG, value)
        for name, counter in _BLOCK_PARAMS
        if (value := getattr(stats, counter)) is not None
    ]
    return encode_counted(params, nparams, flags, _BLOCK_PARAMS_MAX)


@remote
async def domain_get_block_info(
    session: Session, dom: DomainHandle, path: str, flags: int
) -> tuple[int, int, int]:
    """Give allocation, capacity and physical size of a disk, in bytes."""
    check_flags(flags, 0, "qemuDomainGetBlockInfo")
    info = await find(session, dom).block_info(path)
    return info.allocation, info.capacity, info.physical


@remote
async def domain_get_disk_errors(
    session: Session, dom: DomainHandle, maxerrors: int, flags: int
) -> tuple[list[tuple[str, int]], int]:
    """Give the disks that QEMU has stopped on; maxerrors 0 asks how many disks could."""
    check_flags(flags, 0, "qemuDomainGetDiskErrors")
    if maxerrors > _DISK_ERRORS_MAX:
        raise RpcError("maxerrors too large")
    domain = find(session, dom)
    if maxerrors == 0:
        # Also raises when it does not run.
        await domain.disk_errors()
        return [], len(domain.disk_targets())
    errors = (await domain.disk_errors())[:maxerrors]
    return [(each.disk, each.error) for each in errors], len(errors)


@remote
async def domain_interface_stats(session: Session, dom: DomainHandle, device: str) -> tuple[int, ...]:
    """Give the counters of a network interface, received first."""
    stats = await find(session, dom).interface_stats(device)
    return (
        stats.rx_bytes,
        stats.rx_packets,
        stats.rx_errs,
        stats.rx_drop,
        stats.tx_bytes,
        stats.tx_packets,
        stats.tx_errs,
        stats.tx_drop,
    )


@remote
async def domain_block_resize(session: Session, dom: DomainHandle, disk: str, size: int, flags: int) -> None:
    """Make a disk of a running guest larger or smaller; KiB, or bytes as a flag says."""
    check_flags(flags, DomainBlockResizeFlags.BYTES, "qemuDomainBlockResize")
    if not flags & DomainBlockResizeFlags.BYTES:
        if size > _MOST_KIB:
            raise NumericalOverflow(f"size must be less than {_MOST_KIB}")
        size *= 1024
    await block.resize(find(session, dom), disk, size)


@remote
async def domain_set_block_threshold(
    session: Session, dom: DomainHandle, dev: str, threshold: int, flags: int
) -> None:
    """Have an event come when an image is written past a place, in bytes."""
    check_flags(flags, 0, "qemuDomainSetBlockThreshold")
    await block.set_threshold(find(session, dom), dev, threshold)
