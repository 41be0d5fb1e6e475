"""Where a device is plugged in, in QEMU's words: bus and slot, option ROM, and which virtio transport.

Every kind that sits on a bus adds ``placement(dev, ctx)`` to its properties.
"""

from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.devices.address import (
    CcidAddress,
    CcwAddress,
    IsaAddress,
    PciAddress,
    SpaprVioAddress,
    UsbAddress,
    VirtioMmioAddress,
)
from qvirt.model.devices.controller import ControllerType
from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.qemu.context import Context
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device as QemuDevice
from qvirt.qemu.switches import Switch

#: what every virtio device takes, whatever its kind
VIRTIO_OPTIONS = PropTable(
    VirtioDriver,
    Prop("iommu_platform", "iommu"),
    Prop("ats", "ats"),
    Prop("packed", "packed"),
    Prop("page-per-vq", "page_per_vq"),
)

#: the virtio transport an address type stands for: the end of the device's name
_TRANSPORTS: dict[type, str] = {PciAddress: "-pci", CcwAddress: "-ccw", VirtioMmioAddress: "-device"}


def placement(dev: Device, ctx: Context) -> dict[str, JsonValue]:
    """Return the properties for the device's address: bus, slot, port; empty where QEMU needs none.

    Raises InternalError when the controller the address names does not exist.
    """
    where = dev.address
    if isinstance(where, PciAddress):
        return _pci(dev, where, ctx)
    if isinstance(where, UsbAddress):
        return {"bus": f"{controller_alias('usb', where.bus or 0, ctx)}.0", "port": where.port}
    if isinstance(where, CcwAddress):
        return {"devno": f"{where.cssid or 0:x}.{where.ssid or 0:x}.{where.devno or 0:04x}"}
    if isinstance(where, SpaprVioAddress):
        return {"reg": where.reg}
    if isinstance(where, IsaAddress):
        return {"iobase": where.iobase, "irq": where.irq}
    if isinstance(where, CcidAddress):
        return {"bus": f"ccid{where.controller or 0}.0", "slot": str(where.slot or 0)}
    return {}


def rom(dev: Device) -> dict[str, JsonValue]:
    """Return the properties for ``<rom>``. Raises ConfigUnsupported on a device that is not on PCI."""
    said = dev.rom
    if said.enabled is None and said.bar is None and said.file is None:
        return {}
    if not isinstance(dev.address, PciAddress):
        raise ConfigUnsupported("rombar and romfile are supported only for PCI devices")
    if said.enabled is False:
        return {"romfile": ""}
    bar = {True: 1, False: 0, None: None}[said.bar]
    return {"rombar": bar, "romfile": said.file}


def virtio_type(base: str, dev: Device, model: str | None = None) -> str:
    """Return the QEMU device type of a virtio device: ``virtio-blk`` on PCI is ``virtio-blk-pci``.

    model: libvirt's model word; ``virtio-transitional`` and ``-non-transitional`` are types of their own.
    """
    suffix = _TRANSPORTS.get(type(dev.address))
    if suffix is None:
        given = dev.address.type if dev.address is not None else "none"
        raise InternalError(f"Unexpected address type for '{base}' (<{dev.tag}> has '{given}')")
    if suffix == "-pci" and model is not None:
        if model.endswith("-non-transitional"):
            suffix += "-non-transitional"
        elif model.endswith("-transitional"):
            suffix += "-transitional"
    return base + suffix


def controller_alias(type: str, index: int, ctx: Context) -> str:
    """Return the alias of a controller. Raises InternalError when the domain has none of that index."""
    for known in ctx.domain.devices.controllers:
        if (known.index or 0) == index and known.type == type:
            name = known.alias.name
            if name:
                return name
    raise InternalError(f"Could not find {type} controller with index {index}")


def zpci_switch(dev: Device) -> Switch | None:
    """Return the device that carries the identifiers of a PCI function of s390x, None where it has none."""
    zpci = dev.address.zpci if isinstance(dev.address, PciAddress) else None
    if zpci is None:
        return None
    return QemuDevice(
        {
            "driver": "zpci",
            "uid": zpci.uid,
            "fid": zpci.fid,
            "target": dev.alias.name,
            "id": f"zpci{zpci.uid}",
        },
        origin=dev,
    )


def _pci(dev: Device, where: PciAddress, ctx: Context) -> dict[str, JsonValue]:
    bus = _pci_bus(where, ctx)
    slot = f"{where.slot or 0:#x}"
    if where.function:
        slot += f".{where.function:#x}"
    return {
        "bus": bus,
        "multifunction": where.multifunction,
        "addr": slot,
        "acpi-index": dev.acpi.index if dev.says("acpi") else None,
    }


def _pci_bus(where: PciAddress, ctx: Context) -> str:
    index = where.bus or 0
    for known in ctx.domain.devices.controllers:
        if (known.index or 0) != index or known.type is not ControllerType.PCI:
            continue
        name = known.alias.name or f"pci.{index}"
        if known.model == "pci-root" and ctx.domain.os.type.arch in ("ppc64", "ppc64le"):
            # every pseries host bridge has one bus; the first is named by the machine, others by their alias
            return f"{name}.0" if index else "pci.0"
        return name
    raise InternalError(
        f"Could not find PCI controller with index {index} required for device at address "
        f"'{where.domain or 0:04x}:{index:02x}:{where.slot or 0:02x}.{where.function or 0:x}'"
    )
