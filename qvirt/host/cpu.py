"""The processors of this machine: what they are and can do, in libvirt's words, and how they are arranged."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from qvirt.host.sysfs import parse_list, read_int, read_text
from qvirt.qemu.cpumodels import Processor
from qvirt.qemu.x86_models import FEATURES, VENDORS
from qvirt.record import Record

ROOT = Path("/")

MACHINE_ARCH: Mapping[str, str] = {"i386": "i686", "i486": "i686", "i586": "i686", "arm64": "aarch64"}
"""libvirt's names of uname's machines, where they differ."""


class Topology(Record):
    """Sockets, dies, cores and threads; libvirt counts all cores of a socket and calls it one die."""

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1


class HostCpu(Record):
    """The processor model of this machine.

    signature: CPUID family, model, stepping. features: libvirt's names. address_bits: physical.
    """

    arch: str
    mhz: int
    vendor: str | None = None
    signature: tuple[int, int, int] | None = None
    microcode: int | None = None
    address_bits: int | None = None
    features: frozenset[str] = frozenset()

    @property
    def processor(self) -> Processor:
        """Return it as something to describe and compare."""
        return Processor(self.vendor, self.signature, self.features)


def host_arch() -> str:
    """Return libvirt's name of this machine's architecture."""
    machine = os.uname().machine
    return MACHINE_ARCH.get(machine, machine)


def read_cpu(arch: str, root: Path = ROOT) -> HostCpu:
    """Read what the processors are; facts the kernel does not tell are None."""
    info = _first_processor(root / "proc/cpuinfo")
    frequency = info.get("cpu MHz") or info.get("clock") or info.get("CPU MHz") or "0"
    mhz = int(float(re.sub(r"[^0-9.]", "", frequency) or 0))
    if not mhz:
        mhz = (read_int(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq") or 0) // 1000
    if arch not in ("i686", "x86_64"):
        return HostCpu(arch, mhz)
    numbers = [info.get(name, "") for name in ("cpu family", "model", "stepping")]
    signature = None
    if all(number.isdigit() for number in numbers):
        signature = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    vendor = VENDORS.get(info.get("vendor_id", ""))
    microcode = info.get("microcode", "")
    bits = re.match(r"(\d+) bits physical", info.get("address sizes", ""))
    return HostCpu(
        arch,
        mhz,
        vendor,
        signature,
        int(microcode, 16) if microcode.startswith("0x") else None,
        int(bits[1]) if bits else None,
        x86_features(frozenset(info.get("flags", "").split()), vendor),
    )


def _first_processor(path: Path) -> dict[str, str]:
    facts: dict[str, str] = {}
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        if not name.strip():
            break
        facts[name.strip()] = value.strip()
    return facts


_FLAGS: Mapping[str, str] = {
    "pclmuldq": "pclmulqdq",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "tsc-deadline": "tsc_deadline_timer",
    "cr8legacy": "cr8_legacy",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "ds": "dts",
    "osxsave": "xsave",  # Linux turns it on wherever it shows the other
    "ospke": "ospke",
    "invtsc": "nonstop_tsc",
    "cmt": "cqm",
    "mbm_total": "cqm_mbm_total",
    "mbm_local": "cqm_mbm_local",
    "pause-filter": "pausefilter",
    "sgxlc": "sgx_lc",
    "arch-lbr": "arch_lbr",
    "bus-lock-detect": "bus_lock_detect",
    "split-lock-detect": "split_lock_detect",
    "lm": "lm",
}
"""libvirt's features whose name in /proc/cpuinfo is not the same with underscores."""

_SPECULATION: Mapping[str | None, Mapping[str, str]] = {
    "Intel": {"spec-ctrl": "ibrs", "stibp": "stibp", "ssbd": "ssbd"},
    None: {
        "ibpb": "ibpb",
        "ibrs": "ibrs",
        "amd-stibp": "stibp",
        "amd-ssbd": "ssbd",
        "virt-ssbd": "virt_ssbd",
    },
}
"""Linux shows one flag for what Intel and AMD enumerate in different places."""


def x86_features(flags: frozenset[str], vendor: str | None) -> frozenset[str]:
    """Translate the flags of /proc/cpuinfo into libvirt's features."""
    vendors_own = {name for table in _SPECULATION.values() for name in table}
    found = {
        name
        for name in FEATURES
        if name not in vendors_own
        and ((flag := _FLAGS.get(name)) in flags or (flag is None and name.replace("-", "_") in flags))
    }
    own = _SPECULATION["Intel" if vendor == "Intel" else None]
    return frozenset(found | {name for name, flag in own.items() if flag in flags})


# -------------------------------------------------------------- arrangement


def present_cpus(root: Path = ROOT) -> list[int]:
    """List the CPUs there are, online or not."""
    return parse_list(read_text(root / "sys/devices/system/cpu/present"))


def online_cpus(root: Path = ROOT) -> list[int]:
    """List the CPUs that are online."""
    return parse_list(read_text(root / "sys/devices/system/cpu/online"))


class Place(Record):
    """Where a CPU is: its socket, die and core, and the CPUs that share its core."""

    socket: int
    die: int
    core: int
    siblings: tuple[int, ...]


def place_of(cpu: int, root: Path = ROOT) -> Place:
    """Return where an online CPU is."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    siblings = parse_list(read_text(topology / "thread_siblings_list")) or [cpu]
    return Place(
        max(read_int(topology / "physical_package_id") or 0, 0),
        max(read_int(topology / "die_id") or 0, 0),
        max(read_int(topology / "core_id") or 0, 0),
        tuple(siblings),
    )


def topology_of(cells: Mapping[int, list[int]], root: Path = ROOT) -> tuple[int, Topology]:
    """Return the number of NUMA nodes, and the arrangement inside each, as virNodeGetInfo counts them.

    cells: the online CPUs of each node. An arrangement that does not multiply to the number of CPUs (nodes
    that differ, CPUs offline) is replaced by one socket with that many cores.
    """
    sockets = cores = threads = 1
    count = 0
    for cpus in cells.values():
        places = {cpu: place_of(cpu, root) for cpu in cpus}
        count += len(places)
        by_socket: dict[int, set[tuple[int, int]]] = {}
        for place in places.values():
            by_socket.setdefault(place.socket, set()).add((place.die, place.core))
            threads = max(threads, len(set(place.siblings) & places.keys()))
        sockets = max(sockets, len(by_socket))
        cores = max(cores, max((len(c) for c in by_socket.values()), default=1))
    nodes = max(1, len([cpus for cpus in cells.values() if cpus]))
    if nodes * sockets * cores * threads != count:
        return 1, Topology(1, 1, max(count, 1), 1)
    return nodes, Topology(sockets, 1, cores, threads)


class CacheBank(Record):
    """One cache; type is "both", "data" or "code", size in KiB."""

    id: int
    level: int
    type: str
    size: int
    cpus: tuple[int, ...]


_CACHE_TYPES: Mapping[str, str] = {"Unified": "both", "Data": "data", "Instruction": "code"}


def read_caches(root: Path = ROOT, least_level: int = 3) -> list[CacheBank]:
    """List the caches from a level on, as capabilities show them: by level, type and id."""
    banks: dict[tuple[int, str, int], CacheBank] = {}
    for cpu in online_cpus(root):
        for index in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index[0-9]*")):
            level = read_int(index / "level") or 0
            if level < least_level:
                continue
            kind = _CACHE_TYPES.get(read_text(index / "type") or "", "both")
            number = read_int(index / "id") or 0
            size = re.match(r"(\d+)K", read_text(index / "size") or "")
            shared = parse_list(read_text(index / "shared_cpu_list"))
            bank = CacheBank(number, level, kind, int(size[1]) if size else 0, tuple(shared))
            banks.setdefault((level, kind, number), bank)
    return [banks[key] for key in sorted(banks)]
