"""``<sysinfo>``: SMBIOS strings and firmware configuration blobs shown to the guest."""

import re
from typing import ClassVar

from qvirt.errors import ConfigUnsupported, XmlDetail, XmlError
from qvirt.xml.codecs import string, words
from qvirt.xml.fields import attr, child, children, content
from qvirt.xml.node import Node


class Entry(Node, tag="entry"):
    """A named value; ``file``: the value comes from a file (fw_cfg)."""

    name: str | None = attr(string)
    file: str | None = attr(string)
    value: str | None = content(string)


class Entries(Node):
    """Base: an SMBIOS structure; entries nobody knows are dropped, the others put in libvirt's order."""

    names: ClassVar[tuple[str, ...]] = ()
    entries: list[Entry] = children(Entry)

    def check(self) -> None:
        by_name = {entry.name: entry for entry in reversed(self.entries) if entry.value}
        self.entries = [by_name[name] for name in self.names if name in by_name]
        for entry in self.entries:
            entry.file = None

    def get(self, name: str) -> str | None:
        """Return the value of an entry."""
        return next((entry.value for entry in self.entries if entry.name == name), None)


class SysinfoBios(Entries, tag="bios"):
    names = ("vendor", "version", "date", "release")

    def check(self) -> None:
        super().check()
        date = self.get("date")
        if date is None:
            return
        found = re.fullmatch(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2}|[0-9]{4,})", date)
        if found is None or not _is_date(*(int(number) for number in found.groups())):
            raise XmlDetail("Invalid BIOS 'date' format")


def _is_date(month: int, day: int, year: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= 31 and (year < 100 or year >= 1900)


class SysinfoSystem(Entries, tag="system"):
    names = ("manufacturer", "product", "version", "serial", "uuid", "sku", "family")


class BaseBoard(Entries, tag="baseBoard"):
    names = ("manufacturer", "product", "version", "serial", "asset", "location")


class Chassis(Entries, tag="chassis"):
    names = ("manufacturer", "version", "serial", "asset", "sku")


class OemStrings(Node, tag="oemStrings"):
    entries: list[Entry] = children(Entry)

    def check(self) -> None:
        for entry in self.entries:
            entry.value = entry.value or ""
            entry.name = entry.file = None


class Sysinfo(Node, tag="sysinfo"):
    """What ``<smbios mode='sysinfo'/>`` shows, or blobs for fw_cfg."""

    type: str = attr(words("smbios", "fwcfg"), required=True)
    bios: SysinfoBios | None = child(SysinfoBios)
    system: SysinfoSystem | None = child(SysinfoSystem)
    base_boards: list[BaseBoard] = children(BaseBoard)
    chassis: Chassis | None = child(Chassis)
    oem_strings: OemStrings | None = child(OemStrings)
    entries: list[Entry] = children(Entry)

    def check(self) -> None:
        if self.type == "smbios":
            self.entries = []
            for name in ("bios", "system", "chassis", "oem_strings"):
                node: Node | None = getattr(self, name)
                if node is not None and node.is_empty():
                    del self.__dict__[name]
            self.base_boards = [board for board in self.base_boards if not board.is_empty()]
            return
        self.bios = self.system = self.chassis = self.oem_strings = None
        self.base_boards = []
        for entry in self.entries:
            if not entry.name:
                raise XmlError("Firmware entry is missing 'name' attribute")
            if not entry.value and not entry.file:
                raise XmlError("Firmware entry must have either value or 'file' attribute")
            if not entry.name.startswith("opt/"):
                raise ConfigUnsupported("Invalid firmware name")
            if entry.name.startswith(("opt/ovmf/", "opt/org.qemu/")):
                raise ConfigUnsupported("That firmware name is reserved")
