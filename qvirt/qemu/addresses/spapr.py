"""Registers of devices on the virtual I/O bus of pSeries guests."""

from collections.abc import Iterator

from qvirt.errors import XmlError
from qvirt.model.devices.address import SpaprVioAddress
from qvirt.model.devices.controller import ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.pci_flags import said

#: where QEMU begins for each kind (spapr_llan.c, spapr_vscsi.c, spapr_vty.c, spapr_nvram.c)
_NET = 0x1000
_SCSI = 0x2000
_NVRAM = 0x3000
_TPM = 0x4000
_SERIAL = 0x30000000
_STEP = 0x1000


def assign_spapr_vio(domain: Domain) -> None:
    """Give a register to each device of the bus. Raises XmlError for one that is taken."""
    wanting: list[tuple[Device, int]] = []
    taken: set[int] = set()
    for dev, first in _devices(domain):
        where = dev.address
        if isinstance(where, SpaprVioAddress) and where.reg is not None:
            if where.reg in taken:
                raise XmlError(f"spapr-vio address {where.reg:#x} already in use")
            taken.add(where.reg)
        elif where is None or isinstance(where, SpaprVioAddress):
            wanting.append((dev, first))
    for dev, first in wanting:
        register = first
        while register in taken:
            register += _STEP
        taken.add(register)
        dev.address = SpaprVioAddress(reg=register)


def _devices(domain: Domain) -> Iterator[tuple[Device, int]]:
    devices = domain.devices
    for nic in devices.interfaces:
        if said(nic, "model.type") == "spapr-vlan":
            yield nic, _NET
    for controller in devices.controllers:
        if controller.type is ControllerType.SCSI and controller.model == "ibmvscsi":
            yield controller, _SCSI
    for serial in devices.serials:
        if said(serial, "target.type") == "spapr-vio-serial":
            yield serial, _SERIAL
    for tpm in devices.tpms:
        if said(tpm, "model") == "tpm-spapr":
            yield tpm, _TPM
    for nvram in devices.nvrams:
        yield nvram, _NVRAM
