"""Device: what every device element may say: boot order, alias, ROM, ACPI index, address.

These come last in the element, whatever a subclass adds.
"""

import re

from lxml import etree

from qvirt.constants.error import ErrorDomain
from qvirt.errors import ConfigUnsupported, InternalError, QvirtError
from qvirt.model.devices.address import Address, address
from qvirt.xml.codecs import on_off, positive, string, uint, yes_no
from qvirt.xml.fields import Choice, attr, child, part
from qvirt.xml.node import Node, at


class Boot(Node, tag="boot"):
    """``<boot>``: the place in the boot order; ``loadparm`` is what an s390 boot loader is told."""

    order: int = attr(positive, required=True)
    loadparm: str | None = attr(string)

    def check(self) -> None:
        if self.loadparm is None:
            return
        self.loadparm = self.loadparm.upper()
        if not 1 <= len(self.loadparm) <= 8:
            raise InternalError(f"loadparm value '{self.loadparm}' must be between 1 and 8 characters")
        if not re.fullmatch(r"[A-Z0-9. ]*", self.loadparm):
            raise InternalError(
                f"invalid loadparm value '{self.loadparm}', expecting chars in set of [a-zA-Z0-9.] "
                "and blank spaces"
            )


class Alias(Node, tag="alias"):
    name: str | None = attr(string)


class Rom(Node, tag="rom"):
    enabled: bool | None = attr(yes_no)
    bar: bool | None = attr(on_off)
    file: str | None = attr(string)


class Acpi(Node, tag="acpi"):
    index: int | None = attr(uint)


class VirtioDriver(Node, tag="driver"):
    """The options that every virtio device takes in its ``<driver>``; a device's own come first."""

    iommu: bool | None = attr(on_off)
    ats: bool | None = attr(on_off)
    packed: bool | None = attr(on_off)
    page_per_vq: bool | None = attr(on_off)

    def __init_subclass__(cls, tag: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(tag, **kwargs)
        common = {field.name for field in VirtioDriver.fields}
        own = tuple(x for x in cls.fields if x.name not in common)
        cls._bind((*own, *(x for x in cls.fields if x.name in common)))


#: what only some kinds may say; elsewhere it is an unknown element
_ONLY_FOR = {
    "boot": ("disk", "interface", "hostdev", "redirdev", "filesystem"),
    "rom": ("interface", "hostdev"),
}


class Device(Node):
    """Base of every device kind."""

    boot: Boot | None = child(Boot)
    alias: Alias = part(Alias)
    rom: Rom = part(Rom)
    acpi: Acpi = part(Acpi)
    address: Address | None = address()

    def __init_subclass__(cls, tag: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(tag, **kwargs)
        common = {field.name for field in Device.fields}
        own = tuple(x for x in cls.fields if x.name not in common)
        missing = {name for name, kinds in _ONLY_FOR.items() if cls.tag not in kinds}
        cls._bind((*own, *(x for x in Device.fields if x.name not in missing)))

    def _bad_choice(self, el: etree._Element, field: Choice, word: str | None) -> QvirtError:
        if field.name != "address":
            return super()._bad_choice(el, field, word)
        if word is None:
            return InternalError(f"No type specified for device address{at(el)}", domain=ErrorDomain.DOMAIN)
        return ConfigUnsupported(f"unknown address type '{word}'{at(el)}", domain=ErrorDomain.DOMAIN)
