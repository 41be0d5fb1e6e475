"""The type expressions of the protocol tables, parsed into nodes; how they are encoded is in `xdr`.

i32 u32 i64 u64 f64     big endian, 4 or 8 bytes
i8 u8 u16               one XDR integer of 4 bytes each
string<N> opaque<N>     length, bytes, padding to 4; at most N bytes
opaque[N]               N bytes and padding
T<N> T[N] T?            up to N items, exactly N items, none or one
name                    a typedef, enumeration (i32), structure or union
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from qvirt.record import Record

_SUFFIX = re.compile(r"(?P<base>.+?)(?:<(?P<most>\d+)>|\[(?P<count>\d+)\]|(?P<optional>\?))$")


class Number(Record):
    """An integer or float: its struct format character and the bits kept of a narrow one."""

    name: str
    format: str
    narrow: int = 0
    signed: bool = False


class Text(Record):
    """A UTF-8 string of at most `most` bytes."""

    most: int


class Opaque(Record):
    """Bytes: at most `most`, or exactly as many where `fixed`."""

    most: int
    fixed: bool


class Chars(Record):
    """An array of char: bytes to us, four bytes each on the wire."""

    most: int
    fixed: bool


class Items(Record):
    """A list: at most `most` items, or exactly as many where `fixed`."""

    item: "Type"
    most: int
    fixed: bool


class Maybe(Record):
    """None or one item."""

    item: "Type"


class Fields(Record):
    """A structure: fields in wire order."""

    name: str
    fields: tuple[tuple[str, "Type"], ...]


class Union(Record):
    """A discriminant and the arm it chooses."""

    name: str
    arms: tuple[tuple[int, "Type"], ...]


Type: TypeAlias = Number | Text | Opaque | Chars | Items | Maybe | Fields | Union

NUMBERS = {
    number.name: number
    for number in (
        Number("i32", "i"),
        Number("u32", "I"),
        Number("i64", "q"),
        Number("u64", "Q"),
        Number("f64", "d"),
        Number("i8", "i", 8, signed=True),
        Number("u8", "I", 8),
        Number("u16", "I", 16),
    )
}

FieldTable: TypeAlias = Sequence[tuple[str, str]] | Sequence[list[str]]


class Schema:
    """Names and what they stand for; `base` is asked for names not found here."""

    def __init__(
        self,
        structs: Mapping[str, FieldTable],
        typedefs: Mapping[str, str] | None = None,
        enums: Mapping[str, Mapping[str, int]] | None = None,
        unions: Mapping[str, Mapping[str, str]] | None = None,
        base: "Schema | None" = None,
    ) -> None:
        self.structs = structs
        self.typedefs = typedefs or {}
        self.enums = enums or {}
        self.unions = unions or {}
        self.base = base

    def struct(self, name: str) -> Fields:
        """Resolve the structure `name`; raises KeyError when no table has it."""
        if name not in self.structs and self.base:
            return self.base.struct(name)
        return Fields(name, tuple((field[0], self.parse(field[1])) for field in self.structs[name]))

    def parse(self, expression: str) -> Type:
        """Parse a type expression; raises KeyError for an unknown name."""
        match = _SUFFIX.fullmatch(expression)
        if match is None:
            return self._named(expression)
        base = match["base"]
        if match["optional"]:
            return Maybe(self.parse(base))
        fixed = match["count"] is not None
        most = int(match["count"] or match["most"])
        if base == "string":
            return Text(most)
        if base == "opaque":
            return Opaque(most, fixed)
        if base == "i8":
            return Chars(most, fixed)
        return Items(self.parse(base), most, fixed)

    def _named(self, name: str) -> Type:
        if name in NUMBERS:
            return NUMBERS[name]
        if name in self.typedefs:
            return self.parse(self.typedefs[name])
        if name in self.enums:
            return NUMBERS["i32"]
        if name in self.unions:
            return Union(
                name, tuple((int(arm), self.parse(type_)) for arm, type_ in self.unions[name].items())
            )
        if name in self.structs:
            return self.struct(name)
        if self.base:
            return self.base._named(name)
        raise KeyError(f"no table defines the type '{name}'")
