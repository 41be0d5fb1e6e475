"""A guest's share of the host's caches and memory bandwidth: ``<cachetune>``, ``<memorytune>``.

vCPUs that both name are one group. What a group has is decided by the host's facts before QEMU starts, taken
when its threads are known, and given back when the guest ends. Names follow from the run's id and the
document, so whoever comes after a crash finds them by the status file alone.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qvirt.constants.common import TypedParameterType
from qvirt.errors import ConfigUnsupported
from qvirt.host import resctrl
from qvirt.host.cpu import CacheBank, read_caches
from qvirt.host.resctrl import CachePart, Controls, Wanted
from qvirt.model.cputune import CacheMonitor, CacheTune, CpuTune, MemoryTune
from qvirt.model.domain import Domain as Definition
from qvirt.model.memory import UNITS
from qvirt.qemu import vcpu_slots
from qvirt.record import Record, field
from qvirt.runtime.records import Param
from qvirt.runtime.running import Running
from qvirt.xml.codecs import format_cpuset
from qvirt.xml.node import Node

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain
    from qvirt.runtime.hypervisor import Hypervisor

#: the root of the file system; tests have one of their own
ROOT = Path("/")

UINT: Final = TypedParameterType.UINT
ULLONG: Final = TypedParameterType.ULLONG
STRING: Final = TypedParameterType.STRING

_CACHE: Final = "llc_"
_BANDWIDTH: Final = "mbm_"


class Watch(Record):
    """Threads that are watched. kind: the features that count, ``llc_`` or ``mbm_``."""

    kind: str
    vcpus: frozenset[int]
    node: Node


class Share(Record, frozen=False):
    """What the threads of some vCPUs have and how they are watched."""

    vcpus: frozenset[int]
    tunes: list[CacheTune | MemoryTune] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)

    @property
    def name(self) -> str:
        return _name(self.vcpus)

    @property
    def wanted(self) -> Wanted:
        """What is asked for."""
        caches: list[CachePart] = []
        bandwidth: dict[int, tuple[int, str]] = {}
        for tune in self.tunes:
            if isinstance(tune, CacheTune):
                caches += [
                    CachePart(part.level, part.id, part.type, part.size * UNITS[(part.unit or "B").lower()],
                              _at(part))
                    for part in tune.caches
                ]  # fmt: skip
            else:
                bandwidth |= {node.id: (node.bandwidth, _at(node)) for node in tune.nodes}
        return Wanted(tuple(caches), bandwidth)

    @property
    def is_own(self) -> bool:
        """Tell whether it has something others have not; else it is only watched."""
        return bool(self.wanted.caches or self.wanted.bandwidth)


def _name(vcpus: frozenset[int]) -> str:
    return f"vcpus_{format_cpuset(vcpus)}"


def _at(node: Node) -> str:
    return f" (line {node.line})" if node.line else ""


def shares(definition: Definition) -> list[Share]:
    """Return a document's shares, in libvirt's order."""
    tune: CpuTune | None = definition.__dict__.get("cputune")
    found: dict[frozenset[int], Share] = {}
    if tune is None:
        return []
    for one in tune.resource_groups:
        share = found.setdefault(one.vcpus, Share(one.vcpus))
        share.tunes.append(one)
        for monitor in one.monitors:
            kind = _CACHE if isinstance(monitor, CacheMonitor) else _BANDWIDTH
            share.watches.append(Watch(kind, monitor.vcpus, monitor))
    return list(found.values())


def _folder(machine: str, share: Share) -> Path:
    """Return the folder of a share; the root's, where it has nothing of its own."""
    root = ROOT / resctrl.FOLDER
    return root / f"{machine}-{share.name}" if share.is_own else root


def _watch_folder(machine: str, share: Share, watch: Watch) -> Path:
    """Return the folder whose monitors count for a watch."""
    folder = _folder(machine, share)
    if share.is_own and watch.vcpus == share.vcpus:
        return folder
    return folder / "mon_groups" / f"{machine}-{_name(watch.vcpus)}"


def _folders(machine: str, share: Share) -> dict[Path, frozenset[int]]:
    """Return the folders that are a share's own, those above others first, and whose threads are in them."""
    own = {_folder(machine, share): share.vcpus} if share.is_own else {}
    return own | {_watch_folder(machine, share, watch): watch.vcpus for watch in share.watches}


# -------------------------------------------------------------------------- start


async def check(hv: "Hypervisor", definition: Definition) -> None:
    """Refuse what the host cannot divide or watch. Raises ConfigUnsupported, SystemError_."""
    if wanted := shares(definition):
        await hv.files.run(f"caches of '{definition.name}'", partial(_check, wanted))


def _check(wanted: list[Share]) -> None:
    controls, banks = _host(wanted)
    for share in wanted:
        resctrl.check(share.wanted, controls, banks)
        for watch in share.watches:
            known = controls.monitoring.features_of(watch.kind) if controls.monitoring is not None else ()
            if not known:
                raise ConfigUnsupported(
                    f"the host cannot watch what <monitor>{_at(watch.node)} of vcpus "
                    f"'{format_cpuset(watch.vcpus)}' asks for; remove it to start"
                )
    default, others = resctrl.read_groups(ROOT / resctrl.FOLDER)
    for share in wanted:
        if share.is_own:
            others.append(resctrl.choose(share.wanted, controls, banks, default, others))


def _host(wanted: list[Share]) -> tuple[Controls, list[CacheBank]]:
    controls = resctrl.read_controls(ROOT)
    if controls is None:
        node = wanted[0].tunes[0]
        raise ConfigUnsupported(
            f"Resource control is not supported on this host: <{node.tag}>{_at(node)} needs a CPU with "
            "resource director technology, and resctrl mounted on /sys/fs/resctrl; remove it to start"
        )
    return controls, read_caches(ROOT)


async def take(domain: "Domain", running: Running) -> None:
    """Make the groups of a new QEMU and put its threads into them. Raises as `check`, OperationTimeout."""
    hv, wanted = domain.hypervisor, shares(running.definition)
    if not wanted:
        return
    machine = hv.cgroups.name_of(running.definition, running.id)
    await hv.files.run(f"caches of '{domain.name}'", partial(_make, machine, wanted))
    for share in wanted:
        for tune in share.tunes:
            tune.id = share.name
    hv.checkpoint("caches divided")
    await hv.files.run(f"caches of '{domain.name}'", partial(_join, running, machine, wanted))


def _make(machine: str, wanted: list[Share]) -> None:
    controls, banks = _host(wanted)
    root = ROOT / resctrl.FOLDER
    for share in wanted:
        if share.is_own:
            with resctrl.locked(root):
                default, others = resctrl.read_groups(root)
                schemata = resctrl.choose(share.wanted, controls, banks, default, others)
                resctrl.make_group(_folder(machine, share))
                resctrl.write(_folder(machine, share) / "schemata", schemata.text(controls))
        for folder in _folders(machine, share):
            if not folder.is_dir():
                resctrl.make_group(folder)


def _join(running: Running, machine: str, wanted: list[Share], *numbers: int) -> None:
    """Put vCPUs' threads where they belong; all of them where none is named."""
    for number in numbers or vcpu_slots.online(running.definition):
        thread = running.vcpu_threads[number] if number < len(running.vcpu_threads) else 0
        if not thread or not running.has_thread(thread):
            continue
        for share in wanted:
            for folder, vcpus in _folders(machine, share).items():
                if number in vcpus:
                    resctrl.write(folder / "tasks", str(thread))


async def join_vcpu(domain: "Domain", running: Running, number: int) -> None:
    """Put a vCPU that was plugged in where it belongs. Raises SystemError_."""
    hv, wanted = domain.hypervisor, shares(running.definition)
    if wanted:
        machine = hv.cgroups.name_of(running.definition, running.id)
        await hv.files.run(f"caches of '{domain.name}'", partial(_join, running, machine, wanted, number))


def give_back(machine: str, definition: Definition) -> list[str]:
    """Remove a guest's groups. Blocking. Returns what could not be removed."""
    failures = []
    for share in shares(definition):
        # the kernel refuses to remove a group that others are in
        for folder in reversed(_folders(machine, share)):
            if (failure := resctrl.remove_group(folder)) is not None:
                failures.append(failure)
    return failures


# --------------------------------------------------------------------- statistics


def cache_figures(domain: "Domain") -> list[Param]:
    """Return how much of the caches the watched threads use, bytes."""
    found = _read(domain, _CACHE, ("llc_occupancy",))
    params = [Param("cpu.cache.monitor.count", UINT, len(found))]
    for i, (vcpus, banks) in enumerate(found):
        where = f"cpu.cache.monitor.{i}"
        params += _head(where, vcpus)
        params.append(Param(f"{where}.bank.count", UINT, len(banks)))
        for j, (id, counted) in enumerate(banks):
            params.append(Param(f"{where}.bank.{j}.id", UINT, id))
            params.append(Param(f"{where}.bank.{j}.bytes", UINT, counted["llc_occupancy"] & 0xFFFFFFFF))
    return params


def bandwidth_figures(domain: "Domain") -> list[Param]:
    """Return how much memory the watched threads have moved, bytes; nothing where none is watched."""
    found = _read(domain, _BANDWIDTH, ("mbm_total_bytes", "mbm_local_bytes"))
    params = [Param("memory.bandwidth.monitor.count", UINT, len(found))] if found else []
    for i, (vcpus, nodes) in enumerate(found):
        where = f"memory.bandwidth.monitor.{i}"
        params += _head(where, vcpus)
        params.append(Param(f"{where}.node.count", UINT, len(nodes)))
        for j, (id, counted) in enumerate(nodes):
            params.append(Param(f"{where}.node.{j}.id", UINT, id))
            params.append(Param(f"{where}.node.{j}.bytes.total", ULLONG, counted["mbm_total_bytes"]))
            params.append(Param(f"{where}.node.{j}.bytes.local", ULLONG, counted["mbm_local_bytes"]))
    return params


def _head(where: str, vcpus: frozenset[int]) -> Iterator[Param]:
    yield Param(f"{where}.name", STRING, _name(vcpus))
    yield Param(f"{where}.vcpus", STRING, format_cpuset(vcpus))


def _read(
    domain: "Domain", kind: str, features: tuple[str, ...]
) -> list[tuple[frozenset[int], list[tuple[int, dict[str, int]]]]]:
    running = domain.running
    wanted = shares(running.definition) if running is not None and running.pid else []
    if running is None or not wanted:
        return []
    machine = domain.hypervisor.cgroups.name_of(running.definition, running.id)
    return [
        (watch.vcpus, resctrl.read_monitor(_watch_folder(machine, share, watch), features))
        for share in wanted
        for watch in share.watches
        if watch.kind == kind
    ]
