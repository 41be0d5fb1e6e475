"""The questions clients ask about this machine and its emulators, answered as documents."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qvirt.constants.error import ErrorDomain
from qvirt.errors import (
    ConfigUnsupported,
    CpuIncompatible,
    InvalidArg,
    NoSupport,
    OperationUnsupported,
    QvirtError,
)
from qvirt.host.capabilities import HostFacts, SecurityModel, capabilities, read_host
from qvirt.host.cpu import HostCpu, host_arch, read_cpu
from qvirt.host.emulators import SEARCH_PATH, EmulatorTable, find_emulator
from qvirt.host.firmware import FirmwareTable
from qvirt.host.identity import host_uuid
from qvirt.host.kvm import kvm_max_vcpus, kvm_usable
from qvirt.host.sev import guest_limits
from qvirt.host.sysinfo import sysinfo
from qvirt.qemu.architectures import ARCHITECTURES, BY_NAME, Architecture
from qvirt.qemu.caps import EmulatorCaps, Machine, Overview, PropertyValue
from qvirt.qemu.cpu_documents import compare_document, format_baseline, named_cpu, parse_cpu
from qvirt.qemu.cpumodels import (
    X86,
    Compared,
    Comparison,
    Processor,
    baseline,
    features_known,
    processor_of,
    usable_models,
)
from qvirt.qemu.domcaps import DomainCapsHost, domcaps
from qvirt.qemu.firmware import DEFAULT_NVRAM, Supported, supported
from qvirt.qemu.x86_models import NOT_MIGRATABLE
from qvirt.record import Record

log = logging.getLogger(__name__)

_VIRT_TYPES = frozenset(
    {
        "qemu", "kqemu", "kvm", "xen", "lxc", "uml", "openvz", "test", "vmware", "hyperv", "vbox", "phyp",
        "parallels", "bhyve", "vz", "hvf",
    }
)  # fmt: skip
"""Every domain type libvirt can spell."""

_SWTPM = ("swtpm", "swtpm_setup")


class Resolved(Record):
    """What a client's emulator, architecture, domain type and machine come to."""

    caps: EmulatorCaps
    arch: str
    virt_type: str
    machine: Machine | None


class HostQueries:
    """Answers for one instance of the driver.

    security: the security drivers in use, for capabilities. is_kvm_offered: guests here may use KVM, where an
    emulator can. uuid_source, uuid: as configured for the daemon.
    nvram: loaders and templates configured in qemu.conf, offered where no firmware descriptor fits.
    """

    def __init__(
        self,
        emulators: EmulatorTable,
        firmwares: FirmwareTable,
        *,
        security: Callable[[], Sequence[SecurityModel]] = tuple,
        uuid_source: str = "smbios",
        uuid: str | None = None,
        is_kvm_offered: Callable[[], bool] = kvm_usable,
        nvram: Sequence[tuple[str, str]] = DEFAULT_NVRAM,
        search: Sequence[str] = SEARCH_PATH,
    ) -> None:
        self._emulators = emulators
        self._firmwares = firmwares
        self._security = security
        self._is_kvm_offered = is_kvm_offered
        self._uuid_source = uuid_source
        self._uuid = uuid
        self._nvram = nvram
        self._search = search
        self._arch = host_arch()
        self._cpu: HostCpu | None = None

    # -------------------------------------------------------------- documents

    async def capabilities(self) -> str:
        """Return the capabilities document; an emulator that cannot be probed is left out."""
        paths = await asyncio.to_thread(self._emulators_by_arch)
        results = await self._emulators.overviews(set(paths.values()))
        found: dict[str, Overview] = {}
        for arch, path in paths.items():
            match results[path]:
                case Overview() as overview:
                    found[arch] = overview
                case QvirtError() as error:
                    log.warning("emulator '%s' is left out of the capabilities: %s", path, error)
        host = await asyncio.to_thread(self._read_host)
        offers_kvm = await asyncio.to_thread(self._is_kvm_offered)
        return capabilities(host, found, self._security(), offers_kvm=offers_kvm)

    async def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virt_type: str | None
    ) -> str:
        """Return the domain capabilities document; raises as `resolve` does."""
        resolved = await self.resolve(emulator, arch, machine, virt_type)
        chosen = resolved.machine
        if chosen is None:
            raise ConfigUnsupported(f"emulator '{resolved.caps.emulator}' has no machine type")
        firmware, host = await asyncio.to_thread(self._offer, resolved.arch, chosen.name)
        return domcaps(resolved.caps, chosen, resolved.virt_type, resolved.arch, firmware, host)

    async def sysinfo(self) -> str:
        """Return the SMBIOS document; raises ConfigUnsupported."""
        return await asyncio.to_thread(sysinfo)

    async def emulator_version(self) -> int:
        """Return the version number of the host's own emulator; raises ConfigUnsupported without one."""
        return (await self.resolve(None, None, None, None)).caps.version_number

    # -------------------------------------------------------------- emulators

    async def resolve(
        self, emulator: str | None, arch: str | None, machine: str | None, virt_type: str | None
    ) -> Resolved:
        """Find out what is meant: what is not said is the host's, or the emulator's default.

        Raises InvalidArg for what does not exist or does not fit together, ConfigUnsupported when no emulator
        serves the architecture, and what probing raises.
        """
        if virt_type is not None and virt_type not in _VIRT_TYPES:
            raise InvalidArg(f"unknown virttype: {virt_type}")
        if arch is not None and arch not in BY_NAME:
            raise InvalidArg(f"unknown architecture: {arch}")
        if emulator is None:
            wanted = arch or self._arch
            path = await asyncio.to_thread(self._emulator_for, BY_NAME[wanted]) if wanted in BY_NAME else None
            if path is None:
                raise ConfigUnsupported(f"unable to find any emulator to serve '{wanted}' architecture")
            caps = await self._emulators.caps(path)
        else:
            caps = await self._emulators.caps(emulator)
        if arch is not None and not _runs(caps, arch):
            raise InvalidArg(f"Emulator '{caps.emulator}' does not support arch '{arch}'")
        if virt_type is None:
            virt_type = "kvm" if caps.kvm and await asyncio.to_thread(self._is_kvm_offered) else "qemu"
        elif ("tcg" if virt_type == "qemu" else virt_type) not in caps.accels:
            raise InvalidArg(f"Emulator '{caps.emulator}' does not support virt type '{virt_type}'")
        chosen = caps.default_machine or next(iter(caps.machines), None)
        if machine is not None:
            chosen = caps.machine(machine)
            if chosen is None:
                raise InvalidArg(f"the machine '{machine}' is not supported by emulator '{caps.emulator}'")
        return Resolved(caps, arch or caps.arch, virt_type, chosen)

    def _emulators_by_arch(self) -> dict[str, str]:
        found = {a.name: self._emulator_for(a) for a in ARCHITECTURES}
        return {arch: path for arch, path in found.items() if path is not None}

    def _emulator_for(self, architecture: Architecture) -> str | None:
        """Return the emulator that runs an architecture; the host's own runs its 32 bit sibling, too."""
        path = find_emulator(architecture.target, self._search)
        if path is None and architecture.native_on == self._arch:
            path = find_emulator(BY_NAME[self._arch].target, self._search)
        if path is None and self._arch in (architecture.name, architecture.native_on):
            candidates = (Path(d, name) for name in ("qemu-kvm", "kvm", "qemu") for d in self._search)
            path = next((candidate for candidate in candidates if os.access(candidate, os.X_OK)), None)
        return str(path) if path else None

    # ------------------------------------------------------------------- CPUs

    async def compare_cpu(self, document: str, *, fail_incompatible: bool = False) -> int:
        """Return how the host's CPU stands to a document's (virCPUCompareResult).

        fail_incompatible: raise CpuIncompatible with the reason instead of answering 0.
        """
        wanted = parse_cpu(document)
        arch = wanted.arch or self._arch
        if self._arch not in X86:
            raise NoSupport(f"cannot compare CPUs of {self._arch} architecture", domain=ErrorDomain.CPU)
        if arch not in X86:
            found = Comparison(Compared.INCOMPATIBLE, f"CPU arch {arch} does not match host arch")
        else:
            found = compare_document((await asyncio.to_thread(self._host_cpu)).processor, wanted)
        return _answer(found, fail_incompatible)

    async def baseline_cpu(
        self, documents: Sequence[str], *, expand: bool = False, migratable: bool = False
    ) -> str:
        """Return the CPU that all hosts described can run, as a guest's CPU document."""
        inputs = [parse_cpu(document, is_host=True) for document in documents]
        arch = inputs[0].arch
        if arch not in X86:
            raise NoSupport(f"cannot compute baseline CPU of {arch} architecture", domain=ErrorDomain.CPU)
        found = baseline([named_cpu(cpu) for cpu in inputs], migratable=migratable)
        return format_baseline(found, inputs, expand=expand)

    async def compare_hypervisor_cpu(
        self,
        emulator: str | None,
        arch: str | None,
        machine: str | None,
        virt_type: str | None,
        document: str,
        *,
        fail_incompatible: bool = False,
    ) -> int:
        """Return how the best CPU an emulator can give here stands to a document's."""
        resolved = await self.resolve(emulator, arch, machine, virt_type)
        wanted = parse_cpu(document)
        best = resolved.caps.accel(resolved.virt_type).migratable
        if resolved.arch not in X86 or best is None:
            # libvirt describes the CPUs of other architectures by other means, and this one not at all
            raise OperationUnsupported(
                f"QEMU '{resolved.caps.emulator}' does not support reporting CPU model "
                f"for virttype '{resolved.virt_type}'"
            )
        processor = processor_of(best)
        features = processor.features - NOT_MIGRATABLE
        processor = Processor(processor.vendor, processor.signature, features)
        return _answer(compare_document(processor, wanted), fail_incompatible)

    async def baseline_hypervisor_cpu(
        self,
        emulator: str | None,
        arch: str | None,
        machine: str | None,
        virt_type: str | None,
        documents: Sequence[str],
        *,
        expand: bool = False,
        migratable: bool = False,
    ) -> str:
        """Return the CPU that all hosts described can run with an emulator."""
        resolved = await self.resolve(emulator, arch, machine, virt_type)
        inputs = [parse_cpu(document) for document in documents]
        facts = resolved.caps.accel(resolved.virt_type)
        best = facts.migratable if migratable else facts.best
        if not facts.cpus:
            raise ConfigUnsupported(
                f"QEMU '{resolved.caps.emulator}' does not support any CPU models "
                f"for virttype '{resolved.virt_type}'"
            )
        if resolved.arch not in X86 or best is None:
            raise ConfigUnsupported(
                f"computing baseline hypervisor CPU is not supported for arch {resolved.arch}"
            )
        found = baseline(
            [named_cpu(cpu) for cpu in inputs],
            usable_models(facts),
            # As libvirt does it: what QEMU has a name for stays, what it could not migrate goes.
            within=processor_of(best).features if migratable else features_known(best),
        )
        return format_baseline(found, inputs, expand=expand, fallback="forbid")

    async def sev(self) -> Mapping[str, PropertyValue]:
        """Return what the host's own emulator says of AMD SEV; raises OperationUnsupported without it."""
        resolved = await self.resolve(None, None, None, None)
        facts = resolved.caps.accel("kvm").sev
        if not facts:
            raise OperationUnsupported("QEMU does not support SEV guest")
        return {**facts, **await asyncio.to_thread(guest_limits)}

    # ------------------------------------------------------- files of the host

    def _read_host(self) -> HostFacts:
        return read_host(self._uuid_source, self._host_uuid())

    def _host_uuid(self) -> str:
        # One made up for want of a better must stay the same for the life of the daemon.
        if self._uuid is None:
            self._uuid = host_uuid(self._uuid_source)
        return self._uuid

    def _host_cpu(self) -> HostCpu:
        if self._cpu is None:
            self._cpu = read_cpu(self._arch)
        return self._cpu

    def _offer(self, arch: str, machine: str) -> tuple[Supported, DomainCapsHost]:
        firmware = supported(self._firmwares.get(), arch, machine)
        if not firmware.images:
            images = tuple(loader for loader, _ in self._nvram if os.path.exists(loader))
            firmware = Supported(images, firmware.interfaces, firmware.secure)
        iommu = any(Path("/sys/kernel/iommu_groups").glob("[0-9]*"))
        folders = os.environ.get("PATH", os.defpath).split(":")
        has_swtpm = all(any(os.access(f"{d}/{name}", os.X_OK) for d in folders) for name in _SWTPM)
        host = DomainCapsHost(
            self._arch,
            kvm_max_vcpus(),
            vfio=iommu and os.path.exists("/dev/vfio/vfio"),
            tpm_versions=("1.2", "2.0") if has_swtpm else (),
            sev_limits=guest_limits(),
        )
        return firmware, host


def _runs(caps: EmulatorCaps, arch: str) -> bool:
    return arch == caps.arch or BY_NAME[arch].target == caps.target or BY_NAME[arch].native_on == caps.arch


def _answer(found: Comparison, fail_incompatible: bool) -> int:
    if fail_incompatible and found.reason:
        raise CpuIncompatible(found.reason)
    return int(found.result)
