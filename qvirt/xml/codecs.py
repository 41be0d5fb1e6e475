"""Codecs: the text of an attribute or element <-> a Python value.

A codec's ``parse`` raises ValueError for text it does not take; the field that holds it adds what and where.
"""

import re
import uuid as _uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar, cast

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class Codec(Generic[T]):
    """How one kind of value is spelled.

    expects: what a person may write, for error messages ("'on' or 'off'").
    sentence: libvirt's own words after "Invalid value …", for clients that match them.
    """

    __slots__ = ("expects", "format", "parse", "sentence")

    def __init__(
        self, parse: Callable[[str], T], format: Callable[[T], str], expects: str, sentence: str = ""
    ) -> None:
        self.parse = parse
        self.format = format
        self.expects = expects
        self.sentence = sentence


class Unfit(ValueError):
    """Text that is not taken, where libvirt's sentence depends on the text."""

    def __init__(self, text: str, sentence: str) -> None:
        super().__init__(text)
        self.sentence = sentence


_DECIMAL = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")


def _bounded(low: int, high: int, name: str) -> Codec[int]:
    def parse(text: str) -> int:
        stripped = text.strip()
        if not _DECIMAL.fullmatch(stripped):
            raise ValueError(text)
        value = int(stripped)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Codec(
        parse, str, name, " Expected non-negative integer value" if low >= 0 else " Expected integer value"
    )


def at_most(high: int) -> Codec[int]:
    """A number from 0 to a limit."""
    return _bounded(0, high, f"a number from 0 to {high}")


def _hexadecimal(width: int, high: int) -> Codec[int]:
    def parse(text: str) -> int:
        stripped = text.strip()
        if not _NUMBER.fullmatch(stripped):
            raise ValueError(text)
        value = int(stripped, 16 if stripped[:2] in ("0x", "0X") else 10)
        if not 0 <= value <= high:
            raise ValueError(text)
        return value

    return Codec(
        parse,
        f"0x{{:0{width}x}}".format,
        f"a number from 0 to {high:#x}",
        " Expected non-negative integer value",
    )


def _natural(number: re.Pattern[str], format: Callable[[int], str]) -> Codec[int]:
    # libvirt reads these as signed numbers first
    def parse(text: str) -> int:
        stripped = text.strip()
        if not number.fullmatch(stripped):
            raise Unfit(text, " Expected integer value")
        value = int(stripped, 16 if "x" in stripped.lower() else 10)
        if not -(2**31) <= value < 2**31:
            raise Unfit(text, " Expected integer value")
        if value < 0:
            raise Unfit(text, " Expected non-negative value")
        return value

    return Codec(parse, format, "a non-negative integer")


def _choice(mapping: dict[str, bool]) -> Codec[bool]:
    spelled = {value: text for text, value in mapping.items()}

    def parse(text: str) -> bool:
        try:
            return mapping[text]
        except KeyError:
            raise ValueError(text) from None

    return Codec(parse, spelled.__getitem__, " or ".join(f"'{text}'" for text in mapping))


def _same(text: str) -> str:
    return text


string: Codec[str] = Codec(_same, _same, "text")
uint: Codec[int] = _bounded(0, 2**32 - 1, "a non-negative integer")
positive: Codec[int] = _bounded(1, 2**32 - 1, "a positive integer")
ulong: Codec[int] = _bounded(0, 2**64 - 1, "a non-negative integer")
integer: Codec[int] = _bounded(-(2**31), 2**31 - 1, "an integer")
long: Codec[int] = _bounded(-(2**63), 2**63 - 1, "an integer")
natural: Codec[int] = _natural(_DECIMAL, str)
any_natural: Codec[int] = _natural(_NUMBER, str)  # hexadecimal is read, too
hex_natural: Codec[int] = _natural(_NUMBER, hex)
on_off: Codec[bool] = _choice({"on": True, "off": False})
yes_no: Codec[bool] = _choice({"yes": True, "no": False})
hex2: Codec[int] = _hexadecimal(2, 0xFF)
hex4: Codec[int] = _hexadecimal(4, 0xFFFF)
hex1: Codec[int] = _hexadecimal(1, 0xF)
hex8: Codec[int] = _hexadecimal(8, 0xFFFFFFFF)
hexnum: Codec[int] = _hexadecimal(1, 2**64 - 1)


def one_of(enum: type[E], *, but: E | None = None) -> Codec[E]:
    """A closed set of words; ``but``: a member that no document may spell."""
    members = {member.value: member for member in enum if member is not but}

    def parse(text: str) -> E:
        try:
            return members[text]
        except KeyError:
            raise ValueError(text) from None

    return Codec(parse, str, "one of " + ", ".join(f"'{word}'" for word in members))


def words(*allowed: str) -> Codec[str]:
    """A closed set of words that nobody branches on by name often enough to want an enumeration."""
    members = frozenset(allowed)

    def parse(text: str) -> str:
        if text not in members:
            raise ValueError(text)
        return text

    return Codec(parse, _same, "one of " + ", ".join(f"'{word}'" for word in allowed))


def if_said(codec: Codec[T]) -> Codec[T | None]:
    """The same spelling, where an empty text says nothing, as for what libvirt asks of XPath."""
    return Codec(
        lambda text: codec.parse(text) if text else None,
        cast("Callable[[T | None], str]", codec.format),
        codec.expects,
        codec.sentence,
    )


def refusing(codec: Codec[T], error: Callable[[str], Exception]) -> Codec[T]:
    """The same spelling, with an error of its own for text that is not taken."""

    def parse(text: str) -> T:
        try:
            return codec.parse(text)
        except ValueError:
            raise error(text) from None

    return Codec(parse, codec.format, codec.expects)


def word(*choices: str) -> Codec[str]:
    """A closed set of words that nothing branches on, kept as they are spelled."""
    known = {choice: choice for choice in choices}

    def parse(text: str) -> str:
        try:
            return known[text]
        except KeyError:
            raise ValueError(text) from None

    return Codec(parse, _same, "one of " + ", ".join(f"'{choice}'" for choice in choices))


def _parse_uuid(text: str) -> str:
    # libvirt's rule: 32 hexadecimal digits, dashes and white space anywhere between and around them
    digits = "".join(text.split()).replace("-", "")
    if len(digits) != 32 or not re.fullmatch(r"[0-9a-fA-F]{32}", digits):
        raise ValueError(text)
    return str(_uuid.UUID(digits))


def _parse_mac(text: str) -> str:
    parts = text.split(":")
    if len(parts) != 6 or not all(re.fullmatch(r"[0-9a-fA-F]{1,2}", part) for part in parts):
        raise ValueError(text)
    return ":".join(part.lower().zfill(2) for part in parts)


uuid: Codec[str] = Codec(_parse_uuid, _same, "a UUID such as c7a5fdbd-cdaf-9455-926a-d65c16db1809")
mac: Codec[str] = Codec(_parse_mac, _same, "a MAC address such as 52:54:00:12:34:56")


#: CPUs that are sooner found one by one
_FEW = 16


def parse_cpuset(text: str) -> frozenset[int]:
    """Read libvirt's CPU list: numbers, ranges and ``^N`` exclusions, comma separated."""
    chosen = 0  # a bit for each CPU: ranges that are named again and again cost nothing
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\^?)([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if match is None or (match[1] and match[3]):
            raise ValueError(text)
        low = int(match[2])
        high = int(match[3]) if match[3] else low
        if high < low or high > 16384:
            raise ValueError(text)
        bits = ((1 << (high - low + 1)) - 1) << low
        chosen = chosen & ~bits if match[1] else chosen | bits
    if chosen.bit_count() > _FEW:
        return frozenset(cpu for cpu, bit in enumerate(reversed(f"{chosen:b}")) if bit == "1")
    found = []
    while chosen:
        found.append(chosen.bit_length() - 1)
        chosen ^= 1 << found[-1]
    return frozenset(found)


def format_cpuset(cpus: frozenset[int]) -> str:
    """Write a set of CPUs as the shortest list of ranges."""
    parts: list[str] = []
    ordered = sorted(cpus)
    start = 0
    for i, cpu in enumerate(ordered):
        if i + 1 < len(ordered) and ordered[i + 1] == cpu + 1:
            continue
        first = ordered[start]
        parts.append(str(first) if first == cpu else f"{first}-{cpu}")
        start = i + 1
    return ",".join(parts)


cpuset: Codec[frozenset[int]] = Codec(parse_cpuset, format_cpuset, "a CPU list such as 0-3,^2,8")
