"""USB devices of the viewer's machine, and the filter that says which may come."""

from collections.abc import Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import DeviceMissing, InternalError, OperationInvalid, QvirtError, XmlError
from qvirt.model.devices.address import UsbAddress
from qvirt.model.devices.redirdev import Redirdev, Redirfilter, UsbFilter
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices import chardev
from qvirt.qemu.devices.base import Handler, Resource
from qvirt.qemu.devices.char import chardev_id
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.switches import Device, Switch

#: what QEMU's D-Bus display calls the line
_DBUS_CHANNEL = "org.qemu.usbredir"


class RedirdevHandler(Handler[Redirdev], kind=Redirdev):
    live = True

    def defaults(self, dev: Redirdev, ctx: Context) -> None:
        if dev.type == "dbus" and dev.source.channel is None:
            dev.source.channel = _DBUS_CHANNEL
        chardev.settle(dev)

    def validate(self, dev: Redirdev, ctx: Context) -> None:
        if dev.address is not None and not isinstance(dev.address, UsbAddress):
            raise XmlError("Invalid address for a USB device")
        chardev.validate(dev, ctx)

    def resources(self, dev: Redirdev, ctx: Context) -> Iterable[Resource]:
        return chardev.resources(dev, dev, ctx)

    def same(self, wanted: Redirdev, known: Redirdev, ctx: Context) -> bool:
        if wanted.type == "pty" and wanted.path not in (None, known.path):
            return False
        return super().same(wanted, known, ctx)

    def missing(self, dev: Redirdev, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        return (OperationInvalid if live else DeviceMissing)("no matching redirdev was not found")

    def switches(self, dev: Redirdev, ctx: BuildContext) -> Iterator[Switch]:
        yield from chardev.switches(dev, dev, ctx, id=chardev_id(dev), spice_name="usbredir")
        rules = [rule for each in ctx.domain.devices.redirfilters for rule in each.usbdevs]
        yield Device(
            {
                "driver": "usb-redir",
                "chardev": chardev_id(dev),
                "id": dev.alias.name,
                "filter": "|".join(map(_rule, rules)) or None,
                "bootindex": dev.boot.order if dev.boot is not None else None,
                **placement(dev, ctx),
            },
            origin=dev,
        )


class RedirfilterHandler(Handler[Redirfilter], kind=Redirfilter):
    """Rules are part of every redirdev's record."""

    def validate(self, dev: Redirfilter, ctx: Context) -> None:
        if len(ctx.domain.devices.redirfilters) > 1:
            raise InternalError(
                "only one set of redirection filter rule is supported", domain=ErrorDomain.DOMAIN
            )

    def switches(self, dev: Redirfilter, ctx: BuildContext) -> Iterator[Switch]:
        return iter(())


def _rule(rule: UsbFilter) -> str:
    def shown(value: int | None, width: int) -> str:
        return "-1" if value is None or value < 0 else f"0x{value:0{width}X}"

    version = "-1"
    if rule.version is not None and rule.version != "-1":
        major, minor = rule.version.split(".")
        version = f"0x{int(major):02d}{int(minor):02d}"
    return ":".join(
        (
            shown(rule.class_, 2),
            shown(rule.vendor, 4),
            shown(rule.product, 4),
            version,
            "1" if rule.allow else "0",
        )
    )
