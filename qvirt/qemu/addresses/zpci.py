"""PCI of s390x: each function has two identifiers of its own beside its address."""

from collections.abc import Iterator

from qvirt.errors import InternalError
from qvirt.model.devices.address import PciAddress, Zpci
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.pci_flags import given_pci
from qvirt.qemu.machines import is_s390

#: the highest user-defined identifier; 0 is none
_UID_MAX = 0xFFFF


def assign_zpci(domain: Domain) -> None:
    """Give identifiers to the PCI functions without. Raises InternalError for one that is taken."""
    if not is_s390(domain):
        return
    uids: set[int] = set()
    fids: set[int] = set()
    functions = list(_functions(domain))
    for where in functions:
        if where.zpci is None:
            continue
        for name, number, taken in (("uid", where.zpci.uid, uids), ("fid", where.zpci.fid, fids)):
            if number is None:
                continue
            if number in taken:
                raise InternalError(f"zPCI {name} {number:o} is already reserved")
            taken.add(number)
    # those that say one of the two choose the other first
    for where in sorted(functions, key=lambda known: known.zpci is None):
        if where.zpci is None:
            where.zpci = Zpci()
        if not where.zpci.uid:
            where.zpci.uid = next(n for n in range(1, _UID_MAX + 1) if n not in uids)
            uids.add(where.zpci.uid)
        if where.zpci.fid is None:
            where.zpci.fid = next(n for n in range(2**32) if n not in fids)
            fids.add(where.zpci.fid)


def _functions(domain: Domain) -> Iterator[PciAddress]:
    for dev in domain.devices.all():
        if isinstance(dev, Controller) and dev.type is ControllerType.PCI:
            continue  # bridges are not seen by the guest
        where = given_pci(dev)
        if where is not None:
            yield where
