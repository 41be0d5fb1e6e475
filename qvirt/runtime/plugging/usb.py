"""Devices of the host that guests are given, each to one at a time; USB devices are found when needed."""

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, OperationInvalid
from qvirt.host import usb
from qvirt.model.devices.device import Device
from qvirt.model.devices.hostdev import Hostdev, UsbHostAddress
from qvirt.qemu.devices.base import line
from qvirt.qemu.devices.hostdev import is_missing, is_same

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

_NAMES = {"scsi": "SCSI device", "scsi_host": "SCSI_host device", "mdev": "mediated device"}

#: where sysfs is
ROOT = Path("/")


async def find(domain: "Domain", devices: Iterable[Device]) -> None:
    """Write into USB devices of the host where they are plugged in now, or that they are missing and may be.

    Of all devices of the host it is checked that no other guest has them.
    Raises InternalError for others that are not there, OperationFailed for a description that fits several,
    OperationInvalid for one that a guest has.
    """
    hostdevs = [dev for dev in devices if isinstance(dev, Hostdev)]
    for dev in hostdevs:
        _check_others(domain, dev)
    wanted = [dev for dev in hostdevs if dev.is_subsystem("usb")]
    if not wanted:
        return
    work = partial(usb.list_devices, ROOT)
    present = await domain.hypervisor.files.run(f"USB devices of '{domain.name}'", work)
    there: list[Hostdev] = []
    for dev in wanted:
        source = dev.source
        try:
            found = usb.find(dev, present)
        except InternalError as error:
            if source is None or source.startup_policy != "optional":
                raise
            log.info("domain '%s' does without a USB device: %s", domain.name, error)
            source.missing = True
            continue
        there.append(dev)
        if source is not None:
            line = source.address.line if source.address is not None else source.line
            source.address = UsbHostAddress(bus=found.bus, device=found.device)
            source.address.line = line
    for place, dev in enumerate(there):
        _check_free(domain, dev, there, there[:place])


def _check_others(domain: "Domain", dev: Hostdev) -> None:
    """Raise OperationInvalid for a SCSI or mediated device that another guest has, and does not share."""
    if dev.type not in _NAMES:
        return
    for other in domain.hypervisor.domains:
        if other is domain or other.running is None:
            continue
        for known in other.running.definition.devices.hostdevs:
            if is_same(dev, known) and not (dev.shareable and known.shareable):
                raise OperationInvalid(
                    f"{_NAMES[dev.type]}{line(dev)} is in use by driver QEMU, domain {other.name}",
                    domain=ErrorDomain.NONE,
                )


def _check_free(domain: "Domain", dev: Hostdev, new: list[Hostdev], before: list[Hostdev]) -> None:
    """Raise OperationInvalid for a device that another guest has, or another one of the new ones is."""
    where = dev.host_address
    if not isinstance(where, UsbHostAddress):
        return
    if any(other.host_address == where for other in before):
        raise OperationInvalid(f"USB device {where.name} is already in use", domain=ErrorDomain.NONE)
    for other in domain.hypervisor.domains:
        known = other.running.definition.devices.hostdevs if other.running is not None else []
        if any(
            one.is_subsystem("usb") and one.host_address == where and not is_missing(one)
            for one in known
            if all(one is not mine for mine in new)
        ):
            raise OperationInvalid(
                f"USB device {where.name} is in use by driver QEMU, domain {other.name}",
                domain=ErrorDomain.NONE,
            )
