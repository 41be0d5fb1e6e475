"""Memory sizes of a domain: ``<memory>``, ``<currentMemory>``, ``<maxMemory>``, ``<memoryBacking>``.

Sizes are kept in KiB, whatever unit the document uses, and written in KiB, as libvirt does.
"""

from qvirt.errors import ConfigUnsupported, InvalidArg, NumericalOverflow, XmlDetail, XmlError
from qvirt.xml.codecs import cpuset, on_off, string, uint, ulong, words
from qvirt.xml.fields import attr, child, children, content, flag
from qvirt.xml.node import Node, complain

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
    if not unit:
        factor = default
    else:
        found = UNITS.get(unit.lower())
        if found is None:
            raise InvalidArg(f"unknown suffix '{unit}'")
        factor = found
    if value * factor > 2**63 - 1:
        raise NumericalOverflow(f"value too large: {value}{unit or 'KiB'}")
    return -(-value * factor // 1024)


def bad_size(path: str) -> tuple[type[XmlError], str]:
    """Return libvirt's complaint about a size at a path."""
    return XmlError, "Invalid value '{}' for element or attribute '" + path + "'"


class Size(Node):
    """An element that holds a size; ``value`` is in KiB once read."""

    unit: str | None = attr(string)
    value: int = content(ulong)  # type: ignore[assignment]  # 0 where the element is empty

    def __init_subclass__(cls, tag: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(tag, **kwargs)
        if "complaints" not in vars(cls) and cls.tag:
            cls.complaints = complain({"": bad_size(f"./{cls.tag}[1]")})

    def check(self) -> None:
        self.value = kib(self.value or 0, self.unit)
        self.unit = "KiB"


class TotalMemory(Size, tag="memory"):
    """``<memory>``: what the guest boots with, memory devices included."""

    dump_core: bool | None = attr(on_off, "dumpCore")


TotalMemory._bind((TotalMemory.fields[-1], *TotalMemory.fields[:-1]))  # dumpCore is written first


class MaxMemory(Size, tag="maxMemory"):
    """``<maxMemory>``: the ceiling for memory hot-plug."""

    slots: int = attr(uint, default=0, omit=0)

    def check(self) -> None:
        super().check()
        if not self.value or not self.slots:
            raise XmlError("both maximum memory size and memory slot count must be specified")


MaxMemory._bind((MaxMemory.fields[-1], *MaxMemory.fields[:-1]))  # slots is written first


class CurrentMemory(Size, tag="currentMemory"):
    """``<currentMemory>``: what the balloon leaves to the guest."""


class HugepageSize(Node, tag="page"):
    """``<page>`` of ``<hugepages>``; size in KiB once read."""

    complaints = complain(
        {
            "size": bad_size("./@size"),
            "!size": (XmlError, "missing element or attribute './@size'"),
        }
    )
    size: int = attr(ulong, required=True)
    unit: str | None = attr(string)
    nodeset: frozenset[int] | None = attr(cpuset)

    def check(self) -> None:
        self.size = kib(self.size, self.unit)
        self.unit = "KiB"
        if not self.size:
            raise XmlDetail("hugepage size can't be zero")


class Hugepages(Node, tag="hugepages"):
    pages: list[HugepageSize] = children(HugepageSize)


class MemorySource(Node, tag="source"):
    complaints = complain({"type": (ConfigUnsupported, "unknown memoryBacking/source/type '{}'")})
    type: str | None = attr(words("file", "anonymous", "memfd"))


class MemoryAccess(Node, tag="access"):
    complaints = complain({"mode": (ConfigUnsupported, "unknown memoryBacking/access/mode '{}'")})
    mode: str | None = attr(words("shared", "private"))


class MemoryAllocation(Node, tag="allocation"):
    complaints = complain({"mode": (ConfigUnsupported, "unknown memoryBacking/allocation/mode '{}'")})
    mode: str | None = attr(words("immediate", "ondemand"))
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

    def check(self) -> None:
        for name in ("source", "access", "allocation"):  # one that says nothing is not kept
            node: Node | None = getattr(self, name)
            if node is not None and node.is_empty():
                del self.__dict__[name]
