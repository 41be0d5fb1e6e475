"""Devices of the host given to the guest: USB, PCI by VFIO, SCSI and mediated devices."""

from collections.abc import Callable, Iterable, Iterator

from qvirt.errors import ConfigUnsupported, InternalError, XmlDetail, XmlError
from qvirt.model.devices.address import CcwAddress, DriveAddress, PciAddress, UnassignedAddress, UsbAddress
from qvirt.model.devices.hostdev import (
    Hostdev,
    MdevHostAddress,
    PciHostAddress,
    ScsiHostAddress,
    UsbHostAddress,
)
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import FileResource, Handler, Resource, line
from qvirt.qemu.devices.input import usb_is_disabled
from qvirt.qemu.devices.placement import placement, rom, virtio_type
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device, Switch

TYPES = frozenset({"usb", "pci", "scsi", "scsi_host", "mdev"})
MDEV_MODELS = frozenset({"vfio-pci", "vfio-ccw", "vfio-ap"})
#: what QEMU does to the USB device when the guest resets it
_GUEST_RESETS: dict[str, dict[str, JsonValue]] = {
    "off": {"guest-reset": False},
    "uninitialized": {"guest-reset": True},
    "on": {"guest-reset": True, "guest-resets-all": True},
}


class HostdevHandler(Handler[Hostdev], kind=Hostdev):
    """A device of the host."""

    def defaults(self, dev: Hostdev, ctx: Context) -> None:
        if dev.mode not in ("subsystem", "capabilities"):
            raise ConfigUnsupported(f"unknown hostdev mode '{dev.mode}'{line(dev)}")
        if dev.mode == "capabilities":
            raise ConfigUnsupported(f"hostdev mode 'capabilities' is not supported in {ctx.domain.type}")
        if dev.type not in TYPES:
            if dev.type is None:
                raise XmlError(f"missing source address type{line(dev)}")
            raise ConfigUnsupported(f"unknown host device source address type '{dev.type}'{line(dev)}")
        if dev.source is None:
            raise XmlError(f"Missing <source> element in hostdev device{line(dev)}")
        if dev.managed is None:
            dev.managed = False
        if dev.source.startup_policy is not None and dev.type != "usb":
            raise XmlError("Setting startupPolicy is only allowed for USB devices")
        if dev.sgio is not None and dev.type != "scsi":
            raise XmlError("sgio is only supported for scsi host device")
        if dev.rawio is not None and dev.type != "scsi":
            raise XmlError("rawio is only supported for scsi host device")
        if dev.type == "mdev":
            _mdev_defaults(dev)
        elif dev.model is not None and dev.type != "scsi_host":
            raise XmlError(f"'model' attribute in <hostdev> is only supported when type='mdev'{line(dev)}")
        if dev.type == "scsi" and dev.source.protocol is None:
            if dev.source.adapter is None:
                raise XmlError("'adapter' name must be specified for scsi hostdev source")
            if not isinstance(dev.host_address, ScsiHostAddress):
                raise XmlError("'address' must be specified for scsi hostdev source")
        if dev.type == "scsi" and dev.source.protocol == "iscsi":
            _iscsi_defaults(dev)
        if dev.type == "scsi_host" and dev.source.wwpn is None:
            raise XmlError("missing vhost-scsi hostdev source wwpn")

    def validate(self, dev: Hostdev, ctx: Context) -> None:
        _validate_address(dev)
        twins = [other for other in ctx.domain.devices.hostdevs if other is not dev and is_same(dev, other)]
        if twins:
            raise XmlError("Hostdev already exists in the domain configuration")
        if dev.teaming is not None:
            if dev.type != "pci":
                raise XmlError("teaming is only supported for pci hostdev devices")
            if dev.teaming.type != "transient":
                raise XmlError("teaming hostdev devices must have type='transient'")
            if not dev.teaming.persistent:
                raise XmlError("missing required persistent attribute in hostdev teaming element")
        if dev.sgio == "unfiltered":
            raise ConfigUnsupported("unfiltered sgio is no longer supported")
        if dev.type == "usb" and usb_is_disabled(ctx):
            raise XmlDetail("Can't add host USB device: USB is disabled in this host")
        if dev.type == "scsi_host" and dev.boot is not None:
            raise ConfigUnsupported("booting from assigned devices is not supported by vhost SCSI devices")
        if dev.type == "pci" and dev.source is not None and dev.source.write_filtering is not None:
            raise ConfigUnsupported(
                "Write filtering of PCI device configuration space is not supported by qemu"
            )
        if dev.type == "mdev":
            _validate_mdev(dev, ctx)

    def resources(self, dev: Hostdev, ctx: Context) -> Iterable[Resource]:
        where = dev.host_address
        if isinstance(where, UsbHostAddress) and where.bus is not None and where.device is not None:
            yield FileResource(dev, usb_path(where), shared=False)

    def switches(self, dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
        if isinstance(dev.address, UnassignedAddress):
            return
        for made in _BUILDERS[dev.type or ""](dev, ctx):
            made.origin = dev
            yield made


def usb_path(where: UsbHostAddress) -> str:
    """Return the device node of a USB device."""
    return f"/dev/bus/usb/{where.bus or 0:03d}/{where.device or 0:03d}"


def is_same(one: Hostdev, other: Hostdev) -> bool:
    """Tell whether two elements name one device of the host."""
    if one.type != other.type or one.source is None or other.source is None:
        return False
    if one.type == "usb":
        return _is_same_usb(one, other)
    if one.type in ("pci", "mdev"):
        return one.host_address is not None and one.host_address == other.host_address
    if one.type == "scsi":
        if one.source.protocol != other.source.protocol:
            return False
        if one.source.protocol == "iscsi":
            return one.source.name == other.source.name and one.source.hosts == other.source.hosts
        return one.source.adapter == other.source.adapter and one.host_address == other.host_address
    return one.source.wwpn == other.source.wwpn


def _is_same_usb(one: Hostdev, other: Hostdev) -> bool:
    here, there = one.host_address, other.host_address
    if isinstance(here, UsbHostAddress) and isinstance(there, UsbHostAddress):
        return here == there
    if here is not None or there is not None:
        return False
    assert one.source is not None and other.source is not None
    return one.source.vendor == other.source.vendor and one.source.product == other.source.product


def _mdev_defaults(dev: Hostdev) -> None:
    if dev.model is None:
        raise XmlError(f"Missing required attribute 'model' in element 'hostdev'{line(dev)}")
    if dev.model not in MDEV_MODELS:
        raise XmlError(f"Invalid value for attribute 'model' in element 'hostdev': '{dev.model}'.{line(dev)}")
    if not isinstance(dev.host_address, MdevHostAddress):
        raise XmlError(f"Missing <address> element{line(dev)}")
    if dev.model == "vfio-pci" and dev.display is None:
        dev.display = False


def _iscsi_defaults(dev: Hostdev) -> None:
    assert dev.source is not None
    source = dev.source
    if not source.name:
        raise XmlError("missing iSCSI hostdev source path name")
    if not source.hosts:
        raise XmlError("missing the host address for the iSCSI hostdev")
    if len(source.hosts) > 1:
        raise XmlError("only one source host address may be specified for the iSCSI hostdev")
    if "/" not in source.name:
        source.name += "/0"
    if source.hosts[0].port is None:
        source.hosts[0].port = "3260"


_ADDRESSES: dict[str, tuple[tuple[type, ...], str]] = {
    "pci": ((PciAddress, UnassignedAddress), "PCI host devices must use 'pci' or 'unassigned' address type"),
    "scsi": ((DriveAddress,), "SCSI host device must use 'drive' address type"),
    "scsi_host": ((PciAddress, CcwAddress), "SCSI_host host device must use 'pci' or 'ccw' address type"),
    "usb": ((UsbAddress,), "USB host device must use 'usb' address type"),
}


def _validate_address(dev: Hostdev) -> None:
    if dev.address is None or dev.type not in _ADDRESSES:
        return
    classes, refusal = _ADDRESSES[dev.type]
    if not isinstance(dev.address, classes):
        raise XmlError(refusal)


def _validate_mdev(dev: Hostdev, ctx: Context) -> None:
    if dev.model != "vfio-pci" and (dev.display is not None or dev.ramfb is not None):
        raise ConfigUnsupported("<hostdev> attribute 'display' is only supported with model='vfio-pci'")
    if dev.display and not ctx.domain.devices.graphics:
        raise ConfigUnsupported("graphics device is needed for attribute value 'display=on' in <hostdev>")
    mdevs = [other for other in ctx.domain.devices.hostdevs if other.is_subsystem("mdev")]
    if dev.model == "vfio-ap" and sum(other.model == "vfio-ap" for other in mdevs) > 1:
        raise ConfigUnsupported("Only one hostdev of model vfio-ap is supported")
    if dev.ramfb and sum(bool(other.ramfb) for other in mdevs) > 1:
        raise ConfigUnsupported("Only one vgpu device can have 'ramfb' enabled")
    if dev.model != "vfio-ccw" and dev.boot is not None:
        raise ConfigUnsupported(f"booting from assigned devices is not supported by mediated devices of model {dev.model}")


# ---------------------------------------------------------------------- build


def _build_usb(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    where = dev.host_address
    if not isinstance(where, UsbHostAddress) or where.bus is None or where.device is None:
        raise InternalError("USB host device is missing bus/device information")
    props: dict[str, JsonValue] = {
        "driver": "usb-host",
        "hostdevice": usb_path(where),
        "id": dev.alias.name,
        "bootindex": boot_index(dev, ctx.domain),
    }
    if dev.source is not None and dev.source.guest_reset is not None:
        props |= _GUEST_RESETS.get(dev.source.guest_reset, {})
    yield Device(props | placement(dev, ctx))


def _build_pci(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    where = dev.host_address
    assert isinstance(where, PciHostAddress)
    props: dict[str, JsonValue] = {
        "driver": "vfio-pci",
        "host": where.name,
        "id": dev.alias.name,
        "bootindex": boot_index(dev, ctx.domain),
        "failover_pair_id": dev.teaming.persistent if dev.teaming is not None else None,
    }
    yield Device(props | placement(dev, ctx) | rom(dev))


def _build_mdev(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    where = dev.host_address
    assert isinstance(where, MdevHostAddress)
    driver = dev.model or "vfio-pci"
    if driver == "vfio-pci" and dev.ramfb:
        driver = "vfio-pci-nohotplug"  # QEMU has ramfb only in a card that stays
    props: dict[str, JsonValue] = {
        "driver": driver,
        "id": dev.alias.name,
        "sysfsdev": f"/sys/bus/mdev/devices/{where.uuid}",
        "display": None if dev.display is None else "on" if dev.display else "off",
        "ramfb": dev.ramfb if driver == "vfio-pci-nohotplug" else None,
        "bootindex": boot_index(dev, ctx.domain),
    }
    yield Device(props | placement(dev, ctx) | rom(dev))


def _build_scsi(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    raise ConfigUnsupported(f"SCSI host devices cannot be started yet{line(dev)}; remove the <hostdev>")
    yield


def _build_scsi_host(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    props: dict[str, JsonValue] = {
        "driver": virtio_type("vhost-scsi", dev, dev.model),
        "wwpn": dev.source.wwpn if dev.source is not None else None,
        "vhostfd": str(ctx.launch.fds(f"vhostfd-{dev.alias.name}")[0]),
        "id": dev.alias.name,
    }
    yield Device(props | placement(dev, ctx))


_BUILDERS: dict[str, Callable[[Hostdev, BuildContext], Iterator[Switch]]] = {
    "usb": _build_usb,
    "pci": _build_pci,
    "mdev": _build_mdev,
    "scsi": _build_scsi,
    "scsi_host": _build_scsi_host,
}
