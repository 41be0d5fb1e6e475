"""The fuzzer's targets over packets and structures, with what it has found."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds

FOUND: dict[str, list[str]] = {
    # A length that is too large and comes byte by byte was looked at with the rest of the header only.
    "packets": ["AAAKZQo="],
    "structures": [],
    # A call that was answered with another procedure's reply never ended.
    "session": ["/wAAABwgAICGAAAAAQAAAAMAAAABAAAAAAAAAAA="],
}


@pytest.mark.parametrize("name", FOUND)
def test_what_makes_sense_and_what_was_found(name: str) -> None:
    for data in (b"", *seeds(name), *map(base64.b64decode, FOUND[name])):
        TARGETS[name](data)


@pytest.mark.parametrize("name", FOUND)
def test_what_nobody_has_thought_of(name: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=300) | mutated(seeds(name)))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


def mutated(samples: list[bytes]) -> st.SearchStrategy[bytes]:
    """Give samples of which some bytes are others."""

    def put(sample: bytes, places: list[tuple[int, int]]) -> bytes:
        data = bytearray(sample)
        for place, byte in places:
            data[place % len(data)] = byte
        return bytes(data)

    places = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6)
    return st.builds(put, st.sampled_from(samples), places)
