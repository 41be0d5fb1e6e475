"""Readings of one domain: what it is, how its vCPUs, disks, interfaces and memory do."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qvirt.constants.common import TypedParameterType
from qvirt.constants.domain import (
    DomainControlErrorReason,
    DomainControlState,
    DomainDiskErrorCode,
    DomainGetHostnameFlags,
    DomainInterfaceAddressesSource,
    DomainMemoryStatTags,
    DomainMessageType,
    DomainVcpuFlags,
    VcpuState,
)
from qvirt.constants.error import ErrorDomain
from qvirt.constants.network import IPAddrType
from qvirt.errors import InternalError, InvalidArg, NoHostname, OperationInvalid, SystemError_
from qvirt.model.devices.disk import Disk
from qvirt.model.devices.interface import Interface, InterfaceType
from qvirt.model.domain import Domain as Definition
from qvirt.qemu import vcpu_slots
from qvirt.qmp import commands
from qvirt.qmp.errors import QmpError
from qvirt.qmp.wire import Json, JsonObject, unsigned
from qvirt.runtime import interfaces
from qvirt.runtime.asking import guest, procfs
from qvirt.runtime.jobs import Job
from qvirt.runtime.records import (
    BlockInfo,
    BlockStats,
    ControlInfo,
    DiskError,
    GuestInterface,
    Info,
    InterfaceStats,
    IothreadInfo,
    IpAddress,
    Param,
    SecurityLabel,
    VcpuInfo,
)
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import pinning
from qvirt.xml import codecs

if TYPE_CHECKING:
    from qvirt.runtime.domain import Domain

#: libvirt's words for taints -> the sentence virDomainGetMessages shows
TAINTS = {
    "custom-argv": "custom configuration parameters specified",
    "custom-monitor": "custom monitor control commands issued",
    "high-privileges": "running with undesirable elevated privileges",
    "shell-scripts": "network configuration using opaque shell scripts",
    "disk-probing": "potentially unsafe disk format probing",
    "external-launch": "managing externally launched configuration",
    "host-cpu": "potentially unsafe use of host CPU passthrough",
    "hook-script": "configuration potentially modified by hook script",
    "cdrom-passthrough": "use of host cdrom passthrough",
    "custom-dtb": "custom device tree blob used",
    "custom-ga-command": "custom guest agent control commands issued",
    "custom-hypervisor-feature": "hypervisor feature autodetection override",
    "deprecated-config": "use of deprecated configuration settings",
    "custom-device": "custom device configuration",
}

#: QEMU's name -> DomainMemoryStatTags, in libvirt's order; KiB where the divisor says so
_BALLOON_STATS = (
    ("stat-swap-in", DomainMemoryStatTags.SWAP_IN, 1024),
    ("stat-swap-out", DomainMemoryStatTags.SWAP_OUT, 1024),
    ("stat-major-faults", DomainMemoryStatTags.MAJOR_FAULT, 1),
    ("stat-minor-faults", DomainMemoryStatTags.MINOR_FAULT, 1),
    ("stat-free-memory", DomainMemoryStatTags.UNUSED, 1024),
    ("stat-total-memory", DomainMemoryStatTags.AVAILABLE, 1024),
    ("stat-available-memory", DomainMemoryStatTags.USABLE, 1024),
    ("last-update", DomainMemoryStatTags.LAST_UPDATE, 1),
    ("stat-disk-caches", DomainMemoryStatTags.DISK_CACHES, 1024),
    ("stat-htlb-pgalloc", DomainMemoryStatTags.HUGETLB_PGALLOC, 1),
    ("stat-htlb-pgfail", DomainMemoryStatTags.HUGETLB_PGFAIL, 1),
)
_UNKNOWN_STAT = 2**64 - 1
#: letters of a path in QEMU's tree of objects
_LONGEST_PATH = 1024


# -------------------------------------------------------------------- whole domain


def memory_kib(definition: Definition) -> int:
    """Return the most memory the guest can have."""
    return definition.memory.value if definition.memory is not None else 0


def current_kib(definition: Definition) -> int:
    """Return the memory the guest has now, or boots with."""
    if definition.current_memory is not None:
        return definition.current_memory.value
    return memory_kib(definition)


def info(domain: "Domain") -> Info:
    """virDomainGetInfo."""
    definition = domain.current
    time = 0
    if domain.running is not None and domain.running.pid:
        times = procfs.cpu_times(domain.running.pid)
        time = times.total if times is not None else 0
    return Info(domain.state, memory_kib(definition), current_kib(definition), definition.vcpus_current, time)


def control_info(domain: "Domain") -> ControlInfo:
    """Say whether QEMU can be talked to, from memory."""
    running = domain.need_running()
    if running.monitor_failed:
        return ControlInfo(DomainControlState.ERROR, DomainControlErrorReason.MONITOR)
    since = running.waiting_since
    if since is not None:
        waited = int((asyncio.get_running_loop().time() - since) * 1000)
        return ControlInfo(DomainControlState.OCCUPIED, 0, waited)
    return ControlInfo(DomainControlState.OK)


def messages(domain: "Domain", flags: int) -> list[str]:
    """Return tainting and deprecation messages."""
    found: list[str] = []
    running = domain.running
    if not flags or flags & DomainMessageType.TAINTING:
        taints = running.taints if running is not None else []
        found += [f"tainted: {text}" for taint, text in TAINTS.items() if taint in taints]
    if (not flags or flags & DomainMessageType.DEPRECATION) and running is not None:
        found += [f"deprecated configuration: {text}" for text in running.deprecations]
    return found


def security_labels(domain: "Domain") -> list[SecurityLabel]:
    """Return the labels QEMU runs under, one per security model. Reads its own entries of /proc alone."""
    running = domain.running
    if running is None or running.process is None:
        return []
    return [SecurityLabel(*label) for label in running.guard.read(running.pid)]


# --------------------------------------------------------------------------- vcpus


async def vcpu_count(domain: "Domain", flags: int) -> int:
    """virDomainGetVcpusFlags."""
    names = DomainVcpuFlags
    if flags & names.GUEST:
        if flags & names.MAXIMUM:
            if flags & names.CONFIG:
                raise InvalidArg("flags 'maximum' and 'guest' are supported only with a running domain")
            return _most_vcpus(domain.chosen(flags))
        return await guest.vcpu_count(domain)
    definition = domain.chosen(flags)
    return _most_vcpus(definition) if flags & names.MAXIMUM else definition.vcpus_current


def _most_vcpus(definition: Definition) -> int:
    return definition.vcpu.value if definition.vcpu is not None else 1


def vcpus(domain: "Domain") -> list[VcpuInfo]:
    """Describe each vCPU's thread."""
    running = domain.running
    if running is None:
        raise OperationInvalid("cannot retrieve vcpu information for inactive domain")
    found: list[VcpuInfo] = []
    for number in vcpu_slots.online(running.definition):
        tid = running.vcpu_threads[number] if number < len(running.vcpu_threads) else 0
        times = procfs.cpu_times(running.pid, tid) if tid else None
        found.append(
            VcpuInfo(
                number,
                VcpuState.RUNNING,
                times.total if times is not None else 0,
                times.cpu if times is not None else 0,
                (procfs.affinity(tid) if tid else frozenset()) or procfs.online_cpus(),
            )
        )
    return found


def vcpu_pins(domain: "Domain", flags: int) -> list[frozenset[int]]:
    """Return the host CPUs each possible vCPU may run on."""
    definition = domain.chosen(flags)
    default = _default_cpus(definition)
    pins = {pin.vcpu: pin.cpuset for pin in definition.cputune.vcpupins}
    return [pins.get(number, default) for number in range(_most_vcpus(definition))]


def emulator_pin(domain: "Domain", flags: int) -> frozenset[int]:
    """Return the host CPUs QEMU's other threads may run on."""
    definition = domain.chosen(flags)
    pin = definition.cputune.emulatorpin
    return pin.cpuset if pin is not None else _default_cpus(definition)


def _default_cpus(definition: Definition) -> frozenset[int]:
    chosen = definition.vcpu.cpuset if definition.vcpu is not None else None
    return chosen if chosen else procfs.online_cpus()


async def iothread_info(domain: "Domain", flags: int) -> list[IothreadInfo]:
    """Describe the iothreads, the running ones by their threads."""
    definition = domain.chosen(flags)
    if definition is not domain.current or domain.running is None:
        pins = {pin.iothread: pin.cpuset for pin in definition.cputune.iothreadpins}
        count = definition.iothreads or 0
        ids = [one.id for one in definition.iothreadids.iothreads] or list(range(1, count + 1))
        return [IothreadInfo(number, pins.get(number, _default_cpus(definition))) for number in sorted(ids)]
    async with domain.job(Job.QUERY, "iothread info"):
        running = domain.need_running()
        if not definition.iothreads and not definition.iothreadids.iothreads:
            return []
        threads = await pinning.iothread_threads(running)
    return [
        IothreadInfo(number, procfs.affinity(thread) or procfs.online_cpus())
        for number, thread in sorted(threads.items())
    ]


def cpu_stats(domain: "Domain") -> tuple[list[Param], dict[int, list[Param]]]:
    """Return the totals; times per host CPU need a control group that counts them, so there are none."""
    running = domain.need_running()
    times = procfs.cpu_times(running.pid)
    if times is None:
        raise OperationInvalid("domain is not running")
    kind = TypedParameterType.ULLONG
    totals = [
        Param("cpu_time", kind, times.total),
        Param("user_time", kind, times.user),
        Param("system_time", kind, times.system),
    ]
    return totals, {}


# --------------------------------------------------------------------------- disks


def find_disk(definition: Definition, name: str) -> Disk | None:
    """Return a disk by target name or source path."""
    for disk in definition.devices.disks:
        if disk.name == name or (disk.source is not None and disk.source.local_path == name):
            return disk
    return None


Entries = Mapping[str, JsonObject]


def entries(answer: Iterable[JsonObject]) -> Entries:
    """Return what query-blockstats or query-block answers, by the parts of the devices' paths and by node.

    Looked through once, however many disks there are: the answer may have as many entries as QEMU likes.
    """
    found: dict[str, JsonObject] = {}
    for entry in answer:
        path, node = entry.get("qdev"), entry.get("node-name")
        if isinstance(path, str) and len(path) <= _LONGEST_PATH:
            for part in path.split("/"):
                found.setdefault(part, entry)
        if isinstance(node, str):
            found.setdefault(f"node {node}", entry)
    return found


def stats_of(known: Entries, disk: Disk) -> JsonObject | None:
    """Return a disk's entry, known by the device's id in the path QEMU gives, or by its node."""
    alias = disk.alias.name
    entry = known.get(alias) if alias else None
    return known.get(f"node {node_name(disk)}") if entry is None else entry


def node_name(disk: Disk) -> str | None:
    """Return the name of the block node the guest's device sits on."""
    index = disk.source.index if disk.source is not None else None
    return f"libvirt-{index}-format" if index else None


def number(value: Json) -> int:
    """Narrow a counter to what the wire's signed 64 bits hold; what is missing counts nothing."""
    return unsigned(value, 63)


def counters(entry: JsonObject) -> JsonObject:
    """Return the counters of an entry of query-blockstats."""
    stats = entry.get("stats")
    return stats if isinstance(stats, dict) else {}


def _block_stats(entry: JsonObject) -> BlockStats:
    stats = counters(entry)
    return BlockStats(
        rd_req=number(stats.get("rd_operations")),
        rd_bytes=number(stats.get("rd_bytes")),
        wr_req=number(stats.get("wr_operations")),
        wr_bytes=number(stats.get("wr_bytes")),
        rd_total_times=number(stats.get("rd_total_time_ns")),
        wr_total_times=number(stats.get("wr_total_time_ns")),
        flush_req=number(stats.get("flush_operations")),
        flush_total_times=number(stats.get("flush_total_time_ns")),
    )


_BLOCK_COUNTERS = (
    "rd_req",
    "rd_bytes",
    "wr_req",
    "wr_bytes",
    "rd_total_times",
    "wr_total_times",
    "flush_req",
    "flush_total_times",
)


async def block_stats(domain: "Domain", name: str) -> BlockStats:
    """Read a disk's counters, or the sum of all."""
    async with domain.job(Job.QUERY, "block stats"):
        running = domain.need_running()
        disk = None
        if name:
            disk = find_disk(running.definition, name)
            if disk is None:
                raise InvalidArg(f"invalid path: {name}")
        known = entries(await commands.query_blockstats(running, deadline=15.0))
        if disk is not None:
            entry = stats_of(known, disk)
            if entry is None:
                raise InternalError(f"cannot find statistics for device '{disk.alias.name}'")
            return _block_stats(entry)
        found = [
            _block_stats(entry)
            for one in running.definition.devices.disks
            if (entry := stats_of(known, one)) is not None
        ]
    return BlockStats(*(sum(getattr(one, key) or 0 for one in found) for key in _BLOCK_COUNTERS))


async def block_info(domain: "Domain", name: str) -> BlockInfo:
    """Read a disk's sizes, from QEMU while it runs."""
    definition = domain.current
    disk = find_disk(definition, name)
    if disk is None:
        raise InvalidArg(f"invalid path {name} not assigned to domain")
    path = disk.source.local_path if disk.source is not None else None
    if not disk.has_medium:
        raise InvalidArg(f"disk '{name}' does not currently have a source assigned")
    live: tuple[int, int, int] | None = None
    if domain.running is not None:
        async with domain.job(Job.QUERY, "block info"):
            running = domain.need_running()
            nodes, stats = await asyncio.gather(
                running.execute("query-named-block-nodes", {"flat": True}),
                commands.query_blockstats(running, deadline=15.0),
            )
            entry = stats_of(entries(stats), disk)
            live = sizes(by_name(nodes).get(node_name(disk) or "", {}), entry)
    if path is None:
        if live is None:
            raise OperationInvalid("domain is not running")
        return BlockInfo(live[0], live[2], live[1])
    stat = await domain.hypervisor.files.run(f"size of '{path}'", lambda: _stat(path))
    physical, used, is_block = stat
    if live is None:
        capacity = await domain.hypervisor.files.run(
            f"size of '{path}'", lambda: virtual_size(path, disk.driver.type, physical)
        )
        return BlockInfo(capacity, physical if is_block else used, physical)
    capacity, actual, highest = live
    return BlockInfo(capacity, highest or (physical if is_block else actual), physical)


def by_name(nodes: object) -> dict[str, JsonObject]:
    """Return what query-named-block-nodes answers, by the nodes' names."""
    listed = nodes if isinstance(nodes, list) else []
    return {str(node.get("node-name")): node for node in listed if isinstance(node, dict)}


def sizes(node: JsonObject, entry: JsonObject | None) -> tuple[int, int, int] | None:
    """Return an image's capacity, host's allocation and highest offset written; None without an image.

    node: of query-named-block-nodes; entry: of query-blockstats.
    """
    image = node.get("image")
    if not isinstance(image, dict):
        return None
    return number(image.get("virtual-size")), number(image.get("actual-size")), highest_offset(entry)


def highest_offset(entry: JsonObject | None) -> int:
    """Return how far the guest has written, which QEMU knows of the node below the format."""
    parent = entry.get("parent") if entry is not None else None
    return number(counters(parent).get("wr_highest_offset")) if isinstance(parent, dict) else 0


def _stat(path: str) -> tuple[int, int, bool]:
    """Return size and allocation of a file or block device, and whether it is a device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            is_block = (status.st_mode & 0o170000) == 0o060000
            size = os.lseek(fd, 0, os.SEEK_END) if is_block else status.st_size
        finally:
            os.close(fd)
    except OSError as error:
        raise SystemError_(f"failed to open '{path}'", error) from error
    return size, status.st_blocks * 512, is_block


def virtual_size(path: str, format: str | None, size: int) -> int:
    """Return the size a guest sees of an image nobody has open: qcow2 says it in its header."""
    if format != "qcow2":
        return size
    with open(path, "rb") as file:
        head = file.read(32)
    if len(head) < 32 or head[:4] != b"QFI\xfb":
        return size
    return int.from_bytes(head[24:32], "big")


async def disk_errors(domain: "Domain") -> list[DiskError]:
    """List the disks QEMU has stopped on."""
    async with domain.job(Job.QUERY, "disk errors"):
        running = domain.need_running()
        known = entries(await commands.query_block(running))
    found: list[DiskError] = []
    codes = {"nospace": DomainDiskErrorCode.NO_SPACE, "failed": DomainDiskErrorCode.UNSPEC}
    for disk in running.definition.devices.disks:
        entry = stats_of(known, disk)
        code = codes.get(str(entry.get("io-status"))) if entry is not None else None
        if code is not None:
            found.append(DiskError(disk.name, code))
    return found


# ------------------------------------------------------------- network and memory


def find_interface(definition: Definition, name: str) -> Interface | None:
    """Return an interface by host device, MAC address or alias."""
    try:
        mac = codecs.mac.parse(name)
    except ValueError:
        mac = None
    for interface in definition.devices.interfaces:
        named = name in (interface.target.dev, interface.alias.name)
        if named or (mac is not None and mac == interface.mac.address):
            return interface
    return None


def host_stats(interface: Interface) -> InterfaceStats | None:
    """Read an interface's counters from its device on the host; None where it has none."""
    device = interface.target.dev
    if not device:
        return None
    return procfs.interface_stats(device, swap=interface.actual_type != InterfaceType.DIRECT)


def interface_stats(domain: "Domain", name: str) -> InterfaceStats:
    """virDomainInterfaceStats."""
    running = domain.need_running()
    interface = find_interface(running.definition, name)
    if interface is None:
        raise InvalidArg(f"'{name}' is not a known interface", domain=ErrorDomain.DOMAIN)
    stats = host_stats(interface)
    if stats is None:
        raise InternalError(
            f"/proc/net/dev: Interface not found: interface '{name}' has no device on the host"
        )
    return stats


async def interface_addresses(domain: "Domain", source: int) -> list[GuestInterface]:
    """Ask the agent, or look at what the host has learnt."""
    running = domain.need_running()
    sources = DomainInterfaceAddressesSource
    if source == sources.AGENT:
        return await guest.interfaces(domain)
    if source not in (sources.LEASE, sources.ARP):
        from qvirt.errors import ArgumentUnsupported

        raise ArgumentUnsupported(f"Unknown IP address data source {source}")
    if source == sources.LEASE:
        return await interfaces.leases(domain, running)
    entries = await domain.hypervisor.files.run("ARP table", procfs.arp_entries)
    found: list[GuestInterface] = []
    for interface in running.definition.devices.interfaces:
        mac = interface.mac.address
        addresses = tuple(
            IpAddress(IPAddrType.IPV4, address, 0) for known, address in entries if known == mac
        )
        if addresses:
            found.append(GuestInterface(interface.target.dev or "", mac, addresses))
    return found


async def hostname(domain: "Domain", flags: int) -> str:
    """virDomainGetHostname: from the agent, or what the guest called itself when it asked for a lease."""
    running = domain.need_running()
    if flags & DomainGetHostnameFlags.AGENT or not flags:
        return await guest.hostname(domain)
    name = await interfaces.leased_hostname(domain, running)
    if name is None:
        raise NoHostname(f"no hostname found for domain {domain.name}")
    return name


def has_balloon(definition: Definition) -> bool:
    """Tell whether there is a balloon that can be asked."""
    return any(balloon.model != "none" for balloon in definition.devices.memballoons)


def balloon_path(definition: Definition) -> str | None:
    """Return the balloon's place in QEMU's object tree."""
    for balloon in definition.devices.memballoons:
        if balloon.model != "none" and balloon.alias.name:
            return f"/machine/peripheral/{balloon.alias.name}"
    return None


def balloon_period(definition: Definition) -> int:
    """Return how often the guest reports its memory use, seconds; 0 for never."""
    return max(
        (one.stats.period or 0 for one in definition.devices.memballoons if one.stats is not None), default=0
    )


def balloon_stats(value: Json) -> list[tuple[int, int]]:
    """Read what the guest's balloon driver has reported."""
    if not isinstance(value, dict):
        return []
    stats = value.get("stats")
    readings = {**(stats if isinstance(stats, dict) else {}), "last-update": value.get("last-update")}
    found: list[tuple[int, int]] = []
    for key, tag, divisor in _BALLOON_STATS:
        reading = readings.get(key)
        if isinstance(reading, int) and 0 <= reading < _UNKNOWN_STAT:
            found.append((tag, reading // divisor))
    return found


async def memory_stats(domain: "Domain") -> list[tuple[int, int]]:
    """virDomainMemoryStats."""
    async with domain.job(Job.QUERY, "memory stats"):
        running = domain.need_running()
        found = await _ask_balloon(running)
    found.append((DomainMemoryStatTags.RSS, procfs.resident_kib(running.pid)))
    return found


async def _ask_balloon(running: Running) -> list[tuple[int, int]]:
    definition = running.definition
    actual = [(DomainMemoryStatTags.ACTUAL_BALLOON, current_kib(definition))]
    path = balloon_path(definition)
    if path is None:
        return actual
    try:
        value = await running.execute("qom-get", {"path": path, "property": "guest-stats"})
    except QmpError:
        return actual  # the guest has no driver for it
    return [*actual, *balloon_stats(value)]
