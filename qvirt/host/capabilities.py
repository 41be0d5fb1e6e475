"""The capabilities document: this machine, and for each architecture what its emulator runs.

`HostFacts` holds what the document says about the machine; `capabilities` writes it and needs nothing else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from qvirt.host.cpu import (
    CacheBank,
    HostCpu,
    Topology,
    host_arch,
    read_caches,
    read_cpu,
    topology_of,
)
from qvirt.host.identity import host_uuid
from qvirt.host.kvm import TscInfo, tsc_info
from qvirt.host.memory import page_size
from qvirt.host.numa import Cell, huge_page_sizes, node_cpus, read_cells
from qvirt.host.resctrl import Controls, Monitoring, read_controls
from qvirt.host.sysfs import format_list, read_text
from qvirt.qemu.architectures import ARCHITECTURES, Architecture
from qvirt.qemu.caps import Overview
from qvirt.qemu.cpumodels import X86, describe_host
from qvirt.record import Record
from qvirt.xml.writer import Writer

ROOT = Path("/")


class SecurityModel(Record):
    """A security driver: its name, domain of interpretation, and base label by domain type."""

    model: str
    doi: str = "0"
    base_labels: tuple[tuple[str, str], ...] = ()


class HostFacts(Record):
    """What the document says about the machine. sleep: of "suspend_mem", "suspend_disk", "suspend_hybrid"."""

    uuid: str
    cpu: HostCpu
    topology: Topology
    cells: tuple[Cell, ...]
    caches: tuple[CacheBank, ...]
    page_sizes: tuple[int, ...]
    tsc: TscInfo | None
    iommu: bool
    controls: Controls | None = None
    sleep: tuple[str, ...] = ()


def read_host(uuid_source: str = "smbios", uuid: str | None = None, root: Path = ROOT) -> HostFacts:
    """Read the facts; blocks on files of the kernel, so not for the event loop.

    uuid_source, uuid: `host_uuid_source` and `host_uuid` of the daemon's configuration.
    """
    arch = host_arch()
    _, topology = topology_of(node_cpus(root), root)
    return HostFacts(
        uuid=uuid or host_uuid(uuid_source, root),
        cpu=read_cpu(arch, root),
        topology=topology,
        cells=tuple(read_cells(root)),
        caches=tuple(read_caches(root)),
        page_sizes=(page_size(), *huge_page_sizes(root)),
        tsc=tsc_info(root / "dev/kvm") if arch in X86 else None,
        iommu=any((root / "sys/kernel/iommu_groups").glob("[0-9]*")),
        controls=read_controls(root),
        sleep=sleep_states(root),
    )


def sleep_states(root: Path = ROOT) -> tuple[str, ...]:
    """Return how the machine can be put to sleep; nothing where no service manager would do it."""
    if not (root / "run/systemd/system").is_dir():
        return ()
    states = (read_text(root / "sys/power/state") or "").split()
    disk = read_text(root / "sys/power/disk") or ""
    found = []
    if "mem" in states:
        found.append("suspend_mem")
    if "disk" in states and "[disabled]" not in disk:
        found.append("suspend_disk")
        if "mem" in states and "suspend" in disk:
            found.append("suspend_hybrid")
    return tuple(found)


def capabilities(
    host: HostFacts,
    emulators: Mapping[str, Overview],
    security: Sequence[SecurityModel] = (),
    *,
    offers_kvm: bool = True,
) -> str:
    """Write the capabilities document.

    emulators: by libvirt's architecture. offers_kvm: guests may use KVM where their emulator can.
    """
    out = Writer()
    with out.element("capabilities"):
        out.blank()
        _host(out, host, security)
        out.blank()
        for architecture in ARCHITECTURES:
            caps = emulators.get(architecture.name)
            if caps is not None:
                _guest(out, architecture, caps, offers_kvm=offers_kvm)
                out.blank()
    return out.text()


def _host(out: Writer, host: HostFacts, security: Sequence[SecurityModel]) -> None:
    with out.element("host"):
        out.leaf("uuid", host.uuid)
        _cpu(out, host)
        with out.element("power_management"):
            for state in host.sleep:
                out.leaf(state)
        out.leaf("iommu", support="yes" if host.iommu else "no")
        with out.element("migration_features"):
            out.leaf("live")
            with out.element("uri_transports"):
                out.leaf("uri_transport", "tcp")
                out.leaf("uri_transport", "rdma")
        with out.element("topology"), out.element("cells", num=len(host.cells)):
            for cell in host.cells:
                _cell(out, cell)
        if host.caches:
            with out.element("cache"):
                for bank in host.caches:
                    _cache_bank(out, bank, host.controls)
                if host.controls is not None:
                    _monitor(out, host.controls.monitoring, "llc_")
        if host.controls is not None:
            _bandwidth(out, host.controls, host.caches)
        for model in security:
            with out.element("secmodel"):
                out.leaf("model", model.model)
                out.leaf("doi", model.doi)
                for kind, label in model.base_labels:
                    out.leaf("baselabel", label, type=kind)


def _cpu(out: Writer, host: HostFacts) -> None:
    cpu = host.cpu
    description = describe_host(cpu.processor) if cpu.arch in X86 and cpu.features else None
    with out.element("cpu"):
        out.leaf("arch", cpu.arch)
        if description:
            out.leaf("model", description.model)
            if cpu.vendor:
                out.leaf("vendor", cpu.vendor)
        if cpu.microcode:
            out.leaf("microcode", version=cpu.microcode)
        if cpu.signature:
            family, model, stepping = cpu.signature
            out.leaf("signature", family=family, model=model, stepping=stepping)
        if host.tsc:
            scaling = "yes" if host.tsc.scaling else "no"
            out.leaf("counter", name="tsc", frequency=host.tsc.frequency, scaling=scaling)
        t = host.topology
        out.leaf("topology", sockets=t.sockets, dies=t.dies, cores=t.cores, threads=t.threads)
        if cpu.address_bits:
            # A guest's own CPUID says this, as long as the hypervisor writes it.
            out.leaf("maxphysaddr", mode="emulate", bits=cpu.address_bits)
        for name in description.require if description else ():
            out.leaf("feature", name=name)
        for size in host.page_sizes:
            out.leaf("pages", unit="KiB", size=size)


def _cell(out: Writer, cell: Cell) -> None:
    with out.element("cell", id=cell.id):
        out.leaf("memory", cell.memory, unit="KiB")
        for size, count in cell.pages.items():
            out.leaf("pages", count, unit="KiB", size=size)
        if cell.distances:
            with out.element("distances"):
                for id, value in cell.distances.items():
                    out.leaf("sibling", id=id, value=value)
        with out.element("cpus", num=len(cell.cpus)):
            for id, place in cell.cpus.items():
                out.leaf(
                    "cpu",
                    id=id,
                    socket_id=place.socket,
                    die_id=place.die,
                    core_id=place.core,
                    siblings=format_list(list(place.siblings)),
                )


def _cache_bank(out: Writer, bank: CacheBank, controls: Controls | None) -> None:
    size, unit = (bank.size // 1024, "MiB") if bank.size % 1024 == 0 else (bank.size, "KiB")
    cpus = format_list(list(bank.cpus))
    described: dict[str, str | int | None] = {
        "id": bank.id,
        "level": bank.level,
        "type": bank.type,
        "size": size,
        "unit": unit,
        "cpus": cpus,
    }
    found = [one for one in controls.caches if one.level == bank.level] if controls is not None else []
    if not found:
        out.leaf("bank", **described)
        return
    with out.element("bank", **described):
        for control in found:
            part = control.granularity(bank)
            least = part * control.min_bits
            factor, name = next((factor, name) for factor, name in _UNITS if part % factor == 0)
            out.leaf(
                "control",
                granularity=part // factor,
                min=least // factor if least != part else None,
                unit=name,
                type=control.scope,
                maxAllocs=control.max_groups,
            )


#: what sizes are told in, the first that fits
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def _bandwidth(out: Writer, controls: Controls, caches: Sequence[CacheBank]) -> None:
    """Say how memory bandwidth is divided and watched, by the last cache before the memory."""
    control, monitoring = controls.bandwidth, controls.monitoring
    watches = monitoring is not None and monitoring.features_of("mbm_")
    if control is None and not watches:
        return
    with out.element("memory_bandwidth"):
        for bank in caches if control is not None else ():
            if bank.level == 3 and control is not None:
                with out.element("node", id=bank.id, cpus=format_list(list(bank.cpus))):
                    out.leaf(
                        "control",
                        granularity=control.granularity,
                        min=control.minimum,
                        maxAllocs=control.max_groups,
                    )
        _monitor(out, monitoring, "mbm_")


def _monitor(out: Writer, monitoring: Monitoring | None, prefix: str) -> None:
    features = monitoring.features_of(prefix) if monitoring is not None else ()
    if monitoring is None or not features:
        return
    level = {"level": 3, "reuseThreshold": monitoring.threshold} if prefix == "llc_" else {}
    with out.element("monitor", **level, maxMonitors=monitoring.max_groups):
        for name in features:
            out.leaf("feature", name=name)


def _guest(out: Writer, architecture: Architecture, caps: Overview, *, offers_kvm: bool) -> None:
    with out.element("guest"):
        out.leaf("os_type", "hvm")
        with out.element("arch", name=architecture.name):
            out.leaf("wordsize", architecture.bits)
            out.leaf("emulator", caps.emulator)
            for machine in sorted(caps.machines, key=lambda machine: machine is not caps.default_machine):
                deprecated = "yes" if machine.deprecated else None
                out.leaf("machine", machine.name, maxCpus=machine.cpu_max, deprecated=deprecated)
                if machine.alias:
                    out.leaf(
                        "machine",
                        machine.alias,
                        canonical=machine.name,
                        maxCpus=machine.cpu_max,
                        deprecated=deprecated,
                    )
            if "tcg" in caps.accels:
                out.leaf("domain", type="qemu")
            if caps.kvm and offers_kvm:
                out.leaf("domain", type="kvm")
        with out.element("features"):
            if architecture.name == "i686":
                out.leaf("pae")
                out.leaf("nonpae")
            if architecture.name in (*X86, "aarch64"):
                out.leaf("acpi", default="on", toggle="yes")
            if architecture.name in X86:
                out.leaf("apic", default="on", toggle="no")
            out.leaf("cpuselection")
            out.leaf("deviceboot")
            out.leaf("disksnapshot", default="on", toggle="no")
