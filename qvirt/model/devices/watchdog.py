"""``<watchdog>``: resets or reports a guest that stopped feeding it."""

from qvirt.constants import ErrorDomain
from qvirt.errors import InternalError
from qvirt.model.devices.device import Device
from qvirt.xml.codecs import string
from qvirt.xml.fields import attr


class Watchdog(Device, tag="watchdog"):
    """``<watchdog>``; ``action`` is None only before the domain is completed."""

    model: str = attr(string, default="")
    action: str | None = attr(string)

    def check(self) -> None:
        if not self.model:
            raise InternalError("watchdog must contain model name", domain=ErrorDomain.DOMAIN)
