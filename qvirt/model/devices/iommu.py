"""``<iommu>``: the guest's IOMMU."""

from qvirt.model.devices.device import Device
from qvirt.xml.codecs import on_off, string, uint
from qvirt.xml.fields import attr, part
from qvirt.xml.node import Node


class IommuDriver(Node, tag="driver"):
    intremap: bool | None = attr(on_off)
    caching_mode: bool | None = attr(on_off)
    eim: bool | None = attr(on_off)
    iotlb: bool | None = attr(on_off)
    aw_bits: int | None = attr(uint, omit=0)


class Iommu(Device, tag="iommu"):
    """``<iommu>``."""

    model: str = attr(string, required=True)
    driver: IommuDriver = part(IommuDriver)
