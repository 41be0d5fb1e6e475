"""The memory balloon: every guest has one unless it says ``model='none'``."""

from collections.abc import Iterator

from qvirt.errors import ConfigUnsupported
from qvirt.model.devices.memballoon import Memballoon
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.devices.base import Handler
from qvirt.qemu.devices.placement import VIRTIO_OPTIONS, placement, virtio_type
from qvirt.qemu.devices.props import Prop, PropTable
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device, Step, Switch

PROPS = PropTable(
    Memballoon,
    Prop("deflate-on-oom", "autodeflate"),
    Prop("free-page-reporting", "free_page_reporting"),
)


class MemballoonHandler(Handler[Memballoon], kind=Memballoon):
    """The balloon; the period of its statistics is set over QMP once the guest runs."""

    config = False

    def defaults(self, dev: Memballoon, ctx: Context) -> None:
        if dev.model == "none":
            dev.address = None
        if dev.stats is not None and not dev.stats.period:
            dev.stats = None

    def validate(self, dev: Memballoon, ctx: Context) -> None:
        if dev.model == "xen":
            raise ConfigUnsupported(
                f"Memballoon device type '{dev.model}' is not supported by this version of qemu"
            )

    def settings(self, dev: Memballoon, ctx: Context) -> Iterator[Step]:
        if dev.model != "none" and dev.stats is not None and dev.stats.period and dev.alias.name:
            yield Step(
                "qom-set",
                {
                    "path": f"/machine/peripheral/{dev.alias.name}",
                    "property": "guest-stats-polling-interval",
                    "value": dev.stats.period,
                },
            )

    def switches(self, dev: Memballoon, ctx: BuildContext) -> Iterator[Switch]:
        if dev.model == "none":
            return
        props: dict[str, JsonValue] = {"driver": virtio_type("virtio-balloon", dev, dev.model)}
        props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
        props["id"] = dev.alias.name
        props |= PROPS.render(dev, ctx)
        yield Device(props | placement(dev, ctx), origin=dev)
