"""Controllers: default models, what their numbers may be, and the QEMU device of each.

PCI controllers have their own module, ``controller_pci``.
"""

from collections.abc import Callable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    InternalError,
    OperationFailed,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
    XmlError,
)
from qvirt.model.devices.address import (
    CcwAddress,
    DriveAddress,
    PciAddress,
    UsbAddress,
    VirtioMmioAddress,
    VirtioSerialAddress,
)
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.domain import Domain
from qvirt.qemu.boot import boot_index
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.controllers import find_controller
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.controller_pci import pci_defaults, pci_switches, validate_pci
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, controller_alias, placement, virtio_type
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import (
    has_builtin_esp,
    has_builtin_fdc,
    has_builtin_ide,
    has_legacy_usb,
    is_pseries,
    is_q35,
    is_s390,
)
from qvirt.qemu.switches import Device, KeyValue, Option, Switch

#: libvirt's USB models and QEMU's devices
USB_DEVICES: dict[str, str] = {
    "piix3-uhci": "piix3-usb-uhci",
    "piix4-uhci": "piix4-usb-uhci",
    "ehci": "usb-ehci",
    "ich9-ehci1": "ich9-usb-ehci1",
    "ich9-uhci1": "ich9-usb-uhci1",
    "ich9-uhci2": "ich9-usb-uhci2",
    "ich9-uhci3": "ich9-usb-uhci3",
    "vt82c686b-uhci": "vt82c686b-usb-uhci",
    "pci-ohci": "pci-ohci",
    "nec-xhci": "nec-usb-xhci",
    "qemu-xhci": "qemu-xhci",
}

SCSI_DEVICES: dict[str, str] = {
    "lsilogic": "lsi",
    "ibmvscsi": "spapr-vscsi",
    "lsisas1068": "mptsas1068",
    "lsisas1078": "megasas",
    "vmpvscsi": "pvscsi",
    "am53c974": "am53c974",
    "dc390": "dc-390",
}
VIRTIO_SCSI = frozenset({"virtio-scsi", "virtio-transitional", "virtio-non-transitional"})

#: what a SCSI model is called in messages, and what QEMU must have for it
_SCSI_NEEDS: dict[str, tuple[str, str]] = {
    "lsilogic": ("lsi53c895a", "LSI 53C895A SCSI"),
    "virtio-scsi": ("virtio-scsi-pci", "virtio scsi"),
    "lsisas1068": ("mptsas1068", "LSI SAS1068 (MPT Fusion)"),
    "lsisas1078": ("megasas", "LSI SAS1078 (MegaRAID)"),
    "vmpvscsi": ("pvscsi", "pvscsi (VMware paravirtual SCSI)"),
    "dc390": ("dc390", "DC390 (ESP)"),
    "am53c974": ("am53c974", "AM53C974 (ESP)"),
}

#: models each type knows; types that are not here have none
MODELS: dict[ControllerType, frozenset[str]] = {
    ControllerType.SCSI: frozenset({*SCSI_DEVICES, *VIRTIO_SCSI, "auto", "buslogic", "ncr53c90"}),
    ControllerType.USB: frozenset({*USB_DEVICES, "none", "qusb1", "qusb2"}),
    ControllerType.PCI: frozenset(
        {
            "pci-root", "pcie-root", "pci-bridge", "dmi-to-pci-bridge", "pcie-to-pci-bridge",
            "pcie-root-port",
            "pcie-switch-upstream-port", "pcie-switch-downstream-port", "pci-expander-bus",
            "pcie-expander-bus",
        }
    ),
    ControllerType.IDE: frozenset({"piix3", "piix4", "ich6"}),
    ControllerType.VIRTIO_SERIAL: frozenset({"virtio", "virtio-transitional", "virtio-non-transitional"}),
}  # fmt: skip

#: the most ports QEMU's XHCI controllers have
XHCI_PORTS = 15

_SCSI_PROPS = PropTable(
    Controller,
    Prop("num_queues", "driver.queues"),
    Prop("cmd_per_lun", "driver.cmd_per_lun"),
    Prop("max_sectors", "driver.max_sectors"),
    Prop("ioeventfd", "driver.ioeventfd"),
)
_SERIAL_PROPS = PropTable(Controller, Prop("max_ports", "ports"), Prop("vectors", "vectors"))
_XHCI_PROPS = PropTable(Controller, Prop("p2", "ports"), Prop("p3", "ports"))
_COMPANION_PROPS = PropTable(Controller, Prop("firstport", "master.startport"))


class ControllerHandler(Handler[Controller], kind=Controller):
    """What other devices plug into."""

    live = True

    def defaults(self, dev: Controller, ctx: Context) -> None:
        if dev.model is not None and dev.model not in MODELS.get(dev.type, frozenset()):
            raise ConfigUnsupported(f"Unknown model type '{dev.model}'{line(dev)}", domain=ErrorDomain.DOMAIN)
        if dev.type is ControllerType.USB:
            if dev.model is None:
                dev.model = _default_usb(dev, ctx)
            if dev.model == "none":
                dev.address = None
        elif dev.type is ControllerType.SCSI:
            if dev.model in (None, "auto"):
                dev.model = default_scsi(ctx)
        elif dev.type is ControllerType.PCI:
            pci_defaults(dev, ctx)

    def validate(self, dev: Controller, ctx: Context) -> None:
        if dev.says("driver") and dev.driver.iothread:
            _validate_iothread(dev, ctx)
        if dev.says("driver") and not (dev.type is ControllerType.SCSI and dev.model in VIRTIO_SCSI):
            for name in ("queues", "cmd_per_lun", "max_sectors", "ioeventfd"):
                if getattr(dev.driver, name) is not None:
                    raise ConfigUnsupported(f"'{name}' is only supported by virtio-scsi controller")
        _VALIDATORS.get(dev.type, _accept)(dev, ctx)

    def clash(self, dev: Controller, ctx: Context, *, live: bool) -> QvirtError | None:
        if live and dev.type not in _PLUGGABLE:
            return OperationUnsupported(f"'{dev.type}' controller cannot be hot plugged.")
        if dev.index is None or find_controller(ctx.domain, dev.type, dev.index) is None:
            return None
        if live:
            return OperationFailed(f"target {dev.type}:{dev.index} already exists")
        return OperationInvalid(f"controller index='{dev.index}' already exists")

    def check_unplug(self, dev: Controller, ctx: Context) -> None:
        if dev.type not in _PLUGGABLE:
            raise OperationUnsupported(f"'{dev.type}' controller cannot be hot unplugged.")
        if _is_used(dev, ctx.domain):
            raise OperationFailed("device cannot be detached: device is busy")

    def same(self, wanted: Controller, known: Controller, ctx: Context) -> bool:
        return wanted.type is known.type and wanted.index is not None and wanted.index == known.index

    def missing(self, dev: Controller, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        if live:
            index = -1 if dev.index is None else dev.index
            return DeviceMissing(f"controller {dev.type}:{index} not found")
        return DeviceMissing("device not present in domain configuration")

    def switches(self, dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
        for made in _BUILDERS.get(dev.type, _build_nothing)(dev, ctx):
            made.origin = dev
            yield made


#: controllers that come and go while the guest runs
_PLUGGABLE = (ControllerType.SCSI, ControllerType.VIRTIO_SERIAL)


def _is_used(controller: Controller, domain: Domain) -> bool:
    """Tell whether anything of the domain is plugged into the controller."""
    index = controller.index or 0
    if controller.type is ControllerType.SCSI:
        return any(
            isinstance(dev.address, DriveAddress) and (dev.address.controller or 0) == index
            for dev in (
                *(disk for disk in domain.devices.disks if disk.target.bus == "scsi"),
                *(dev for dev in domain.devices.hostdevs if dev.is_subsystem("scsi")),
            )
        )
    return any(
        isinstance(dev.address, VirtioSerialAddress) and (dev.address.controller or 0) == index
        for dev in (*domain.devices.channels, *domain.devices.consoles)
    )


def default_scsi(ctx: Context) -> str:
    """Return the SCSI model of a domain that names none. Raises ConfigUnsupported when there is none."""
    if is_pseries(ctx.domain):
        return "ibmvscsi"
    if is_s390(ctx.domain):
        return "virtio-scsi"
    if ctx.caps.has_device("lsi53c895a"):
        return "lsilogic"
    if ctx.caps.has_device("virtio-scsi-pci") or ctx.caps.has_device("virtio-scsi-ccw"):
        return "virtio-scsi"
    raise ConfigUnsupported(
        "Unable to determine model for SCSI controller: name one in <controller model='…'>"
    )


def _default_usb(dev: Controller, ctx: Context) -> str | None:
    arch = ctx.domain.os.type.arch or ""
    has = ctx.caps.has_device
    model = "piix3-uhci" if has("piix3-usb-uhci") else None
    if is_s390(ctx.domain):
        return "none" if dev.address is None else model
    xhci = "qemu-xhci" if has("qemu-xhci") else "nec-xhci" if has("nec-usb-xhci") else None
    if arch in ("ppc64", "ppc64le"):
        # old guests keep the OHCI they were installed with
        if ctx.abi_update and xhci is not None:
            return xhci
        return "pci-ohci" if has("pci-ohci") else None
    if arch == "aarch64":
        return xhci or model
    return model


# ------------------------------------------------------------------ validation


def _accept(dev: Controller, ctx: Context) -> None:
    """Take every controller."""


def _validate_iothread(dev: Controller, ctx: Context) -> None:
    if dev.type is not ControllerType.SCSI or dev.model not in VIRTIO_SCSI:
        raise XmlError("'iothread' attribute only supported for virtio scsi controllers")
    if not isinstance(dev.address, (PciAddress, CcwAddress)):
        raise ConfigUnsupported(
            "virtio-scsi IOThreads only available for virtio pci and virtio ccw controllers"
        )
    known = {thread.id for thread in ctx.domain.iothreadids.iothreads}
    known |= set(range(1, (ctx.domain.iothreads or 0) + 1)) if not known else set()
    if dev.driver.iothread not in known:
        raise ConfigUnsupported(f"controller iothread '{dev.driver.iothread}' not defined in iothreadid")


def _validate_usb(dev: Controller, ctx: Context) -> None:
    model = dev.model or ""
    if model in ("qusb1", "qusb2"):
        raise ConfigUnsupported(
            f"USB controller model type 'qusb1' or 'qusb2' is not supported in {ctx.domain.type}"
        )
    if model in ("nec-xhci", "qemu-xhci") and dev.ports is not None and dev.ports > XHCI_PORTS:
        raise ConfigUnsupported(f"'{model}' controller only supports up to '{XHCI_PORTS}' ports")


def _validate_scsi(dev: Controller, ctx: Context) -> None:
    model = dev.model or ""
    if model == "buslogic":
        raise ConfigUnsupported(f"Unsupported controller model: {model}")
    if model == "ncr53c90" and dev.index:
        raise ConfigUnsupported("ncr53c90 can only be used as first SCSI controller")
    if model == "ncr53c90" and not has_builtin_esp(ctx.domain):
        raise ConfigUnsupported("ncr53c90 SCSI controller is not a built-in for this machine")
    need = _SCSI_NEEDS.get(model)
    if need is not None and not (
        ctx.caps.has_device(need[0]) or (model == "virtio-scsi" and ctx.caps.has_device("virtio-scsi-ccw"))
    ):
        raise ConfigUnsupported(f"This QEMU doesn't support the {need[1]} controller")


def _validate_ide(dev: Controller, ctx: Context) -> None:
    if has_builtin_ide(ctx.domain):
        if dev.index:
            raise ConfigUnsupported("Only a single IDE controller is supported for this machine type")
        return
    raise ConfigUnsupported("IDE controllers are unsupported for this QEMU binary or machine type")


def _validate_ccid(dev: Controller, ctx: Context) -> None:
    if dev.address is not None and not isinstance(dev.address, (UsbAddress, DriveAddress)):
        raise XmlError("Controllers must use the 'ccid' address type")


_VALIDATORS: dict[ControllerType, Callable[[Controller, Context], None]] = {
    ControllerType.USB: _validate_usb,
    ControllerType.SCSI: _validate_scsi,
    ControllerType.IDE: _validate_ide,
    ControllerType.PCI: validate_pci,
    ControllerType.CCID: _validate_ccid,
}


# ---------------------------------------------------------------------- build


def _build_nothing(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    """The controller is part of the machine."""
    return iter(())


def _build_usb(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    model = dev.model or ""
    if model == "none":
        return
    device = USB_DEVICES.get(model)
    if device is None:
        if has_legacy_usb(ctx.domain):
            yield Option("usb")
        return
    if not ctx.caps.has_device(device):
        raise ConfigUnsupported(
            f"USB controller model '{model}' not supported in this QEMU binary{line(dev)}"
        )
    props: dict[str, JsonValue] = {"driver": device}
    if dev.master is not None:
        if not any(_is_master(other, dev) for other in ctx.domain.devices.controllers):
            raise InternalError("masterbus not found")
        props["masterbus"] = f"{controller_alias('usb', dev.index or 0, ctx)}.0"
        props |= _COMPANION_PROPS.render(dev, ctx)
    else:
        if model in ("nec-xhci", "qemu-xhci"):
            props |= _XHCI_PROPS.render(dev, ctx)
        elif dev.ports is not None:
            raise ConfigUnsupported(
                f"usb controller type '{model}' doesn't support 'ports' with this QEMU binary{line(dev)}"
            )
        props["id"] = dev.alias.name
    yield Device(props | placement(dev, ctx))


def legacy_usb_switches(domain: Domain) -> Iterator[Switch]:
    """Yield what switches on the machine's own USB controller, where the document names none at all."""
    named = any(dev.type is ControllerType.USB for dev in domain.devices.controllers)
    if not named and has_legacy_usb(domain):
        yield Option("usb")


def _is_master(other: Controller, companion: Controller) -> bool:
    is_bus = other.type is ControllerType.USB and other.index == companion.index
    return is_bus and other.master is None and other.model != "none"


def _build_scsi(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    model = dev.model or ""
    if model == "ncr53c90":
        return
    props: dict[str, JsonValue] = {}
    if model in VIRTIO_SCSI:
        props["driver"] = virtio_type("virtio-scsi", dev, model)
        props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
        if dev.driver.iothread:
            props["iothread"] = f"iothread{dev.driver.iothread}"
    elif model in SCSI_DEVICES:
        props["driver"] = SCSI_DEVICES[model]
    else:
        raise ConfigUnsupported(f"Unsupported controller model: {model}{line(dev)}")
    props["id"] = dev.alias.name
    props |= _SCSI_PROPS.render(dev, ctx)
    yield Device(props | placement(dev, ctx))


def _build_virtio_serial(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    props: dict[str, JsonValue]
    if dev.address is None or isinstance(dev.address, (PciAddress, CcwAddress, VirtioMmioAddress)):
        props = {"driver": virtio_type("virtio-serial", dev, dev.model)}
    else:
        props = {"driver": "virtio-serial"}
    props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
    props["id"] = dev.alias.name
    props |= _SERIAL_PROPS.render(dev, ctx)
    yield Device(props | placement(dev, ctx))


def _build_sata(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    if is_q35(ctx.domain) and not dev.index:
        return
    yield Device({"driver": "ahci", "id": dev.alias.name} | placement(dev, ctx))


def _build_fdc(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    """Say which floppies boot: to the controller the machine has, or to one that is added."""
    floppies = [disk for disk in ctx.domain.devices.disks if disk.target.bus == "fdc"]
    if not floppies:
        return
    boots: dict[str, JsonValue] = {}
    for disk in floppies:
        index = boot_index(disk, ctx.domain)
        where = disk.address
        if index is not None and isinstance(where, DriveAddress):
            boots["bootindexB" if where.unit else "bootindexA"] = index
    if has_builtin_fdc(ctx.domain):
        for name, value in boots.items():
            yield KeyValue("global", {f"isa-fdc.{name}": value})
    else:
        yield Device({"driver": "isa-fdc", **boots})


def _build_ccid(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    yield Device({"driver": "usb-ccid", "id": dev.alias.name} | placement(dev, ctx))


_BUILDERS: dict[ControllerType, Callable[[Controller, BuildContext], Iterator[Switch]]] = {
    ControllerType.USB: _build_usb,
    ControllerType.SCSI: _build_scsi,
    ControllerType.VIRTIO_SERIAL: _build_virtio_serial,
    ControllerType.SATA: _build_sata,
    ControllerType.CCID: _build_ccid,
    ControllerType.FDC: _build_fdc,
    ControllerType.PCI: pci_switches,
}
