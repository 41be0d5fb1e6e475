"""``<memballoon>``: the device that gives guest memory back to the host."""

from qvirt.model.devices.device import Device, VirtioDriver
from qvirt.xml.codecs import on_off, uint, words
from qvirt.xml.fields import attr, child, part
from qvirt.xml.node import Node


class BalloonStats(Node, tag="stats"):
    """``<stats>``: seconds between two reports of the guest's memory use; 0 is off."""

    period: int | None = attr(uint)


class BalloonDriver(VirtioDriver, tag="driver"):
    """``<driver>`` of a virtio balloon."""


class Memballoon(Device, tag="memballoon"):
    """``<memballoon>``."""

    model: str = attr(
        words("virtio", "xen", "none", "virtio-transitional", "virtio-non-transitional"), required=True
    )
    autodeflate: bool | None = attr(on_off)
    free_page_reporting: bool | None = attr(on_off, "freePageReporting")
    stats: BalloonStats | None = child(BalloonStats)
    driver: BalloonDriver = part(BalloonDriver)


# libvirt writes <driver> after the address here
Memballoon._bind((*(f for f in Memballoon.fields if f.name != "driver"), Memballoon._kids["driver"][2]))
