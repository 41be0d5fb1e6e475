"""vCPUs that come and go: QEMU's slots, which of them a count means, and what the document says then."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qvirt.errors import ConfigUnsupported, InvalidArg
from qvirt.model.domain import Domain
from qvirt.model.vcpu import Vcpu, VcpuEntry, Vcpus
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Device
from qvirt.record import Record

_PLACES = ("socket-id", "die-id", "cluster-id", "core-id", "thread-id")
_PLUGGED = "/machine/peripheral/"


class Slot(Record):
    """What QEMU plugs at once: ``count`` vCPUs from ``first`` on. path: its QOM path, None when empty."""

    first: int
    count: int
    driver: str
    props: Mapping[str, JsonValue]
    path: str | None

    @property
    def alias(self) -> str | None:
        """The id it was plugged under; None when empty or there from the start, not to be unplugged."""
        path = self.path or ""
        return path.removeprefix(_PLUGGED) if path.startswith(_PLUGGED) else None

    @property
    def numbers(self) -> range:
        """Its vCPUs."""
        return range(self.first, self.first + self.count)

    def device(self) -> Device:
        """Return the record that plugs it."""
        return Device({"driver": self.driver, "id": f"vcpu{self.first}", **self.props})


def read_slots(answer: Iterable[Mapping[str, Any]]) -> list[Slot]:
    """Number the slots of query-hotpluggable-cpus as libvirt does: by their place in the topology."""

    def place(item: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(item["props"].get(name, 0) for name in _PLACES)

    slots: list[Slot] = []
    number = 0
    for item in sorted(answer, key=place):
        count = int(item.get("vcpus-count", 1))
        slots.append(Slot(number, count, item["type"], item["props"], item.get("qom-path")))
        number += count
    return slots


def slots_for_count(slots: Sequence[Slot], online: frozenset[int], count: int) -> list[Slot]:
    """Return the slots to plug or unplug, in order, for a guest with ``count`` vCPUs.

    Raises ConfigUnsupported when no choice of slots gives that count.
    """
    now, chosen = len(online), []
    if count > now:
        for slot in slots:
            if now >= count:
                break
            if slot.first not in online:
                now += slot.count
                chosen.append(slot)
    else:
        for slot in reversed(slots):
            if now <= count:
                break
            if slot.first in online and slot.alias is not None:
                now -= slot.count
                chosen.append(slot)
    if now != count:
        raise ConfigUnsupported(
            "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count"
            f" {count}, {len(online)} are online"
        )
    return chosen


def slots_of(slots: Sequence[Slot], online: frozenset[int], wanted: frozenset[int], on: bool) -> list[Slot]:
    """Return the slots of the vCPUs named. Raises InvalidArg for one that is so already or cannot change."""
    chosen = []
    for slot in slots:
        named = wanted & set(slot.numbers)
        if not named:
            continue
        for number in sorted(named):
            if (number in online) == on:
                raise InvalidArg(f"vcpu '{number}' is already in requested state")
            if not on and slot.alias is None:
                raise InvalidArg(f"vcpu '{number}' can't be hotunplugged")
        missing = set(slot.numbers) - named
        if missing:
            raise InvalidArg(
                f"vcpu '{min(missing)}' was not selected but it belongs to hotpluggable entity "
                f"'{slot.first}-{slot.numbers[-1]}' which was partially selected"
            )
        chosen.append(slot)
    return chosen


# ------------------------------------------------------------------ the document


def most(domain: Domain) -> int:
    """Return how many vCPUs it may have."""
    return domain.vcpu.value if domain.vcpu is not None else 1


def online(domain: Domain) -> list[int]:
    """Return the numbers of the vCPUs that are on."""
    if domain.vcpus is None:
        return list(range(domain.vcpus_current))
    return [entry.id for entry in domain.vcpus.vcpus if entry.enabled]


def booted_late(domain: Domain) -> list[int]:
    """Return the vCPUs that are plugged before the guest runs, in the document's order."""
    entries = [entry for entry in domain.vcpus.vcpus if entry.enabled and entry.hotpluggable] if (
        domain.vcpus is not None
    ) else []  # fmt: skip
    return [entry.id for entry in sorted(entries, key=lambda entry: (entry.order or 0, entry.id))]


def _entries(domain: Domain) -> list[VcpuEntry]:
    """Return the state of every vCPU, also where the document gives only numbers."""
    if domain.vcpus is not None:
        return domain.vcpus.vcpus
    now = domain.vcpus_current
    return [VcpuEntry(id=i, enabled=i < now, hotpluggable=i >= now) for i in range(most(domain))]


def _take(domain: Domain, entries: list[VcpuEntry]) -> None:
    domain.vcpus = Vcpus(vcpus=entries)
    _count(domain, sum(entry.enabled for entry in entries))


def _count(domain: Domain, count: int) -> None:
    vcpu = domain.vcpu = domain.vcpu or Vcpu(value=1)
    vcpu.current = None if count == vcpu.value else count


def take_slots(domain: Domain, slots: Sequence[Slot], cpus: Sequence[Mapping[str, Any]]) -> None:
    """Write down which vCPUs the guest has. cpus: query-cpus-fast, which lists them as they came."""
    paths = [str(cpu.get("qom-path")) for cpu in cpus]

    def place(slot: Slot) -> int:
        mine = str(slot.path)
        return next((i for i, path in enumerate(paths) if path == mine or path.startswith(f"{mine}/")), 0)

    plugged = sorted((slot for slot in slots if slot.path is not None), key=place)
    order = {slot.first: rank for rank, slot in enumerate(plugged, 1)}
    entries = []
    for slot in slots:
        there = slot.path is not None
        entries += [
            VcpuEntry(
                id=number,
                enabled=there,
                hotpluggable=not there or slot.alias is not None,
                order=order.get(slot.first),
            )
            for number in slot.numbers
        ]
    _take(domain, entries)


def set_config_count(domain: Domain, count: int, *, hotpluggable: bool) -> None:
    """Set how many vCPUs the next start has, the lowest numbers first."""
    if domain.vcpus is None and (not hotpluggable or count <= domain.vcpus_current):
        _count(domain, count)
        return
    entries = _entries(domain)
    now = sum(entry.enabled for entry in entries)
    for entry in entries:
        entry.order = None
    for entry in entries:
        if entry.enabled:
            # those that are not hot-pluggable stay together at the beginning
            hotpluggable = hotpluggable or entry.hotpluggable is True
        elif now < count:
            entry.enabled, entry.hotpluggable = True, hotpluggable
            now += 1
    for entry in reversed(entries):
        if now > count and entry.enabled:
            entry.enabled, entry.hotpluggable = False, True
            now -= 1
    _take(domain, entries)


def set_config_maximum(domain: Domain, count: int) -> None:
    """Set how many vCPUs the next start may have.

    Raises InvalidArg when the topology, or the guest's NUMA nodes, say otherwise; the first node gets what is
    more than all nodes have.
    """
    topology = domain.cpu.topology if domain.cpu is not None else None
    if topology is not None:
        total = topology.sockets * topology.dies * topology.cores * topology.threads
        if total != count:
            raise InvalidArg(
                f"CPU topology doesn't match the desired vcpu count: {total} in <topology>, not {count}"
            )
    cells = domain.cpu.numa.cells if domain.cpu is not None and domain.cpu.numa is not None else []
    theirs = frozenset[int]().union(*(cell.cpus or () for cell in cells))
    if max(theirs, default=-1) >= count:
        raise InvalidArg("Number of CPUs in <numa> exceeds the desired maximum vcpu count")
    if theirs:
        cells[0].cpus = (cells[0].cpus or frozenset()) | (frozenset(range(count)) - theirs)
    now = min(domain.vcpus_current, count)
    vcpu = domain.vcpu = domain.vcpu or Vcpu(value=1)
    entries = _entries(domain)
    vcpu.value = count
    if domain.vcpus is None:
        _count(domain, now)
    else:
        more = range(len(entries), count)
        _take(domain, entries[:count] + [VcpuEntry(id=i, enabled=False, hotpluggable=True) for i in more])


def set_config_vcpus(domain: Domain, wanted: frozenset[int], on: bool) -> None:
    """Turn single vCPUs of the next start on or off. Raises InvalidArg for one that cannot be."""
    if not on and 0 in wanted:
        raise InvalidArg("vCPU '0' must be enabled")
    entries = _entries(domain)
    for entry in entries:
        entry.order = None
        if entry.id in wanted:
            entry.enabled, entry.hotpluggable = on, True
    _take(domain, entries)
