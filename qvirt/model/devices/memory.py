"""``<memory>``: memory modules that can be added and removed (DIMM, NVDIMM, virtio-mem, virtio-pmem, SGX)."""

from lxml import etree

from qvirt.errors import QvirtError, XmlError
from qvirt.model.devices.device import Device
from qvirt.model.memory import Size
from qvirt.xml.codecs import string, uint, uuid, words, yes_no
from qvirt.xml.fields import Attr, Texts, attr, child, flag, text
from qvirt.xml.node import Node, complain, local_name


class MemorySize(Size):
    """A size in KiB."""

    def _bad_text(self, el: etree._Element, field: Attr | Texts, text: str, error: ValueError) -> QvirtError:
        return XmlError(f"Invalid value '{text}' for element or attribute './{local_name(el)}'")


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


#: the kinds of module
MODELS = ("dimm", "nvdimm", "virtio-pmem", "virtio-mem", "sgx-epc")


class MemoryTarget(Node, tag="target"):
    """``<target>``: what the guest sees; ``current`` is known only while it runs."""

    complaints = complain({"node": (XmlError, "invalid value of memory device node")})
    size: MemorySize = child(MemorySize, "size", required=True)
    node: int | None = text(uint)
    label: MemoryLabel | None = child(MemoryLabel)
    block: MemorySize | None = child(MemorySize, "block")
    requested: MemorySize | None = child(MemorySize, "requested")
    current: MemorySize | None = child(MemorySize, "current")
    readonly: bool = flag()


class Memory(Device, tag="memory"):
    """``<memory>`` in ``<devices>``."""

    complaints = complain({"!target": (XmlError, "missing <target> element for <memory> device")})
    model: str = attr(words(*MODELS), required=True)
    access: str | None = attr(string)
    discard: bool | None = attr(yes_no)
    uuid: str | None = text(uuid)
    source: MemorySource | None = child(MemorySource)
    target: MemoryTarget = child(MemoryTarget, required=True)
