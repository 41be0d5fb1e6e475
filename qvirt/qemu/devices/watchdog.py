"""Watchdogs: the device, and what QEMU does when the guest stops feeding it."""

from collections.abc import Iterator

from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
    XmlError,
)
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.watchdog import Watchdog
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_s390
from qvirt.qemu.switches import Device, Option, Step, Switch

#: libvirt's actions and QEMU's; libvirt dumps the core itself while QEMU only stops
ACTIONS: dict[str, str] = {
    "reset": "reset",
    "shutdown": "shutdown",
    "poweroff": "poweroff",
    "pause": "pause",
    "dump": "pause",
    "none": "none",
    "inject-nmi": "inject-nmi",
}


class WatchdogAction(Option, frozen=False):
    """``-watchdog-action`` / ``watchdog-set-action``: what QEMU does when a watchdog has run out."""

    def to_step(self) -> Step:
        return Step("watchdog-set-action", {"action": self.value})


class WatchdogHandler(Handler[Watchdog], kind=Watchdog):
    """A watchdog; libvirt 9.0 takes one."""

    live = True

    def defaults(self, dev: Watchdog, ctx: Context) -> None:
        if dev.action is None:
            dev.action = "reset"

    def validate(self, dev: Watchdog, ctx: Context) -> None:
        if dev.model == "i6300esb":
            if dev.address is not None and not isinstance(dev.address, PciAddress):
                raise ConfigUnsupported(f"{dev.model} model of watchdog can go only on PCI bus")
        elif dev.model == "ib700":
            if dev.address is not None:
                raise ConfigUnsupported(
                    f"{dev.model} model of watchdog does not support configuring the address"
                )
        elif not is_s390(ctx.domain):
            raise ConfigUnsupported(f"{dev.model} model of watchdog is allowed for s390 and s390x only")
        elif dev.address is not None:
            raise XmlError(f"{dev.model} model of watchdog is virtual and cannot go on any bus.")

    def clash(self, dev: Watchdog, ctx: Context, *, live: bool) -> QvirtError | None:
        return OperationInvalid("domain already has a watchdog") if ctx.domain.devices.watchdogs else None

    def check_plug(self, dev: Watchdog, ctx: Context) -> None:
        if dev.model != "i6300esb":
            raise OperationUnsupported(f"hotplug of watchdog of model {dev.model} is not supported")

    def check_unplug(self, dev: Watchdog, ctx: Context) -> None:
        if dev.model != "i6300esb":
            raise OperationUnsupported(f"hot unplug of watchdog of model {dev.model} is not supported")

    def missing(self, dev: Watchdog, ctx: Context, *, live: bool, update: bool = False) -> QvirtError:
        if ctx.domain.devices.watchdogs:
            return DeviceMissing(f"model '{dev.model}' watchdog device not present in domain configuration")
        if live:
            return DeviceMissing("watchdog device not present in domain configuration")
        return DeviceMissing("domain has no watchdog")

    def switches(self, dev: Watchdog, ctx: BuildContext) -> Iterator[Switch]:
        props: dict[str, JsonValue] = {"driver": dev.model, "id": dev.alias.name}
        yield Device(props | placement(dev, ctx), origin=dev)
        yield WatchdogAction("watchdog-action", ACTIONS[dev.action or "reset"], origin=dev)
