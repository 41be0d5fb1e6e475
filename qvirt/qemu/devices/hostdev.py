"""Devices of the host given to the guest: USB, PCI by VFIO, SCSI and mediated devices."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InternalError,
    OperationInvalid,
    QvirtError,
    XmlError,
)
from qvirt.model.devices.address import CcwAddress, DriveAddress, PciAddress, UnassignedAddress, UsbAddress
from qvirt.model.devices.controller import ControllerType
from qvirt.model.devices.hostdev import (
    HostAddress,
    Hostdev,
    HostdevSource,
    MdevHostAddress,
    PciHostAddress,
    ScsiHostAddress,
    UsbHostAddress,
    UsbId,
)
from qvirt.model.secret import USAGE_NUMBERS
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.controllers import find_controller
from qvirt.qemu.devices import vfio
from qvirt.qemu.devices.base import FileResource, HandedResource, Handler, OpenResource, Resource, line
from qvirt.qemu.devices.blockdev import iscsi_props, secret_object
from qvirt.qemu.devices.input import usb_is_disabled
from qvirt.qemu.devices.placement import controller_alias, placement, rom, virtio_type
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Blockdev, Device, Switch

H = TypeVar("H", bound=HostAddress)

_VHOST_SCSI = "/dev/vhost-scsi"
#: where the device nodes of USB devices are
USB_NODES = "/dev/bus/usb"
TYPES = frozenset({"usb", "pci", "scsi", "scsi_host", "mdev"})
VIRTIO_MODELS = frozenset({"virtio", "virtio-transitional", "virtio-non-transitional"})
_PROTOCOLS: dict[str, frozenset[str | None]] = {
    "scsi": frozenset({None, "adapter", "iscsi"}),
    "scsi_host": frozenset({None, "none", "vhost"}),
}
MDEV_MODELS = frozenset({"vfio-pci", "vfio-ccw", "vfio-ap"})
#: what QEMU does to the USB device when the guest resets it
_GUEST_RESETS: dict[str, dict[str, JsonValue]] = {
    "off": {"guest-reset": False},
    "uninitialized": {"guest-reset": True},
    "on": {"guest-reset": True, "guest-resets-all": True},
}


class HostdevHandler(Handler[Hostdev], kind=Hostdev):
    """A device of the host."""

    live = True

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
        dev.unplug()
        if dev.managed is None:
            dev.managed = False
        if dev.source.startup_policy is not None and dev.type != "usb":
            raise ConfigUnsupported("Setting startupPolicy is only allowed for USB devices")
        if dev.sgio is not None and dev.type != "scsi":
            raise XmlError("sgio is only supported for scsi host device")
        if dev.rawio is not None and dev.type != "scsi":
            raise XmlError("rawio is only supported for scsi host device")
        if dev.type == "mdev":
            _mdev_defaults(dev)
        else:
            dev.display = dev.ramfb = None
        if dev.type == "usb":
            _usb_defaults(dev, dev.source, ctx)
        if dev.type == "pci" and dev.source.address is None:
            dev.source.address = PciHostAddress(domain=0, bus=0, slot=0, function=0)
        if dev.type in _PROTOCOLS and dev.source.protocol not in _PROTOCOLS[dev.type]:
            name = "SCSI" if dev.type == "scsi" else "scsi_host"
            raise ConfigUnsupported(f"Unknown {name} subsystem protocol '{dev.source.protocol}'{line(dev)}")
        if dev.model is not None and dev.type not in ("mdev", "scsi_host"):
            raise XmlError(
                f"'model' attribute in <hostdev> is only supported when type='{dev.type}'{line(dev)}"
            )
        if dev.type == "scsi" and dev.source.protocol is None:
            if dev.source.adapter is None:
                raise XmlError("'adapter' name must be specified for scsi hostdev source")
            if not isinstance(dev.host_address, ScsiHostAddress):
                raise XmlError("'address' must be specified for scsi hostdev source")
        if dev.type == "scsi" and dev.source.protocol == "iscsi":
            _iscsi_defaults(dev.source)
        if dev.type == "scsi_host":
            if dev.source.wwpn is None:
                raise XmlError("missing vhost-scsi hostdev source wwpn")
            if not re.fullmatch(r"naa\.[0-9a-fA-F]{16}", dev.source.wwpn):
                raise XmlError("malformed 'wwpn' value")
            if dev.model is not None and dev.model not in VIRTIO_MODELS:
                raise XmlError(
                    f"Invalid value for attribute 'model' in element 'hostdev': '{dev.model}'.{line(dev)}"
                )

    def validate(self, dev: Hostdev, ctx: Context) -> None:
        _validate_address(dev)
        twins = [other for other in ctx.domain.devices.hostdevs if other is not dev and is_same(dev, other)]
        if twins:
            raise XmlError("Hostdev already exists in the domain configuration")
        if dev.teaming is not None:
            if dev.type != "pci":
                raise ConfigUnsupported("teaming is only supported for pci hostdev devices")
            if dev.teaming.type != "transient":
                raise ConfigUnsupported("teaming hostdev devices must have type='transient'")
            if not dev.teaming.persistent:
                raise ConfigUnsupported("missing required persistent attribute in hostdev teaming element")
        if dev.sgio == "unfiltered":
            raise ConfigUnsupported("unfiltered sgio is no longer supported")
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
        if is_missing(dev):
            return
        if isinstance(where, UsbHostAddress) and where.bus is not None and where.device is not None:
            yield FileResource(dev, usb_path(where), shared=False)
        elif isinstance(where, MdevHostAddress):
            yield FileResource(dev, vfio.CONTAINER, shared=True, relabel=False)
            if where.uuid in ctx.host.mdev_groups:
                yield FileResource(dev, f"{vfio.NODES}/{ctx.host.mdev_groups[where.uuid]}")
        elif isinstance(where, PciHostAddress):
            yield from vfio.nodes(dev, ctx)
        elif isinstance(where, ScsiHostAddress):
            node = ctx.host.scsi_nodes.get(_scsi_name(dev, where))
            if node is not None:
                yield FileResource(dev, node, writable=not dev.readonly, shared=dev.shareable)
        elif dev.type == "scsi_host":
            yield OpenResource(dev, (_VHOST_SCSI,), _vhost(dev), readable=True)
            yield HandedResource(dev, _VHOST_SCSI)

    def prepare(self, dev: Hostdev, ctx: BuildContext) -> None:
        """Refuse what is not there, and say how the device is passed through."""
        where = dev.host_address
        if isinstance(where, PciHostAddress):
            vfio.check_backend(dev)
            dev.driver.name = "vfio"
        if isinstance(where, MdevHostAddress) and where.uuid not in ctx.host.mdev_groups:
            raise DeviceMissing(f"mediated device '{where.uuid}' not found{line(dev)}")
        if isinstance(where, ScsiHostAddress):
            _scsi_node(dev, where, ctx)

    def switches(self, dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
        if isinstance(dev.address, UnassignedAddress):
            return
        for made in _BUILDERS[dev.type or ""](dev, ctx):
            made.origin = dev
            yield made

    def clash(self, dev: Hostdev, ctx: Context, *, live: bool) -> QvirtError | None:
        twin = next((known for known in ctx.domain.devices.hostdevs if self.same(dev, known, ctx)), None)
        if twin is None:
            return None
        if not live:
            return OperationInvalid("device is already in the domain configuration")
        where = twin.host_address
        if isinstance(where, PciHostAddress):
            return OperationInvalid(
                f"PCI device {where.name} is in use by driver QEMU, domain {ctx.domain.name}"
            )
        if not isinstance(where, UsbHostAddress) or is_missing(twin):
            return None
        return OperationInvalid(f"USB device {where.name} is in use by driver QEMU, domain {ctx.domain.name}")

    def same(self, wanted: Hostdev, known: Hostdev, ctx: Context) -> bool:
        if wanted.type != "usb" or known.type != "usb" or isinstance(wanted.host_address, UsbHostAddress):
            return is_same(wanted, known)
        if wanted.source is None or known.source is None:
            return False
        return (wanted.source.vendor, wanted.source.product) == (known.source.vendor, known.source.product)

    def missing(self, dev: Hostdev, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        if not live:
            return DeviceMissing("device not present in domain configuration")
        where, source = dev.host_address, dev.source
        if isinstance(where, UsbHostAddress):
            return DeviceMissing(f"host usb device {where.bus or 0:03d}.{where.device or 0:03d} not found")
        if isinstance(where, PciHostAddress):
            return DeviceMissing(f"host pci device {where.name} not found")
        if source is not None and source.vendor is not None and source.product is not None:
            return DeviceMissing(
                f"host usb device vendor=0x{source.vendor.id:04x} product=0x{source.product.id:04x} not found"
            )
        return super().missing(dev, ctx, live=live, update=update)


def is_missing(dev: Hostdev) -> bool:
    """Tell whether the host had not got the device when the guest got it, in a live document."""
    return dev.source is not None and bool(dev.source.missing)


def usb_path(where: UsbHostAddress) -> str:
    """Return the device node of a USB device."""
    return f"{USB_NODES}/{where.bus or 0:03d}/{where.device or 0:03d}"


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
    if one.source is None or other.source is None:
        return False
    return one.source.vendor == other.source.vendor and one.source.product == other.source.product


def _mdev_defaults(dev: Hostdev) -> None:
    if dev.model is None:
        raise XmlError(f"Missing required attribute 'model' in element 'hostdev'{line(dev)}")
    if dev.model not in MDEV_MODELS:
        raise XmlError(f"Invalid value for attribute 'model' in element 'hostdev': '{dev.model}'.{line(dev)}")
    if not isinstance(dev.host_address, MdevHostAddress):
        raise ConfigUnsupported(f"Missing <address> element{line(dev)}", domain=ErrorDomain.DOMAIN)
    if dev.model == "vfio-pci" and dev.display is None:
        dev.display = False


#: the device of each model, and what messages call it
_MDEV_DEVICES: dict[str, tuple[str, str]] = {
    "vfio-pci": ("vfio-pci", "VFIO PCI"),
    "vfio-ccw": ("vfio-ccw", "VFIO CCW"),
    "vfio-ap": ("vfio-ap", "VFIO AP"),
}


def _usb_defaults(dev: Hostdev, source: HostdevSource, ctx: Context) -> None:
    if usb_is_disabled(ctx):
        raise ConfigUnsupported(
            "Can't add host USB device: USB is disabled in this host", domain=ErrorDomain.DOMAIN
        )
    if (source.vendor is None) != (source.product is None):
        missing = "vendor" if source.vendor is None else "product"
        raise InternalError(f"missing {missing}", domain=ErrorDomain.DOMAIN)
    where = source.address
    if isinstance(where, UsbHostAddress) and (where.bus is None or where.device is None):
        missing = "bus" if where.bus is None else "device"
        raise XmlError(f"Missing required attribute '{missing}' in element 'address'{line(dev)}")
    if source.is_empty():
        dev.source = None


def _iscsi_defaults(source: HostdevSource) -> None:
    if not source.name:
        raise XmlError("missing iSCSI hostdev source path name")
    if not source.hosts:
        raise XmlError("missing the host address for the iSCSI hostdev")
    if len(source.hosts) > 1:
        raise XmlError("only one source host address may be specified for the iSCSI hostdev")
    if "/" not in source.name:
        source.name += "/0"
    use = source.auth.secret if source.auth is not None else None
    if use is not None and use.type != "iscsi":
        if use.type not in USAGE_NUMBERS:
            raise ConfigUnsupported(f"invalid secret type {use.type or '<null>'}{line(use)}")
        raise InternalError(f"hostdev invalid secret type '{use.type}'{line(use)}")


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
        if dev.type == "pci":
            raise InternalError(refusal, domain=ErrorDomain.DOMAIN)
        raise ConfigUnsupported(refusal, domain=ErrorDomain.DOMAIN)


def _validate_mdev(dev: Hostdev, ctx: Context) -> None:
    where = dev.address
    if where is not None and not isinstance(where, (PciAddress, CcwAddress)):
        raise XmlError(f"Unsupported address type '{where.type}' with mediated device model '{dev.model}'")
    device, name = _MDEV_DEVICES[dev.model or ""]
    if not ctx.caps.has_device(device):
        raise ConfigUnsupported(f"{name} device assignment is not supported by this version of QEMU")
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
        raise ConfigUnsupported(
            f"booting from assigned devices is not supported by mediated devices of model {dev.model}"
        )


# ---------------------------------------------------------------------- build


def _host(dev: Hostdev, kind: type[H]) -> H:
    """Return the address on the host, of the class the hostdev's type makes it."""
    where = dev.host_address
    if not isinstance(where, kind):
        raise InternalError(f"host device '{dev.alias.name}'{line(dev)} does not say which device it is")
    return where


def _build_usb(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    props: dict[str, JsonValue] = {
        "driver": "usb-host",
        **_usb_name(dev),
        "id": dev.alias.name,
        "bootindex": boot_index(dev, ctx.domain),
    }
    if dev.source is not None and dev.source.guest_reset is not None:
        props |= _GUEST_RESETS.get(dev.source.guest_reset, {})
    yield Device(props | placement(dev, ctx))


def _usb_name(dev: Hostdev) -> dict[str, JsonValue]:
    """Return where a device is; before it has been looked for, which a start does, what it is."""
    if is_missing(dev):
        return {}  # QEMU makes a device that nothing is behind
    where, source = dev.host_address, dev.source
    if isinstance(where, UsbHostAddress) and where.bus is not None and where.device is not None:
        return {"hostdevice": usb_path(where)}
    if source is None or source.vendor is None or source.product is None:
        raise InternalError("USB host device is missing bus/device information")
    return usb_names(source.vendor, source.product)


def usb_names(vendor: UsbId, product: UsbId) -> dict[str, JsonValue]:
    """Return what QEMU finds a USB device by, wherever it is plugged in."""
    return {"vendorid": f"{vendor.id:#06x}", "productid": f"{product.id:#06x}"}


def _build_pci(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    yield vfio.frontend(dev, ctx)


def _build_mdev(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    where = _host(dev, MdevHostAddress)
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
    source = dev.source
    node = f"libvirt-{_node_number(dev, ctx)}-backend"
    if source is not None and source.protocol == "iscsi":
        yield from _iscsi(dev, source, node, ctx)
    else:
        path = _scsi_node(dev, _host(dev, ScsiHostAddress), ctx)
        yield Blockdev(
            {"driver": "host_device", "filename": path, "node-name": node, "read-only": dev.readonly}
        )
    props: dict[str, JsonValue] = {
        "driver": "scsi-generic",
        "drive": node,
        "id": dev.alias.name,
        "bootindex": boot_index(dev, ctx.domain),
    }
    yield Device(props | _scsi_place(dev, ctx))


def _iscsi(dev: Hostdev, source: HostdevSource, node: str, ctx: BuildContext) -> Iterator[Switch]:
    user, password = None, None
    if source.auth is not None and source.auth.secret is not None:
        user, password = source.auth.username, f"{node}-secret0"
        use = source.auth.secret
        yield secret_object(password, ctx.launch.secret("iscsi", use.uuid, use.usage), ctx)
    host = source.hosts[0]
    initiator = source.initiator.iqn if source.initiator is not None else None
    props = iscsi_props(source.name or "", host.name or "", host.port or "0", user, password)
    props["initiator-name"] = initiator.name if initiator is not None else None
    yield Blockdev({**props, "node-name": node, "read-only": dev.readonly})


def _scsi_name(dev: Hostdev, where: ScsiHostAddress) -> str:
    """Return the kernel's name of a device: adapter, bus, target, unit."""
    adapter = dev.source.adapter if dev.source is not None else None
    number = (adapter.name or "").removeprefix("scsi_host") if adapter is not None else ""
    return f"{number}:{where.bus}:{where.target}:{where.unit}"


def _scsi_node(dev: Hostdev, where: ScsiHostAddress, ctx: Context) -> str:
    """Return the node by which commands are passed on. Raises DeviceMissing."""
    name = _scsi_name(dev, where)
    node = ctx.host.scsi_nodes.get(name)
    if node is None:
        raise DeviceMissing(f"SCSI device '{name}' is not on this host, or has no generic node{line(dev)}")
    return node


def _node_number(dev: Hostdev, ctx: BuildContext) -> int:
    """Return a number for the block node that no disk has."""
    hostdevs = [other for other in ctx.domain.devices.hostdevs if other.is_subsystem("scsi")]
    return 1000 + next(place for place, other in enumerate(hostdevs) if other is dev)


def _scsi_place(dev: Hostdev, ctx: BuildContext) -> dict[str, JsonValue]:
    where = dev.address
    if not isinstance(where, DriveAddress):
        raise InternalError(f"SCSI host device '{dev.alias.name}' has no drive address")
    index = where.controller or 0
    controller = find_controller(ctx.domain, ControllerType.SCSI, index)
    bus = f"{controller_alias('scsi', index, ctx)}.0"
    if controller is not None and controller.model == "lsilogic":
        return {"bus": bus, "scsi-id": where.unit or 0}
    return {"bus": bus, "channel": 0, "scsi-id": where.target or 0, "lun": where.unit or 0}


def _vhost(dev: Hostdev) -> str:
    return f"vhostfd-{dev.alias.name}"


def _build_scsi_host(dev: Hostdev, ctx: BuildContext) -> Iterator[Switch]:
    props: dict[str, JsonValue] = {
        "driver": virtio_type("vhost-scsi", dev, dev.model),
        "wwpn": dev.source.wwpn if dev.source is not None else None,
        "vhostfd": ctx.launch.fds(_vhost(dev))[0],
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
