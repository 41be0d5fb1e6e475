"""Smartcards in the guest's USB reader."""

from collections.abc import Iterable, Iterator

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.address import CcidAddress
from qvirt.model.devices.smartcard import Smartcard
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices import chardev
from qvirt.qemu.devices.base import FileResource, Handler, Resource
from qvirt.qemu.devices.char import chardev_id
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device, Switch

_DEFAULT_DATABASE = "/etc/pki/nssdb"


class SmartcardHandler(Handler[Smartcard], kind=Smartcard):
    config = False

    def defaults(self, dev: Smartcard, ctx: Context) -> None:
        if dev.mode == "passthrough":
            chardev.settle(dev)

    def validate(self, dev: Smartcard, ctx: Context) -> None:
        if dev.address is not None and not isinstance(dev.address, CcidAddress):
            raise ConfigUnsupported("Controllers must use the 'ccid' address type", domain=ErrorDomain.DOMAIN)
        if dev.mode == "passthrough":
            chardev.validate(dev, ctx)
        if len(ctx.domain.devices.smartcards) > 1 or (
            isinstance(dev.address, CcidAddress) and (dev.address.controller or dev.address.slot)
        ):
            raise ConfigUnsupported("this QEMU binary lacks multiple smartcard support")
        type = "ccid-card-passthru" if dev.mode == "passthrough" else "ccid-card-emulated"
        if not ctx.caps.has_device(type):
            raise ConfigUnsupported(f"this QEMU binary lacks smartcard {dev.mode} mode support")

    def resources(self, dev: Smartcard, ctx: Context) -> Iterable[Resource]:
        if dev.mode == "host-certificates":
            # of root's, as a rule: it is read by whom its mode lets
            folder = dev.database or _DEFAULT_DATABASE
            return (FileResource(dev, folder, writable=False, shared=True, optional=True, relabel=False),)
        return chardev.resources(dev, dev, ctx)

    def switches(self, dev: Smartcard, ctx: BuildContext) -> Iterator[Switch]:
        props: dict[str, JsonValue]
        if dev.mode == "host":
            props = {"driver": "ccid-card-emulated", "backend": "nss-emulated"}
        elif dev.mode == "host-certificates":
            props = {"driver": "ccid-card-emulated", "backend": "certificates"}
            props |= {f"cert{i}": name for i, name in enumerate(dev.certificates, 1)}
            props["db"] = dev.database or _DEFAULT_DATABASE
        else:
            yield from chardev.switches(dev, dev, ctx, id=chardev_id(dev), spice_name="smartcard")
            props = {"driver": "ccid-card-passthru", "chardev": chardev_id(dev)}
        # a reader of QEMU has one slot, and takes no number for it
        bus = dev.address.controller or 0 if isinstance(dev.address, CcidAddress) else 0
        yield Device({**props, "id": dev.alias.name, "bus": f"ccid{bus}.0"}, origin=dev)
