"""Bytes to messages and back, for QMP and for the guest agent; no I/O.

QEMU ends every QMP message with CR LF and never puts a line break inside one, so a message is a line. Neither
a guest nor a QEMU that its guest has taken over is trusted: what passes here is bounded in size, depth and
number of values, its numbers fit into 64 bits, and its strings into libvirt's (UTF-8 without NUL).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from qvirt.qmp.errors import WireError
from qvirt.record import Record

JsonValue: TypeAlias = "Mapping[str, JsonValue] | Sequence[JsonValue] | str | int | float | bool | None"
"""What may be sent: read-only containers, so that typed dictionaries and lists fit."""

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""What arrives."""

JsonObject: TypeAlias = dict[str, Json]

MESSAGE_LIMIT = 10 << 20
"""Largest message accepted, in bytes, as libvirt's; query-qmp-schema of QEMU 9 is 0.3 MiB, one
query-blockstats of a thousand disks about 2 MiB."""

VALUES_LIMIT = 500_000
"""Most commas, braces and brackets of a message: each may stand for a value of a hundred bytes of ours.
query-blockstats of a thousand disks has a tenth of that."""

DELIMITER = b"\xff"
"""A byte that cannot occur in JSON: flushes the parser on the other side of an agent channel."""

_MIN, _MAX = -(1 << 63), (1 << 64) - 1

#: what makes a second look necessary: long numbers, escapes of surrogates and of NUL
_DUBIOUS = re.compile(r"\d{19}|\d[eE]\+?\d\d|\\u(?:[dD][89a-fA-F]|0000)")

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode


class Greeting(Record):
    """QEMU's first message. version: (major, minor, micro); package: the distribution's suffix."""

    version: tuple[int, int, int]
    package: str
    capabilities: tuple[str, ...]


class Reply(Record):
    """The answer to a command: `value`, or an error with class and description."""

    id: Json
    value: Json = None
    error: tuple[str, str] | None = None


class Event(Record):
    """Something QEMU tells by itself. seconds, microseconds: QEMU's clock (Unix time), -1 when unknown."""

    name: str
    data: JsonObject
    seconds: int
    microseconds: int


Message: TypeAlias = Greeting | Reply | Event


def encode_command(
    command: str, arguments: Mapping[str, JsonValue] | None, id: int | None, *, oob: bool = False
) -> bytes:
    """Encode one command as a line; `oob` asks QEMU to run it ahead of the others.

    Raises WireError when an argument is not JSON.
    """
    message: dict[str, JsonValue] = {"exec-oob" if oob else "execute": command}
    if arguments:
        message["arguments"] = arguments
    if id is not None:
        message["id"] = id
    try:
        return _encode(message).encode("ascii") + b"\n"
    except (TypeError, ValueError) as e:
        raise WireError(f"cannot encode the arguments of command '{command}' as JSON: {e}") from e


class LineBuffer:
    """Cuts a byte stream into lines, and refuses lines longer than `limit` bytes."""

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines completed by `data`, without their ends and without empty ones.

        Raises WireError when a line passes the limit.
        """
        head, *lines = data.split(b"\n")
        if not lines:
            self._keep(head)
            return []
        tail = lines.pop()
        self._parts.append(head)
        first = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._keep(tail)
        if len(first) > self._limit:
            raise self._too_long(len(first))
        return [line for line in (first, *lines) if line and not line.isspace()]

    def clear(self) -> None:
        """Forget an unfinished line."""
        self._parts.clear()
        self._size = 0

    def _keep(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._size += len(part)
            if self._size > self._limit:
                raise self._too_long(self._size)

    def _too_long(self, size: int) -> WireError:
        return WireError(
            f"QEMU monitor reply exceeds buffer size ({self._limit} bytes): a message has {size} or more"
        )


class Decoder:
    """Turns the bytes of a QMP monitor into messages."""

    __slots__ = ("_lines",)

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._lines = LineBuffer(limit)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages completed by `data`. Raises WireError for what is no QMP message."""
        for line in self._lines.feed(data):
            yield parse_message(line)


def parse_message(line: bytes) -> Message:
    """Parse one line of QMP. Raises WireError for what is no QMP message."""
    message = parse_object(line)
    if "event" in message:
        return _event(message, line)
    if "QMP" in message:
        return _greeting(message, line)
    return parse_reply(message, line)


def parse_object(line: bytes, most: int = VALUES_LIMIT) -> JsonObject:
    """Parse one line that must be a JSON object. Raises WireError for what is none, or is too much.

    most: values it may have.
    """
    if sum(map(line.count, (b",", b"{", b"["))) > most:
        raise WireError(f"{excerpt(line)} has more than {most} values")
    try:
        text = line.decode("utf-8", "replace")
        value = _decode(text)
        if not isinstance(value, dict):
            raise WireError(f"Parsed JSON reply {excerpt(line)} isn't an object")
        return {_clean_text(k): _clean(v) for k, v in value.items()} if _DUBIOUS.search(text) else value
    except (ValueError, OverflowError, RecursionError) as e:
        raise WireError(f"cannot parse json {excerpt(line)}: {e}") from e


def _no_number(word: str) -> Json:
    raise ValueError(f"{word} is no number")


_decode = json.JSONDecoder(parse_constant=_no_number).decode


def _clean(value: Json) -> Json:
    """Return a value that every client and document can hold: numbers are clamped, characters replaced."""
    match value:
        case str():
            return _clean_text(value)
        case bool() | None:
            return value
        case int():
            return min(max(value, _MIN), _MAX)
        case float():
            return min(max(value, float(_MIN)), float(_MAX))
        case list():
            return [_clean(item) for item in value]
        case dict():
            return {_clean_text(key): _clean(item) for key, item in value.items()}


def _clean_text(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_reply(message: JsonObject, line: bytes) -> Reply:
    """Classify an object as the answer to a command."""
    if "return" in message:
        return Reply(message.get("id"), message["return"])
    error = message.get("error")
    if isinstance(error, dict):
        return Reply(
            message.get("id"), None, (str(error.get("class", "GenericError")), str(error.get("desc", "")))
        )
    raise WireError(f"Unknown JSON reply {excerpt(line)}")


def unsigned(value: Json, bits: int = 64) -> int:
    """Narrow a value to a number of so many bits; what is none, or negative, counts nothing."""
    return min(value, (1 << bits) - 1) if isinstance(value, int) and value > 0 else 0


def excerpt(line: bytes, size: int = 200) -> str:
    """Show the beginning of a message in an error."""
    text = repr(line[:size].decode("utf-8", "backslashreplace"))
    return text if len(line) <= size else f"{text}... ({len(line)} bytes)"


def _event(message: JsonObject, line: bytes) -> Event:
    name = message["event"]
    if not isinstance(name, str):
        raise WireError(f"event without a name: {excerpt(line)}")
    data = message.get("data")
    stamp = message.get("timestamp")
    seconds: Json = -1
    micros: Json = -1
    if isinstance(stamp, dict):
        seconds, micros = stamp.get("seconds", -1), stamp.get("microseconds", -1)
    return Event(
        name,
        data if isinstance(data, dict) else {},
        seconds if isinstance(seconds, int) else -1,
        micros if isinstance(micros, int) else -1,
    )


def _greeting(message: JsonObject, line: bytes) -> Greeting:
    match message:
        case {
            "QMP": {
                "version": {
                    "qemu": {"major": int(major), "minor": int(minor), "micro": int(micro)},
                    "package": str(package),
                },
                "capabilities": list(capabilities),
            }
        }:
            known = tuple(name for name in capabilities if isinstance(name, str))
            return Greeting((major, minor, micro), package.strip().removeprefix("(").removesuffix(")"), known)
    raise WireError(f"greeting of an unknown form: {excerpt(line)}")
