"""``<memtune>`` and ``<blkiotune>``: limits on memory and block I/O of the whole domain."""

from qvirt.errors import ConfigUnsupported
from qvirt.model.memory import bad_size, kib
from qvirt.xml.codecs import string, uint, ulong
from qvirt.xml.fields import attr, child, children, content, text
from qvirt.xml.node import Node, complain

#: KiB; from here on a limit means "no limit" and is not written
UNLIMITED = 9007199254740991


class Limit(Node):
    """A memory limit; KiB once read."""

    unit: str | None = attr(string)
    value: int = content(ulong, required=True)

    def check(self) -> None:
        self.value = kib(self.value, self.unit)
        self.unit = "KiB"


class HardLimit(Limit):
    complaints = complain({"": bad_size("./memtune/hard_limit[1]")})


class SoftLimit(Limit):
    complaints = complain({"": bad_size("./memtune/soft_limit[1]")})


class MinGuarantee(Limit):
    complaints = complain({"": bad_size("./memtune/min_guarantee[1]")})


class SwapHardLimit(Limit):
    complaints = complain({"": bad_size("./memtune/swap_hard_limit[1]")})


class MemTune(Node, tag="memtune"):
    """Limits on the memory the domain may take from the host."""

    hard_limit: HardLimit | None = child(HardLimit, "hard_limit")
    soft_limit: SoftLimit | None = child(SoftLimit, "soft_limit")
    min_guarantee: MinGuarantee | None = child(MinGuarantee, "min_guarantee")
    swap_hard_limit: SwapHardLimit | None = child(SwapHardLimit, "swap_hard_limit")

    def check(self) -> None:
        for name in ("hard_limit", "soft_limit", "min_guarantee", "swap_hard_limit"):
            limit: Limit | None = getattr(self, name)
            if limit is not None and limit.value >= UNLIMITED:
                del self.__dict__[name]


class BlkioDevice(Node, tag="device"):
    complaints = complain({"!path": (ConfigUnsupported, "missing per-device path")})
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
                raise ConfigUnsupported(f"duplicate blkio device path '{dev.path}'")
            seen.add(dev.path)
        # a device that says no more than its path is not kept
        self.devices = [dev for dev in self.devices if any(dev.says(x.name) for x in dev.fields[1:])]
