"""Virtual CPUs and iothreads: ``<vcpu>``, ``<vcpus>``, ``<iothreadids>``, ``<defaultiothread>``."""

from qvirt.errors import XmlError
from qvirt.xml.codecs import cpuset, integer, uint, words, yes_no
from qvirt.xml.fields import attr, children, content
from qvirt.xml.node import Node


class Vcpu(Node, tag="vcpu"):
    """``<vcpu>``: the most CPUs the guest may have, and how many it has at boot."""

    placement: str | None = attr(words("static", "auto"))
    cpuset: frozenset[int] | None = attr(cpuset)
    current: int | None = attr(uint)
    value: int = content(uint, required=True)


class VcpuEntry(Node, tag="vcpu"):
    """One CPU of ``<vcpus>``."""

    id: int = attr(uint, required=True)
    enabled: bool = attr(yes_no, required=True)
    hotpluggable: bool | None = attr(yes_no)
    order: int | None = attr(uint)


class Vcpus(Node, tag="vcpus"):
    """``<vcpus>``: the state of each CPU."""

    vcpus: list[VcpuEntry] = children(VcpuEntry)


class Iothread(Node, tag="iothread"):
    id: int = attr(uint, required=True)
    thread_pool_min: int | None = attr(integer)
    thread_pool_max: int | None = attr(integer)

    def check(self) -> None:
        if not self.id:
            raise XmlError("invalid iothread 'id' value '0'")


class IothreadIds(Node, tag="iothreadids"):
    """``<iothreadids>``: numbers of the iothreads; libvirt numbers the ones left out."""

    iothreads: list[Iothread] = children(Iothread)

    def check(self) -> None:
        seen: set[int] = set()
        for iothread in self.iothreads:
            if iothread.id in seen:
                raise XmlError(f"duplicate iothread id '{iothread.id}' found")
            seen.add(iothread.id)


class DefaultIothread(Node, tag="defaultiothread"):
    """Thread pool of QEMU's main loop."""

    thread_pool_min: int | None = attr(integer)
    thread_pool_max: int | None = attr(integer)
