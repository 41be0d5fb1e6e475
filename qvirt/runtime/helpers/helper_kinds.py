"""Which devices have a helper, and who says how it is made."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from qvirt.errors import InternalError
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.filesystem import Filesystem
from qvirt.model.devices.interface import Interface
from qvirt.model.devices.tpm import Tpm
from qvirt.model.devices.video import Video
from qvirt.qemu.context import BuildContext
from qvirt.qemu.devices.disk import has_managed_reservations
from qvirt.qemu.devices.video import is_served
from qvirt.record import Record
from qvirt.runtime.helpers import passt, pr_helper, swtpm, vhost_gpu, virtiofs
from qvirt.runtime.helpers.processes import Recipe
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain


class _Kind(Record):
    """recipe: returns how the helper of a device is made, None where it has none. name: of one, by alias.

    has: whether a device may have one. comes_back: QEMU connects anew to one that was started again.
    """

    recipe: "Callable[[Domain, Running, Any, BuildContext], Recipe | None]"
    name: Callable[[str], str]
    has: Callable[[Any], bool] = lambda _: True
    comes_back: bool = False


_KINDS: Mapping[type[Device], _Kind] = {
    Tpm: _Kind(swtpm.recipe, lambda _: swtpm.NAME),
    Filesystem: _Kind(virtiofs.recipe, virtiofs.name),
    Interface: _Kind(passt.recipe, passt.name),
    Video: _Kind(vhost_gpu.recipe, vhost_gpu.name),
    Disk: _Kind(pr_helper.recipe, lambda _: pr_helper.NAME, has_managed_reservations, comes_back=True),
}


def recipes(domain: "Domain", running: Running, devices: Iterable[Device], ctx: BuildContext) -> list[Recipe]:
    """Return how the helpers of devices, which have their aliases, are made. Blocking.

    Raises what keeps one from being made at all, such as a program that is not installed.
    """
    known = {mark.name for mark in running.footprint.helpers}
    found: dict[str, Recipe] = {}
    for dev in devices:
        kind = _KINDS.get(type(dev))
        recipe = kind.recipe(domain, running, dev, ctx) if kind is not None else None
        if recipe is not None and recipe.name not in known:  # one may serve several devices
            found[recipe.name] = recipe
    return list(found.values())


def comes_back(running: Running, name: str) -> bool:
    """Tell whether a helper is of use to its guest when it is started again."""
    return _returning(running, name) is not None


def again(domain: "Domain", running: Running, name: str, ctx: BuildContext) -> Recipe:
    """Return how a helper that `comes_back` is made once more. Blocking.

    Raises what keeps it from being made, InternalError for one that no device of the guest has any more.
    """
    dev = _returning(running, name)
    recipe = _KINDS[type(dev)].recipe(domain, running, dev, ctx) if dev is not None else None
    if recipe is None:
        raise InternalError(f"no device of '{domain.name}' has the helper '{name}'")
    return recipe


def _returning(running: Running, name: str) -> Device | None:
    for dev in running.definition.devices.all():
        kind = _KINDS.get(type(dev))
        if kind is not None and kind.comes_back and kind.has(dev) and kind.name(str(dev.alias.name)) == name:
            return dev
    return None


def is_confined(dev: Device) -> bool:
    """Tell whether a device has a helper for which models with rules have some of its own."""
    if isinstance(dev, Tpm):
        return dev.backend is not None and dev.backend.type == "emulator"
    if isinstance(dev, Filesystem):
        return dev.driver.type == "virtiofs" and dev.source is not None and dev.source.socket is None
    return isinstance(dev, Video) and is_served(dev)


def unused(gone: Iterable[Device], kept: Iterable[Device]) -> set[str]:
    """Return the names that helpers of the first devices may have, and of no other."""
    return owners(gone).keys() - owners(kept).keys()


def owners(devices: Iterable[Device]) -> dict[str, Device]:
    """Return the devices that may have helpers, by the names these would have."""
    return {
        kind.name(str(dev.alias.name)): dev
        for dev in devices
        if (kind := _KINDS.get(type(dev))) is not None and kind.has(dev)
    }
