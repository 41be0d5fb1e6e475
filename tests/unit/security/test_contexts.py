"""Contexts, ranges and pairs of categories."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvirt.errors import InternalError
from qvirt.security.categories import Pairs
from qvirt.security.contexts import Context, categories, level, parse

OWN = "system_u:system_r:virtd_t:"


@pytest.mark.parametrize(
    "text",
    [
        "u:r:t",
        "u:r:t:s0",
        "u:r:t:s0:c1",
        "u:r:t:s0:c1,c3.c9",
        "u:r:t:s0-s0:c0.c1023",
        "u:r:t:s0-s15:c0.c1023",
    ],
)
def test_a_context_is_what_it_was_read_from(text: str) -> None:
    assert str(parse(text)) == text
    assert str(parse(f"{text}\0")) == text


@pytest.mark.parametrize(
    "text",
    ["", "u", "u:r", "u:r:", ":r:t", "u:r:t:x", "u:r:t:s0:", "u:r:t:s0:d1", "u:r:t:s0:c9.c1", "u r:r:t:s0"],
)
def test_what_is_no_context_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"SELinux|neither|ends before"):
        parse(text)


def test_ends_of_a_range() -> None:
    context = parse("u:r:t:s0-s0:c0.c1023")
    assert (context.low, context.high) == ("s0", "s0:c0.c1023")
    assert parse("u:r:t:s0:c5,c9").pair == {5, 9}
    assert parse("u:r:t:s0:c5,c9").high == "s0:c5,c9"
    assert parse("u:r:t").pair == frozenset()
    assert str(context.at("s0:c1,c2")) == "u:r:t:s0:c1,c2"


@given(st.sets(st.integers(0, 1023), max_size=8))
def test_a_level_is_read_as_it_was_written(numbers: set[int]) -> None:
    text = level("s0", numbers)
    assert set(categories(text)) == numbers
    assert parse(f"u:r:t:{text}").pair == numbers


@pytest.mark.parametrize(
    ("range", "count"),
    [("s0-s0:c0.c1023", 523776), ("s0", 523776), ("s0-s0:c10.c13", 6), ("s0:c1,c3", 1), ("", 523776)],
)
def test_pairs_are_of_the_daemons_own_range(range: str, count: int) -> None:
    own = parse(OWN + range) if range else Context("u", "r", "t")
    pairs = Pairs(own)
    assert pairs.size == count
    allowed = set(categories(own.high)) if own.high and "c" in own.high else set(globals_range())
    taken = parse(OWN + pairs.take()).pair
    assert len(taken) == 2
    assert taken <= allowed


def globals_range() -> list[int]:
    return list(range(1024))


@pytest.mark.parametrize("range", ["s0:c5", "s0-s0:c7"])
def test_a_range_without_two_categories_keeps_nobody_apart(range: str) -> None:
    with pytest.raises(InternalError, match=r"holds 1 categories; two are needed"):
        Pairs(parse(OWN + range))


def test_no_pair_is_given_twice_and_the_last_one_is_found() -> None:
    pairs = Pairs(parse(OWN + "s0-s0:c0.c4"))
    taken = [pairs.take() for _ in range(10)]
    assert len(set(taken)) == 10
    with pytest.raises(InternalError, match="all 10 pairs"):
        pairs.take()
    pairs.release(parse(OWN + taken[3]))
    assert pairs.take() == taken[3]


def test_what_runs_already_is_not_given_to_another() -> None:
    pairs = Pairs(parse(OWN + "s0-s0:c0.c2"))
    for pair in ("s0:c0,c1", "s0:c1,c2"):
        assert pairs.reserve(parse(OWN + pair))
    assert pairs.take() == "s0:c0,c2"


def test_a_pair_two_have_is_free_when_both_have_ended() -> None:
    pairs = Pairs(parse(OWN + "s0-s0:c0.c1"))
    mine = parse(OWN + "s0:c0,c1")
    assert (pairs.reserve(mine), pairs.reserve(mine)) == (True, False)
    pairs.release(mine)
    with pytest.raises(InternalError):
        pairs.take()
    pairs.release(mine)
    assert pairs.take() == "s0:c0,c1"
    assert pairs.reserve(parse(OWN + "s0"))  # no categories, nothing to keep


def test_threads_get_different_pairs() -> None:
    pairs = Pairs(parse(OWN + "s0-s0:c0.c20"))
    taken: list[str] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(pairs.take() for _ in range(21))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == len(taken) == pairs.size
