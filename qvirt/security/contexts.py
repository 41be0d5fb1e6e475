"""SELinux contexts as text: ``user:role:type:range``, and the categories of a range. Pure.

A range is ``s0``, ``s0:c1,c5``, or a low and a high end, ``s0-s0:c0.c1023``; ``c0.c1023`` are all categories
between two, ends included.
"""

import re
from collections.abc import Iterable

from qvirt.record import Record, replace

_PART = re.compile(r"[A-Za-z0-9_.-]+")
_SENSITIVITY = re.compile(r"s\d+")
_CATEGORIES = re.compile(r"c(\d+)(?:\.c(\d+))?")

#: categories a policy with multiple categories has where nothing says otherwise, and the length of a pair
LAST_CATEGORY = 1023


class Context(Record):
    """One context. range: '' where the policy has none."""

    user: str
    role: str
    type: str
    range: str = ""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.user, self.role, self.type, self.range)))

    def at(self, range: str) -> "Context":
        """Return the same with another range."""
        return replace(self, range=range)

    @property
    def pair(self) -> frozenset[int]:
        """The categories of the range's high end; none where it has none or they cannot be read."""
        try:
            return frozenset(number for number in categories(self.high))
        except ValueError:
            return frozenset()

    @property
    def low(self) -> str:
        """The low end of the range."""
        return self.range.partition("-")[0]

    @property
    def high(self) -> str:
        """The high end of the range, which is the low one where there is no other."""
        low, dash, high = self.range.partition("-")
        return high if dash else low


def parse(text: str) -> Context:
    """Read a context. Raises ValueError for what is none."""
    user, _, rest = text.rstrip("\0\n").partition(":")
    role, _, rest = rest.partition(":")
    kind, _, range = rest.partition(":")
    if not all(map(_PART.fullmatch, (user, role, kind))):
        raise ValueError(f"'{text}' is no SELinux context: USER:ROLE:TYPE[:RANGE] is wanted")
    if range:
        for end in range.split("-", 1):
            categories(end)
    return Context(user, role, kind, range)


def sensitivity(level: str) -> str:
    """Return the sensitivity of a level, such as ``s0``."""
    return level.partition(":")[0]


def categories(level: str) -> list[int]:
    """Return the categories of a level, in its order. Raises ValueError for what is no level."""
    sense, colon, text = level.partition(":")
    if not _SENSITIVITY.fullmatch(sense) or (colon and not text):
        raise ValueError(f"'{level}' is no level of an SELinux range")
    found: list[int] = []
    for part in text.split(",") if text else ():
        match = _CATEGORIES.fullmatch(part)
        if match is None:
            raise ValueError(f"'{part}' in '{level}' is neither a category nor a span of them")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"'{part}' in '{level}' ends before it begins")
        found.extend(range(first, last + 1))
    return found


def level(sense: str, numbers: Iterable[int]) -> str:
    """Write a level; categories in ascending order, one by one."""
    text = ",".join(f"c{number}" for number in sorted(numbers))
    return f"{sense}:{text}" if text else sense
