"""Which devices have a helper, and who says how it is made."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from qvirt.model.devices.device import Device
from qvirt.model.devices.filesystem import Filesystem
from qvirt.model.devices.interface import Interface
from qvirt.model.devices.tpm import Tpm
from qvirt.qemu.context import BuildContext
from qvirt.record import Record
from qvirt.runtime import passt, swtpm, virtiofs
from qvirt.runtime.helpers import Recipe
from qvirt.runtime.running import Running

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain


class _Kind(Record):
    """recipe: returns how the helper of a device is made, None where it has none. name: of one, by alias."""

    recipe: "Callable[[Domain, Running, Any, BuildContext], Recipe | None]"
    name: Callable[[str], str]


_KINDS: Mapping[type[Device], _Kind] = {
    Tpm: _Kind(swtpm.recipe, lambda _: swtpm.NAME),
    Filesystem: _Kind(virtiofs.recipe, virtiofs.name),
    Interface: _Kind(passt.recipe, passt.name),
}


def recipes(domain: "Domain", running: Running, devices: Iterable[Device], ctx: BuildContext) -> list[Recipe]:
    """Return how the helpers of devices, which have their aliases, are made. Blocking.

    Raises what keeps one from being made at all, such as a program that is not installed.
    """
    found = []
    for dev in devices:
        kind = _KINDS.get(type(dev))
        recipe = kind.recipe(domain, running, dev, ctx) if kind is not None else None
        if recipe is not None:
            found.append(recipe)
    return found


def names(dev: Device) -> list[str]:
    """Return the names a device's helper may have."""
    kind = _KINDS.get(type(dev))
    return [kind.name(str(dev.alias.name))] if kind is not None else []
