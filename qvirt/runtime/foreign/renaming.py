"""Names of a QEMU that somebody else started, and ours for the same things; pure.

Everything above the monitor speaks of devices, block nodes and backends by the names a start of ours would
have given them. Where a QEMU has others, or none but a QOM path, they are exchanged on the way, both ways.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from qvirt.qmp.wire import Json, JsonObject, JsonValue
from qvirt.record import Record

_PERIPHERAL = "/machine/peripheral/"


class Kind(StrEnum):
    """What a name is of. Each kind is a space of names of its own."""

    DEVICE = "device"
    BUS = "bus"
    BLOCK = "block"
    CHARDEV = "chardev"
    NETDEV = "netdev"
    OBJECT = "object"
    #: what ``set_link`` calls an interface
    LINK = "link"


class Name(Record):
    """One thing. theirs: QEMU's name; of a device without an id, its QOM path.

    implicit: a block node that goes with the drive it was made for, and cannot be removed by itself.
    """

    kind: Kind
    ours: str
    theirs: str
    implicit: bool = False


#: the argument by which a command makes something under a name
_MAKES = {
    "device_add": (Kind.DEVICE, "id"),
    "blockdev-add": (Kind.BLOCK, "node-name"),
    "chardev-add": (Kind.CHARDEV, "id"),
    "netdev_add": (Kind.NETDEV, "id"),
    "object-add": (Kind.OBJECT, "id"),
}
#: what a command calls "id" or "name", where it is no device
_IDS = {
    ("chardev-remove", "id"): Kind.CHARDEV,
    ("chardev-change", "id"): Kind.CHARDEV,
    ("netdev_del", "id"): Kind.NETDEV,
    ("object-del", "id"): Kind.OBJECT,
    ("set_link", "name"): Kind.LINK,
    ("query-iothreads", "id"): Kind.OBJECT,
}
_KEYS = {
    "id": Kind.DEVICE,
    "device": Kind.DEVICE,
    "qdev": Kind.DEVICE,
    "bus": Kind.BUS,
    "node-name": Kind.BLOCK,
    "drive": Kind.BLOCK,
    "file": Kind.BLOCK,
    "backing": Kind.BLOCK,
    "chardev": Kind.CHARDEV,
    "label": Kind.CHARDEV,
    "netdev": Kind.NETDEV,
    "iothread": Kind.OBJECT,
    "memdev": Kind.OBJECT,
}


class Names:
    """The names of one QEMU; empty for a QEMU of ours, which then costs nothing."""

    def __init__(self, listed: Iterable[Name] = ()) -> None:
        self._theirs: dict[tuple[Kind, str], Name] = {}
        self._ours: dict[tuple[Kind, str], Name] = {}
        for name in listed:
            self.add(name)

    def __bool__(self) -> bool:
        return bool(self._theirs)

    def listed(self) -> list[Name]:
        """Return all of them."""
        return list(self._theirs.values())

    def add(self, name: Name) -> None:
        """Add a name; one that is the same on both sides needs nothing, unless it is implicit."""
        if name.ours != name.theirs or name.implicit:
            self._theirs[name.kind, name.ours] = name
            self._ours[name.kind, name.theirs] = name

    def _forget(self, kind: Kind, ours: str) -> None:
        name = self._theirs.pop((kind, ours), None)
        if name is not None:
            del self._ours[kind, name.theirs]

    def devices(self) -> dict[str, str]:
        """Return the QOM paths of the devices without an id, by our names."""
        return {name.ours: name.theirs for name in self._theirs.values() if name.kind is Kind.DEVICE}

    def goes_by_itself(self, command: str, arguments: Mapping[str, JsonValue] | None) -> bool:
        """Tell whether a command would remove what QEMU removes by itself; it is forgotten then."""
        if command != "blockdev-del" or arguments is None:
            return False
        ours = str(arguments.get("node-name"))
        name = self._theirs.get((Kind.BLOCK, ours))
        if name is None or not name.implicit:
            return False
        self._forget(Kind.BLOCK, ours)
        return True

    def outward(
        self, command: str, arguments: Mapping[str, JsonValue] | None
    ) -> Mapping[str, JsonValue] | None:
        """Return a command's arguments in QEMU's names. What it makes has our name from now on."""
        if arguments is None or not self._theirs:
            return arguments
        if command in _MAKES:
            kind, key = _MAKES[command]
            self._forget(kind, str(arguments.get(key)))
        return {key: self._out(command, key, value) for key, value in arguments.items()}

    def _out(self, command: str, key: str, value: JsonValue) -> JsonValue:
        if isinstance(value, dict):
            return {name: self._out(command, name, item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._out(command, key, item) for item in value]
        if not isinstance(value, str):
            return value
        if value.startswith(_PERIPHERAL):
            ours, slash, rest = value.removeprefix(_PERIPHERAL).partition("/")
            name = self._theirs.get((Kind.DEVICE, ours))
            return value if name is None else f"{name.theirs}{slash}{rest}"
        kind = _IDS.get((command, key)) or _KEYS.get(key)
        if kind is None or _MAKES.get(command) == (kind, key):
            return value
        name = self._theirs.get((kind, value))
        return value if name is None else name.theirs

    def inward(self, value: Json, command: str = "", key: str = "") -> Json:
        """Return an answer or an event's data in our names."""
        if not self._theirs:
            return value
        if isinstance(value, dict):
            return {name: self.inward(item, command, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.inward(item, command, key) for item in value]
        if not isinstance(value, str):
            return value
        if value.startswith("/machine/"):
            return self._path(value)
        kind = _IDS.get((command, key)) or _KEYS.get(key)
        name = None if kind is None else self._ours.get((kind, value))
        return value if name is None else name.ours

    def _path(self, path: str) -> str:
        """Return the path a device without id would have under our name."""
        end = len(path)
        while end > 0:
            name = self._ours.get((Kind.DEVICE, path[:end]))
            if name is not None:
                return f"{_PERIPHERAL}{name.ours}{path[end:]}"
            end = path.rfind("/", 0, end)
        return path

    def event(self, name: str, data: JsonObject) -> JsonObject:
        """Return an event's data in our names; a device told of by its path only gets its name, too."""
        found = self.inward(data)
        if not isinstance(found, dict):
            return data
        path = found.get("path")
        if name.startswith("DEVICE_") and "device" not in found and isinstance(path, str):
            device, slash, _ = path.removeprefix(_PERIPHERAL).partition("/")
            if path.startswith(_PERIPHERAL) and not slash and (Kind.DEVICE, device) in self._theirs:
                return {**found, "device": device}
        return found
