"""What the kernel says of devices that guests may be given: nodes of SCSI ones, groups of mediated ones."""

from pathlib import Path

ROOT = Path("/")

_SCSI = "sys/bus/scsi/devices"
_MDEV = "sys/bus/mdev/devices"


def scsi_nodes(root: Path = ROOT) -> dict[str, str]:
    """Return the generic nodes of SCSI devices, by host, bus, target and unit. Blocking."""
    found = sorted((root / _SCSI).glob("*:*:*:*/scsi_generic/sg*"))
    return {path.parents[1].name: f"/dev/{path.name}" for path in found}


def mdev_groups(root: Path = ROOT) -> dict[str, str]:
    """Return the IOMMU groups of mediated devices, by uuid. Blocking."""
    links = [device / "iommu_group" for device in sorted((root / _MDEV).glob("*"))]
    return {link.parent.name: link.readlink().name for link in links if link.is_symlink()}
