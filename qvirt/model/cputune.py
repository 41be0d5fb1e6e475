"""``<cputune>``: shares, bandwidth, pinning, schedulers and cache allocation of the domain's threads."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from lxml import etree

from qvirt.errors import ConfigUnsupported, InternalError, InvalidArg, XmlDetail, XmlError
from qvirt.model.memory import UNITS, bad_size
from qvirt.xml.codecs import cpuset, integer, long, positive, string, uint, ulong, words
from qvirt.xml.fields import attr, child, children, text
from qvirt.xml.node import Complaints, Node, Reader, complain

P = TypeVar("P")

SCHEDULERS = ("batch", "idle", "fifo", "rr")
REALTIME = ("fifo", "rr")
#: microseconds; what the kernel's bandwidth controller takes
PERIOD_RANGE = (1000, 1000000)
QUOTA_RANGE = (1000, 17592186044415)
SHARES_RANGE = (2, 262144)


class Pinned(Node):
    """Base: a thread and the host CPUs it may run on."""

    def _read(self, el: etree._Element, reader: Reader) -> None:
        super()._read(el, reader)
        if not self.__dict__["cpuset"]:
            raise ConfigUnsupported(f"Invalid value of 'cpuset': {el.get('cpuset')}")


class VcpuPin(Pinned, tag="vcpupin"):
    complaints = complain({"!cpuset": (InternalError, "missing cpuset for vcpupin")})
    vcpu: int = attr(uint, required=True)
    cpuset: frozenset[int] = attr(cpuset, required=True)


class EmulatorPin(Pinned, tag="emulatorpin"):
    complaints = complain({"!cpuset": (InternalError, "missing cpuset for emulatorpin")})
    cpuset: frozenset[int] = attr(cpuset, required=True)


class IothreadPin(Pinned, tag="iothreadpin"):
    complaints = complain({"!cpuset": (InternalError, "missing cpuset for iothreadpin")})
    iothread: int = attr(positive, required=True)
    cpuset: frozenset[int] = attr(cpuset, required=True)


class Scheduler(Node):
    """Base: a scheduling policy; priority counts for fifo and rr alone."""

    scheduler: str = attr(words(*SCHEDULERS), required=True)
    priority: int | None = attr(integer)

    def check(self) -> None:
        if self.scheduler not in REALTIME:
            self.priority = None
        elif self.priority is None:
            raise XmlError("Missing required attribute 'priority' in element "
                           f"'{self.tag}' with scheduler '{self.scheduler}'")  # fmt: skip


class VcpuSched(Scheduler, tag="vcpusched"):
    complaints = complain({"!vcpus": (XmlError, "Missing attribute 'vcpus' in element 'vcpusched'")})
    vcpus: frozenset[int] = attr(cpuset, required=True)


class IothreadSched(Scheduler, tag="iothreadsched"):
    complaints = complain(
        {"!iothreads": (XmlError, "Missing attribute 'iothreads' in element 'iothreadsched'")}
    )
    iothreads: frozenset[int] = attr(cpuset, required=True)


class EmulatorSched(Scheduler, tag="emulatorsched"):
    """The policy of QEMU's main thread."""


for _cls in (VcpuSched, IothreadSched):  # the set of threads is written before the policy
    _cls._bind((_cls.fields[-1], *_cls.fields[:-1]))


class CacheAllocation(Node, tag="cache"):
    """A part of a host cache; the size keeps its unit once it is one libvirt would choose."""

    complaints = complain(
        {"size": bad_size("./@size"), "!size": (XmlError, "missing element or attribute './@size'")}
    )
    id: int = attr(uint, required=True)
    level: int = attr(uint, required=True)
    type: str = attr(words("both", "code", "data"), required=True)
    size: int = attr(ulong, required=True)
    unit: str | None = attr(string)

    def check(self) -> None:
        factor = UNITS.get((self.unit or "B").lower())
        if factor is None:
            raise InvalidArg(f"unknown suffix '{self.unit}'")
        size = self.size * factor
        self.size, self.unit = size, "B"
        for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if size and size % factor == 0:
                self.size, self.unit = size // factor, unit
                break


def _bad_vcpus(name: str) -> Complaints:
    return complain(
        {
            "vcpus": (XmlError, f"Invalid {name} attribute 'vcpus' value '{{}}'"),
            "!vcpus": (XmlError, f"Missing {name} attribute 'vcpus'"),
        }
    )


class CacheMonitor(Node, tag="monitor"):
    complaints = _bad_vcpus("monitor")
    level: int = attr(uint, required=True)
    vcpus: frozenset[int] = attr(cpuset, required=True)


class CacheTune(Node, tag="cachetune"):
    """Parts of caches for some vCPUs, or watching them. id: of the host's group, while the guest runs."""

    complaints = _bad_vcpus("cachetune")
    vcpus: frozenset[int] = attr(cpuset, required=True)
    id: str | None = attr(string)
    caches: list[CacheAllocation] = children(CacheAllocation)
    monitors: list[CacheMonitor] = children(CacheMonitor)

    def check(self) -> None:
        taken: set[tuple[int, int, str]] = set()
        for cache in self.caches:
            kinds = ("both", "code", "data") if cache.type == "both" else (cache.type, "both")
            for kind in kinds:
                if (cache.level, cache.id, kind) in taken:
                    raise XmlError(
                        f"Colliding cache allocations for cache level '{cache.level}' id '{cache.id}', "
                        f"type '{cache.type}'"
                    )
            taken.add((cache.level, cache.id, cache.type))
        for i, monitor in enumerate(self.monitors):
            if not monitor.vcpus:
                raise InvalidArg("vcpus is empty")
            if not monitor.vcpus <= self.vcpus:
                raise InvalidArg("Monitor vcpus conflicts with allocation")
            for other in self.monitors[:i]:
                # one that watches the whole group stands beside the others
                if self.vcpus not in (other.vcpus, monitor.vcpus) and other.vcpus & monitor.vcpus:
                    raise InvalidArg("Monitor vcpus conflicts with monitors")


class BandwidthNode(Node, tag="node"):
    """Percent of a node's memory bandwidth."""

    id: int = attr(uint, required=True)
    bandwidth: int = attr(uint, required=True)


class BandwidthMonitor(Node, tag="monitor"):
    complaints = _bad_vcpus("monitor")
    vcpus: frozenset[int] = attr(cpuset, required=True)


class MemoryTune(Node, tag="memorytune"):
    """Memory bandwidth for some vCPUs, or watching them. id: of the host's group, while the guest runs."""

    complaints = _bad_vcpus("memorytune")
    vcpus: frozenset[int] = attr(cpuset, required=True)
    id: str | None = attr(string)
    nodes: list[BandwidthNode] = children(BandwidthNode)
    monitors: list[BandwidthMonitor] = children(BandwidthMonitor)

    def check(self) -> None:
        seen: set[int] = set()
        for node in self.nodes:
            if node.id in seen:
                raise XmlError(f"Memory Bandwidth already defined for node {node.id}")
            seen.add(node.id)


class CpuTune(Node, tag="cputune"):
    """How the domain's threads share the host's CPUs; periods and quotas in microseconds."""

    complaints = complain(
        {
            name: (XmlError, f"can't parse cputune {what} value")
            for name, what in (
                ("shares", "shares"),
                ("period", "period"),
                ("quota", "quota"),
                ("global_period", "global period"),
                ("global_quota", "global quota"),
                ("emulator_period", "emulator period"),
                ("emulator_quota", "emulator quota"),
                ("iothread_period", "iothread period"),
                ("iothread_quota", "iothread quota"),
            )
        }
    )
    shares: int | None = text(ulong)
    period: int | None = text(ulong, omit=0)
    quota: int | None = text(long, omit=0)
    global_period: int | None = text(ulong, omit=0)
    global_quota: int | None = text(long, omit=0)
    emulator_period: int | None = text(ulong, omit=0)
    emulator_quota: int | None = text(long, omit=0)
    iothread_period: int | None = text(ulong, omit=0)
    iothread_quota: int | None = text(long, omit=0)
    vcpupins: list[VcpuPin] = children(VcpuPin)
    emulatorpin: EmulatorPin | None = child(EmulatorPin)
    iothreadpins: list[IothreadPin] = children(IothreadPin)
    emulatorsched: EmulatorSched | None = child(EmulatorSched)
    vcpuscheds: list[VcpuSched] = children(VcpuSched)
    iothreadscheds: list[IothreadSched] = children(IothreadSched)
    cachetunes: list[CacheTune] = children(CacheTune)
    memorytunes: list[MemoryTune] = children(MemoryTune)

    @property
    def resource_groups(self) -> list[CacheTune | MemoryTune]:
        """What divides or watches the host's caches and memory bandwidth."""
        return [*self.cachetunes, *self.memorytunes]

    def forget_live(self) -> None:
        """Drop what only holds while the domain runs."""
        for tune in self.resource_groups:
            tune.id = None

    def _read(self, el: etree._Element, reader: Reader) -> None:
        for name in ("emulatorpin", "emulatorsched"):
            if len(el.findall(name)) > 1:
                raise XmlError(f"only one {name} is supported")
        super()._read(el, reader)

    def check(self) -> None:
        if self.shares and not SHARES_RANGE[0] <= self.shares <= SHARES_RANGE[1]:
            raise ConfigUnsupported(
                f"Value of cputune 'shares' must be in range [{SHARES_RANGE[0]}, {SHARES_RANGE[1]}]"
            )
        self._check_bandwidth()
        self.vcpupins = _unique(self.vcpupins, lambda pin: pin.vcpu, "duplicate vcpupin for vcpu '{}'")
        self.iothreadpins = _unique(
            self.iothreadpins, lambda pin: pin.iothread, "duplicate iothreadpin for same iothread '{}'"
        )
        self.vcpuscheds = [
            VcpuSched(vcpus=frozenset((thread,)), scheduler=sched.scheduler, priority=sched.priority)
            for thread, sched in _by_thread((x.vcpus, x) for x in self.vcpuscheds)
        ]
        self.iothreadscheds = [
            IothreadSched(iothreads=frozenset((thread,)), scheduler=sched.scheduler, priority=sched.priority)
            for thread, sched in _by_thread((x.iothreads, x) for x in self.iothreadscheds)
        ]

        groups: list[frozenset[int]] = []
        for tune in self.resource_groups:
            if tune.vcpus in groups:
                if isinstance(tune, CacheTune):
                    raise XmlError("Identical vcpus in cachetunes found")
            elif any(tune.vcpus & group for group in groups):
                raise XmlError("Overlapping vcpus in resctrls")
            groups.append(tune.vcpus)

    def _check_bandwidth(self) -> None:
        for name in ("period", "global_period", "emulator_period", "iothread_period"):
            value: int | None = getattr(self, name)
            if value and not PERIOD_RANGE[0] <= value <= PERIOD_RANGE[1]:
                raise ConfigUnsupported(
                    f"Value of cputune '{name}' must be in range [{PERIOD_RANGE[0]}, {PERIOD_RANGE[1]}]"
                )
        for name in ("quota", "global_quota", "emulator_quota", "iothread_quota"):
            value = getattr(self, name)
            if value and value > 0 and not QUOTA_RANGE[0] <= value <= QUOTA_RANGE[1]:
                raise ConfigUnsupported(
                    f"Value of cputune '{name}' must be in range [{QUOTA_RANGE[0]}, {QUOTA_RANGE[1]}]"
                )


def _unique(pins: list[P], key: Callable[[P], int], message: str) -> list[P]:
    """Return the pins in order of their thread; refuse two for one."""
    seen: set[int] = set()
    for pin in pins:
        if key(pin) in seen:
            raise InternalError(message.format(key(pin)))
        seen.add(key(pin))
    return sorted(pins, key=key)


def _by_thread(entries: Iterable[tuple[frozenset[int], Scheduler]]) -> list[tuple[int, Scheduler]]:
    """Return the policy of each thread, in order: libvirt writes one element per thread."""
    found: dict[int, Scheduler] = {}
    for ids, entry in entries:
        for thread in ids:
            if thread in found:
                raise XmlDetail(f"'{entry.tag}' attributes '{entry.tag[:-5]}s' must not overlap")
            found[thread] = entry
    return sorted(found.items(), key=lambda item: item[0])
