"""Snapshots and checkpoints, as far as a domain has none: clients ask before they undefine or list."""

from functools import reduce
from operator import or_
from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.checkpoint import DomainCheckpointListFlags
from qvirt.constants.snapshot import DomainSnapshotListFlags
from qvirt.errors import QvirtError


def _all(flags: type) -> int:
    return reduce(or_, (value for value in vars(flags).values() if isinstance(value, int)))


_SNAPSHOT_FLAGS: Final = _all(DomainSnapshotListFlags)
_CHECKPOINT_FLAGS: Final = _all(DomainCheckpointListFlags)


class NoDomainSnapshot(QvirtError):
    """No such snapshot."""

    code = 72
    template = "Domain snapshot not found: %s"


@remote
def domain_snapshot_num(session: Session, dom: DomainHandle, flags: int) -> int:
    """Count the snapshots."""
    check_flags(flags, _SNAPSHOT_FLAGS, "qemuDomainSnapshotNum")
    find(session, dom)
    return 0


@remote
def domain_snapshot_list_names(session: Session, dom: DomainHandle, maxnames: int, flags: int) -> list[str]:
    """List the snapshots' names."""
    check_flags(flags, _SNAPSHOT_FLAGS, "qemuDomainSnapshotListNames")
    find(session, dom)
    return []


@remote
def domain_list_all_snapshots(
    session: Session, dom: DomainHandle, need_results: int, flags: int
) -> tuple[list[tuple[str, object]], int]:
    """List the snapshots."""
    check_flags(flags, _SNAPSHOT_FLAGS, "qemuDomainListAllSnapshots")
    find(session, dom)
    return [], 0


@remote
def domain_has_current_snapshot(session: Session, dom: DomainHandle, flags: int) -> int:
    """Tell whether one of the snapshots is the current one."""
    check_flags(flags, 0, "qemuDomainHasCurrentSnapshot")
    find(session, dom)
    return 0


@remote
def domain_snapshot_current(session: Session, dom: DomainHandle, flags: int) -> None:
    """Give the current snapshot."""
    check_flags(flags, 0, "qemuDomainSnapshotCurrent")
    find(session, dom)
    raise NoDomainSnapshot("the domain does not have a current snapshot")


@remote
def domain_snapshot_lookup_by_name(session: Session, dom: DomainHandle, name: str, flags: int) -> None:
    """Find a snapshot."""
    check_flags(flags, 0, "qemuDomainSnapshotLookupByName")
    find(session, dom)
    raise NoDomainSnapshot(f"no domain snapshot with matching name '{name}'")


@remote
def domain_list_all_checkpoints(
    session: Session, dom: DomainHandle, need_results: int, flags: int
) -> tuple[list[tuple[str, object]], int]:
    """List the checkpoints."""
    check_flags(flags, _CHECKPOINT_FLAGS, "qemuDomainListAllCheckpoints")
    find(session, dom)
    return [], 0
