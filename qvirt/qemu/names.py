"""Aliases: the names devices have in QEMU, in libvirt's scheme, so that monitors and scripts find them.

A user's own alias begins with ``ua-`` and is kept; all others are made anew for each start.
"""

import re
from collections.abc import Iterable

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.address import DimmAddress, DriveAddress
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.memory import Memory
from qvirt.model.domain import Domain
from qvirt.qemu.addresses.drive import disk_index
from qvirt.qemu.context import Context
from qvirt.qemu.devices.blockdev import number_images
from qvirt.qemu.machines import has_builtin_ide, has_many_pci_buses, is_q35

_USER_ALIAS = re.compile(r"ua-[A-Za-z0-9_-]*$")

#: list of devices -> how its aliases begin; numbers count up over each beginning
_NUMBERED: tuple[tuple[str, str], ...] = (
    ("interfaces", "net"),
    ("filesystems", "fs"),
    ("sounds", "sound"),
    ("hostdevs", "hostdev"),
    ("redirdevs", "redir"),
    ("videos", "video"),
    ("inputs", "input"),
    ("parallels", "parallel"),
    ("serials", "serial"),
    ("channels", "channel"),
    ("consoles", "console"),
    ("hubs", "hub"),
    ("shmems", "shmem"),
    ("smartcards", "smartcard"),
    ("watchdogs", "watchdog"),
    ("memballoons", "balloon"),
    ("rngs", "rng"),
    ("tpms", "tpm"),
    ("vsocks", "vsock"),
    ("iommus", "iommu"),
    ("cryptos", "crypto"),
)

#: lists whose aliases carry the device's place in the list at a start; the others, and what is plugged in
#: later, take the number after the highest
_BY_PLACE = frozenset(
    {
        "sounds", "videos", "inputs", "parallels", "serials", "channels", "consoles", "hubs", "shmems",
        "smartcards", "tpms", "cryptos",
    }
)  # fmt: skip

_MEMORY_PREFIXES: dict[str, str] = {
    "dimm": "dimm",
    "nvdimm": "nvdimm",
    "virtio-pmem": "virtiopmem",
    "virtio-mem": "virtiomem",
    "sgx-epc": "epc",
}


def is_user_alias(name: str | None) -> bool:
    """Tell whether an alias was chosen by the user."""
    return name is not None and _USER_ALIAS.match(name) is not None


def drop_generated_aliases(domain: Domain) -> None:
    """Forget the aliases of an earlier start that a document still carries.

    Raises ConfigUnsupported when a user gave one alias to two devices.
    """
    seen: set[str] = set()
    for dev in domain.devices.all():
        name = dev.alias.name
        if name is None:
            continue
        if not is_user_alias(name):
            dev.alias.name = None
        elif name in seen:
            raise ConfigUnsupported(f"non unique alias detected: {name}", domain=ErrorDomain.DOMAIN)
        else:
            seen.add(name)


def assign_aliases(domain: Domain, ctx: Context) -> None:
    """Give every device of a complete domain its alias."""
    devices = domain.devices
    for disk in devices.disks:
        _give(disk, disk_alias(disk, domain))
    number_images(devices.disks)
    for controller in devices.controllers:
        if controller.alias.name is None:
            controller.alias.name = controller_alias(controller, domain)
    held = devices.__dict__
    for name, prefix in _NUMBERED:
        listed: list[Device] = held.get(name, [])
        by_place = name in _BY_PLACE and all(
            dev.alias.name is None or is_user_alias(dev.alias.name) for dev in listed
        )
        for place, dev in enumerate(listed):
            if name == "memballoons" and getattr(dev, "model", None) == "none":
                continue
            start = _prefix(dev, prefix)
            _give(dev, f"{start}{place}" if by_place else next_alias(listed, start, domain))
    for memory in devices.memory:
        _give(memory, memory_alias(memory, devices.memory))
    for nvram in devices.nvrams:
        _give(nvram, "nvram")


def _give(dev: Device, name: str) -> None:
    if dev.alias.name is None:
        dev.alias.name = name


def _prefix(dev: Device, prefix: str) -> str:
    # a passed-through network card is a host device to QEMU
    return "hostdev" if prefix == "net" and getattr(dev, "actual_type", None) == "hostdev" else prefix


def next_alias(listed: Iterable[Device], prefix: str, domain: Domain | None = None) -> str:
    """Return the alias after the highest of the kind; host devices and passed-through cards share numbers."""
    if prefix == "hostdev" and domain is not None:
        listed = (*domain.devices.interfaces, *domain.devices.hostdevs)
    highest = -1
    for dev in listed:
        name = dev.alias.name
        if name is not None and name.startswith(prefix) and name[len(prefix) :].isdecimal():
            highest = max(highest, int(name[len(prefix) :]))
    return f"{prefix}{highest + 1}"


def disk_alias(disk: Disk, domain: Domain) -> str:
    """Return a disk's alias: by its place on a controller, or by its target name."""
    bus = str(disk.target.bus or "")
    where = disk.address
    if isinstance(where, DriveAddress) and bus in ("ide", "sata", "fdc", "scsi"):
        parts = [where.controller or 0, where.bus or 0]
        if bus == "scsi" and _scsi_model(where.controller or 0, domain) != "lsilogic":
            parts.append(where.target or 0)
        parts.append(where.unit or 0)
        return bus + "-".join(map(str, parts))
    return f"{bus}-disk{disk_index(disk.target.dev or '')}"


def _scsi_model(index: int, domain: Domain) -> str | None:
    for controller in domain.devices.controllers:
        if controller.type is ControllerType.SCSI and controller.index == index:
            return controller.model
    return None


def controller_alias(dev: Controller, domain: Domain) -> str:
    """Return a controller's alias; those of the machine's own have the names QEMU gives their buses."""
    index = dev.index or 0
    if dev.type is ControllerType.PCI:
        if not has_many_pci_buses(domain):
            return "pci"
        return f"{'pcie' if dev.model == 'pcie-root' else 'pci'}.{index}"
    if index == 0:
        if dev.type is ControllerType.IDE and has_builtin_ide(domain):
            return "ide"
        if dev.type is ControllerType.SATA and is_q35(domain):
            return "ide"
        if dev.type is ControllerType.USB:
            return "usb"
        if dev.type is ControllerType.SCSI and dev.model == "ncr53c90":
            return "scsi"
    return f"{dev.type}{index}"


def memory_alias(dev: Memory, listed: Iterable[Memory]) -> str:
    """Return a memory module's alias: by its slot, or the next number of its kind."""
    prefix = _MEMORY_PREFIXES.get(dev.model, dev.model)
    if isinstance(dev.address, DimmAddress) and dev.address.slot is not None:
        return f"{prefix}{dev.address.slot}"
    return next_alias(listed, prefix)
