"""PCI functions of the host on their way to guests: reserved, taken from their drivers, given back.

reserve    looks whether they may be had, and notes them as the guest's; changes nothing on the host
take       binds those that are managed to vfio-pci; the status file says by then what had them
give_back  gives them back to what had them; harmless for what was never taken
still_open tells which a QEMU that runs does not let go of: these go back when it ends
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from qvirt.constants.error import ErrorDomain
from qvirt.errors import OperationInvalid, QvirtError
from qvirt.host import pci
from qvirt.host.persist import FILE_DEADLINE
from qvirt.model.devices.device import Device
from qvirt.model.domain import parse_live
from qvirt.qemu.devices.base import FileResource, Resource
from qvirt.qemu.devices.vfio import CONTAINER, NODES, Wanted, wanted_by
from qvirt.runtime.running import Running
from qvirt.runtime.state import PciMark

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: seconds for a driver to let go of its device, or to come back to it
DEADLINE = 90.0
#: seconds for QEMU to close what it has said it is done with
_LET_GO_WAIT = 2.0
_LET_GO_STEP = 0.02


async def reserve(domain: "Domain", running: Running, devices: Iterable[Device]) -> list[PciMark]:
    """Note the functions that devices want as the guest's; returns those that it had not.

    Raises OperationInvalid for one that a guest has, and what keeps one from being given to a guest.
    """
    hv, mark = domain.hypervisor, running.footprint
    had = {one.name: one for one in mark.pci}
    wanted = {one.name: one for dev in devices for one in wanted_by(dev) if one.name not in had}
    if not wanted:
        return []
    made = [PciMark(one.name, one.managed, group=pci.BUS.group_of(one.name) or "") for one in wanted.values()]
    for one in made:
        _check_free(hv, domain, one, wanted[one.name])
    # from here on they are taken for others; nothing has waited since they were found to be free
    mark.pci += made
    look = partial(
        pci.check,
        pci.BUS,
        {one.name: one.managed for one in made},
        vfio_named=any(one.backend == "vfio" for one in wanted.values()),
        about={name: one.node for name, one in wanted.items()},
        has=had,
    )
    try:
        found = await hv.files.run(f"PCI devices of '{domain.name}'", look, DEADLINE)
    except BaseException:
        drop(running, made)
        raise
    for one in made:
        usual, has = wanted[one.name].usual, found[one.name]
        if usual and has.driver != usual and not has.at_vfio:
            log.warning(
                "domain '%s': PCI device %s has driver '%s', not %s", domain.name, one.name, has.driver, usual
            )
        one.driver, one.override = found[one.name].driver, found[one.name].override
    return made


def drop(running: Running, marks: Iterable[PciMark]) -> None:
    """Forget functions that were never taken, or have been given back."""
    gone = {one.name for one in marks}
    running.footprint.pci = [one for one in running.footprint.pci if one.name not in gone]


def unused(running: Running, kept: Iterable[Device]) -> list[PciMark]:
    """Return the functions of a guest's that none of the devices it has left wants."""
    still = names_of(kept)
    return [one for one in running.footprint.pci if one.name not in still]


def names_of(devices: Iterable[Device]) -> list[str]:
    """Return the functions that devices have."""
    return [one.name for dev in devices for one in wanted_by(dev)]


def nodes(running: Running, marks: Iterable[PciMark]) -> list[Resource]:
    """Return the nodes that QEMU opened for functions."""
    paths = [path for one in marks for path in (CONTAINER, f"{NODES}/{one.group}")]
    return [FileResource(running.definition, path) for path in dict.fromkeys(paths)]


def _check_free(hv: "Hypervisor", domain: "Domain", mark: PciMark, wanted: Wanted) -> None:
    """Raise OperationInvalid for a function, or one of its group, that another guest has."""
    for owner, name, group in _in_use(hv, domain):
        if name == mark.name or (group and group == mark.group):
            about = "" if name == mark.name else f" (its IOMMU group {group} is that of {mark.name})"
            raise OperationInvalid(
                f"PCI device {name} is in use by driver QEMU, domain {owner}{about}{wanted.node}",
                domain=ErrorDomain.NONE,
            )


def _in_use(hv: "Hypervisor", domain: "Domain | None") -> Iterator[tuple[str, str, str]]:
    """Yield the functions that other guests have: the guest, the function, its group."""
    for other in hv.domains:
        if other is not domain and other.running is not None:
            for mark in other.running.footprint.pci:
                yield other.name, mark.name, mark.group
    for name, status in hv.untaken.items():
        try:
            devices = parse_live(status.xml).devices.all()
        except QvirtError:
            continue  # that it cannot be read is the obstacle that was reported
        for function in names_of(devices):
            yield name, function, pci.BUS.group_of(function) or ""


def has_owner(hv: "Hypervisor", name: str) -> bool:
    """Tell whether a guest has a function."""
    return any(function == name for _, function, _ in _in_use(hv, None))


def deadline(running: Running) -> float:
    """Return the seconds that the end of a guest may take: drivers that come back may be slow."""
    return DEADLINE if running.footprint.pci else FILE_DEADLINE


# ------------------------------------------------------------------------- blocking


def take(hv: "Hypervisor", marks: Iterable[PciMark]) -> None:
    """Bind managed functions to vfio-pci; the status file says what had them. Blocking. Raises SystemError_.

    One that is there already is left.
    """
    for one in marks:
        if one.managed:
            pci.BUS.take(one.name)
            hv.checkpoint("PCI device taken")


def still_open(running: Running, marks: Sequence[PciMark]) -> list[PciMark]:
    """Return the functions whose group QEMU has open, whatever it says of them. Blocking.

    The kernel holds up whoever takes one from its driver until QEMU lets go, which one that its guest has
    taken over never does. An honest one gets a moment. A group that another function of the guest is in is
    open anyway.
    """
    shared = {one.group for one in running.footprint.pci if one not in marks}
    asked = [one for one in marks if one.managed and one.group not in shared]
    end = time.monotonic() + _LET_GO_WAIT
    while held := [one for one in asked if f"{NODES}/{one.group}" in _open_files(running.pid)]:
        if time.monotonic() > end:
            break
        time.sleep(_LET_GO_STEP)
    return held


def _open_files(pid: int) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry.path))
    return found


def give_back(hv: "Hypervisor", marks: Iterable[PciMark]) -> list[str]:
    """Give functions back to what had them; returns what could not be done. Blocking."""
    failures: list[str] = []
    for one in reversed(list(marks)):
        if one.managed:
            failures += pci.BUS.give_back(one.name, one.driver, one.override)
            hv.checkpoint("PCI device given back")
    return failures
