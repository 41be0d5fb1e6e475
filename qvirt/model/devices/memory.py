"""``<memory>``: memory modules that can be added and removed (DIMM, NVDIMM, virtio-mem, virtio-pmem, SGX)."""

from qvirt.model.devices.device import Device
from qvirt.model.memory import Size
from qvirt.xml.codecs import string, uint, uuid, yes_no
from qvirt.xml.fields import attr, child, flag, text
from qvirt.xml.node import Node


class MemorySize(Size):
    """A size in KiB."""


class MemoryLabel(Node, tag="label"):
    """``<label>``: the part of an NVDIMM that holds its namespace labels."""

    size: MemorySize = child(MemorySize, "size", required=True)


class MemorySource(Node, tag="source"):
    """``<source>``: where the module's memory comes from on the host."""

    path: str | None = text(string)
    nodemask: str | None = text(string)
    pagesize: MemorySize | None = child(MemorySize, "pagesize")
    alignsize: MemorySize | None = child(MemorySize, "alignsize")
    pmem: bool = flag()


class MemoryTarget(Node, tag="target"):
    """``<target>``: what the guest sees; ``current`` is known only while it runs."""

    size: MemorySize = child(MemorySize, "size", required=True)
    node: int | None = text(uint)
    label: MemoryLabel | None = child(MemoryLabel)
    block: MemorySize | None = child(MemorySize, "block")
    requested: MemorySize | None = child(MemorySize, "requested")
    current: MemorySize | None = child(MemorySize, "current")
    readonly: bool = flag()


class Memory(Device, tag="memory"):
    """``<memory>`` in ``<devices>``."""

    model: str = attr(string, required=True)
    access: str | None = attr(string)
    discard: bool | None = attr(yes_no)
    uuid: str | None = text(uuid)
    source: MemorySource | None = child(MemorySource)
    target: MemoryTarget = child(MemoryTarget, required=True)
