"""What a start settles in the document that will run.

``domxml-to-native`` does not ask here: it shows the command line of any document.
"""

from qvirt.errors import ConfigUnsupported
from qvirt.model.domain import Domain
from qvirt.qemu.context import BuildContext
from qvirt.qemu.cpu import settle_cpu
from qvirt.qemu.devices.base import FileResource
from qvirt.qemu.launch_security import SEV_DEVICE
from qvirt.qemu.loader import choose_firmware
from qvirt.qemu.memory import align_memory, backing_dir, hugepage_folders
from qvirt.qemu.numa import check_placement


def prepare_domain(domain: Domain, ctx: BuildContext) -> None:
    """Settle the domain level of the document that will run, before its devices are asked for resources.

    The firmware is chosen, memory rounded up, the CPU named. Raises ConfigUnsupported for what cannot be
    started, and what the choice of firmware and the comparison of CPUs raise.
    """
    partition = domain.resource.partition if domain.resource is not None else None
    if partition is not None and not partition.startswith("/"):
        raise ConfigUnsupported(f"Resource partition '{partition}' must start with '/'")
    check_placement(domain, is_start=True)
    choose_firmware(domain, ctx)
    align_memory(domain)
    settled = settle_cpu(domain, ctx)
    if settled is not None:
        domain.cpu = settled


def boot_files(domain: Domain) -> list[FileResource]:
    """Return the files of ``<os>`` that QEMU opens, and what it encrypts the guest's memory with."""
    os_ = domain.os
    table = os_.acpi.table.path if os_.acpi is not None and os_.acpi.table is not None else None
    paths = (os_.kernel, os_.initrd, os_.dtb, table)
    found = [FileResource(os_, path, writable=False, shared=True) for path in paths if path]
    if os_.loader is not None and os_.loader.path:
        found.append(FileResource(os_.loader, os_.loader.path, writable=False, relabel=False))
    if os_.nvram is not None and os_.nvram.file:
        found.append(FileResource(os_.nvram, os_.nvram.file, optional=True))
    security = domain.launch_security
    if security is not None and security.type == "sev":
        found.append(FileResource(security, SEV_DEVICE, shared=True))
    return found


def directories(domain: Domain, ctx: BuildContext) -> list[str]:
    """Return the folders that must exist before QEMU starts: memory kept in files, or huge pages, lies there.

    Raises InternalError for huge pages of a size that is not mounted.
    """
    backing = domain.__dict__.get("memory_backing")
    source = backing.source.type if backing is not None and backing.source is not None else None
    cells = domain.cpu.numa.cells if domain.cpu is not None and domain.cpu.numa is not None else []
    is_shared = (backing is not None and backing.access is not None) or any(cell.mem_access for cell in cells)
    folders = hugepage_folders(domain, ctx) if backing is not None else []
    if source == "file" or (is_shared and source != "memfd"):
        folders.append(backing_dir(ctx))
    return folders
