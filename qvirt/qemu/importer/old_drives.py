"""``-drive``, ``-hda``, ``-cdrom`` and their kin as parts: a backend each, and the device on it.

Which place a drive gets that names none, and which drives a machine has by itself, are QEMU's rules.
"""

from qvirt.qemu.importer.line import Line
from qvirt.qemu.importer.options import Argument, collect, split_opts
from qvirt.qemu.importer.parts import Part, Props, integer

_SHORT_DRIVES: dict[str, tuple[str, int]] = {
    "hda": ("", 0),
    "hdb": ("", 1),
    "hdc": ("", 2),
    "hdd": ("", 3),
    "fda": ("floppy", 0),
    "fdb": ("floppy", 1),
    "cdrom": ("", 2),
    "sd": ("sd", -1),
    "mtdblock": ("mtd", -1),
    "pflash": ("pflash", -1),
    "": ("", 0),
}
#: where drives go whose bus is not said, where that is not IDE
_DEFAULT_BUS = {"virt": "virtio", "s390": "virtio"}


def read_drives(line: Line) -> list[Part]:
    """Read the drives; return the devices the machine makes for them, those of virtio last of all."""
    taken: dict[str, set[tuple[int, int]]] = {}
    made: list[Part] = []
    late: list[Part] = []
    for argument in line.given("drive", *_SHORT_DRIVES):
        props = _drive_props(argument)
        _drive(line, props, (argument,), taken, made, late)
    has_ide = line.family == "pc" or (line.family == "q35" and line.machine_switch("sata") is not False)
    if line.defaults:
        if has_ide and not line.names_device(frozenset({"ide-cd", "ide-hd", "scsi-cd", "scsi-hd"})):
            _default_drive(line, {"if": "ide", "index": "2", "media": "cdrom"}, taken, made, late)
        if line.family == "pc" and not line.names_device(frozenset({"isa-fdc", "floppy"})):
            _default_drive(line, {"if": "floppy", "index": "0"}, taken, made, late)
    line.late = late
    return made


def _default_drive(
    line: Line, props: Props, taken: dict[str, set[tuple[int, int]]], made: list[Part], late: list[Part]
) -> None:
    where = _place(line, props, dict(taken))
    if where not in taken.get(str(props["if"]), set()):
        _drive(line, props, (), taken, made, late)


def _drive_props(argument: Argument) -> Props:
    if argument.name == "drive":
        return collect(split_opts(argument.value or ""))
    bus, index = _SHORT_DRIVES[argument.name]
    props: Props = {"file": argument.value or ""}
    if bus:
        props["if"] = bus
    if index >= 0:
        props["index"] = str(index)
    if argument.name == "cdrom":
        props["media"] = "cdrom"
    if argument.name in ("mtdblock", "pflash", "sd"):
        props["format"] = "raw"
    return props


def _units(line: Line, bus: str) -> int:
    if bus == "ide":
        return 1 if line.family == "q35" else 2
    return {"scsi": 7, "floppy": 2}.get(bus, 0)


def _place(line: Line, props: Props, taken: dict[str, set[tuple[int, int]]]) -> tuple[int, int]:
    """Return bus and unit of a drive, by QEMU's rules."""
    kind = str(props.get("if"))
    units = _units(line, kind)
    index = props.get("index")
    used = taken.setdefault(kind, set())
    if index is not None:
        number = integer(index, "index")
        return divmod(number, units) if units else (0, number)
    bus = integer(props.get("bus", "0"), "bus")
    if props.get("unit") is not None:
        return bus, integer(props["unit"], "unit")
    unit = 0
    while (bus, unit) in used:
        unit += 1
        if units and unit >= units:
            bus, unit = bus + 1, unit - units
    return bus, unit


def _drive(
    line: Line,
    props: Props,
    given: tuple[Argument, ...],
    taken: dict[str, set[tuple[int, int]]],
    made: list[Part],
    late: list[Part],
) -> None:
    kind = props.get("if")
    if kind is None:
        kind = props["if"] = "none" if line.makes_nothing else _DEFAULT_BUS.get(line.family, "ide")
    number = sum(len(places) for places in taken.values()) + len(line.parts.of("drive"))
    if kind == "none":
        props.setdefault("id", f"drive{number}")
        line.parts.add(Part("drive", props, given))
        return
    bus, unit = _place(line, props, taken)
    taken.setdefault(str(kind), set()).add((bus, unit))
    id = str(props.setdefault("id", f"{kind}{bus}-{unit}"))
    drive = line.parts.add(Part("drive", props, given))
    device = _drive_device(line, drive, str(kind), bus, unit, id)
    if device is None:
        return
    serial = props.pop("serial", None)
    if serial is not None:
        device["serial"] = serial
    for name in ("addr", "werror-dev"):
        if name in props and kind == "virtio":
            device[name] = props.pop(name)
    part = Part("device", device, given)
    if kind == "virtio":
        late.append(part)
    elif kind == "scsi" and not any(known.id == f"scsi{bus}" for known in made):
        made.append(Part("device", {"driver": "lsi53c895a", "id": f"scsi{bus}"}, given))
        made.append(part)
    else:
        made.append(part)


def _drive_device(line: Line, drive: Part, kind: str, bus: int, unit: int, id: str) -> Props | None:
    """Return the device for a drive, None where the machine has no device for it (flash)."""
    is_cd = drive.props.get("media") == "cdrom"
    match kind:
        case "ide" if line.family in ("virt", "s390"):
            return {"driver": line.virtio("blk"), "drive": id}
        case "ide":
            return {
                "driver": "ide-cd" if is_cd else "ide-hd",
                "bus": f"ide.{bus}",
                "unit": str(unit),
                "drive": id,
            }
        case "scsi":
            driver = "scsi-cd" if is_cd else "scsi-hd"
            return {"driver": driver, "bus": f"scsi{bus}.0", "scsi-id": str(unit), "drive": id}
        case "floppy":
            return {"driver": "floppy", "unit": str(unit), "drive": id}
        case "virtio":
            return {"driver": line.virtio("blk"), "drive": id}
        case "usb":
            return {"driver": "usb-storage", "drive": id}
        case "xen":
            return None
        case _:
            return None
