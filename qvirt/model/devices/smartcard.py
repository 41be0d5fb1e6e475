"""``<smartcard>``: a card in the guest's reader."""

from qvirt.errors import XmlError
from qvirt.model.devices.chardev import CharDevice, CharSource, Log, Protocol
from qvirt.xml.codecs import string, word
from qvirt.xml.fields import attr, children, text, texts


class Smartcard(CharDevice, tag="smartcard"):
    """``<smartcard>``: the host's reader, three of the host's certificates, or a card on another machine."""

    mode: str = attr(word("host", "host-certificates", "passthrough"), required=True)
    type: str = attr(string, default="", omit="")
    certificates: list[str] = texts(string, "certificate")
    database: str | None = text(string)
    sources: list[CharSource] = children(CharSource)
    protocols: list[Protocol] = children(Protocol)
    logs: list[Log] = children(Log)

    def check(self) -> None:
        if self.mode == "passthrough":
            if not self.type:
                raise XmlError("passthrough mode requires a character device type attribute")
            super().check()
        else:
            for name in ("type", "sources", "protocols", "logs"):
                self.__dict__.pop(name, None)
        if self.mode != "host-certificates":
            self.__dict__.pop("certificates", None)
            self.__dict__.pop("database", None)
            return
        if len(self.certificates) != 3:
            raise XmlError("host-certificates mode needs exactly three certificates")
        if self.database is not None and not self.database.startswith("/"):
            raise XmlError(f"expecting absolute path: {self.database}")
