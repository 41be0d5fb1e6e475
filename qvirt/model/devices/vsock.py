"""``<vsock>``: sockets between host and guest without a network."""

from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.xml.codecs import uint, word, yes_no
from qvirt.xml.fields import attr, part
from qvirt.xml.node import Node


class Cid(Node, tag="cid"):
    """``<cid>``: the guest's address, 3 and up."""

    auto: bool | None = attr(yes_no)
    address: int | None = attr(uint, omit=0)


class Vsock(Device, tag="vsock"):
    """``<vsock>``."""

    model: str | None = attr(word("virtio", "virtio-transitional", "virtio-non-transitional"))
    cid: Cid = part(Cid)
    driver: VirtioDriver = part(VirtioDriver)


# libvirt writes the driver after everything that all devices have
Vsock._bind(tuple(sorted(Vsock.fields, key=lambda known: known.name == "driver")))
