"""Memory sizes of a domain: ``<memory>``, ``<currentMemory>``, ``<maxMemory>``, ``<memoryBacking>``.

Sizes are kept in KiB, whatever unit the document uses, and written in KiB, as libvirt does.
"""

from qvirt.errors import NumericalOverflow, XmlError
from qvirt.xml.codecs import on_off, string, uint, ulong
from qvirt.xml.fields import attr, child, children, content, flag
from qvirt.xml.node import Node

#: bytes per unit; libvirt ignores case
UNITS: dict[str, int] = {
    "b": 1,
    "byte": 1,
    "bytes": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 1000,
    "m": 1 << 20,
    "mib": 1 << 20,
    "mb": 1000**2,
    "g": 1 << 30,
    "gib": 1 << 30,
    "gb": 1000**3,
    "t": 1 << 40,
    "tib": 1 << 40,
    "tb": 1000**4,
    "p": 1 << 50,
    "pib": 1 << 50,
    "pb": 1000**5,
    "e": 1 << 60,
    "eib": 1 << 60,
    "eb": 1000**6,
}


def kib(value: int, unit: str | None, default: int = 1024) -> int:
    """Return a size in KiB, rounded up. Raises XmlError for an unknown unit, NumericalOverflow."""
    if unit is None:
        factor = default
    else:
        found = UNITS.get(unit.lower())
        if found is None:
            raise XmlError(f"unknown suffix '{unit}'")
        factor = found
    if value * factor > 2**63 - 1:
        raise NumericalOverflow("value too large: " + f"{value} {unit or 'KiB'}")
    return -(-value * factor // 1024)


class Size(Node):
    """An element that holds a size; ``value`` is in KiB once read."""

    unit: str | None = attr(string)
    value: int = content(ulong, required=True)

    def check(self) -> None:
        self.value = kib(self.value, self.unit)
        self.unit = "KiB"


class TotalMemory(Size, tag="memory"):
    """``<memory>``: what the guest boots with, memory devices included."""

    dump_core: bool | None = attr(on_off, "dumpCore")


TotalMemory._bind((TotalMemory.fields[-1], *TotalMemory.fields[:-1]))  # dumpCore is written first


class MaxMemory(Size, tag="maxMemory"):
    """``<maxMemory>``: the ceiling for memory hot-plug."""

    slots: int = attr(uint, required=True)


class CurrentMemory(Size, tag="currentMemory"):
    """``<currentMemory>``: what the balloon leaves to the guest."""


class HugepageSize(Node, tag="page"):
    """``<page>`` of ``<hugepages>``; size in KiB once read."""

    size: int = attr(ulong, required=True)
    unit: str | None = attr(string)
    nodeset: str | None = attr(string)

    def check(self) -> None:
        self.size = kib(self.size, self.unit)
        self.unit = "KiB"


class Hugepages(Node, tag="hugepages"):
    pages: list[HugepageSize] = children(HugepageSize)


class MemorySource(Node, tag="source"):
    type: str | None = attr(string)


class MemoryAccess(Node, tag="access"):
    mode: str | None = attr(string)


class MemoryAllocation(Node, tag="allocation"):
    mode: str | None = attr(string)
    threads: int | None = attr(uint)


class MemoryBacking(Node, tag="memoryBacking"):
    """``<memoryBacking>``: what the guest's memory is made of on the host."""

    hugepages: Hugepages | None = child(Hugepages)
    nosharepages: bool = flag()
    locked: bool = flag()
    source: MemorySource | None = child(MemorySource)
    access: MemoryAccess | None = child(MemoryAccess)
    allocation: MemoryAllocation | None = child(MemoryAllocation)
    discard: bool = flag()
