"""Clients' regular expressions for the names of QEMU's events: those that take no time to match.

They are matched on the event loop, and Python's `re` tries every way a text can be divided: ``(A+)*#`` takes
minutes for thirty letters. So an expression has a price, an upper bound of the ways it can be tried, and one
that costs too much is refused.
"""

import re
from typing import Final

from qvirt.errors import InvalidArg
from qvirt.record import Record

NAME_MAX: Final = 64
"""Letters of a name at most; a longer one is no event of QEMU's and is matched by nothing."""
PRICE_MAX: Final = NAME_MAX**3
"""Ways in which an expression may be tried from one place: three repetitions beside each other."""
_LENGTH_MAX: Final = 1024


class Pattern(Record):
    """An expression. price: in how many ways it can be tried from one place of a name; 0 for a plain name."""

    expression: re.Pattern[str]
    price: int

    def fits(self, name: str) -> bool:
        """Tell whether a name has it anywhere."""
        return len(name) <= NAME_MAX and self.expression.search(name) is not None


def pattern(text: str, *, is_regex: bool, ignores_case: bool) -> Pattern:
    """Compile what a client asked for; raises InvalidArg for what is no expression, or costs too much."""
    shown = text[:_LENGTH_MAX]
    if len(text) > _LENGTH_MAX:
        raise InvalidArg(f"failed to compile regex '{shown}': it has more than {_LENGTH_MAX} letters")
    flags = re.IGNORECASE if ignores_case else 0
    if not is_regex:
        return Pattern(re.compile(f"{re.escape(text)}\\Z" if text else "(?!)", flags), 0)
    try:
        expression = re.compile(text, flags)
        price = _price(text)
        if price > PRICE_MAX:
            raise InvalidArg(
                f"failed to compile regex '{shown}': it may take too long to match: repeat no group that "
                "holds repetitions or alternatives, and have three repetitions at the most"
            )
        return Pattern(expression, price)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidArg(f"failed to compile regex '{shown}': {error}") from error


#: what an expression is made of: escapes, sets, flags, groups' beginnings, repetitions, single letters
_TOKEN: Final = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[aiLmsu]+\)"
    r"|\((?:\?(?:[:=!>]|<[=!]|P<\w+>|[aiLmsu]*(?:-[ims]+)?:))?"
    r"|(?:[*+?]|\{(?!\})(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\})[?+]?|.",
    re.DOTALL,
)
_TOO_MUCH: Final = PRICE_MAX + 1


class _Group(Record, frozen=False):
    """A group being read. others: the price of its other alternatives; last: that of its last part."""

    others: int = 0
    price: int = 1
    last: int = 1

    def add(self, price: int) -> None:
        """Take the next part in."""
        self.last = price
        self.price *= price


def _price(text: str) -> int:
    """Return in how many ways an expression that compiles can be tried; _TOO_MUCH for too many."""
    groups = [_Group()]
    for token in _TOKEN.finditer(text):
        word, group = token[0], groups[-1]
        if word.startswith("(") and not word.endswith(")"):
            if text.startswith("(?", token.start()) and word == "(":
                return _TOO_MUCH  # what nobody needs, such as a condition or a change of how the rest is read
            groups.append(_Group())
        elif word == ")":
            groups.pop()
            groups[-1].add(group.others + group.price)
        elif word == "|":
            group.others, group.price, group.last = group.others + group.price, 1, 1
        elif word[0] in "*+?" or token["comma"] is not None:
            most = token["most"] if token["comma"] else token["least"]
            once, group.price = group.last, group.price // group.last
            if word[0] == "?" or (word[0] == "{" and most in ("0", "1")):
                group.add(1 + once)
            else:
                # what can be tried in two ways once can be in 2^n ways
                group.add(NAME_MAX if once == 1 else _TOO_MUCH)
        else:
            group.add(1)
    return min(groups[0].others + groups[0].price, _TOO_MUCH)
