"""``<secret>``: what a passphrase or key is for; its value is never part of the document."""

from typing import Final

from qvirt.constants.secret import SecretUsageType
from qvirt.errors import ConfigUnsupported, InternalError, XmlError
from qvirt.xml.codecs import string, uuid, words, yes_no
from qvirt.xml.document import parse
from qvirt.xml.fields import attr, child, text
from qvirt.xml.node import Node, complain

#: kind of use -> its number, the element that says what for, and what libvirt calls the two
_USAGES: Final[dict[str, tuple[int, str, str, str]]] = {
    "none": (SecretUsageType.NONE, "", "", ""),
    "volume": (SecretUsageType.VOLUME, "volume", "volume", "volume path"),
    "ceph": (SecretUsageType.CEPH, "name", "Ceph", "name"),
    "iscsi": (SecretUsageType.ISCSI, "target", "iSCSI", "target"),
    "tls": (SecretUsageType.TLS, "name", "TLS", "name"),
    "vtpm": (SecretUsageType.VTPM, "name", "vTPM", "name"),
}

USAGE_NUMBERS: Final = {kind: row[0] for kind, row in _USAGES.items()}
"""The number of each kind of use, by its name in documents."""


class Usage(Node, tag="usage"):
    """What a secret is for, by which it can be found."""

    complaints = complain(
        {
            "type": (ConfigUnsupported, "unknown secret usage type {}"),
            "!type": (XmlError, "unknown secret usage type"),
        }
    )
    type: str = attr(words(*_USAGES), required=True)
    volume: str | None = text(string)
    name: str | None = text(string)
    target: str | None = text(string)

    def check(self) -> None:
        _, wanted, kind, what = _USAGES[self.type]
        if wanted and not getattr(self, wanted):
            raise InternalError(f"{kind} usage specified, but {what} is missing")
        for other in ("volume", "name", "target"):
            if other != wanted:
                self.__dict__.pop(other, None)

    @property
    def id(self) -> str:
        """What the secret is for; no other secret is for the same."""
        return getattr(self, _USAGES[self.type][1]) or ""


class Secret(Node, tag="secret"):
    """A secret. ephemeral: it is never written to disk. private: its value is given to no client."""

    complaints = complain(
        {
            "ephemeral": (XmlError, "invalid value of 'ephemeral'"),
            "private": (XmlError, "invalid value of 'private'"),
            "uuid": (InternalError, "malformed uuid element"),
        }
    )
    ephemeral: bool = attr(yes_no, default=False)
    private: bool = attr(yes_no, default=False)
    uuid: str | None = text(uuid)
    description: str | None = text(string)
    usage: Usage | None = child(Usage)

    def check(self) -> None:
        # written even where the document does not say
        self.ephemeral, self.private = self.ephemeral, self.private
        if self.usage is not None and self.usage.type == "none":
            self.usage = None
        if not self.description:
            self.description = None

    @property
    def usage_type(self) -> int:
        """SecretUsageType."""
        return USAGE_NUMBERS[self.usage.type] if self.usage is not None else SecretUsageType.NONE

    @property
    def usage_id(self) -> str:
        """What it is for; "" where the document does not say."""
        return self.usage.id if self.usage is not None else ""


def parse_secret(xml: str, *, validate: bool = False) -> Secret:
    """Read a secret's document. Raises XmlDetail, XmlError, XmlInvalidSchema and what `Usage` refuses."""
    return parse(xml, Secret, "(definition_of_secret)", validate=validate)
