"""``<os>``: what boots, and how."""

from qvirt.xml.codecs import on_off, string, uint, integer, yes_no
from qvirt.xml.fields import attr, child, children, content, part, text, texts, opaque
from qvirt.xml.node import Node, Raw


class OsType(Node, tag="type"):
    arch: str | None = attr(string)
    machine: str | None = attr(string)
    value: str = content(string, required=True)


class FirmwareFeature(Node, tag="feature"):
    enabled: bool = attr(yes_no, required=True)
    name: str = attr(string, required=True)


class FirmwareChoice(Node, tag="firmware"):
    """``<firmware>`` in ``<os>``: features the automatic selection must honour."""

    features: list[FirmwareFeature] = children(FirmwareFeature)


class Loader(Node, tag="loader"):
    """``<loader>``: a firmware image."""

    readonly: bool | None = attr(yes_no)
    secure: bool | None = attr(yes_no)
    type: str | None = attr(string)
    stateless: bool | None = attr(yes_no)
    format: str | None = attr(string)
    path: str | None = content(string)


class OsBoot(Node, tag="boot"):
    dev: str = attr(string, required=True)


class BootMenu(Node, tag="bootmenu"):
    enable: str | None = attr(string)
    timeout: int | None = attr(uint)


class SmbiosMode(Node, tag="smbios"):
    mode: str = attr(string, required=True)


class Bios(Node, tag="bios"):
    useserial: bool | None = attr(yes_no)
    rebootTimeout: int | None = attr(integer)


class Os(Node, tag="os"):
    """The operating system booting of a domain."""

    firmware: str | None = attr(string)
    type: OsType = child(OsType, required=True)
    firmware_choice: FirmwareChoice | None = child(FirmwareChoice, "firmware")
    init: str | None = text(string)
    initargs: list[str] = texts(string, "initarg")
    initenvs: "list[Raw]" = opaque("initenv")
    initdir: str | None = text(string)
    inituser: str | None = text(string)
    initgroup: str | None = text(string)
    loader: Loader | None = child(Loader)
    nvram: "list[Raw]" = opaque("nvram")
    kernel: str | None = text(string)
    initrd: str | None = text(string)
    cmdline: str | None = text(string)
    dtb: str | None = text(string)
    root: str | None = text(string)
    acpi: "list[Raw]" = opaque("acpi")
    boots: list[OsBoot] = children(OsBoot)
    bootmenu: BootMenu | None = child(BootMenu)
    smbios: SmbiosMode | None = child(SmbiosMode)
    bios: Bios = part(Bios)
