"""Attaching, detaching and updating devices."""

from typing import Final

from qvirt.api.flags import check_flags
from qvirt.api.handle import DomainHandle, find
from qvirt.api.registry import remote
from qvirt.api.session import Session
from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.runtime.plugging import hotplug

_IMPACT: Final = Modify.LIVE | Modify.CONFIG


@remote
async def domain_attach_device(session: Session, dom: DomainHandle, xml: str) -> None:
    """Plug a device into a running domain."""
    await hotplug.attach(find(session, dom), xml, Modify.LIVE)


@remote
async def domain_attach_device_flags(session: Session, dom: DomainHandle, xml: str, flags: int) -> None:
    """Add a device: now, in the definition, or both."""
    check_flags(flags, _IMPACT, "qemuDomainAttachDeviceLiveAndConfig")
    await hotplug.attach(find(session, dom), xml, flags)


@remote
async def domain_detach_device(session: Session, dom: DomainHandle, xml: str) -> None:
    """Unplug a device from a running domain."""
    await hotplug.detach(find(session, dom), xml, Modify.LIVE)


@remote
async def domain_detach_device_flags(session: Session, dom: DomainHandle, xml: str, flags: int) -> None:
    """Remove a device: now, from the definition, or both; the guest gets a while to let go of it."""
    check_flags(flags, _IMPACT, "qemuDomainDetachDeviceLiveAndConfig")
    await hotplug.detach(find(session, dom), xml, flags)


@remote
async def domain_detach_device_alias(session: Session, dom: DomainHandle, alias: str, flags: int) -> None:
    """Remove the device of an alias; an event tells when the guest has let go of it."""
    check_flags(flags, _IMPACT, "qemuDomainDetachDeviceAlias")
    await hotplug.detach_alias(find(session, dom), alias, flags)


@remote
async def domain_update_device_flags(session: Session, dom: DomainHandle, xml: str, flags: int) -> None:
    """Change a device: a medium, a link, a password while the guest runs, anything in the definition."""
    check_flags(flags, _IMPACT | Modify.FORCE, "qemuDomainUpdateDeviceFlags")
    await hotplug.update(find(session, dom), xml, flags)
