"""``-bios``, flash images in all their spellings, and ROMs, as ``<loader>`` and ``<nvram>``."""

from qvirt.model.devices.disk import Disk
from qvirt.model.os import Loader, Nvram
from qvirt.qemu.importer.disks import read_drive, take_image
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import Argument
from qvirt.qemu.importer.parts import Part, Unfit


def read_firmware(line: Line) -> None:
    """Read what the machine runs before the guest."""
    _bios(line)
    old_flash(line, _NO_FLASH)
    if line.is_old_riscv:
        for part in _flashes(line):
            line.pass_part(part, _NO_FLASH)
        return
    flashes = _flashes(line)
    if flashes:
        try:
            _read_flashes(line, flashes)
        except Unfit as problem:
            for part in flashes:
                if part.kind == "drive" and not part.settled:
                    line.pass_part(part, str(problem))
            for key in ("pflash0", "pflash1"):
                line.keep_machine([key], str(problem))
    for part in line.parts.of("drive"):
        if part.props.get("if") in ("mtd", "sd", "xen") and not part.settled:
            line.pass_part(part, "XML has no such drive on this machine")


_NO_FLASH = "XML's flash needs a property that this machine gets with QEMU 8.1"


def old_flash(line: Line, reason: str) -> list[Argument]:
    """Say flash in the words of a board that has no property for it; return the arguments of its nodes."""
    used: list[Argument] = []
    if not line.is_old_riscv:
        return used
    for unit, key in enumerate(("pflash0", "pflash1")):
        node = line.parts.find("blockdev", line.machine.get(key))
        below = node
        while below is not None and isinstance(below.props.get("file"), str):
            below = line.parts.find("blockdev", below.props["file"])
        path = below.text("filename") if below is not None else None
        if node is None or below is None or path is None:
            continue
        del line.machine[key]
        readonly = ",readonly=on" if node.flag("read-only") else ""
        given = [*node.given, *(below.given if below is not node else ())]
        words = f"if=pflash,unit={unit},format=raw,file={path.replace(',', ',,')}{readonly}"
        line.pass_on(given, ["-drive", words], reason)
        node.settled = below.settled = "commandline"
        used += given
    return used


def _bios(line: Line) -> None:
    argument = line.last("bios")
    if argument is None:
        return
    if argument.value in ("none", "default"):
        line.pass_on(line.given("bios"), ["-bios", argument.value], "a word of QEMU's, no file")
        return
    line.domain.os.loader = Loader(type="rom", path=argument.value)
    line.to_xml(line.given("bios"), "<loader type='rom'>")


def _flashes(line: Line) -> list[Part]:
    drives = [part for part in line.parts.of("drive") if part.props.get("if") == "pflash"]
    drives.sort(key=lambda part: part.number("unit") or 0 if "unit" in part.props else 0)
    if drives:
        return drives
    found: list[Part] = []
    for key in ("pflash0", "pflash1"):
        part = line.parts.find("blockdev", line.machine.get(key))
        if part is not None:
            found.append(part)
    return found


def _read_flashes(line: Line, flashes: list[Part]) -> None:
    """Fill in loader and variables; nothing is changed unless all of it can be said. Raises Unfit."""
    if len(flashes) > 2:
        raise Unfit("XML has a loader and its variables, no third flash")
    used: list[Part] = []
    disks: list[Disk] = []
    for part in flashes:
        disk = Disk()
        if part.kind == "drive":
            read_drive(line, part, disk)
            used.append(part)
        else:
            device = Part("device", {"driver": "flash", "drive": part.id}, part.given)
            used += take_image(line, device, disk)
        if disk.driver.type not in (None, "raw"):
            raise Unfit(f"XML has flash images that are raw, not {disk.driver.type}")
        if disk.source is None or disk.source.local_path is None:
            raise Unfit("XML has flash images that are files")
        if disk.driver.cache is not None or disk.driver.io is not None or disk.iotune.limits:
            line.note("how the flash image is cached is the daemon's to choose", part.given)
        disks.append(disk)
    first = disks[0]
    loader = Loader(type="pflash", readonly=bool(first.readonly), path=_path(first))
    if len(disks) > 1:
        line.domain.os.nvram = Nvram(path=_path(disks[1]))
    elif first.readonly:
        loader.stateless = True
    if line.machine.pop("secure-flash", None) is not None and first.readonly:
        loader.secure = True
    line.domain.os.loader = loader
    for part in used:
        part.settled = "xml"
        line.to_xml(part.given, "<loader>" if part in flashes[:1] else "<nvram>")
    for key in ("pflash0", "pflash1"):
        line.machine.pop(key, None)


def _path(disk: Disk) -> str:
    return (disk.source.local_path if disk.source is not None else None) or ""
