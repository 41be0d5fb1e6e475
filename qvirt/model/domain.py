"""``<domain>``: the order of its children, and how its text is read."""

from qvirt.model.clock import Clock
from qvirt.model.cpu import Cpu
from qvirt.model.devices import Devices
from qvirt.model.memory import CurrentMemory, MaxMemory, MemoryBacking, TotalMemory
from qvirt.model.os import Os
from qvirt.xml.codecs import string, uint, uuid
from qvirt.xml.document import parse
from qvirt.xml.fields import attr, child, content, opaque, part, text
from qvirt.xml.node import Node, Raw

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"


class Vcpu(Node, tag="vcpu"):
    """``<vcpu>``: the most CPUs the guest may have, and how many it has at boot."""

    placement: str | None = attr(string)
    cpuset: str | None = attr(string)
    current: int | None = attr(uint)
    value: int = content(uint, required=True)


class Domain(Node, tag="domain"):
    """A virtual machine, as the user describes it."""

    type: str = attr(string, required=True)
    id: str | None = attr(string)
    name: str = text(string, required=True)
    uuid: str | None = text(uuid)
    genid: str | None = text(string)
    title: str | None = text(string)
    description: str | None = text(string)
    metadata: list[Raw] = opaque("metadata")
    max_memory: MaxMemory | None = child(MaxMemory)
    memory: TotalMemory | None = child(TotalMemory)
    current_memory: CurrentMemory | None = child(CurrentMemory)
    blkiotune: list[Raw] = opaque("blkiotune")
    memtune: list[Raw] = opaque("memtune")
    memory_backing: MemoryBacking = part(MemoryBacking)
    vcpu: Vcpu | None = child(Vcpu)
    vcpus: list[Raw] = opaque("vcpus")
    iothreads: int | None = text(uint)
    iothreadids: list[Raw] = opaque("iothreadids")
    defaultiothread: list[Raw] = opaque("defaultiothread")
    cputune: list[Raw] = opaque("cputune")
    numatune: list[Raw] = opaque("numatune")
    resource: list[Raw] = opaque("resource")
    sysinfos: list[Raw] = opaque("sysinfo")
    bootloader: str | None = text(string)
    bootloader_args: str | None = text(string)
    os: Os = child(Os, required=True)
    idmap: list[Raw] = opaque("idmap")
    features: list[Raw] = opaque("features")
    cpu: Cpu | None = child(Cpu)
    clock: Clock | None = child(Clock)
    on_poweroff: str | None = text(string)
    on_reboot: str | None = text(string)
    on_crash: str | None = text(string)
    on_lockfailure: str | None = text(string)
    pm: list[Raw] = opaque("pm")
    perf: list[Raw] = opaque("perf")
    devices: Devices = part(Devices)
    seclabels: list[Raw] = opaque("seclabel")
    qemu_commandline: list[Raw] = opaque(f"{{{QEMU_NAMESPACE}}}commandline")
    qemu_capabilities: list[Raw] = opaque(f"{{{QEMU_NAMESPACE}}}capabilities")
    qemu_override: list[Raw] = opaque(f"{{{QEMU_NAMESPACE}}}override")
    qemu_deprecation: list[Raw] = opaque(f"{{{QEMU_NAMESPACE}}}deprecation")
    keywrap: list[Raw] = opaque("keywrap")
    launch_security: list[Raw] = opaque("launchSecurity")


def parse_domain(xml: str, *, validate: bool = False) -> Domain:
    """Read a domain document. Raises XmlDetail, XmlError, XmlInvalidSchema."""
    return parse(xml, Domain, "(domain_definition)", validate=validate)
