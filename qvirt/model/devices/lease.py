"""``<lease>``: a lock that must be held while the guest runs."""

from qvirt.errors import XmlError
from qvirt.model.devices.device import Device
from qvirt.xml.codecs import string, ulong
from qvirt.xml.fields import attr, child, text
from qvirt.xml.node import Node


class LeaseTarget(Node, tag="target"):
    path: str = attr(string, required=True)
    offset: int | None = attr(ulong, omit=0)


class Lease(Device, tag="lease"):
    """``<lease>``; not a device of the guest: it has no address and no alias."""

    lockspace: str | None = text(string)
    key: str | None = text(string)
    target: LeaseTarget | None = child(LeaseTarget)

    def check(self) -> None:
        if self.key is None:
            raise XmlError("Missing 'key' element for lease")
        if self.target is None:
            raise XmlError("Missing 'target' element for lease")
