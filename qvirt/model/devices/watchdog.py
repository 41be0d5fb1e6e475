"""``<watchdog>``: resets or reports a guest that stopped feeding it."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError
from qvirt.model.devices.device import Device
from qvirt.xml.codecs import string
from qvirt.xml.fields import attr

#: the models and actions of libvirt 9.0
MODELS = frozenset({"i6300esb", "ib700", "diag288"})
ACTIONS = frozenset({"reset", "shutdown", "poweroff", "pause", "dump", "none", "inject-nmi"})


class Watchdog(Device, tag="watchdog"):
    """``<watchdog>``; ``action`` is None only before the domain is completed."""

    model: str = attr(string, default="")
    action: str | None = attr(string)

    def check(self) -> None:
        if not self.model:
            raise InternalError("watchdog must contain model name", domain=ErrorDomain.DOMAIN)
        if self.model not in MODELS:
            raise ConfigUnsupported(f"unknown watchdog model '{self.model}'", domain=ErrorDomain.DOMAIN)
        if self.action is not None and self.action not in ACTIONS:
            raise ConfigUnsupported(f"unknown watchdog action '{self.action}'", domain=ErrorDomain.DOMAIN)
