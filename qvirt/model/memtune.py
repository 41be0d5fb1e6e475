"""``<memtune>`` and ``<blkiotune>``: limits on memory and block I/O of the whole domain."""

from qvirt.errors import XmlError
from qvirt.model.memory import kib
from qvirt.xml.codecs import string, uint, ulong
from qvirt.xml.fields import attr, child, children, content, text
from qvirt.xml.node import Node

#: KiB; from here on a limit means "no limit" and is not written
UNLIMITED = 9007199254740991


class Limit(Node):
    """A memory limit; KiB once read."""

    unit: str | None = attr(string)
    value: int = content(ulong, required=True)

    def check(self) -> None:
        self.value = kib(self.value, self.unit)
        self.unit = "KiB"


class MemTune(Node, tag="memtune"):
    """Limits on the memory the domain may take from the host."""

    hard_limit: Limit | None = child(Limit, "hard_limit")
    soft_limit: Limit | None = child(Limit, "soft_limit")
    min_guarantee: Limit | None = child(Limit, "min_guarantee")
    swap_hard_limit: Limit | None = child(Limit, "swap_hard_limit")

    def check(self) -> None:
        for name in ("hard_limit", "soft_limit", "min_guarantee", "swap_hard_limit"):
            limit: Limit | None = getattr(self, name)
            if limit is not None and limit.value >= UNLIMITED:
                del self.__dict__[name]


class BlkioDevice(Node, tag="device"):
    path: str = text(string, required=True)
    weight: int | None = text(uint, omit=0)
    read_iops_sec: int | None = text(uint, omit=0)
    write_iops_sec: int | None = text(uint, omit=0)
    read_bytes_sec: int | None = text(ulong, omit=0)
    write_bytes_sec: int | None = text(ulong, omit=0)


class BlkioTune(Node, tag="blkiotune"):
    """Weights and rates of block I/O."""

    weight: int | None = text(uint, omit=0)
    devices: list[BlkioDevice] = children(BlkioDevice)

    def check(self) -> None:
        seen: set[str] = set()
        for dev in self.devices:
            if dev.path in seen:
                raise XmlError(f"duplicate blkio device path '{dev.path}'")
            seen.add(dev.path)
