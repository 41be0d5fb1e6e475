"""Bulk statistics: all domains asked at once, within one deadline; whoever is silent is reported."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from qvirt.constants.common import TypedParameterType
from qvirt.constants.domain import DomainMemoryStatTags, DomainStatsTypes, VcpuState
from qvirt.errors import OperationTimeout, QvirtError
from qvirt.model.devices.disk import Disk
from qvirt.model.storage_chain import Image
from qvirt.qemu import vcpu_slots
from qvirt.qemu.devices.blockdev import format_node, storage_node
from qvirt.qmp.commands import as_objects
from qvirt.qmp.errors import MonitorClosed, WireError
from qvirt.qmp.wire import JsonObject, JsonValue, Reply, unsigned
from qvirt.runtime.asking import procfs, reading
from qvirt.runtime.jobs import Job
from qvirt.runtime.life import resctrl
from qvirt.runtime.records import DomainStats, Param
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import perf

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

log = logging.getLogger(__name__)

INT = TypedParameterType.INT
UINT = TypedParameterType.UINT
LLONG = TypedParameterType.LLONG
ULLONG = TypedParameterType.ULLONG
STRING = TypedParameterType.STRING

#: every group there is
ALL = (
    DomainStatsTypes.STATE
    | DomainStatsTypes.CPU_TOTAL
    | DomainStatsTypes.BALLOON
    | DomainStatsTypes.VCPU
    | DomainStatsTypes.INTERFACE
    | DomainStatsTypes.BLOCK
    | DomainStatsTypes.PERF
    | DomainStatsTypes.IOTHREAD
    | DomainStatsTypes.MEMORY
    | DomainStatsTypes.DIRTYRATE
    | DomainStatsTypes.VM
)

_BALLOON_NAMES = {
    DomainMemoryStatTags.SWAP_IN: "swap_in",
    DomainMemoryStatTags.SWAP_OUT: "swap_out",
    DomainMemoryStatTags.MAJOR_FAULT: "major_fault",
    DomainMemoryStatTags.MINOR_FAULT: "minor_fault",
    DomainMemoryStatTags.UNUSED: "unused",
    DomainMemoryStatTags.AVAILABLE: "available",
    DomainMemoryStatTags.USABLE: "usable",
    DomainMemoryStatTags.LAST_UPDATE: "last-update",
    DomainMemoryStatTags.DISK_CACHES: "disk_caches",
    DomainMemoryStatTags.HUGETLB_PGALLOC: "hugetlb_pgalloc",
    DomainMemoryStatTags.HUGETLB_PGFAIL: "hugetlb_pgfail",
}
#: digits of an iothread's number
_LONGEST_NUMBER = 10

_DIRTY_MODES = ("page-sampling", "dirty-bitmap", "dirty-ring")
_DIRTY_STATUS = {"unstarted": 0, "measuring": 1, "measured": 2}

#: seconds after which a balloon that does not report by itself is asked again
SAMPLE_AGE = 5.0

#: what QEMU says of a guest whose dirty rate nobody asked for
_NEVER_MEASURED: JsonObject = {
    "status": "unstarted",
    "start-time": 0,
    "calc-time": 0,
    "mode": "page-sampling",
}

#: what QEMU is asked -> what it answered; a question it refused is missing
Answers = dict[str, object]


async def bulk(
    domains: Iterable["Domain"], groups: int, *, nowait: bool, backing: bool, deadline: float
) -> list[DomainStats]:
    """Gather the groups of all domains, within ``deadline`` seconds in all."""
    groups = groups or ALL
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    return list(await asyncio.gather(*(_one(domain, groups, nowait, backing, end) for domain in domains)))


async def _one(domain: "Domain", groups: int, nowait: bool, backing: bool, end: float) -> DomainStats:
    stats = DomainStats(domain.name, domain.uuid, domain.id)
    answers: Answers = {}
    running = domain.running
    if running is not None and running.stage == "running":
        questions = _questions(running, groups)
        if questions:
            try:
                answers = await _ask(domain, running, questions, nowait, end)
            except (QvirtError, TimeoutError):
                # a QEMU that is silent, busy or just gone: what is known without it stands
                stats.answered = False
        if isinstance(sample := answers.get("balloon"), dict):
            running.balloon_sample = sample
            running.balloon_asked = asyncio.get_running_loop().time()
        elif groups & DomainStatsTypes.BALLOON and running.balloon_sample is not None:
            answers["balloon"] = running.balloon_sample
            _refresh_balloon(domain, running)
    try:
        stats.params = _gather(domain, groups, answers, backing=backing)
    except WireError as error:
        log.warning("statistics of '%s': %s", domain.name, error.detail)
        stats.answered = False
        stats.params = _gather(domain, groups, {}, backing=backing)
    return stats


def _gather(domain: "Domain", groups: int, answers: Answers, *, backing: bool) -> list[Param]:
    """Return the groups' figures. Raises WireError for an answer of another shape than QEMU's."""
    params: list[Param] = []
    for bit, gather in _GROUPS:
        if groups & bit:
            params += _block(domain, answers, chains=backing) if gather is _block else gather(domain, answers)
    return params


def _questions(running: Running, groups: int) -> dict[str, tuple[str, dict[str, JsonValue] | None]]:
    definition = running.definition
    # What only a command changes is remembered, unless commands went past us.
    others = "custom-monitor" in running.taints
    asked: dict[str, tuple[str, dict[str, JsonValue] | None]] = {}
    names = DomainStatsTypes
    path = reading.balloon_path(definition)
    reports = others or reading.balloon_period(definition) or running.balloon_sample is None
    if groups & names.BALLOON and path is not None and reports:
        asked["balloon"] = ("qom-get", {"path": path, "property": "guest-stats"})
    if groups & names.BLOCK and definition.devices.disks:
        asked["blockstats"] = ("query-blockstats", None)
        asked["nodes"] = ("query-named-block-nodes", {"flat": True})
    if groups & names.IOTHREAD and (definition.iothreads or definition.iothreadids.iothreads):
        asked["iothreads"] = ("query-iothreads", None)
    if groups & names.DIRTYRATE and others:
        asked["dirtyrate"] = ("query-dirty-rate", None)
    return asked


def _refresh_balloon(domain: "Domain", running: Running) -> None:
    """Ask anew for figures that change only when the guest loads its driver, without anybody waiting."""
    loop = asyncio.get_running_loop()
    path = reading.balloon_path(running.definition)
    if loop.time() - running.balloon_asked < SAMPLE_AGE or running.link is None or path is None:
        return
    running.balloon_asked = loop.time()

    def take(answer: "asyncio.Future[Reply]") -> None:
        if not answer.cancelled() and answer.exception() is None and isinstance(answer.result().value, dict):
            running.balloon_sample = cast("JsonObject", answer.result().value)

    try:
        running.submit("qom-get", {"path": path, "property": "guest-stats"}).add_done_callback(take)
    except (MonitorClosed, OperationTimeout):
        return  # that it has ended, or hangs, is told by other means


async def _ask(
    domain: "Domain",
    running: Running,
    questions: dict[str, tuple[str, dict[str, JsonValue] | None]],
    nowait: bool,
    end: float,
) -> Answers:
    if nowait and domain.jobs.busy:
        raise TimeoutError
    loop = asyncio.get_running_loop()
    async with domain.jobs.hold(Job.QUERY, "bulk stats", wait=max(0.0, end - loop.time())):
        domain.need_running()
        names = list(questions)
        async with asyncio.timeout_at(end):
            replies: list[Reply] = list(
                await asyncio.gather(*(running.submit(*questions[name]) for name in names))
            )
    return {name: reply.value for name, reply in zip(names, replies, strict=True) if reply.error is None}


# ------------------------------------------------------------------------- groups


def _state(domain: "Domain", answers: Answers) -> list[Param]:
    return [Param("state.state", INT, domain.state), Param("state.reason", INT, domain.reason)]


def _cpu(domain: "Domain", answers: Answers) -> list[Param]:
    running = domain.running
    times = procfs.cpu_times(running.pid) if running is not None and running.pid else None
    if times is None:
        return []
    return [
        Param("cpu.time", ULLONG, times.total),
        Param("cpu.user", ULLONG, times.user),
        Param("cpu.system", ULLONG, times.system),
        *resctrl.cache_figures(domain),
        Param("cpu.haltpoll.success.time", ULLONG, 0),
        Param("cpu.haltpoll.fail.time", ULLONG, 0),
    ]


def _balloon(domain: "Domain", answers: Answers) -> list[Param]:
    definition = domain.current
    params = [
        Param("balloon.current", ULLONG, reading.current_kib(definition)),
        Param("balloon.maximum", ULLONG, reading.memory_kib(definition)),
    ]
    running = domain.running
    if running is None or not running.pid:
        return params
    stats = answers.get("balloon", {"last-update": 0} if reading.has_balloon(definition) else None)
    if isinstance(stats, dict):
        for tag, value in reading.balloon_stats(stats):
            params.append(Param(f"balloon.{_BALLOON_NAMES[tag]}", ULLONG, value))
    params.append(Param("balloon.rss", ULLONG, procfs.resident_kib(running.pid)))
    return params


def _vcpu(domain: "Domain", answers: Answers) -> list[Param]:
    definition = domain.current
    most = definition.vcpu.value if definition.vcpu is not None else 1
    params = [
        Param("vcpu.current", UINT, definition.vcpus_current),
        Param("vcpu.maximum", UINT, most),
    ]
    running = domain.running
    if running is None or not running.pid:
        return params
    for number in vcpu_slots.online(definition):
        tid = running.vcpu_threads[number] if number < len(running.vcpu_threads) else 0
        params.append(Param(f"vcpu.{number}.state", INT, VcpuState.RUNNING))
        times = procfs.cpu_times(running.pid, tid) if tid else None
        if times is None:
            continue
        wait, delay = procfs.schedule_wait(running.pid, tid)
        params.append(Param(f"vcpu.{number}.time", ULLONG, times.total))
        params.append(Param(f"vcpu.{number}.wait", ULLONG, wait))
        params.append(Param(f"vcpu.{number}.delay", ULLONG, delay))
    return params


def _interface(domain: "Domain", answers: Answers) -> list[Param]:
    running = domain.running
    if running is None:
        return []
    interfaces = running.definition.devices.interfaces
    params = [Param("net.count", UINT, len(interfaces))]
    for i, interface in enumerate(interfaces):
        stats = reading.host_stats(interface)
        if stats is None:
            continue
        params.append(Param(f"net.{i}.name", STRING, interface.target.dev or ""))
        for way in ("rx", "tx"):
            for ours, theirs in (("bytes", "bytes"), ("packets", "pkts"), ("errs", "errs"), ("drop", "drop")):
                params.append(Param(f"net.{i}.{way}.{theirs}", ULLONG, getattr(stats, f"{way}_{ours}")))
    return params


_BLOCK_COUNTERS = (
    ("rd.reqs", "rd_operations"),
    ("rd.bytes", "rd_bytes"),
    ("rd.times", "rd_total_time_ns"),
    ("wr.reqs", "wr_operations"),
    ("wr.bytes", "wr_bytes"),
    ("wr.times", "wr_total_time_ns"),
    ("fl.reqs", "flush_operations"),
    ("fl.times", "flush_total_time_ns"),
)


def _block(domain: "Domain", answers: Answers, *, chains: bool = False) -> list[Param]:
    """chains: of every disk each image is told of, not the one alone that the guest sees."""
    listed = answers.get("blockstats")
    known = reading.entries(as_objects(listed, "query-blockstats") if isinstance(listed, list) else [])
    nodes = reading.by_name(answers.get("nodes"))
    records = [
        record
        for disk in domain.current.devices.disks
        for record in _images(disk, reading.stats_of(known, disk), nodes, chains=chains)
    ]
    params = [Param("block.count", UINT, len(records))]
    for i, record in enumerate(records):
        params += [Param(f"block.{i}.{name}", kind, value) for name, kind, value in record]
    return params


def _images(
    disk: Disk, entry: JsonObject | None, nodes: dict[str, JsonObject], *, chains: bool
) -> Iterator[list[tuple[str, int, int | str]]]:
    """Yield what there is to say of a disk's images. entry: of query-blockstats, with those below in it."""
    images: list[Image | None] = [*disk.images()] if chains else []
    for image in images or [disk.top]:
        record: list[tuple[str, int, int | str]] = [("name", STRING, str(disk.name))]
        if image is not None and image.source.local_path:
            record.append(("path", STRING, image.source.local_path))
        if image is not None and image.index:
            record.append(("backingIndex", UINT, image.index))
        if entry is not None and (image is None or image.depth == 0):
            counters = reading.counters(entry)
            record += [(name, ULLONG, reading.number(counters.get(key))) for name, key in _BLOCK_COUNTERS]
        if entry is not None and image is not None and image.index:
            seen = reading.sizes(nodes.get(format_node(image), {}), entry)
            if seen is not None:
                capacity, physical, highest = seen
                record.append(("allocation", ULLONG, highest))
                record.append(("capacity", ULLONG, capacity))
                record.append(("physical", ULLONG, physical))
            if mark := reading.number(nodes.get(storage_node(image), {}).get("write_threshold")):
                record.append(("threshold", ULLONG, mark))
        yield record
        below = entry.get("backing") if entry is not None else None
        entry = below if isinstance(below, dict) else None


def _nothing(domain: "Domain", answers: Answers) -> list[Param]:
    return []


def _memory(domain: "Domain", answers: Answers) -> list[Param]:
    return resctrl.bandwidth_figures(domain)


def _perf(domain: "Domain", answers: Answers) -> list[Param]:
    return [Param(f"perf.{name}", ULLONG, value) for name, value in perf.figures(domain)]


def _iothread(domain: "Domain", answers: Answers) -> list[Param]:
    listed = answers.get("iothreads")
    if not isinstance(listed, list):
        return []
    params = []
    for entry in as_objects(listed, "query-iothreads"):
        number = str(entry.get("id", "")).removeprefix("iothread")
        if not number.isdecimal() or len(number) > _LONGEST_NUMBER:
            continue
        for key, kind in (("poll-max-ns", ULLONG), ("poll-grow", UINT), ("poll-shrink", UINT)):
            if isinstance(entry.get(key), int):
                bits = 32 if kind == UINT else 64
                params.append(Param(f"iothread.{number}.{key}", kind, unsigned(entry[key], bits)))
    return [Param("iothread.count", UINT, len(listed)), *params]


def _dirtyrate(domain: "Domain", answers: Answers) -> list[Param]:
    value = answers.get("dirtyrate", _NEVER_MEASURED)
    running = domain.running
    if running is None or not isinstance(value, dict):
        return []
    if running.caps is not None and not running.caps.has_command("query-dirty-rate"):
        return []
    params = [
        Param("dirtyrate.calc_status", INT, _DIRTY_STATUS.get(str(value.get("status")), 0)),
        Param("dirtyrate.calc_start_time", LLONG, reading.number(value.get("start-time"))),
        Param("dirtyrate.calc_period", INT, unsigned(value.get("calc-time"), 31)),
    ]
    if isinstance(value.get("dirty-rate"), int):
        params.append(Param("dirtyrate.megabytes_per_second", LLONG, reading.number(value["dirty-rate"])))
    if value.get("mode") in _DIRTY_MODES:
        params.append(Param("dirtyrate.calc_mode", STRING, str(value["mode"])))
    return params


_GROUPS: tuple[tuple[int, Callable[["Domain", Answers], list[Param]]], ...] = (
    (DomainStatsTypes.STATE, _state),
    (DomainStatsTypes.CPU_TOTAL, _cpu),
    (DomainStatsTypes.BALLOON, _balloon),
    (DomainStatsTypes.VCPU, _vcpu),
    (DomainStatsTypes.INTERFACE, _interface),
    (DomainStatsTypes.BLOCK, _block),
    (DomainStatsTypes.PERF, _perf),
    (DomainStatsTypes.IOTHREAD, _iothread),
    (DomainStatsTypes.MEMORY, _memory),
    (DomainStatsTypes.DIRTYRATE, _dirtyrate),
    (DomainStatsTypes.VM, _nothing),
)
