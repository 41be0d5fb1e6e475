"""``<seclabel>`` of a domain: how the security drivers label it."""

from collections.abc import Iterable

from qvirt.errors import ConfigUnsupported, XmlDetail, XmlError
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
    """``<seclabel>`` of a disk's or device's source; libvirt's word that it had no label is of that run."""

    model: str | None = attr(string)
    relabel: bool | None = attr(yes_no)
    labelskip: bool | None = attr(yes_no)
    label: str | None = text(string)

    def check(self) -> None:
        self.labelskip = None
        if not self.label:
            self.label = None
            return
        if self.relabel is False:
            model = f" model={self.model}" if self.model is not None else ""
            raise XmlError(f"Cannot specify a label if relabelling is turned off.{model}")
        self.relabel = True


def settled(labels: Iterable[DeviceSecLabel]) -> list[DeviceSecLabel]:
    """Return those of a source's labels that say something. Raises XmlDetail for two of one model."""
    found: dict[str | None, list[DeviceSecLabel]] = {}
    for label in labels:
        if label.model is not None and label.model in found:
            raise XmlDetail(f"seclabel for model {label.model} is already provided")
        found.setdefault(label.model, []).append(label)
    every = (label for same in found.values() for label in same)
    return [label for label in every if label.label is not None or label.relabel is False]
