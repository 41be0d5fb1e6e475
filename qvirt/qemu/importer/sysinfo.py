"""``-smbios`` and ``-fw_cfg``: what the firmware tells the guest, as ``<sysinfo>``."""

from qvirt.model.os import SmbiosMode
from qvirt.model.sysinfo import BaseBoard, Chassis, Entry, OemStrings, Sysinfo, SysinfoBios, SysinfoSystem
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import split_opts

_TABLES = {
    "0": ("bios", SysinfoBios),
    "1": ("system", SysinfoSystem),
    "2": ("base_boards", BaseBoard),
    "3": ("chassis", Chassis),
}


def read_sysinfo(line: Line) -> None:
    """Read the SMBIOS tables, and the blobs of fw_cfg."""
    found: Sysinfo | None = None
    for argument in line.given("smbios"):
        pairs = split_opts(argument.value or "")
        props = dict(pairs)
        number = props.pop("type", None)
        if number == "1" and "uuid" in props and line.domain.uuid is None:
            line.domain.uuid = props["uuid"]
        table = _TABLES.get(number or "")
        if number == "11" and all(key in ("type", "value") for key, _ in pairs):
            found = found or Sysinfo(type="smbios")
            found.oem_strings = found.oem_strings or OemStrings()
            found.oem_strings.entries += [Entry(value=value) for key, value in pairs if key == "value"]
            line.to_xml([argument], "<oemStrings>")
        elif table is None or not props or not set(props) <= set(table[1].names) or not _has_smbios(line):
            line.pass_on([argument], ["-smbios", argument.value or ""], "no XML")
        else:
            found = found or Sysinfo(type="smbios")
            entries = [Entry(name=name, value=props[name]) for name in table[1].names if name in props]
            node = table[1](entries=entries)
            if number == "2":
                found.base_boards = [BaseBoard(entries=entries)]
            else:
                setattr(found, table[0], node)
            line.to_xml([argument], f"<sysinfo><{node.tag}>")
    if found is not None:
        line.domain.sysinfos.append(found)
        line.domain.os.smbios = SmbiosMode(mode="sysinfo")
    _fw_cfg(line)


def _has_smbios(line: Line) -> bool:
    return line.family in ("pc", "q35", "virt")


def _fw_cfg(line: Line) -> None:
    blobs: list[Entry] = []
    for argument in line.given("fw_cfg"):
        props = dict(split_opts(argument.value or "", "name"))
        name = props.get("name", "")
        allowed = name.startswith("opt/") and not name.startswith(("opt/ovmf/", "opt/org.qemu/"))
        if allowed and set(props) == {"name", "file"}:
            blobs.append(Entry(name=name, file=props["file"]))
        elif allowed and set(props) == {"name", "string"} and props["string"]:
            blobs.append(Entry(name=name, value=props["string"]))
        else:
            line.pass_on([argument], ["-fw_cfg", argument.value or ""], "no XML")
            continue
        line.to_xml([argument], "<sysinfo type='fwcfg'>")
    if blobs:
        line.domain.sysinfos.append(Sysinfo(type="fwcfg", entries=blobs))
