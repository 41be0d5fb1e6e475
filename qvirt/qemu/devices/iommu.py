"""The guest's IOMMU."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.iommu import Iommu
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.devices.props import ON_OFF, Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_arm_virt, is_q35
from qvirt.qemu.switches import Device, Switch

MODELS: dict[str, str] = {"intel": "intel-iommu", "smmuv3": "smmuv3", "virtio": "virtio-iommu"}

INTEL = PropTable(
    Iommu,
    Prop("intremap", "driver.intremap", ON_OFF),
    Prop("caching-mode", "driver.caching_mode"),
    Prop("eim", "driver.eim", ON_OFF),
    Prop("device-iotlb", "driver.iotlb"),
    Prop("aw-bits", "driver.aw_bits"),
)


class IommuHandler(Handler[Iommu], kind=Iommu):
    """An IOMMU; ARM's is a switch of the machine."""

    def defaults(self, dev: Iommu, ctx: Context) -> None:
        if dev.model not in MODELS:
            raise XmlError(
                f"Invalid value for attribute 'model' in element 'iommu': '{dev.model}'.{line(dev)}"
            )
        if (
            dev.model == "intel"
            and dev.driver.eim is None
            and dev.driver.intremap
            and ctx.domain.vcpu is not None
            and ctx.domain.vcpu.value > 255
        ):
            dev.driver.eim = True

    def validate(self, dev: Iommu, ctx: Context) -> None:
        if dev.model == "intel":
            if not is_q35(ctx.domain):
                raise ConfigUnsupported(f"IOMMU device: '{dev.model}' is only supported with Q35 machines")
        elif dev.model == "smmuv3":
            if not is_arm_virt(ctx.domain):
                raise ConfigUnsupported(
                    f"IOMMU device: '{dev.model}' is only supported with ARM Virt machines"
                )
        elif not (is_q35(ctx.domain) or is_arm_virt(ctx.domain)):
            raise ConfigUnsupported(
                f"IOMMU device: '{dev.model}' is only supported with Q35 and ARM Virt machines"
            )
        if dev.model != "intel" and not dev.driver.is_empty():
            raise XmlError(f"iommu model '{dev.model}' doesn't support additional attributes")
        if dev.model == "virtio":
            if not isinstance(dev.address, PciAddress):
                raise ConfigUnsupported(f"IOMMU device: '{dev.model}' needs a PCI address")
        elif dev.address is not None:
            raise XmlError(f"iommu model '{dev.model}' can't have address")
        if dev.model != "smmuv3" and not ctx.caps.has_device(
            "virtio-iommu-pci" if dev.model == "virtio" else MODELS[dev.model]
        ):
            raise ConfigUnsupported(f"IOMMU device: '{dev.model}' is not supported with this QEMU binary")
        if dev.model == "virtio" and not ctx.domain.features.acpi:
            raise ConfigUnsupported(f"IOMMU device: '{dev.model}' requires ACPI")
        if dev.driver.intremap:
            ioapic = ctx.domain.features.ioapic if ctx.domain.features is not None else None
            if ioapic is None or ioapic.driver != "qemu":
                raise ConfigUnsupported(
                    "IOMMU interrupt remapping requires split I/O APIC (ioapic driver='qemu')"
                )
        elif dev.driver.eim:
            raise ConfigUnsupported("IOMMU eim requires interrupt remapping to be enabled")

    def switches(self, dev: Iommu, ctx: BuildContext) -> Iterator[Switch]:
        if dev.model == "smmuv3":
            return
        props: dict[str, JsonValue] = {"driver": MODELS[dev.model], "id": dev.alias.name}
        if dev.model == "intel":
            props |= INTEL.render(dev, ctx)
        yield Device(props | placement(dev, ctx), origin=dev)
