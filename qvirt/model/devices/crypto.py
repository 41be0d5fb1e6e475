"""``<crypto>``: a cryptographic accelerator."""

from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.xml.codecs import uint, word
from qvirt.xml.fields import attr, child, part
from qvirt.xml.node import Node


class CryptoBackend(Node, tag="backend"):
    """``<backend>``: who does the work on the host."""

    model: str = attr(word("builtin", "lkcf"), required=True)
    queues: int | None = attr(uint)


class Crypto(Device, tag="crypto"):
    """``<crypto>``."""

    model: str = attr(word("virtio"), required=True)
    type: str = attr(word("qemu"), required=True)
    backend: CryptoBackend | None = child(CryptoBackend)
    driver: VirtioDriver = part(VirtioDriver)
