"""The memory balloon: every guest has one unless it says ``model='none'``."""

from collections.abc import Iterator

from qvirt.errors import (
    ConfigUnsupported,
    DeviceMissing,
    OperationInvalid,
    OperationUnsupported,
    QvirtError,
)
from qvirt.model.devices.memballoon import Memballoon
from qvirt.model.domain import Domain
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
    """The balloon; the period of its statistics is set over QMP once the guest runs.

    A guest that has none says so by one of model 'none', which gives way to one that is plugged in. libvirt
    leaves a guest the balloon it was started with.
    """

    live = live_update = config_update = True

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

    def clash(self, dev: Memballoon, ctx: Context, *, live: bool) -> QvirtError | None:
        if all(known.model == "none" for known in ctx.domain.devices.memballoons):
            return None
        return OperationInvalid("domain already has a memory balloon")

    def entered(self, dev: Memballoon, domain: Domain) -> None:
        domain.devices.memballoons = [dev]

    def left(self, dev: Memballoon, domain: Domain) -> None:
        domain.devices.memballoons = [Memballoon(model="none")]

    def check_plug(self, dev: Memballoon, ctx: Context) -> None:
        if dev.model == "none":
            raise OperationUnsupported("a memory balloon of model 'none' is nothing to plug in")

    def check_unplug(self, dev: Memballoon, ctx: Context) -> None:
        if dev.model == "none":
            raise DeviceMissing("domain has no memory balloon")

    def same(self, wanted: Memballoon, known: Memballoon, ctx: Context) -> bool:
        return wanted.model == known.model  # there is only one

    def update(self, old: Memballoon, new: Memballoon, ctx: BuildContext, *, force: bool) -> Iterator[Step]:
        for name in ("autodeflate", "free_page_reporting"):
            if getattr(new, name) not in (None, getattr(old, name)):
                raise OperationUnsupported(
                    f"cannot modify '{name}' of the memory balloon while the guest runs"
                )
        before, after = _period(old), _period(new)
        if before != after:
            undo = _polling(old, before)
            yield Step(*_polling(new, after), undo=undo)

    def settings(self, dev: Memballoon, ctx: Context) -> Iterator[Step]:
        if dev.model != "none" and _period(dev) and dev.alias.name:
            yield Step(*_polling(dev, _period(dev)))

    def switches(self, dev: Memballoon, ctx: BuildContext) -> Iterator[Switch]:
        if dev.model == "none":
            return
        props: dict[str, JsonValue] = {"driver": virtio_type("virtio-balloon", dev, dev.model)}
        props |= VIRTIO_OPTIONS.render(dev.driver, ctx)
        props["id"] = dev.alias.name
        props |= PROPS.render(dev, ctx)
        yield Device(props | placement(dev, ctx), origin=dev)


def _period(dev: Memballoon) -> int:
    """Return the seconds between two reports, 0 for none."""
    return dev.stats.period or 0 if dev.stats is not None else 0


def _polling(dev: Memballoon, period: int) -> tuple[str, dict[str, JsonValue]]:
    return "qom-set", {
        "path": f"/machine/peripheral/{dev.alias.name}",
        "property": "guest-stats-polling-interval",
        "value": period,
    }
