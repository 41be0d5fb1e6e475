"""Panic notifiers: an ISA device, or what the platform has for the purpose."""

from collections.abc import Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.address import IsaAddress
from qvirt.model.devices.panic import Panic
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_pseries, is_s390, is_x86
from qvirt.qemu.switches import Device, Switch

MODELS = frozenset({"isa", "pseries", "hyperv", "s390"})


class PanicHandler(Handler[Panic], kind=Panic):
    """A panic notifier; hyperv's is a CPU feature, those of pSeries and s390 are part of the machine."""

    config = False

    def defaults(self, dev: Panic, ctx: Context) -> None:
        if dev.model is None:
            dev.model = "pseries" if is_pseries(ctx.domain) else "s390" if is_s390(ctx.domain) else "isa"
        if dev.model not in MODELS:
            raise ConfigUnsupported(
                f"unknown panic model '{dev.model}'{line(dev)}", domain=ErrorDomain.DOMAIN
            )

    def validate(self, dev: Panic, ctx: Context) -> None:
        if sum(other.model == dev.model for other in ctx.domain.devices.panics) > 1:
            raise XmlError(f"Multiple panic devices with model '{dev.model}'")
        if dev.model == "isa":
            if not ctx.caps.has_device("pvpanic"):
                raise ConfigUnsupported("the QEMU binary does not support the ISA panic device")
            if dev.address is not None and not isinstance(dev.address, IsaAddress):
                raise ConfigUnsupported("panic is supported only with ISA address type")
            return
        platform, name = {
            "s390": (is_s390, "S390"),
            "hyperv": (is_x86, "i686 and x86_64"),
            "pseries": (is_pseries, "pSeries"),
        }[dev.model or ""]
        if not platform(ctx.domain):
            raise ConfigUnsupported(f"only {name} guests support panic device of model '{dev.model}'")
        if dev.address is not None:
            raise ConfigUnsupported(
                f"setting the panic device address is not supported for model '{dev.model}'"
            )

    def switches(self, dev: Panic, ctx: BuildContext) -> Iterator[Switch]:
        if dev.model != "isa":
            return
        props: dict[str, JsonValue] = {"driver": "pvpanic"}
        if isinstance(dev.address, IsaAddress):
            props["ioport"] = dev.address.iobase
        yield Device(props, origin=dev)
