"""``<domain>``: the order of its children, and how its text is read."""

from qvirt.model.devices import Devices
from qvirt.xml.codecs import string, uuid
from qvirt.xml.document import parse
from qvirt.xml.fields import attr, part, text
from qvirt.xml.node import Node


class Domain(Node, tag="domain"):
    """A virtual machine, as the user describes it."""

    type: str = attr(string, required=True)
    id: str | None = attr(string)
    name: str = text(string, required=True)
    uuid: str | None = text(uuid)
    devices: Devices = part(Devices)


def parse_domain(xml: str, *, validate: bool = False) -> Domain:
    """Read a domain document. Raises XmlDetail, XmlError, XmlInvalidSchema."""
    return parse(xml, Domain, "(domain_definition)", validate=validate)
