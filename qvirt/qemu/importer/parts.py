"""The parts a command line is made of, whatever it was spelled like: devices and what is behind them."""

from collections.abc import Iterable, Iterator, Mapping

from qvirt.errors import InvalidArg
from qvirt.qemu.importer.options import Argument
from qvirt.qemu.keyval import JsonValue
from qvirt.record import Record, field

Props = dict[str, JsonValue]

_OBJECTS = ("object",)
_BLOCK = ("drive", "blockdev")
_DEVICES = ("device",)
#: keys by which one part names another, and of which kinds the other may be
REFERENCES: dict[str, tuple[str, ...]] = {
    "drive": _BLOCK, "file": ("blockdev",), "backing": ("blockdev",), "pflash0": ("blockdev",),
    "pflash1": ("blockdev",), "data-file": ("blockdev",), "netdev": ("netdev",), "chardev": ("chardev",),
    "fsdev": ("fsdev",), "audiodev": ("audiodev",), "tpmdev": ("tpmdev",), "bus": _DEVICES,
    "masterbus": _DEVICES, "bmc": _DEVICES, "subsys": _DEVICES, "in": _OBJECTS,
    **dict.fromkeys(
        ("memdev", "iothread", "rng", "cryptodev", "secret", "tls-creds", "key-secret", "password-secret",
         "throttle-group", "throttling.group", "memory-backend", "confidential-guest-support", "hostmem",
         "keyid", "persistent-memdev", "volatile-memdev", "lsa", "masterkey"),
        _OBJECTS,
    ),
}  # fmt: skip


#: properties that are on, off or auto: words, where JSON has other switches as booleans
ON_OFF_AUTO = frozenset(
    {
        "disable-legacy", "write-cache", "backend_defaults", "backend-defaults", "account-invalid",
        "account-failed", "msi", "msix", "seqpacket", "x-pre-copy-dirty-page-tracking",
        "display",
        "unplugged-inaccessible", "intremap", "eim",
    }
)  # fmt: skip
#: properties that are text, even where it looks like a number
_TEXTS = frozenset(
    {
        "driver", "id", "bus", "addr", "drive", "netdev", "chardev", "name", "serial", "mac", "romfile",
        "port",
        "host", "hostport", "hostdevice", "sysfsdev", "filter", "mount_tag", "tag", "device_id", "product",
        "vendor", "ver", "wwpn", "masterbus", "memdev", "iothread", "rng", "fsdev", "audiodev", "tpmdev",
        "bmc",
        "nqn", "subsys", "uuid", "guid", "file", "data-string", "osk", "unique_id",
    }
)  # fmt: skip


def typed(key: str, value: JsonValue) -> JsonValue:
    """Return a command line's word for a property as JSON has it."""
    if not isinstance(value, str) or key in _TEXTS or key in ON_OFF_AUTO:
        return value
    if value in ("on", "off"):
        return value == "on"
    try:
        return int(value, 0)
    except ValueError:
        return value


class Unfit(Exception):
    """A part that has no XML; the text says why."""


class Part(Record, frozen=False):
    """One device, backend or object.

    kind: the switch that makes it in the modern way. given: the arguments it comes from; none for what QEMU
    adds by itself. json: it was written as JSON. settled: what became of it, "" while nothing has.
    """

    kind: str
    props: Props
    given: tuple[Argument, ...] = ()
    json: bool = False
    settled: str = ""

    @property
    def id(self) -> str | None:
        """The name others call it by."""
        name = self.props.get("node-name" if self.kind == "blockdev" else "id")
        return name if isinstance(name, str) else None

    @property
    def key(self) -> str:
        """What tells the part from others of the same command line."""
        place = "+".join(str(argument.number) for argument in self.given)
        return f"{self.kind}:{self.driver}:{self.id}:{place}:{self.props.get('unit', '')}"

    @property
    def driver(self) -> str:
        """A device's type."""
        return str(self.props.get("driver") or "")

    def text(self, key: str) -> str | None:
        """Return a property as text; None when it is not said."""
        value = self.props.get(key)
        if value is None or isinstance(value, (dict, list)):
            return None
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(value)

    def flag(self, key: str) -> bool | None:
        """Return a property that is on or off."""
        return switch(self.props.get(key))

    def number(self, key: str) -> int | None:
        """Return a property that is a number. Raises InvalidArg."""
        value = self.props.get(key)
        return None if value is None else integer(value, key)


class Parts(Record, frozen=False):
    """All parts, by kind in their order; found: the first of each kind and name."""

    listed: dict[str, list[Part]] = field(default_factory=dict)
    found: dict[str, dict[str, Part]] = field(default_factory=dict)

    def add(self, part: Part) -> Part:
        """Add a part at the end of its kind. Its name stays."""
        self.listed.setdefault(part.kind, []).append(part)
        if part.id is not None:
            self.found.setdefault(part.kind, {}).setdefault(part.id, part)
        return part

    def of(self, kind: str) -> list[Part]:
        """Return the parts of a kind."""
        return self.listed.get(kind, [])

    def find(self, kind: str, id: JsonValue) -> Part | None:
        """Return the part of a kind that has a name."""
        return self.found.get(kind, {}).get(id) if isinstance(id, str) else None

    def named(self, key: str, value: JsonValue) -> Part | None:
        """Return the part that a property names; None for a property that names nothing."""
        if not isinstance(value, str):
            return None
        for kind in REFERENCES.get(key.rpartition(".")[2], ()):
            found = self.find(kind, value.rpartition(".")[0] if kind == "device" and "." in value else value)
            if found is not None:
                return found
            if kind == "device":
                found = self.find(kind, value)
                if found is not None:
                    return found
        return None

    def all(self) -> Iterator[Part]:
        """Yield every part, kind by kind."""
        for parts in self.listed.values():
            yield from parts


def switch(value: JsonValue) -> bool | None:
    """Return what a word for on or off means; None for any other."""
    if isinstance(value, bool) or value is None:
        return value
    return {
        "on": True,
        "yes": True,
        "true": True,
        "y": True,
        "off": False,
        "no": False,
        "false": False,
        "n": False,
    }.get(str(value))


#: more CPUs than any machine of any emulator has
MOST_CPUS = 1 << 16


def integer(value: JsonValue, what: str) -> int:
    """Read a number in any base. Raises InvalidArg."""
    if isinstance(value, bool) or value is None or isinstance(value, (dict, list, float)):
        raise InvalidArg(f"{what}={value}: expected a number")
    if isinstance(value, int):
        return value
    try:
        return int(value, 0)
    except ValueError:
        if value.isdigit():
            return int(value)
        raise InvalidArg(f"{what}={value}: expected a number") from None


_SUFFIXES = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


def size(value: JsonValue, what: str, default: str = "m") -> int:
    """Read a size in bytes; ``default`` is the unit of a bare number. Raises InvalidArg."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value << _SUFFIXES[default]
    text = str(value).strip().lower()
    bare = text[:-1] if text[-1:] in _SUFFIXES and not text.startswith("0x") else text
    unit = text[-1] if bare != text else default
    try:
        number = float(bare) if "." in bare else int(bare, 16 if bare.startswith("0x") else 10)
    except ValueError:
        raise InvalidArg(f"{what}={value}: expected a size, such as 512M or 4G") from None
    return int(number * (1 << _SUFFIXES[unit]))


def without(props: Mapping[str, JsonValue], keys: Iterable[str]) -> Props:
    """Return the properties but some."""
    left = set(keys)
    return {key: value for key, value in props.items() if key not in left}
