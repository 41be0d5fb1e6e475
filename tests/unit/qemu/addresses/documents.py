"""Small documents for the tests of addresses: devices in, where they ended up out."""

from qvirt.model.devices.address import Address, PciAddress, UsbAddress
from qvirt.model.devices.device import Device
from qvirt.model.domain import Domain, parse_domain
from tests.support.pure import completed

UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"


def document(devices: str, machine: str = "pc", *, more: str = "") -> str:
    """Return a domain document around some devices."""
    return (
        f"<domain type='qemu'><name>guest</name><uuid>{UUID}</uuid><memory unit='MiB'>512</memory>"
        f"<vcpu>2</vcpu>{more}<os><type arch='x86_64' machine='{machine}'>hvm</type></os>"
        f"<features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}"
        f"</devices></domain>"
    )


def guest(devices: str, machine: str = "pc", *, more: str = "") -> Domain:
    """Return the domain, complete."""
    return completed(document(devices, machine, more=more))


def reread(domain: Domain) -> Domain:
    """Return the domain as it comes back from its file."""
    return completed(domain.to_xml())


def spot(dev: Device) -> str:
    """Return a device's place in short: ``00:1f.2`` on PCI, ``0/1.4`` on USB, ``-`` for none."""
    where: Address | None = dev.address
    if isinstance(where, PciAddress):
        text = f"{where.bus:02x}:{where.slot:02x}.{where.function}"
        return text + ("+" if where.multifunction else "")
    if isinstance(where, UsbAddress):
        return f"{where.bus}/{where.port}"
    return "-"


def controllers(domain: Domain, type: str = "pci") -> list[str]:
    """Return the controllers of a type: index, model, place."""
    return [
        f"{c.index} {c.model} {spot(c)}"
        for c in sorted(domain.devices.controllers, key=lambda c: c.index or 0)
        if c.type == type
    ]


__all__ = ["controllers", "document", "guest", "parse_domain", "reread", "spot"]
