"""``-drive``, ``-hda``, ``-cdrom`` and their kin as parts: a backend each, and the device on it.

Which place a drive gets that names none, and which drives a machine has by itself, are QEMU's rules.
"""

from qvirt.qemu.importer.line import Line, is_folder_to_read
from qvirt.qemu.importer.options import Argument, collect, split_opts, to_props
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
#: devices that keep QEMU from adding an empty CD-ROM
_DISKS = frozenset({"ide-cd", "ide-hd", "ide-drive", "scsi-cd", "scsi-hd"})
#: and those that keep it from adding an empty floppy drive
_FLOPPIES = frozenset({"isa-fdc", "floppy"})
#: where drives go whose bus is not said, where that is not IDE
_DEFAULT_BUS = {"virt": "virtio", "s390": "virtio"}


def read_drives(line: Line) -> list[Part]:
    """Read the drives; return the devices the machine makes for them, those of virtio last of all."""
    drives = _Drives(line)
    for argument in line.given("drive", *_SHORT_DRIVES):
        drives.add(_drive_props(argument), (argument,))
    has_ide = line.family == "pc" or (line.family == "q35" and line.machine_switch("sata") is not False)
    if line.defaults:
        if has_ide and not line.names_device(_DISKS):
            drives.add_unless_taken({"if": "ide", "index": "2", "media": "cdrom"})
        if line.family == "pc" and not line.names_device(_FLOPPIES):
            drives.add_unless_taken({"if": "floppy", "index": "0"})
    line.late = drives.late
    return drives.made


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


class _Drives:
    """The drives so far: which places are taken, and the devices made for them."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.taken: dict[str, set[tuple[int, int]]] = {}
        self.made: list[Part] = []
        self.late: list[Part] = []
        #: what ``-device`` plugs into devices of its own
        self.plugged = {str(to_props(argument)[0].get("drive")) for argument in line.given("device")}

    def add_unless_taken(self, props: Props) -> None:
        """Add a drive that QEMU has by itself where nothing else is."""
        if self._place(props) not in self.taken.get(str(props["if"]), ()):
            self.add(props, ())

    def add(self, props: Props, given: tuple[Argument, ...]) -> None:
        """Add the backend, and the device that the machine makes for it."""
        line = self.line
        kind = props.get("if")
        if kind is None:
            kind = props["if"] = self._kind(props, given)
        if kind == "none":
            number = sum(len(places) for places in self.taken.values()) + len(line.parts.of("drive"))
            props.setdefault("id", f"drive{number}")
            line.parts.add(Part("drive", props, given))
            return
        bus, unit = self._place(props)
        self.taken.setdefault(str(kind), set()).add((bus, unit))
        id = str(props.setdefault("id", f"{kind}{bus}-{unit}"))
        drive = line.parts.add(Part("drive", props, given))
        device = _drive_device(line, drive, str(kind), bus, unit, id)
        if device is None:
            return
        serial = props.pop("serial", None)
        if serial is not None:
            device["serial"] = serial
        if "addr" in props and kind == "virtio":
            device["addr"] = props.pop("addr")
        if kind == "virtio":
            self.late.append(Part("device", device, given))
            return
        if kind == "scsi" and not any(known.id == f"scsi{bus}" for known in self.made):
            self.made.append(Part("device", {"driver": "lsi53c895a", "id": f"scsi{bus}"}, given))
        self.made.append(Part("device", device, given))

    def _kind(self, props: Props, given: tuple[Argument, ...]) -> str:
        """Return the interface of a drive that says none."""
        if self.line.makes_nothing:
            return "none"
        if props.get("id") is not None and props["id"] in self.plugged:
            self.line.note("the drive is the device's that names it, as with QEMU before 2.2 on a Q35", given)
            return "none"
        return _DEFAULT_BUS.get(self.line.family, "ide")

    def _place(self, props: Props) -> tuple[int, int]:
        """Return bus and unit of a drive, by QEMU's rules."""
        kind = str(props.get("if"))
        units = _units(self.line, kind)
        index = props.get("index")
        if index is not None:
            number = integer(index, "index")
            return divmod(number, units) if units else (0, number)
        bus = integer(props.get("bus", "0"), "bus")
        if props.get("unit") is not None:
            return bus, integer(props["unit"], "unit")
        used = self.taken.get(kind, ())
        unit = 0
        while (bus, unit) in used:
            unit += 1
            if units and unit >= units:
                bus, unit = bus + 1, 0
        return bus, unit


def _units(line: Line, bus: str) -> int:
    if bus == "ide":
        return 1 if line.family == "q35" else 2
    return {"scsi": 7, "floppy": 2}.get(bus, 0)


#: drives for which the machine makes the device by itself, whatever else it has
_MADE = frozenset({"ide", "floppy", "virtio"})


def boards_own(drive: Part, device: Part) -> list[str] | None:
    """Return the one argument that drive and device are, with the place said; None where they are not one."""
    is_one = len(drive.given) == 1 and drive.given == device.given
    if not is_one or drive.props.get("if") not in _MADE or is_folder_to_read(drive):
        return None
    argument = drive.given[0]
    words = list(argument.words)
    if (
        argument.name == "drive"
        and not {"index", "bus", "unit"} & drive.props.keys()
        and "unit" in device.props
    ):
        bus = (device.text("bus") or "ide.0").rpartition(".")[2]
        words[-1] += f",bus={bus},unit={device.text('unit')}"
    return words


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
        case _:
            return None
