"""Virtual CPUs and iothreads: ``<vcpu>``, ``<vcpus>``, ``<iothreadids>``, ``<defaultiothread>``."""

from lxml import etree

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.xml.codecs import Codec, cpuset, positive, uint, words, yes_no
from qvirt.xml.fields import attr, children, content
from qvirt.xml.node import Node, Reader, complain


class Vcpu(Node, tag="vcpu"):
    """``<vcpu>``: the most CPUs the guest may have, and how many it has at boot."""

    complaints = complain(
        {
            "": (XmlError, "maximum vcpus count must be an integer"),
            "!": (XmlError, "maximum vcpus count must be an integer"),
        }
    )
    placement: str | None = attr(words("static", "auto"))
    cpuset: frozenset[int] | None = attr(cpuset)
    current: int | None = attr(uint)
    value: int = content(uint, required=True)

    def _read(self, el: etree._Element, reader: Reader) -> None:
        super()._read(el, reader)
        if self.cpuset is not None and not self.cpuset:
            raise ConfigUnsupported(f"Invalid value of 'cpuset': {el.get('cpuset')}")


class VcpuEntry(Node, tag="vcpu"):
    """One CPU of ``<vcpus>``."""

    id: int = attr(uint, required=True)
    enabled: bool = attr(yes_no, required=True)
    hotpluggable: bool | None = attr(yes_no)
    order: int | None = attr(uint)


class Vcpus(Node, tag="vcpus"):
    """``<vcpus>``: the state of each CPU."""

    vcpus: list[VcpuEntry] = children(VcpuEntry)


#: libvirt's -1 means "not said" and cannot be written
_THREADS: Codec[int] = Codec(uint.parse, str, "a non-negative integer", " Expected non-negative value")


class ThreadPool(Node):
    """Base: how many threads QEMU keeps for block I/O that has no other way to wait."""

    thread_pool_min: int | None = attr(_THREADS)
    thread_pool_max: int | None = attr(_THREADS)

    def check(self) -> None:
        if self.thread_pool_max == 0:
            raise ConfigUnsupported("thread_pool_max must be a positive integer")
        # libvirt compares with -1 where no maximum is said
        most = -1 if self.thread_pool_max is None else self.thread_pool_max
        if self.thread_pool_min is not None and self.thread_pool_min > most:
            raise ConfigUnsupported("thread_pool_min must be smaller or equal to thread_pool_max")


class Iothread(ThreadPool, tag="iothread"):
    id: int = attr(positive, required=True)


Iothread._bind((Iothread.fields[-1], *Iothread.fields[:-1]))  # the id is written first


class IothreadIds(Node, tag="iothreadids"):
    """``<iothreadids>``: numbers of the iothreads; libvirt numbers the ones left out."""

    iothreads: list[Iothread] = children(Iothread)

    def check(self) -> None:
        seen: set[int] = set()
        for iothread in self.iothreads:
            if iothread.id in seen:
                raise XmlError(f"duplicate iothread id '{iothread.id}' found")
            seen.add(iothread.id)


class DefaultIothread(ThreadPool, tag="defaultiothread"):
    """Thread pool of QEMU's main loop."""
