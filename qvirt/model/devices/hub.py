"""``<hub>``: a USB hub."""

from qvirt.model.devices.device import Device
from qvirt.xml.codecs import string
from qvirt.xml.fields import attr


class Hub(Device, tag="hub"):
    """``<hub>``."""

    type: str = attr(string, required=True)
