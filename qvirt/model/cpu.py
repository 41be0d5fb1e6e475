"""``<cpu>``: the guest's processor, its topology and NUMA nodes."""

from qvirt.xml.codecs import on_off, string, uint
from qvirt.xml.fields import attr, child, children, content, opaque
from qvirt.xml.node import Node, Raw


class CpuModel(Node, tag="model"):
    fallback: str | None = attr(string)
    vendor_id: str | None = attr(string)
    name: str | None = content(string)


class Vendor(Node, tag="vendor"):
    name: str | None = content(string)


class Topology(Node, tag="topology"):
    sockets: int = attr(uint, required=True)
    dies: int | None = attr(uint)
    cores: int = attr(uint, required=True)
    threads: int = attr(uint, required=True)


class CpuCache(Node, tag="cache"):
    level: int | None = attr(uint)
    mode: str = attr(string, required=True)


class MaxPhysAddr(Node, tag="maxphysaddr"):
    mode: str = attr(string, required=True)
    bits: int | None = attr(uint)


class CpuFeature(Node, tag="feature"):
    policy: str | None = attr(string)
    name: str = attr(string, required=True)


class Cpu(Node, tag="cpu"):
    """A guest CPU."""

    mode: str | None = attr(string)
    match: str | None = attr(string)
    check_level: str | None = attr(string, "check")
    migratable: bool | None = attr(on_off)
    model: CpuModel | None = child(CpuModel)
    vendor: Vendor | None = child(Vendor)
    topology: Topology | None = child(Topology)
    cache: CpuCache | None = child(CpuCache)
    maxphysaddr: MaxPhysAddr | None = child(MaxPhysAddr)
    features: list[CpuFeature] = children(CpuFeature)
    numa: list[Raw] = opaque("numa")
