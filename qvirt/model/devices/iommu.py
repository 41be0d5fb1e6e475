"""``<iommu>``."""

from qvirt.model.devices.device import Device


class Iommu(Device, tag="iommu"):
    """``<iommu>``."""
