"""Hypothesis strategies for values of the protocol tables' types."""

from typing import Any

from hypothesis import strategies as st

from qvirt.rpc.types import Chars, Fields, Items, Maybe, Number, Opaque, Text, Type, Union

_RANGES = {"i": (-(2**31), 2**31 - 1), "I": (0, 2**32 - 1), "q": (-(2**63), 2**63 - 1), "Q": (0, 2**64 - 1)}
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_RAW = st.binary(max_size=8).map(lambda raw: raw.replace(b"\0", b"\xff").decode("utf-8", "surrogateescape"))


def values(type_: Type) -> st.SearchStrategy[Any]:
    """Give values that must survive encoding and decoding."""
    match type_:
        case Number(format="d"):
            return st.floats(allow_nan=False)
        case Number():
            low, high = _RANGES[type_.format]
            if type_.narrow:
                low, high = (-128, 127) if type_.signed else (0, (1 << type_.narrow) - 1)
            return st.integers(low, high)
        case Text(most):
            return (_TEXT | _RAW).filter(lambda text: len(text.encode("utf-8", "surrogateescape")) <= most)
        case Opaque(most, fixed) | Chars(most, fixed):
            return st.binary(min_size=most if fixed else 0, max_size=most if fixed else min(most, 9))
        case Items(item, most, fixed):
            return st.lists(
                values(item), min_size=most if fixed else 0, max_size=most if fixed else min(most, 3)
            )
        case Maybe(item):
            return st.none() | values(item)
        case Fields():
            return st.tuples(*(values(field) for _, field in type_.fields))
        case Union():
            return st.one_of(*(st.tuples(st.just(kind), values(arm)) for kind, arm in type_.arms))
