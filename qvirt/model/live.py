"""How much of a domain is shown: live, inactive or for another host; with or without passwords."""

import re

from qvirt.constants.domain import DomainXMLFlags
from qvirt.model.devices.audio import Audio
from qvirt.model.devices.char import Channel
from qvirt.model.devices.chardev import CharDevice
from qvirt.model.devices.controller import Controller, ControllerType
from qvirt.model.devices.device import Device
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.graphics import Graphics
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.devices.interface import Interface
from qvirt.model.devices.memory import Memory
from qvirt.model.domain import Domain

#: how names of host interfaces begin that libvirt makes for one run
GENERATED_TAPS = ("vnet", "macvtap", "macvlan")
#: the folder of one run in the socket of a channel that names none
_GENERATED_CHANNEL = re.compile(r"/domain-[0-9]+-[^/]+/[^/]+$")


def format_domain(domain: Domain, flags: int = 0) -> str:
    """Write a domain for a client; the document is not changed.

    flags: DomainXMLFlags. INACTIVE and MIGRATABLE leave out what only holds while it runs; without SECURE
    passwords are left out.
    """
    secrets = [] if flags & DomainXMLFlags.SECURE else _with_secrets(domain)
    migratable = flags & DomainXMLFlags.MIGRATABLE
    if migratable or (flags & DomainXMLFlags.INACTIVE and is_live(domain)):
        domain = inactive(domain)
        if migratable:
            leave_out_implied(domain)
        secrets = _with_secrets(domain) if secrets else []
    elif any(interface.actual is not None for interface in _interfaces(domain)):
        shown_interfaces = domain.devices.interfaces
        try:
            domain.devices.interfaces = [interface.plugged() for interface in shown_interfaces]
            return _write(domain, secrets)
        finally:
            domain.devices.interfaces = shown_interfaces
    return _write(domain, secrets)


def _interfaces(domain: Domain) -> list[Interface]:
    found: list[Interface] = domain.devices.__dict__.get("interfaces", [])
    return found


def _write(domain: Domain, secrets: list[Graphics]) -> str:
    if not secrets:
        return domain.to_xml()
    shown = domain.devices.graphics
    try:
        domain.devices.graphics = [_without_secrets(graphics) for graphics in shown]
        return domain.to_xml()
    finally:
        domain.devices.graphics = shown


def is_live(domain: Domain) -> bool:
    """Tell whether the document is that of a running domain."""
    return domain.id is not None


def _with_secrets(domain: Domain) -> list[Graphics]:
    found: list[Graphics] = domain.devices.__dict__.get("graphics", [])
    return [graphics for graphics in found if graphics.passwd is not None]


def _without_secrets(graphics: Graphics) -> Graphics:
    if graphics.passwd is None:
        return graphics
    twin = graphics.copy()
    twin.hide_secrets()
    return twin


def inactive(domain: Domain) -> Domain:
    """Return a copy without what only holds while the domain runs."""
    twin = domain.copy()
    twin.id = None
    # a dynamic label without a base was made for this run, and says nothing without it
    made = [
        label for label in twin.seclabels if label.type == "dynamic" and label.label and not label.baselabel
    ]
    twin.seclabels = [label for label in twin.seclabels if label not in made]
    for label in twin.seclabels:
        label.imagelabel = None
        if label.type == "dynamic":
            label.label = None
    for dev in twin.devices.all():
        forget_live(dev)
    if "cputune" in twin.__dict__:
        twin.cputune.forget_live()
    return twin


def leave_out_implied(domain: Domain) -> None:
    """Drop the devices that every libvirt adds by itself and that old ones do not know in a document."""
    devices = domain.devices
    usb = [each for each in devices.controllers if each.type == ControllerType.USB]
    pci = [each for each in devices.controllers if each.type == ControllerType.PCI]
    implied: list[Controller] = []
    if len(usb) == 1 and usb[0].index == 0 and usb[0].model in (None, "piix3-uhci"):
        implied += usb
    if len(pci) == 1 and pci[0].model == "pci-root":
        implied += pci
    devices.controllers = [each for each in devices.controllers if each not in implied]
    devices.inputs = [each for each in devices.inputs if (each.type, each.bus) != ("keyboard", "ps2")]
    spice = any(each.type == "spice" for each in devices.graphics)
    plain = Audio(id=1, type="spice" if spice else "none").to_xml()
    if [each.to_xml() for each in devices.audios] == [plain]:
        devices.audios = []


def forget_live(dev: Device) -> None:
    """Drop from a device what only holds while the domain runs: generated aliases, names, ports, paths."""
    alias = dev.__dict__.get("alias")
    if alias is not None and not (alias.name or "").startswith("ua-"):
        del dev.__dict__["alias"]
    match dev:
        case Graphics():
            if dev.autoport:
                dev.port = -1 if dev.type == "vnc" else None
                dev.tls_port = None
        case Interface():
            dev.unplug()
            target = dev.__dict__.get("target")
            if target is not None and (target.dev or "").startswith(GENERATED_TAPS):
                target.dev = None
        case Disk() | Hostdev():
            dev.unplug()
        case Memory():
            dev.target.current = None
        case _:
            _forget_char(dev)


def _forget_char(dev: Device) -> None:
    """Drop the pty QEMU was given and whether the guest has opened the channel."""
    dev.__dict__.pop("tty", None)
    if isinstance(dev, CharDevice) and dev.type == "pty":
        dev.sources = []
    if isinstance(dev, Channel):
        dev.target.state = None
        if dev.type == "unix" and _GENERATED_CHANNEL.search(dev.path or ""):
            dev.sources = []
