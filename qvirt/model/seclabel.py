"""``<seclabel>`` of a domain: how the security drivers label it."""

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.xml.codecs import string, words, yes_no
from qvirt.xml.fields import attr, text
from qvirt.xml.node import Node


class SecLabel(Node, tag="seclabel"):
    """How one security model labels the domain; a dynamic label is known only while it runs.

    is_bare: the document names neither type nor model. is_default: it names the model alone.
    """

    is_bare: bool = False
    is_default: bool = False

    type: str | None = attr(words("none", "dynamic", "static"))
    model: str | None = attr(string)
    relabel: bool | None = attr(yes_no)
    label: str | None = text(string)
    imagelabel: str | None = text(string)
    baselabel: str | None = text(string)

    def check(self) -> None:
        self.is_bare = self.type is None and self.model is None
        self.is_default = self.type is None and self.model is not None and not self.baselabel
        kind = self.type = self.type or "dynamic"
        if self.relabel is None:
            self.relabel = kind == "dynamic"
        if kind == "dynamic" and not self.relabel:
            raise ConfigUnsupported("dynamic label type must use resource relabeling")
        if kind == "none" and self.relabel:
            raise ConfigUnsupported("resource relabeling is not compatible with 'none' label type")
        if kind == "static" and not self.label and self.model != "none":
            raise XmlError("security label is missing")
        if kind == "none":
            self.relabel = None  # never written
        if kind != "dynamic":
            self.baselabel = None


class DeviceSecLabel(Node, tag="seclabel"):
    """``<seclabel>`` of a disk's or device's source."""

    model: str | None = attr(string)
    relabel: bool | None = attr(yes_no)
    labelskip: bool | None = attr(yes_no)
    label: str | None = text(string)

    def check(self) -> None:
        if self.label is not None and self.relabel is False:
            model = f" model={self.model}" if self.model is not None else ""
            raise XmlError(f"Cannot specify a label if relabelling is turned off.{model}")
