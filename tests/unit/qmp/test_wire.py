import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvirt.qmp.errors import WireError
from qvirt.qmp.wire import (
    VALUES_LIMIT,
    Decoder,
    Event,
    Greeting,
    LineBuffer,
    Message,
    Reply,
    encode_command,
    parse_message,
    parse_object,
    unsigned,
)


def test_greeting() -> None:
    line = (
        b'{"QMP": {"version": {"qemu": {"micro": 9, "minor": 2, "major": 7}, "package": "Debian 1:7.2"},'
        b' "capabilities": ["oob"]}}\r\n'
    )
    assert list(Decoder().feed(line)) == [Greeting((7, 2, 9), "Debian 1:7.2", ("oob",))]


def test_reply_error_event() -> None:
    data = (
        b'{"return": {}, "id": 3}\r\n'
        b'{"id": 4, "error": {"class": "CommandNotFound", "desc": "no"}}\r\n'
        b'{"timestamp": {"seconds": 12, "microseconds": 34}, "event": "STOP"}\r\n'
    )
    assert list(Decoder().feed(data)) == [
        Reply(3, {}),
        Reply(4, None, ("CommandNotFound", "no")),
        Event("STOP", {}, 12, 34),
    ]


def test_event_without_a_clock() -> None:
    assert parse_message(b'{"event": "RESET", "data": {"guest": true}}') == Event(
        "RESET", {"guest": True}, -1, -1
    )


@pytest.mark.parametrize(
    "line",
    [
        b"what\n",
        b"[1]\n",
        b'{"id": 1}\n',
        b'{"event": 3}\n',
        b'{"QMP": {}}\n',
        b"\xff\xfe\n",
        b"[" * 100000 + b"\n",
    ],
)
def test_garbage_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        list(Decoder().feed(line))


def test_error_shows_an_excerpt_only() -> None:
    with pytest.raises(WireError) as caught:
        parse_message(b"x" * 100000)
    assert "100000 bytes" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_limit(pieces: int) -> None:
    lines = LineBuffer(1000)
    data = b"x" * 1001
    step = -(-len(data) // pieces)
    with pytest.raises(WireError, match="exceeds buffer size"):  # noqa: PT012 - any of the pieces may be the one
        for i in range(0, len(data), step):
            lines.feed(data[i : i + step])
        lines.feed(b"\n")


def test_a_message_of_the_limit_passes() -> None:
    assert LineBuffer(1000).feed(b"x" * 1000 + b"\n") == [b"x" * 1000]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(
    st.lists(
        st.dictionaries(TEXT, st.integers(-(1 << 63), (1 << 64) - 1) | TEXT | st.booleans() | st.none()),
        max_size=5,
    ),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_any_cut_gives_the_same_messages(values: list[dict[str, object]], cuts: list[int]) -> None:
    data = b"".join(json.dumps({"return": v, "id": i}).encode() + b"\r\n" for i, v in enumerate(values))
    decoder = Decoder()
    got: list[Message] = []
    start = 0
    for cut in [*sorted(cuts), len(data)]:
        got += decoder.feed(data[start : max(start, cut)])
        start = max(start, cut)
    assert got == [Reply(i, v) for i, v in enumerate(values)]  # type: ignore[arg-type]


def test_encode() -> None:
    assert encode_command("stop", None, 7) == b'{"execute":"stop","id":7}\n'
    assert encode_command("x", {"a-b": [1, None, "ü"]}, 0, oob=True) == (
        b'{"exec-oob":"x","arguments":{"a-b":[1,null,"\\u00fc"]},"id":0}\n'
    )


def test_encode_refuses_what_is_not_json() -> None:
    with pytest.raises(WireError, match="'x'"):
        encode_command("x", {"a": object()}, 0)  # type: ignore[dict-item]


def test_what_a_message_may_hold() -> None:
    said = parse_object(
        b'{"return": ["\\ud800", "a\\u0000b", "\xff", "\\ud83d\\ude00", 9999999999999999999999, -1e30, true]}'
    )
    assert said == {
        "return": ["\ufffd", "a\ufffdb", "\ufffd", "\U0001f600", (1 << 64) - 1, -float(1 << 63), True]
    }


@pytest.mark.parametrize(
    "line",
    [
        b'{"return": NaN}',
        b'{"return": -Infinity}',
        b'{"return": %s}' % (b"9" * 5000),
        b'{"return": %s%s}' % (b"[" * 100_000, b"]" * 100_000),
        b'{"return": [%s]}' % b",".join([b"1"] * (VALUES_LIMIT + 2)),
        "{'return': 1}".encode("utf-16"),
    ],
    ids=["nan", "infinity", "long number", "deep", "wide", "utf-16"],
)
def test_what_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        parse_object(line)


@pytest.mark.parametrize(
    ("value", "bits", "narrowed"),
    [
        (5, 64, 5),
        (-1, 64, 0),
        (1 << 64, 64, (1 << 64) - 1),
        (300, 8, 255),
        ("5", 64, 0),
        (None, 64, 0),
        (2.5, 64, 0),
    ],
)
def test_counters(value: Any, bits: int, narrowed: int) -> None:
    assert unsigned(value, bits) == narrowed
