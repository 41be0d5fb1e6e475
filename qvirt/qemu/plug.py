"""Devices that come, go and change in a domain, in the vocabulary of documents and records; changes no QEMU.

For a definition (`define`, `undefine`, `redefine`) a device is added or dropped and the whole is completed
again. In a running guest (`place`, `name`, `steps`) it gets its place among what is there: the steps played
forward plug it, their undoing played backward takes it out again.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    InternalError,
    OperationDenied,
    OperationFailed,
    OperationUnsupported,
)
from qvirt.model.devices.address import PciAddress
from qvirt.model.devices.controller import Controller
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.qemu.addresses import assign_live
from qvirt.qemu.addresses.check import check_address
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext, Context
from qvirt.qemu.controllers import number_controllers
from qvirt.qemu.devices.base import handler, word
from qvirt.qemu.devices.disk_rules import check_duplicates
from qvirt.qemu.implicit import add_controllers
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.names import assign_aliases, is_user_alias
from qvirt.qemu.switches import Json, Step

D = TypeVar("D", bound=Device)


def find(wanted: D, ctx: Context, *, live: bool, update: bool = False) -> D:
    """Return the domain's device that a document means. Raises DeviceMissing and its kin."""
    asked = handler(wanted)
    found = [known for known in ctx.domain.devices.list_of(wanted) if asked.same(wanted, known, ctx)]
    if not found:
        raise asked.missing(wanted, ctx, live=live, update=update)
    if len(found) > 1 and (error := asked.ambiguous(wanted)) is not None:
        raise error
    return cast("D", found[0])


def enter(dev: Device, domain: Domain) -> None:
    """Put a device into a document, with what else changes by it."""
    domain.devices.add(dev)
    handler(dev).entered(dev, domain)


def leave(dev: Device, domain: Domain) -> None:
    """Take a device out of a document, with what else changes by it."""
    domain.devices.remove(dev)
    handler(dev).left(dev, domain)


# ------------------------------------------------------------------ definitions


def define(dev: Device, ctx: Context) -> None:
    """Add a device to a definition and complete it. Raises OperationInvalid for one that is there already."""
    if not handler(dev).config:
        raise OperationUnsupported(f"persistent attach of device '{word(dev)}' is not supported")
    _check_shared(dev, None, ctx.domain)
    clash = handler(dev).clash(dev, ctx, live=False)
    if clash is not None:
        raise clash
    enter(dev, ctx.domain)
    complete(ctx.domain, ctx)


def undefine(dev: Device, ctx: Context) -> None:
    """Drop a device of a definition and complete it."""
    leave(dev, ctx.domain)
    complete(ctx.domain, ctx)


def redefine(new: Device, ctx: Context) -> None:
    """Put a device of a definition into the place of the one it means, and complete it."""
    if not handler(new).config_update:
        raise OperationUnsupported(f"persistent update of device '{word(new)}' is not supported")
    old = find(new, ctx, live=False, update=True)
    _check_shared(new, old, ctx.domain)
    ctx.domain.devices.replace(old, new)
    complete(ctx.domain, ctx)


def _check_shared(new: Device, old: Device | None, domain: Domain) -> None:
    """Refuse a boot order or an alias that another device of the domain has."""
    others = [dev for dev in domain.devices.all() if dev is not old]
    if new.boot is not None:
        if domain.os.boots:
            if old is None or old.boot is None:
                raise ConfigUnsupported(
                    "per-device boot elements cannot be used together with os/boot elements",
                    domain=ErrorDomain.DOMAIN,
                )
        elif any(dev.boot is not None and dev.boot.order == new.boot.order for dev in others):
            raise ConfigUnsupported(
                f"boot order {new.boot.order} is already used by another device", domain=ErrorDomain.DOMAIN
            )
    name = new.alias.name
    if name is not None and is_user_alias(name) and any(dev.alias.name == name for dev in others):
        raise ConfigUnsupported(f"non unique alias detected: {name}", domain=ErrorDomain.DOMAIN)


# --------------------------------------------------------------- running guests


def place(dev: Device, ctx: Context) -> list[Device]:
    """Put a device into the live definition and give it its place; it has no alias yet.

    ctx: its domain is a copy of the live definition, which is changed. Returns what is to be plugged: the
    controllers that the device needs and the guest lacks, then the device.
    Raises OperationFailed for what is there already, and what libvirt refuses to plug.
    """
    domain = ctx.domain
    asked = handler(dev)
    if not asked.live:
        raise OperationUnsupported(f"live attach of device '{word(dev)}' is not supported")
    _check_shared(dev, None, domain)
    clash = asked.clash(dev, ctx, live=True)
    if clash is not None:
        raise clash
    if isinstance(dev.address, PciAddress) and dev.address.function:
        raise InternalError(
            "Only PCI device addresses with function=0 are supported", domain=ErrorDomain.DOMAIN
        )
    if not is_user_alias(dev.alias.name):
        dev.alias.name = None
    domain.os.boots = []  # what to boot from is decided; of what comes later only its own order counts
    known = {id(controller) for controller in domain.devices.controllers}
    enter(dev, domain)
    number_controllers(domain)
    asked.defaults(dev, ctx)
    add_controllers(domain)
    new: list[Device] = _new_controllers(domain, known, dev)
    for controller in new:
        _like_its_kin(controller, domain, known)
        handler(controller).defaults(controller, ctx)
    assign_live(dev, ctx)
    new = [*_new_controllers(domain, known, dev), dev]  # a full controller may have got a second one
    for one in new:
        check_address(one, ctx)
        handler(one).validate(one, ctx)
    check_duplicates(domain)
    for one in reversed(new):
        handler(one).check_plug(one, ctx)
    return new


def _new_controllers(domain: Domain, known: set[int], dev: Device) -> list[Device]:
    return [one for one in domain.devices.controllers if id(one) not in known and one is not dev]


def _like_its_kin(new: Device, domain: Domain, known: set[int]) -> None:
    """Give a controller the model of the first one of its type that the guest has."""
    if isinstance(new, Controller) and new.model is None:
        kin = (one for one in domain.devices.controllers if id(one) in known and one.type is new.type)
        new.model = next((one.model for one in kin), None)


def name(devices: Sequence[Device], ctx: BuildContext) -> None:
    """Give the devices, which are in the domain, aliases that no other has."""
    assign_aliases(ctx.domain, ctx)
    taken = {dev.alias.name for dev in ctx.domain.devices.all() if all(dev is not one for one in devices)}
    for dev in devices:
        if dev.alias.name is not None and dev.alias.name in taken:
            raise OperationFailed(f"alias '{dev.alias.name}' of the new <{dev.tag}> is in use")


def name_beside(new: Device, old: Device, ctx: BuildContext) -> None:
    """Name what a new description of a device brings, such as images, while the old one's is there still."""
    ctx.domain.devices.add(old)
    try:
        assign_aliases(ctx.domain, ctx)
    finally:
        ctx.domain.devices.remove(old)


def steps(devices: Sequence[Device], ctx: BuildContext) -> list[tuple[Device, Step]]:
    """Return the commands that plug devices: all backends, then the frontends, then what is set."""
    made = [(dev, switch.to_step()) for dev in devices for switch in handler(dev).switches(dev, ctx)]
    backends = [pair for pair in made if pair[1].device is None]
    frontends = [pair for pair in made if pair[1].device is not None]
    settings = [(dev, step) for dev in devices for step in handler(dev).settings(dev, ctx)]
    return backends + frontends + settings


def frontends(dev: Device, ctx: BuildContext) -> list[str]:
    """Return the ids of what the guest sees of a device, by which it is unplugged."""
    found = [_id(switch) for switch in handler(dev).switches(dev, ctx) if isinstance(switch, Json)]
    return [id for id in found if id is not None]


def _id(switch: Json) -> str | None:
    id = switch.props.get("id") if switch.option == "device" else None
    return str(id) if id is not None else None


def leftovers(dev: Device, ctx: BuildContext) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """Yield the commands that take away what stays of a device when its frontends have gone."""
    for _, step in reversed(steps([dev], ctx)):
        if step.undo is not None and step.device is None:
            yield step.undo


def update(old: Device, new: Device, ctx: BuildContext, *, force: bool) -> list[Step]:
    """Return the commands that make a running guest's device another one. Raises what cannot change."""
    return list(handler(old).update(old, new, ctx, force=force))


def replace(old: Device, new: Device, ctx: Context) -> None:
    """Put the new description of a running guest's device into the place of the old one.

    What it leaves out is as it was. Raises OperationDenied, OperationUnsupported for what no update changes.
    """
    _check_shared(new, old, ctx.domain)
    for what, said in (("alias", new.alias.name), ("address", new.address)):
        had = old.alias.name if what == "alias" else old.address
        if said is not None and said != had:
            if what == "address":
                raise OperationUnsupported(f"cannot modify field 'address' of the {word(new)}")
            raise OperationDenied("changing device alias is not allowed")
    new.alias.name = old.alias.name
    handler(new).defaults(new, ctx)
    new.alias.name = old.alias.name
    new.address = old.address.copy() if old.address is not None else None
    if new.acpi.index != old.acpi.index:
        if new.acpi.index is not None:
            raise OperationDenied("changing device 'acpi index' is not allowed")
        new.acpi = old.acpi.copy()
    handler(new).keep(old, new)
    ctx.domain.devices.replace(old, new)
    handler(new).validate(new, ctx)


def settle(old: Device, new: Device, domain: Domain) -> None:
    """Put the new description of a device that has changed into the live definition."""
    handler(new).meanwhile(old, new)
    domain.devices.replace(old, new)


def restore(old: Device, new: Device) -> None:
    """Let a device be what it was when it began to change, where the change itself shows on it."""
    handler(old).meanwhile(new, old)


def check_update(dev: Device) -> None:
    """Raise ConfigUnsupported for a kind of device that stays as it is in a running guest."""
    if not handler(dev).live_update:
        raise ConfigUnsupported(f"live update of device '{word(dev)}' is not supported")


def check_detach(dev: Device, *, live: bool) -> None:
    """Raise OperationUnsupported for a kind that goes neither from a running guest nor from a definition."""
    if not (handler(dev).live if live else handler(dev).config):
        how = "live" if live else "persistent"
        raise OperationUnsupported(f"{how} detach of device '{word(dev)}' is not supported")
