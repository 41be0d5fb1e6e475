"""PCI controllers: what each model may say, and its QEMU device.

QEMU's devices are recorded in ``<model name=…>``: what the guest sees may not change when the choice does.
"""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.controller import Controller, PciControllerTarget
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_i440fx, is_pseries, is_q35
from qvirt.qemu.switches import Device, KeyValue, Switch
from qvirt.record import Record


class PciModel(Record):
    """What is behind a model of PCI controller.

    devices: the QEMU devices it may be, the default first. required, allowed: fields of ``<target>``.
    """

    devices: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()


def _model(devices: str = "", required: str = "", allowed: str = "") -> PciModel:
    return PciModel(tuple(devices.split()), frozenset(required.split()), frozenset(allowed.split()))


MODELS: dict[str, PciModel] = {
    "pci-root": _model("", "", "hotplug"),
    "pcie-root": _model(),
    "pci-bridge": _model("pci-bridge", "chassis_nr"),
    "dmi-to-pci-bridge": _model("i82801b11-bridge"),
    "pcie-to-pci-bridge": _model("pcie-pci-bridge"),
    "pcie-root-port": _model("pcie-root-port ioh3420", "chassis port", "hotplug"),
    "pcie-switch-upstream-port": _model("x3130-upstream"),
    "pcie-switch-downstream-port": _model("xio3130-downstream", "chassis port", "hotplug"),
    "pci-expander-bus": _model("pxb", "bus_nr", "node"),
    "pcie-expander-bus": _model("pxb-pcie", "bus_nr", "node"),
}

#: <target> field -> what messages call it, lowest and highest value
_RANGES: tuple[tuple[str, str, int, int], ...] = (
    ("chassis_nr", "chassisNr", 1, 255),
    ("chassis", "chassis", 0, 255),
    ("port", "port", 0, 255),
    ("bus_nr", "busNr", 1, 254),
)

_PROPS = PropTable(
    PciControllerTarget,
    Prop("bus_nr", "bus_nr"),
    Prop("chassis_nr", "chassis_nr"),
    Prop("port", "port"),
    Prop("chassis", "chassis"),
    Prop("hotplug", "hotplug"),
)


def pci_defaults(dev: Controller, ctx: Context) -> None:
    """Check what must be right before addresses are given. Raises XmlError, ConfigUnsupported."""
    target = dev.target
    if dev.model not in ("pci-root", "pcie-root"):
        dev.pcihole64 = None  # no other controller has a window of its own
    if dev.model == "pci-expander-bus" and not is_i440fx(ctx.domain):
        raise ConfigUnsupported("pci-expander-bus controllers are only supported on 440fx-based machinetypes")
    if dev.model == "pcie-expander-bus" and not is_q35(ctx.domain):
        raise ConfigUnsupported("pcie-expander-bus controllers are not supported with this machine type")
    for name, word, low, high in _RANGES:
        value: int | None = getattr(target, name)
        if value is not None and not low <= value <= high:
            raise ConfigUnsupported(f"PCI controller {word} '{value}' out of range - must be {low}-{high}")
    if target.index is not None and not 0 <= target.index <= 30:
        raise ConfigUnsupported(f"PCI controller target index '{target.index}' out of range - must be 0-30")


def validate_pci(dev: Controller, ctx: Context) -> None:
    """Refuse what the model or the machine does not have. Raises XmlError, ConfigUnsupported."""
    model = dev.model or ""
    index = dev.index or 0
    roots = model in ("pci-root", "pcie-root")
    if index > 255:
        raise ConfigUnsupported(f"PCI controller index {index} too high, maximum is 255")
    if roots and dev.address is not None and not is_pseries(ctx.domain):
        raise ConfigUnsupported("pci-root and pcie-root controllers should not have an address")
    if roots and index and not is_pseries(ctx.domain):
        raise XmlError("pci-root and pcie-root controllers should have index 0")
    if not roots and not index:
        raise ConfigUnsupported(f"Index for '{model}' controllers must be > 0")
    _validate_node(dev, ctx)
    if not is_pseries(ctx.domain):
        _validate_target(dev)
    elif roots and dev.target.index is not None and (not index) != (not dev.target.index):
        raise ConfigUnsupported(
            "Only the PCI controller with index 0 can have target index 0, and vice versa"
        )
    if dev.pcihole64 is not None and not (is_i440fx(ctx.domain) or is_q35(ctx.domain)):
        raise ConfigUnsupported(
            f"Setting the 64-bit PCI hole size is not supported for machine '{ctx.domain.os.type.machine}'"
        )


def _validate_node(dev: Controller, ctx: Context) -> None:
    node = dev.target.node
    if node is None:
        return
    cpu = ctx.domain.cpu
    cells = len(cpu.numa.cells) if cpu is not None and cpu.numa is not None else 0
    if node >= cells:
        raise XmlError(
            f"{dev.model} with index {dev.index} is configured for a NUMA node ({node}) not present in the "
            f"domain's <cpu><numa> array ({cells})"
        )
    if not dev.index:
        raise ConfigUnsupported("The PCI controller with index=0 can't be associated with a NUMA node")


_TARGET_WORDS = (
    ("chassis_nr", "chassisNr"),
    ("chassis", "chassis"),
    ("port", "port"),
    ("bus_nr", "busNr"),
    ("index", "targetIndex"),
    ("hotplug", "hotplug"),
    ("node", "numaNode"),
)


def _validate_target(dev: Controller) -> None:
    model = dev.model or ""
    known = MODELS[model]
    name = dev.pci_model.name if dev.pci_model is not None else ""
    whose = f"for PCI controller with index '{dev.index}', model '{model}' and modelName '{name or 'none'}'"
    if name and name not in known.devices:
        what = "has invalid value" if known.devices else "is not valid"
        raise ConfigUnsupported(f"Option 'modelName' {what} {whose}")
    said = dev.target.__dict__
    for field, word in _TARGET_WORDS:
        if said.get(field) is None:
            if field in known.required:
                raise ConfigUnsupported(f"Required option '{word}' is not set {whose}")
        elif field not in known.required and field not in known.allowed:
            raise ConfigUnsupported(f"Option '{word}' is not valid {whose}")


def pci_switches(dev: Controller, ctx: BuildContext) -> Iterator[Switch]:
    """Yield the controller's device, or what is set on the one the machine has."""
    model = dev.model or ""
    if model == "pcie-root" or (model == "pci-root" and not dev.index):
        yield from _root_globals(dev)
        return
    name = dev.pci_model.name if dev.pci_model is not None else ""
    if not name:
        raise ConfigUnsupported(f"PCI controller '{model}' with index '{dev.index}' has no <model name=…>")
    target = dev.target
    props: dict[str, JsonValue] = {"driver": name}
    props |= {"index": target.index} if model == "pci-root" else _PROPS.render(target, ctx)
    props["id"] = dev.alias.name
    props["numa_node"] = target.node
    yield Device(props | placement(dev, ctx))


def _root_globals(dev: Controller) -> Iterator[Switch]:
    host = {"pci-root": "i440FX-pcihost", "pcie-root": "q35-pcihost"}[dev.model or ""]
    if dev.pcihole64 is not None:
        yield KeyValue("global", {f"{host}.pci-hole64-size": f"{dev.pcihole64.value}K"})
    if dev.model == "pci-root" and dev.target.hotplug is not None:
        yield KeyValue("global", {"PIIX4_PM.acpi-root-pci-hotplug": dev.target.hotplug})
