"""USB hubs."""

from collections.abc import Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.address import UsbAddress
from qvirt.model.devices.hub import Hub
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler, line
from qvirt.qemu.devices.input import usb_is_disabled
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.switches import Device, Switch


class HubHandler(Handler[Hub], kind=Hub):
    """A USB hub of eight ports."""

    config = False

    def defaults(self, dev: Hub, ctx: Context) -> None:
        if dev.type != "usb":
            raise ConfigUnsupported(f"unknown hub device type '{dev.type}'{line(dev)}")
        if dev.address is not None and not isinstance(dev.address, UsbAddress):
            return  # libvirt keeps it, and QEMU refuses to start
        if usb_is_disabled(ctx):
            raise ConfigUnsupported(
                "Can't add USB hub: USB is disabled for this domain", domain=ErrorDomain.DOMAIN
            )

    def validate(self, dev: Hub, ctx: Context) -> None:
        if not ctx.caps.has_device("usb-hub"):
            raise ConfigUnsupported("usb-hub not supported by QEMU binary")

    def switches(self, dev: Hub, ctx: BuildContext) -> Iterator[Switch]:
        yield Device({"driver": "usb-hub", "id": dev.alias.name} | placement(dev, ctx), origin=dev)
