"""What libvirt does after it has read a domain: defaults, implicit devices, addresses, validation.

Only the order lives here; each step is its own module or a device handler's answer.
"""

import qvirt.qemu.devices  # noqa: F401  # the handlers register themselves
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain
from qvirt.qemu.addresses import assign
from qvirt.qemu.addresses.check import check_address
from qvirt.qemu.context import Context
from qvirt.qemu.defaults import domain_defaults
from qvirt.qemu.devices.base import handler
from qvirt.qemu.implicit import add_implicit
from qvirt.qemu.validate import validate_domain, validate_whole


def complete(domain: Domain, ctx: Context) -> None:
    """Fill in what the document leaves out and refuse what cannot run.

    Changes the domain, which is ``ctx.domain``, in place. Raises XmlError, ConfigUnsupported and their kin.
    """
    domain_defaults(ctx)
    seen = _device_defaults(ctx, {})
    add_implicit(domain, ctx)
    _device_defaults(ctx, seen)
    assign(domain, ctx)
    validate_domain(ctx)
    for dev in domain.devices.all():
        check_address(dev, ctx)
        handler(dev).validate(dev, ctx)
    validate_whole(ctx)


def _device_defaults(ctx: Context, seen: dict[int, Device]) -> dict[int, Device]:
    """Ask the handlers for defaults of the devices not asked for yet; return those asked, by identity.

    The devices themselves are kept, not only their ids: one that is dropped on the way must not leave its
    id to a new one, which would then go without defaults.
    """
    for dev in ctx.domain.devices.all():
        if id(dev) not in seen:
            handler(dev).defaults(dev, ctx)
            seen[id(dev)] = dev
    return seen
