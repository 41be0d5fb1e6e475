"""``-bios``, flash images in all their spellings, and ROMs, as ``<loader>`` and ``<nvram>``."""

from qvirt.model.devices.disk import Disk
from qvirt.model.os import Loader, Nvram
from qvirt.qemu.importer.disks import read_drive, take_image
from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.parts import Part, Unfit


def read_firmware(line: Line) -> None:
    """Read what the machine runs before the guest."""
    _bios(line)
    flashes = _flashes(line)
    if flashes:
        try:
            _read_flashes(line, flashes)
        except Unfit as problem:
            for part in flashes:
                if part.kind == "drive" and not part.settled:
                    line.pass_part(part, str(problem))
            for key in ("pflash0", "pflash1"):
                line.keep_machine(key, str(problem))
    for part in line.parts.of("drive"):
        if part.props.get("if") in ("mtd", "sd", "xen") and not part.settled:
            line.pass_part(part, "XML has no such drive on this machine")


def _bios(line: Line) -> None:
    argument = line.last("bios")
    if argument is None:
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
