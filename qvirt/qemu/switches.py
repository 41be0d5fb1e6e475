"""Records: one per QEMU command-line switch, kept as data until the last moment.

A record renders to argv at boot, to a QMP command when the domain is live, and knows the XML node it came
from, so every argument can be traced to its line.
"""

import json
from collections.abc import Mapping
from typing import ClassVar

from qvirt.errors import ConfigUnsupported
from qvirt.qemu.chardev_backend import to_backend
from qvirt.qemu.keyval import JsonValue, format_keyval, format_pairs
from qvirt.record import Record, field
from qvirt.xml.node import Node

Props = Mapping[str, JsonValue]
_COMPACT = json.JSONEncoder(separators=(",", ":"))
# JSONEncoder makes the C encoder anew for each call
_C_ENCODER = json.encoder.c_make_encoder and json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


def _encode(props: Props) -> str:
    return "".join(_C_ENCODER(props, 0)) if _C_ENCODER else _COMPACT.encode(props)


def drop_none(props: Props) -> dict[str, JsonValue]:
    """Leave out, at every depth, what has no value."""
    return {
        key: drop_none(value) if value.__class__ is dict else value  # type: ignore[arg-type]
        for key, value in props.items()
        if value is not None
    }


#: the commands that make what only QEMU knows of
_BACKEND_COMMANDS = frozenset(
    {"getfd", "add-fd", "object-add", "blockdev-add", "netdev_add", "chardev-add", "audiodev-add"}
)


class Step(Record):
    """One command to a running QEMU, and the one that takes its effect back.

    undo: None for what leaves nothing behind, or goes with the device it belongs to. fds: sent along.
    tray: the alias of a drive whose tray has to be open before the next step; the guest may take its time.
    reopen: opens the tray that this, or its undoing, needs open and that the guest may have closed meanwhile.
    """

    command: str
    arguments: dict[str, JsonValue]
    undo: tuple[str, dict[str, JsonValue]] | None = None
    fds: tuple[int, ...] = ()
    tray: str | None = None
    reopen: tuple[str, dict[str, JsonValue]] | None = None

    @property
    def device(self) -> str | None:
        """The id of the frontend this plugs, which the guest has to let go of again; None for the rest."""
        return str(self.undo[1]["id"]) if self.undo is not None and self.undo[0] == "device_del" else None

    @property
    def is_backend(self) -> bool:
        """Tell whether this makes what the guest does not see."""
        return self.command in _BACKEND_COMMANDS


class Switch(Record, frozen=False):
    """Base: the switch's name without the dash, and the XML node it was made for."""

    option: ClassVar[str] = ""
    origin: Node | None = field(default=None, kw_only=True, compare=False, repr=False)

    def to_step(self) -> Step:
        """Return the command that adds the same thing to a running QEMU. Raises ConfigUnsupported."""
        raise ConfigUnsupported(f"{self.source()} cannot be brought into a guest that runs")

    def to_argv(self) -> list[str]:
        """Return the command-line words."""
        raise NotImplementedError

    def source(self) -> str:
        """Return where this comes from: the element's name and line."""
        if self.origin is None:
            return "the machine"
        return f"<{self.origin.tag}>" + (f" (line {self.origin.line})" if self.origin.line else "")


class Option(Switch, frozen=False):
    """A switch with a plain word, or with none: ``-S``, ``-uuid X``."""

    name: str
    value: str | None = None

    def to_argv(self) -> list[str]:
        return [f"-{self.name}"] if self.value is None else [f"-{self.name}", self.value]


class KeyValue(Switch, frozen=False):
    """A switch whose properties are written ``key=value``; the first key may be implied."""

    name: str
    props: Props
    implied: str | None = None

    def to_argv(self) -> list[str]:
        return [f"-{self.name}", format_keyval(self.props, self.implied)]


class Pairs(Switch, frozen=False):
    """A switch written ``key=value`` of which some keys are given more than once: ``-spice``."""

    name: str
    props: list[tuple[str, JsonValue]]
    implied: str | None = None

    def to_argv(self) -> list[str]:
        return [f"-{self.name}", format_pairs(self.props, self.implied)]


class Json(Switch, frozen=False):
    """A switch whose properties are written as JSON, which is also what QMP takes."""

    #: the command that takes it away again, and what that calls the thing by, which is the name it has here
    removal: ClassVar[tuple[str, str] | None] = None
    props: Props

    def to_argv(self) -> list[str]:
        return [f"-{self.option}", _encode(drop_none(self.props))]

    def to_qmp(self) -> tuple[str, dict[str, JsonValue]]:
        """Return the QMP command and arguments that add the same thing to a running QEMU."""
        raise NotImplementedError

    def to_step(self) -> Step:
        command, arguments = self.to_qmp()
        if self.removal is None:
            return Step(command, arguments)
        remove, name = self.removal
        return Step(command, arguments, (remove, {name: arguments[name]}))


class Device(Json, frozen=False):
    """``-device`` / ``device_add``: a frontend."""

    option: ClassVar[str] = "device"
    removal: ClassVar[tuple[str, str] | None] = ("device_del", "id")

    def to_qmp(self) -> tuple[str, dict[str, JsonValue]]:
        return "device_add", drop_none(self.props)


class Blockdev(Json, frozen=False):
    """``-blockdev`` / ``blockdev-add``: a block node. explicit_null: keys whose None is said, as null."""

    option: ClassVar[str] = "blockdev"
    removal: ClassVar[tuple[str, str] | None] = ("blockdev-del", "node-name")
    explicit_null: frozenset[str] = frozenset()

    def _said(self) -> dict[str, JsonValue]:
        said = drop_none(self.props)
        return said | dict.fromkeys(self.explicit_null) if self.explicit_null else said

    def to_argv(self) -> list[str]:
        return ["-blockdev", _encode(self._said())]

    def to_qmp(self) -> tuple[str, dict[str, JsonValue]]:
        return "blockdev-add", self._said()


class Netdev(Json, frozen=False):
    """``-netdev`` / ``netdev_add``: a network backend."""

    option: ClassVar[str] = "netdev"
    removal: ClassVar[tuple[str, str] | None] = ("netdev_del", "id")

    def to_qmp(self) -> tuple[str, dict[str, JsonValue]]:
        return "netdev_add", drop_none(self.props)


class Object(Json, frozen=False):
    """``-object`` / ``object-add``."""

    option: ClassVar[str] = "object"
    removal: ClassVar[tuple[str, str] | None] = ("object-del", "id")

    def to_qmp(self) -> tuple[str, dict[str, JsonValue]]:
        return "object-add", drop_none(self.props)


class Audiodev(Json, frozen=False):
    """``-audiodev``: an audio backend; QEMU cannot add one while it runs before 8.0."""

    option: ClassVar[str] = "audiodev"

    def to_qmp(self) -> tuple[str, dict[str, JsonValue]]:
        return "audiodev-add", drop_none(self.props)


class Chardev(Switch, frozen=False):
    """``-chardev`` / ``chardev-add``: a character backend, in the command line's words."""

    option: ClassVar[str] = "chardev"
    backend: str
    props: Props

    def to_argv(self) -> list[str]:
        return ["-chardev", format_keyval({"backend": self.backend, **self.props}, "backend")]

    def to_qmp(self) -> tuple[str, dict[str, JsonValue]]:
        """Return the QMP command and arguments that add the same backend to a running QEMU."""
        return "chardev-add", {"id": self.props["id"], "backend": to_backend(self.backend, self.props)}

    def to_step(self) -> Step:
        return Step(*self.to_qmp(), undo=("chardev-remove", {"id": self.props["id"]}))


class AddFd(Switch, frozen=False):
    """``-add-fd`` / ``add-fd``: a descriptor in a set, which QEMU opens as a file of the set's number.

    path: of the file it is of, by which the set is found again.
    """

    option: ClassVar[str] = "add-fd"
    set: int
    fd: int
    path: str

    def to_argv(self) -> list[str]:
        return ["-add-fd", f"set={self.set},fd={self.fd},opaque={self.path}"]

    def to_step(self) -> Step:
        number: dict[str, JsonValue] = {"fdset-id": self.set}
        return Step("add-fd", {**number, "opaque": self.path}, ("remove-fd", number), fds=(self.fd,))


class CommandLine(Record, frozen=False):
    """A whole QEMU command line: the emulator, its switches in order, its environment."""

    emulator: str
    switches: list[Switch]
    env: dict[str, str] = field(default_factory=dict)

    def argv(self) -> list[str]:
        """Return the words to execute, the emulator first."""
        words = [self.emulator]
        for switch in self.switches:
            words.extend(switch.to_argv())
        return words

    def explain(self) -> list[tuple[list[str], str]]:
        """Return each switch's words with the element and line they come from."""
        return [(switch.to_argv(), switch.source()) for switch in self.switches]
