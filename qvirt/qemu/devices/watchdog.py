"""Watchdogs: the device, and what QEMU does when the guest stops feeding it."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.watchdog import Watchdog
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler
from qvirt.qemu.devices.placement import placement
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.machines import is_s390
from qvirt.qemu.switches import Device, Option, Switch

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


class WatchdogHandler(Handler[Watchdog], kind=Watchdog):
    """A watchdog; libvirt 9.0 takes one."""

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

    def switches(self, dev: Watchdog, ctx: BuildContext) -> Iterator[Switch]:
        props: dict[str, JsonValue] = {"driver": dev.model, "id": dev.alias.name}
        yield Device(props | placement(dev, ctx), origin=dev)
        yield Option("watchdog-action", ACTIONS[dev.action or "reset"], origin=dev)
