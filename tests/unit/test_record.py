"""Records behave as frozen dataclasses with slots do, where our code relies on it."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import pytest

from qvirt.record import Record, asdict, field, fields, replace


class Base(Record):
    """A base."""

    kind: ClassVar[str] = "base"
    name: str


class Place(Base):
    bus: int = 1
    names: list[str] = field(default_factory=list)
    origin: object = field(default=None, kw_only=True, compare=False, repr=False)


class Moving(Record, frozen=False):
    x: int


class Alone(Record, frozen=False, eq=False):
    x: int


class Wide(Record, slots=False):
    x: int = 2

    @cached_property
    def double(self) -> int:
        return self.x * 2


class Empty(Record):
    pass


def test_the_constructor_takes_fields_by_place_and_by_name() -> None:
    place = Place("a", names=["b"])
    assert (place.name, place.bus, place.names, place.origin) == ("a", 1, ["b"], None)
    assert Place("a").names is not Place("a").names
    assert Base("x").name == "x"
    assert Base.kind == Place.kind == "base"


@pytest.mark.parametrize(("args", "named"), [((), {}), (("a", 1, [], 2), {}), (("a",), {"b": 2})])
def test_the_constructor_refuses_what_is_no_field(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    make: Callable[..., Place] = Place
    for _ in range(2):  # the first call compiles it
        with pytest.raises(TypeError, match="__init__"):
            make(*args, **named)


def test_records_compare_by_their_fields() -> None:
    assert Place("a", 2, origin=1) == Place("a", 2, origin=2)
    assert Place("a") != Place("b")
    assert Base("a") != Place("a")
    assert hash(Base("a")) == hash(Base("a"))
    assert {Base("a"): 1}[Base("a")] == 1
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())


def test_what_may_change_has_no_hash() -> None:
    moving = Moving(1)
    moving.x = 2
    assert moving == Moving(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(moving)


def test_what_is_only_equal_to_itself() -> None:
    alone = Alone(1)
    assert alone != Alone(1)
    assert len({alone, Alone(1)}) == 2


def test_records_have_slots() -> None:
    assert not hasattr(Place("a"), "__dict__")
    with pytest.raises(AttributeError):
        Moving(1).y = 2  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    assert Wide().double == 4


def test_replace_asdict_fields_copy_and_match() -> None:
    place = Place("a", 2, ["b"], origin=Base("c"))
    other = replace(place, bus=3)
    assert (other.bus, other.names, other.origin) == (3, ["b"], Base("c"))
    with pytest.raises(TypeError):
        replace(place, size=3)
    assert asdict(place) == {"name": "a", "bus": 2, "names": ["b"], "origin": {"name": "c"}}
    assert list(fields(Place)) == list(fields(place)) == ["name", "bus", "names", "origin"]
    assert copy.copy(place) == copy.deepcopy(place) == place
    match place:
        case Place(name, bus):
            assert (name, bus) == ("a", 2)
        case _:
            pytest.fail("no match")


def test_repr_shows_the_fields_that_are_to_be_shown() -> None:
    assert repr(Place("a", origin=3)) == "Place(name='a', bus=1, names=[])"
