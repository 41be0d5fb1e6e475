"""Clients' regular expressions for the names of QEMU's events: those that take no time to match.

They are matched on the event loop, and Python's `re` tries every way a text can be divided: ``(A+)*#`` takes
minutes for thirty letters. So an expression has a price, an upper bound of the ways it can be tried, and one
that costs too much is refused.
"""

import re
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

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
        price = _price(_parser.parse(text, flags))
        if price > PRICE_MAX:
            raise InvalidArg(
                f"failed to compile regex '{shown}': it may take too long to match: repeat no group that "
                "holds repetitions or alternatives, and have three repetitions at the most"
            )
        return Pattern(re.compile(text, flags), price)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidArg(f"failed to compile regex '{shown}': {error}") from error


def _price(sequence: Any) -> int:
    """Return in how many ways a parsed expression can be tried, more than PRICE_MAX for too many."""
    price = 1
    for operation, argument in sequence:
        price *= _price_of(str(operation), argument)
        if price > PRICE_MAX:
            break
    return price


def _price_of(operation: str, argument: Any) -> int:
    if operation == "BRANCH":
        return sum(map(_price, argument[1]))
    if operation.endswith("_REPEAT"):
        _, most, inner = argument
        once = _price(inner)
        if int(most) <= 1:
            return 1 + once
        # what can be tried in two ways once can be in 2^n ways
        return NAME_MAX if once == 1 else PRICE_MAX + 1
    below = argument if isinstance(argument, tuple) else (argument,)
    price = 1
    for part in below:
        if isinstance(part, _parser.SubPattern):
            price *= _price(part)
    return price
