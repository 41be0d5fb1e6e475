"""The option grammar: what is printed is read again as the same, whatever it is."""

import re
import string

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvirt.errors import InvalidArg
from qvirt.qemu.importer.options import (
    FLAGS,
    OPTS,
    WORDS,
    Argument,
    nest,
    read_arguments,
    read_json,
    split_opts,
    to_props,
)
from qvirt.qemu.keyval import JsonValue
from qvirt.qemu.switches import Audiodev, Blockdev, Device, Json, Netdev, Object, Option, Pairs, Switch

_KEYS = st.text(string.ascii_letters + string.digits + "-_.", min_size=1).filter(lambda key: key[:1] != "-")
_VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_JSON_VALUES = st.recursive(
    st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5
)
_PAIRS = st.lists(st.tuples(_KEYS, _VALUES), min_size=1)
_SHAPES: list[type[Json]] = [Device, Blockdev, Netdev, Object, Audiodev]
_BY_NAME = {shape.option: shape for shape in _SHAPES}
_OPTS = st.sampled_from(sorted(OPTS.keys() - {"M"}))


@st.composite
def records(draw: st.DrawFn) -> Switch:
    """Return a record of any shape."""
    match draw(st.integers(0, 3)):
        case 0:
            return Option(draw(st.sampled_from(sorted(FLAGS))))
        case 1:
            return Option(draw(st.sampled_from(sorted(WORDS - {"qmp-pretty"}))), draw(_VALUES))
        case 2:
            name = draw(_OPTS)
            pairs: list[tuple[str, JsonValue]] = list(draw(_PAIRS))
            implied = OPTS[name]
            if implied is None or draw(st.booleans()):
                return Pairs(name, pairs, None)
            first = draw(
                _VALUES.filter(lambda value: "=" not in value and not value.lstrip().startswith("{"))
            )
            return Pairs(
                name, [(implied, first), *((key, value) for key, value in pairs if key != implied)], implied
            )
        case _:
            cls = draw(st.sampled_from(_SHAPES))
            return cls(draw(st.dictionaries(st.text(), _JSON_VALUES)))


def to_record(argument: Argument) -> Switch:
    """Return the record that prints an argument."""
    name, value = argument.name, argument.value
    if value is None:
        return Option(name)
    if name in _BY_NAME and value.lstrip().startswith("{"):
        return _BY_NAME[name](read_json(value, name))
    if name in OPTS:
        implied = OPTS[name]
        if implied is not None and re.match("[^,=]*=", value):
            implied = None
        pairs: list[tuple[str, JsonValue]] = [*split_opts(value, implied)]
        return Pairs(name, pairs, implied)
    return Option(name, value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(records(), max_size=6))
def test_print_and_read(made: list[Switch]) -> None:
    words = [word for record in made for word in record.to_argv()]
    assert [to_record(argument) for argument in read_arguments(words)] == made


_WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_SPELLED = st.lists(st.text('ab=,.no{}":-0', max_size=8)).map(",".join)


@settings(deadline=None)
@given(st.sampled_from(sorted(OPTS.keys() - {"M"})), _WORDS | _SPELLED)
def test_what_was_read_is_printed_and_read_as_the_same(name: str, value: str) -> None:
    """Whatever a value looks like: printed again it may be spelled otherwise, and means the same."""
    (argument,) = read_arguments([f"-{name}", value])
    try:
        record = to_record(argument)
    except InvalidArg:
        assert value.lstrip().startswith("{")  # bad JSON is the one thing that is refused
        return
    (again,) = read_arguments(record.to_argv())
    assert to_record(again) == record
    assert to_props(again) == to_props(argument)


@settings(deadline=None)
@given(st.lists(_WORDS))
def test_no_word_is_lost(words: list[str]) -> None:
    try:
        arguments = read_arguments(words)
    except InvalidArg:
        arguments = read_arguments([*words, "value"])  # the last was missing
        words = [*words, "value"]
    assert [word for argument in arguments for word in argument.words] == words


@settings(deadline=None)
@given(st.lists(st.text()))
def test_nothing_crashes_the_reading_of_opts(texts: list[str]) -> None:
    for text in texts:
        for name in OPTS:
            split_opts(text, OPTS[name])


def test_spellings() -> None:
    assert split_opts("socket,path=/a,,b,server,nowait", "backend") == [
        ("backend", "socket"),
        ("path", "/a,b"),
        ("server", "on"),
        ("wait", "off"),
    ]
    (argument,) = read_arguments(["--netdev", "user,hostfwd=a,hostfwd=b"])
    assert to_props(argument) == ({"type": "user", "hostfwd": ["a", "b"]}, False)
    assert nest({"driver": "qcow2", "file.driver": "file", "server.0.host": "h"}) == {
        "driver": "qcow2",
        "file": {"driver": "file"},
        "server": [{"host": "h"}],
    }
