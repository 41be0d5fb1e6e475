"""What somebody who looks into a problem of a guest should know first: libvirt's taints."""

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

from qvirt.model.devices.disk import Disk, DiskDevice
from qvirt.model.storage_source import SourceType
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: Linux's number of the devices /dev/srN
_SCSI_CDROM_MAJOR = 11


async def note(domain: "Domain", running: Running) -> None:
    """Note what somebody who looks into a problem of this guest should know."""
    definition = running.definition
    own = definition.qemu_commandline
    if own is not None and (own.args or own.envs):
        domain.taint("custom-argv")
    overruled = definition.qemu_capabilities
    if overruled is not None and (overruled.adds or overruled.dels):
        domain.taint("custom-hypervisor-feature")
    if definition.qemu_override is not None and definition.qemu_override.devices:
        domain.taint("custom-device")
    user = running.user
    if user is not None and (
        0 in (user.uid, user.gid) or not domain.hypervisor.config.clear_emulator_capabilities
    ):
        domain.taint("high-privileges")
    if definition.cpu is not None and definition.cpu.mode == "host-passthrough":
        domain.taint("host-cpu")
    if any(interface.script is not None for interface in definition.devices.interfaces):
        domain.taint("shell-scripts")
    if definition.os.dtb:
        domain.taint("custom-dtb")
    disks, hostdevs = definition.devices.disks, definition.devices.hostdevs
    if any(disk.rawio for disk in disks) or any(dev.rawio for dev in hostdevs):
        domain.taint("high-privileges")
    drives = [path for disk in disks if (path := _drive(disk)) is not None]
    if drives:
        look = partial(_any_cdrom, drives)
        if await domain.hypervisor.files.run(f"drives of '{domain.name}'", look):
            domain.taint("cdrom-passthrough")
    machine = running.caps.machine(definition.os.type.machine or "") if running.caps is not None else None
    if machine is not None and machine.deprecated:
        domain.taint("deprecated-config")
        running.deprecations.append(f"machine type '{machine.name}'")


def _drive(disk: Disk) -> str | None:
    """Return the host's device in a CD-ROM drive of the guest."""
    is_drive = disk.device == DiskDevice.CDROM and disk.type == SourceType.BLOCK
    return disk.source.dev if is_drive and disk.source is not None else None


def _any_cdrom(paths: list[str]) -> bool:
    """Tell whether one of the devices is a CD-ROM drive. Blocking."""
    for path in paths:
        with contextlib.suppress(OSError):
            if os.major(os.stat(path).st_rdev) == _SCSI_CDROM_MAJOR:
                return True
    return False
