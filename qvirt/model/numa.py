"""``<numatune>``: host NUMA nodes the guest's memory comes from. The guest's own nodes are in cpu.py."""

from lxml import etree

from qvirt.errors import ConfigUnsupported
from qvirt.xml.codecs import cpuset, uint, words
from qvirt.xml.fields import attr, child, children
from qvirt.xml.node import Node, Reader, complain

MODES = ("strict", "preferred", "interleave", "restrictive")


class NumaMemory(Node, tag="memory"):
    complaints = complain(
        {
            "mode": (ConfigUnsupported, "Unsupported NUMA memory tuning mode '{}'"),
            "placement": (ConfigUnsupported, "Unsupported NUMA memory placement mode '{}'"),
        }
    )
    mode: str | None = attr(words(*MODES))
    nodeset: frozenset[int] | None = attr(cpuset)
    placement: str | None = attr(words("static", "auto"))

    def _read(self, el: etree._Element, reader: Reader) -> None:
        super()._read(el, reader)
        if self.nodeset is not None and not self.nodeset:
            raise ConfigUnsupported(f"Invalid value of 'nodeset': {el.get('nodeset')}")


class MemNode(Node, tag="memnode"):
    """Where the memory of one guest node comes from."""

    cellid: int = attr(uint, required=True)
    mode: str | None = attr(words(*MODES))
    nodeset: frozenset[int] = attr(cpuset, required=True)


class NumaTune(Node, tag="numatune"):
    """Memory placement on the host."""

    memory: NumaMemory | None = child(NumaMemory)
    memnodes: list[MemNode] = children(MemNode)
