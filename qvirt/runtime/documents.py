"""Domain documents: read, completed for an emulator, written; and the files they are kept in.

This is where the pure pipeline (model, qemu) meets this machine: the emulator's facts, the configuration,
the randomness.
"""

import os
import random
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from qvirt.constants.domain import DomainXMLFlags
from qvirt.errors import InvalidArg, OsType, SystemError_
from qvirt.host import passed, pci
from qvirt.host.config import QemuConfig
from qvirt.host.cpu import host_arch, read_cpu
from qvirt.host.emulators import RECHECK_AFTER, SEARCH_PATH, EmulatorTable
from qvirt.host.firmware import FirmwareTable, firmware_dirs
from qvirt.host.kvm import kvm_usable
from qvirt.model.domain import Domain, parse_domain
from qvirt.model.live import format_domain
from qvirt.qemu.capability_names import overrule
from qvirt.qemu.caps import EmulatorCaps
from qvirt.qemu.complete import complete
from qvirt.qemu.context import BuildContext, Context, HostFacts, Launch
from qvirt.qemu.machine import emulator_names
from qvirt.record import replace
from qvirt.runtime.paths import Paths

_SHELL_SAFE = re.compile(r"[A-Za-z0-9/_.:-]+")


def header(name: str, uuid_text: str) -> str:
    """Return the warning that libvirt puts above a document it keeps."""
    shown = name if _SHELL_SAFE.fullmatch(name) else uuid_text
    return (
        "<!--\n"
        "WARNING: THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE\n"
        "OVERWRITTEN AND LOST. Changes to this xml configuration should be made using:\n"
        f"  virsh edit {shown}\n"
        "or other application using the libvirt API.\n"
        "-->\n"
        "\n"
    )


#: where the kernel says what is mounted
MOUNTS = Path("/proc/mounts")


class Documents:
    """Reads and completes documents with what is known of this machine."""

    def __init__(self, paths: Paths, config: QemuConfig, emulators: EmulatorTable) -> None:
        self.paths = paths
        self.config = config
        self.emulators = emulators
        self.random = random.SystemRandom()
        config_home = str(paths.etc.parent) if paths.kind == "session" else None
        self._firmwares = FirmwareTable(firmware_dirs(config_home))
        self._host = _host_facts(config.hugetlb_mounts)
        self._looked = -RECHECK_AFTER
        self._dirs = paths.dirs

    @property
    def security_models(self) -> tuple[str, ...]:
        """The security models in use, the primary one first."""
        return self._host.security_models

    @security_models.setter
    def security_models(self, names: tuple[str, ...]) -> None:
        self._host = replace(self._host, security_models=names)

    @property
    def host(self) -> HostFacts:
        """What the translation needs to know of this machine, with what comes and goes as it was just now."""
        now = time.monotonic()
        if now - self._looked > RECHECK_AFTER:
            firmwares = self._firmwares.get()
            self._looked = now
            known, nodes, groups = self._host, passed.scsi_nodes(), passed.mdev_groups()
            if firmwares is not known.firmwares or (nodes, groups) != (known.scsi_nodes, known.mdev_groups):
                self._host = replace(known, firmwares=firmwares, scsi_nodes=nodes, mdev_groups=groups)
        return self._host

    async def read(self, xml: str, *, validate: bool = False) -> Domain:
        """Read a new document and complete it. Raises as `parse_domain` and `complete` do."""
        domain = parse_domain(xml, validate=validate)
        await self.complete(domain, abi_update=True)
        return domain

    async def reread(self, xml: str) -> Domain:
        """Read a document that was kept; what the guest sees stays as it was."""
        domain = parse_domain(xml)
        await self.complete(domain, abi_update=False)
        return domain

    async def complete(self, domain: Domain, *, abi_update: bool) -> None:
        """Fill in what a document leaves out."""
        complete(domain, self.context(domain, await self.caps_for(domain), abi_update=abi_update))

    async def caps_for(self, domain: Domain) -> EmulatorCaps:
        """Return the facts of the emulator a document names or, without one, gets.

        Raises InvalidArg when no emulator here runs its architecture, SystemError_ when the one it names is
        missing.
        """
        if domain.devices.emulator is not None:
            return await self.emulators.caps(domain.devices.emulator)
        arch = domain.os.type.arch or self._host.arch
        kind = domain.type
        for name in emulator_names(arch):
            for folder in SEARCH_PATH:
                path = f"{folder}/{name}"
                if os.access(path, os.X_OK):
                    return await self.emulators.caps(path)
        if domain.os.type.value not in (None, "hvm"):
            raise OsType(str(domain.os.type.value))
        raise InvalidArg(f"could not find capabilities for arch={arch} domaintype={kind} ")

    async def start_caps(self, domain: Domain) -> EmulatorCaps:
        """Return the facts a start of the document goes by: what the user overrules is overruled.

        Raises as `caps_for`, and InternalError for the name of no capability.
        """
        caps = await self.caps_for(domain)
        said = domain.qemu_capabilities
        if said is None or said.is_empty():
            return caps
        return overrule(caps, [x.capability for x in said.adds], [x.capability for x in said.dels])

    def context(self, domain: Domain, caps: EmulatorCaps, *, abi_update: bool = False) -> Context:
        """Return the context in which a document is completed."""
        return Context(
            domain=domain,
            caps=caps,
            generate_mac=self.generate_mac,
            generate_uuid=self.generate_uuid,
            host=self.host,
            settings=self.config.settings,
            dirs=self._dirs,
            abi_update=abi_update,
        )

    def build_context(self, domain: Domain, caps: EmulatorCaps, launch: Launch) -> BuildContext:
        """Return the context of one start."""
        return BuildContext(
            domain=domain,
            caps=caps,
            generate_mac=self.generate_mac,
            generate_uuid=self.generate_uuid,
            host=self.host,
            settings=self.config.settings,
            dirs=self._dirs,
            abi_update=False,
            launch=launch,
        )

    def write(self, domain: Domain, *, secure: bool) -> str:
        """Write a document as it is; secrets only when ``secure``."""
        return format_domain(domain, DomainXMLFlags.SECURE if secure else 0)

    def has_secrets(self, text: str) -> bool:
        """Tell whether a document may hold what only ``secure`` shows."""
        return " passwd=" in text

    def generate_mac(self) -> str:
        """Return a MAC address from QEMU's range."""
        return "52:54:00:" + ":".join(f"{self.random.randrange(256):02x}" for _ in range(3))

    def generate_uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))


def _is_conventional(function: str) -> bool:
    return pci.BUS.is_conventional(function)


def _iommu_group(function: str) -> str | None:
    return pci.BUS.group_of(function)


def _host_facts(hugetlb: Sequence[str] | None) -> HostFacts:
    """Read what the translation needs to know of this machine; firmwares come later.

    hugetlb: where huge pages are mounted by the configuration; None to look for them. Raises SystemError_.
    """
    default = 2048
    mounts: list[tuple[int, str]] = []
    try:
        match = re.search(
            r"^Hugepagesize:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.M
        )
        default = int(match[1]) if match else default
        for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            _, where, kind, options = line.split(" ")[:4]
            if kind == "hugetlbfs":
                size = re.search(r"pagesize=(\d+)([KMG])", options)
                unit = {"K": 1, "M": 1024, "G": 1024 * 1024}
                mounts.append((int(size[1]) * unit[size[2]] if size else default, where))
        if hugetlb is not None:
            mounts = [(os.statvfs(where).f_bsize >> 10, where) for where in hugetlb]
        nodes = [int(path.name[4:]) for path in Path("/sys/devices/system/node").glob("node[0-9]*")]
    except OSError as error:
        raise SystemError_("cannot read this machine's memory facts", error) from error
    arch = host_arch()
    return HostFacts(
        arch=arch,
        kvm=kvm_usable(),
        uid=os.getuid(),
        hugepage_mounts=tuple(mounts),
        default_hugepage=default,
        numa_nodes=frozenset(nodes or (0,)),
        cpu_features=read_cpu(arch).features,
        is_conventional=_is_conventional,
        iommu_group=_iommu_group,
    )
