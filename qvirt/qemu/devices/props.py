"""Prop: one line says which QEMU property an XML field is, for building a device and for reading one back.

A kind lists its plain attributes in a table; only the odd ones are code:

    PROPS = PropTable(
        Disk,
        Prop("num-queues", "driver.queues"),
        Prop("share-rw", "shareable", when=says),
        Prop("werror", "driver.error_policy", WERROR),
    )
    props |= PROPS.render(disk, ctx)

Every path is looked up in the Node classes when the table is made, so a wrong one fails at import.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar

from qvirt.qemu.context import Context
from qvirt.qemu.keyval import JsonValue
from qvirt.record import Record
from qvirt.xml import fields as f
from qvirt.xml.codecs import integer, on_off, positive, uint, ulong, yes_no
from qvirt.xml.node import Node

N = TypeVar("N", bound=Node)


class Conversion(Record):
    """How a value of the model is said to QEMU, and how it is read back."""

    to_qemu: Callable[[Any], JsonValue]
    from_qemu: Callable[[Any], Any]


def _word(value: Any) -> JsonValue:
    return str(value) if isinstance(value, StrEnum) else value


#: the same value; a flag that is off says nothing
PLAIN = Conversion(_word, lambda value: value)
#: QEMU's OnOffAuto and other places where libvirt writes the word, not the boolean
ON_OFF = Conversion(lambda value: "on" if value else "off", lambda value: value in (True, "on"))


def mapped(to_qemu: Mapping[str, JsonValue]) -> Conversion:
    """Say a word by QEMU's word for it; a word that is not in the table is left out."""
    back = {value: word for word, value in to_qemu.items() if not isinstance(value, (dict, list))}
    return Conversion(to_qemu.get, back.get)


Condition = Callable[[Any, Context], bool]


class Prop(Record):
    """One property.

    name: QEMU's. path: from the node the table is for, Python names joined by dots.
    when: asked with the node and the context; False leaves the property out.
    """

    name: str
    path: str
    conversion: Conversion = PLAIN
    when: Condition | None = None

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the path."""
        return tuple(self.path.split("."))


def has(type: str, property: str) -> Condition:
    """Require that this QEMU's device type has the property."""
    return lambda node, ctx: ctx.caps.device_has(type, property)


class PropTable(Generic[N]):
    """The plain attributes of one Node class, in the order they are given to QEMU."""

    __slots__ = ("_ways", "cls", "props")

    def __init__(self, cls: type[N], *props: Prop) -> None:
        self.cls = cls
        self.props = props
        self._ways = tuple(_way(cls, prop) for prop in props)

    def render(self, node: N, ctx: Context) -> dict[str, JsonValue]:
        """Return the properties that the node says something about."""
        made: dict[str, JsonValue] = {}
        held = node.__dict__
        for name, first, below, silent, flag, when, to_qemu in self._ways:
            value: Any = held.get(first, silent)
            for step in below:
                if value is None:
                    break
                value = getattr(value, step)
            if value is None or (flag and value is False):
                continue
            if when is not None and not when(node, ctx):
                continue
            said = to_qemu(value)
            if said is not None:
                made[name] = said
        return made

    def read(self, node: N, props: dict[str, Any]) -> None:
        """Set the fields the properties stand for, and take those out of ``props``.

        Values are as in JSON, or words of a command line. Raises ValueError for one that cannot be read.
        """
        for prop in self.props:
            if prop.name not in props:
                continue
            said = props.pop(prop.name)
            if prop.conversion is PLAIN:
                value = _from_word(_resolve(self.cls, prop), said)
            else:
                value = prop.conversion.from_qemu(said)
            if value is None:
                continue
            owner: Node = node
            for step in prop.steps[:-1]:
                below = getattr(owner, step)
                if below is None:
                    below = _field(type(owner), step).target()
                    setattr(owner, step, below)
                owner = below
            setattr(owner, prop.steps[-1], value)


def _way(
    cls: type[Node], prop: Prop
) -> tuple[str, str, tuple[str, ...], object, bool, Condition | None, Callable[[Any], JsonValue]]:
    """Return a property laid out flat: name, first step, steps below it, what stands for a silent first step.

    And whether it is a flag, the condition and the conversion.
    """
    first, *below = prop.steps
    last = _resolve(cls, prop)
    silent = None if below else last.default()
    # a <flag/> is False when it is not there, which is not the same as being off
    flag = isinstance(last, f.Flag)
    return prop.name, first, tuple(below), silent, flag, prop.when, prop.conversion.to_qemu


_SWITCHES: Mapping[str, bool] = {
    "on": True,
    "off": False,
    "yes": True,
    "no": False,
    "true": True,
    "false": False,
}


def _from_word(field: f.Field, said: Any) -> Any:
    """Return a value of a field from the command line's word for it."""
    if isinstance(field, f.Flag):
        return _SWITCHES.get(said, False) if isinstance(said, str) else bool(said)
    codec = getattr(field, "codec", None)
    if not isinstance(said, str) or codec is None:
        return said
    if codec in (on_off, yes_no):
        return _SWITCHES.get(said)  # "auto" is what nobody says
    if codec in (uint, positive, integer, ulong):
        return int(said, 0)
    return codec.parse(said)


def _find(cls: type[Node], name: str) -> f.Field | None:
    return next((known for known in cls.fields if known.name == name), None)


def _field(cls: type[Node], name: str) -> f.Child:
    found = _find(cls, name)
    if not isinstance(found, f.Child) or isinstance(found, f.Children):
        raise TypeError(f"{cls.__name__}.{name} is not a child element")
    return found


def _resolve(cls: type[Node], prop: Prop) -> f.Field:
    owner = cls
    for step in prop.steps[:-1]:
        owner = _field(owner, step).target
    last = _find(owner, prop.steps[-1])
    if last is None or isinstance(last, f.Child):
        raise TypeError(f"property '{prop.name}': {cls.__name__} has no value at '{prop.path}'")
    return last
