"""``<panic>``: the device by which a guest reports that its kernel crashed."""

from qvirt.model.devices.device import Device
from qvirt.xml.codecs import string
from qvirt.xml.fields import attr


class Panic(Device, tag="panic"):
    """``<panic>``; ``model`` is None only before the domain is completed."""

    model: str | None = attr(string)
