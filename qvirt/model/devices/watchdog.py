"""``<watchdog>``: resets or reports a guest that stopped feeding it."""

from qvirt.model.devices.device import Device
from qvirt.xml.codecs import string
from qvirt.xml.fields import attr


class Watchdog(Device, tag="watchdog"):
    """``<watchdog>``; ``action`` is None only before the domain is completed."""

    model: str = attr(string, required=True)
    action: str | None = attr(string)
