"""``<hub>``: a USB hub."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError
from qvirt.model.devices.device import Device
from qvirt.xml.codecs import string
from qvirt.xml.fields import attr


class Hub(Device, tag="hub"):
    """``<hub>``."""

    type: str = attr(string, default="")

    def check(self) -> None:
        if not self.type:
            raise InternalError("missing hub device type", domain=ErrorDomain.DOMAIN)
