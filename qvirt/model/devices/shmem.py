"""``<shmem>``: memory shared between guests."""

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.devices.device import Device
from qvirt.model.memory import UNITS
from qvirt.xml.codecs import on_off, string, uint, ulong, word
from qvirt.xml.fields import attr, child, content
from qvirt.xml.node import Node


class ShmemModel(Node, tag="model"):
    type: str = attr(word("ivshmem", "ivshmem-plain", "ivshmem-doorbell"), required=True)


class ShmemSize(Node, tag="size"):
    """``<size>``: kept in bytes, written in MiB as libvirt does."""

    unit: str | None = attr(string)
    value: int = content(ulong, required=True)

    def check(self) -> None:
        factor = UNITS.get((self.unit or "B").lower())
        if factor is None:
            raise XmlError(f"unknown suffix '{self.unit}'")
        self.value *= factor
        self.unit = "M"

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        out.append(f"{indent}<size unit='M'>{self.value >> 20}</size>\n")


class ShmemServer(Node, tag="server"):
    path: str | None = attr(string)


class Msi(Node, tag="msi"):
    """``<msi>``: interrupts from the other guests."""

    vectors: int | None = attr(uint, omit=0)
    ioeventfd: bool | None = attr(on_off)


class Shmem(Device, tag="shmem"):
    """``<shmem>``."""

    name: str | None = attr(string)
    role: str | None = attr(word("master", "peer"))
    model: ShmemModel | None = child(ShmemModel)
    size: ShmemSize | None = child(ShmemSize)
    server: ShmemServer | None = child(ShmemServer)
    msi: Msi | None = child(Msi)

    def check(self) -> None:
        if not self.name:
            raise XmlError("shmem element must contain 'name' attribute")
        if "/" in self.name:
            raise ConfigUnsupported("shmem name cannot include '/' character", domain=ErrorDomain.DOMAIN)
        if self.msi is not None and self.server is None:
            raise XmlError("msi option is only supported with a server")
