"""Packets: header, framing of a byte stream, error structure, keepalive, streams and holes.

A packet is a u32 length that counts itself, a 24-byte header and the payload. Packets that carry file
descriptors start their payload with a u32 count; each descriptor then follows the packet attached to one
zero byte of its own, which no length counts.
"""

from functools import cache
from struct import Struct
from typing import Final, NamedTuple

from qvirt.constants.error import ErrorDomain, ErrorNumber
from qvirt.errors import NoSupport, QvirtError, RpcError, SystemError_
from qvirt.rpc import protocol
from qvirt.rpc.types import Schema
from qvirt.rpc.xdr import XdrStruct

CALL: Final = 0
REPLY: Final = 1
MESSAGE: Final = 2
STREAM: Final = 3
CALL_WITH_FDS: Final = 4
REPLY_WITH_FDS: Final = 5
STREAM_HOLE: Final = 6

OK: Final = 0
ERROR: Final = 1
CONTINUE: Final = 2

HEADER: Final = Struct(">IIIiiIi")
"""Length, program, version, procedure, type, serial, status."""

PAYLOAD_MAX: Final = 33554408
"""Bytes of payload in a packet."""
PACKET_MAX: Final = HEADER.size + PAYLOAD_MAX
STREAM_CHUNK: Final = 262120
"""Bytes of stream data that every release accepts in one packet."""
FDS_MAX: Final = 32
STRING_MAX: Final = 4194304
EVENT_SERIAL: Final = 1

_FD_TYPES: Final = (CALL_WITH_FDS, REPLY_WITH_FDS)
_COUNT: Final = Struct(">I")
_HOLE: Final = Struct(">qI")


class Packet(NamedTuple):
    """A received packet; `fds` is how many descriptors came with it, their count is cut off the payload."""

    program: int
    version: int
    procedure: int
    type: int
    serial: int
    status: int
    payload: bytes
    fds: int = 0


def pack(
    program: int, version: int, procedure: int, type_: int, serial: int, status: int, payload: bytes = b""
) -> bytes:
    """Make a packet; raises RpcError when the payload is over the protocol's limit."""
    size = HEADER.size + len(payload)
    if size > PACKET_MAX:
        raise RpcError(
            f"Unable to encode message payload: {len(payload)} bytes are more than the limit of {PAYLOAD_MAX}"
        )
    return HEADER.pack(size, program, version, procedure, type_, serial, status) + payload


def pack_call(procedure: "protocol.Procedure", serial: int, payload: bytes = b"", fds: int = 0) -> bytes:
    """Make a CALL, or a CALL_WITH_FDS when descriptors are to follow it."""
    if fds:
        return pack(
            procedure.program,
            procedure.version,
            procedure.number,
            CALL_WITH_FDS,
            serial,
            OK,
            pack_fd_count(fds) + payload,
        )
    return pack(procedure.program, procedure.version, procedure.number, CALL, serial, OK, payload)


def pack_reply(call: Packet, payload: bytes = b"", fds: int = 0) -> bytes:
    """Make the reply to a call, a REPLY_WITH_FDS when descriptors are to follow it."""
    if fds:
        payload = pack_fd_count(fds) + payload
        return pack(call.program, call.version, call.procedure, REPLY_WITH_FDS, call.serial, OK, payload)
    return pack(call.program, call.version, call.procedure, REPLY, call.serial, OK, payload)


def pack_error_reply(call: Packet, error: QvirtError) -> bytes:
    """Make the reply that says the call failed."""
    payload = encode_error(error)
    return pack(call.program, call.version, call.procedure, REPLY, call.serial, ERROR, payload)


def pack_event(procedure: "protocol.Procedure", payload: bytes) -> bytes:
    """Make the message of an event."""
    return pack(procedure.program, procedure.version, procedure.number, MESSAGE, EVENT_SERIAL, OK, payload)


def pack_fd_count(fds: int) -> bytes:
    """Make the count in front of a payload with descriptors; raises RpcError over the limit."""
    if not 0 <= fds <= FDS_MAX:
        raise RpcError(f"Too many FDs to send {fds}, expected {FDS_MAX} maximum")
    return _COUNT.pack(fds)


def pack_stream(call: Packet, status: int, payload: bytes = b"") -> bytes:
    """Make a stream packet of the stream that `call` opened: data is CONTINUE, an empty one its end."""
    return pack(call.program, call.version, call.procedure, STREAM, call.serial, status, payload)


def pack_stream_error(call: Packet, error: QvirtError) -> bytes:
    """Make the stream packet that says the stream failed."""
    return pack_stream(call, ERROR, encode_error(error))


def pack_hole(call: Packet, length: int) -> bytes:
    """Make the packet of a hole of `length` bytes in a sparse stream."""
    payload = _HOLE.pack(length, 0)
    return pack(call.program, call.version, call.procedure, STREAM_HOLE, call.serial, CONTINUE, payload)


def decode_hole(payload: bytes) -> int:
    """Give the length in bytes of a received hole; raises RpcError."""
    if len(payload) < _HOLE.size:
        raise RpcError("Unable to decode message payload")
    length, flags = _HOLE.unpack_from(payload)
    if length < 0 or flags:
        raise RpcError("Unable to decode message payload")
    return int(length)


PING: Final = pack(protocol.KEEPALIVE, 1, 1, MESSAGE, 0, OK)
PONG: Final = pack(protocol.KEEPALIVE, 1, 2, MESSAGE, 0, OK)
PING_PROCEDURE: Final = 1
PONG_PROCEDURE: Final = 2


class Framer:
    """Cuts a byte stream into packets.

    The zero bytes that carry descriptors belong to the stream fed here unless `carriers` is false (for a
    reader that takes exactly one packet, then one byte per descriptor). A packet is given out when its
    carriers have been seen too, so its descriptors are then at hand, in order.

    limit: largest packet in bytes; lower it for a peer not yet trusted.
    """

    __slots__ = ("_buffer", "_carriers", "_wanted", "limit")

    def __init__(self, limit: int = PACKET_MAX, *, carriers: bool = True) -> None:
        self.limit = limit
        self._carriers = carriers
        self._buffer = bytearray()
        self._wanted = HEADER.size

    @property
    def pending(self) -> int:
        """Bytes of an incomplete packet held back."""
        return len(self._buffer)

    @property
    def wanted(self) -> int:
        """Bytes still missing before a packet may be complete."""
        return max(1, self._wanted - len(self._buffer))

    def feed(self, data: bytes) -> list[Packet]:
        """Take received bytes and give the packets they complete; raises RpcError for a bad length."""
        packets: list[Packet] = []
        buffer = self._buffer
        if buffer:
            held = len(buffer)
            buffer += data
            # A length that came in pieces is looked at as soon as it is there, too.
            if len(buffer) >= self._wanted or held < _COUNT.size <= len(buffer):
                del buffer[: self._cut(buffer, packets)]
            return packets
        used = self._cut(data, packets)
        if used < len(data):
            buffer += memoryview(data)[used:]
        return packets

    def _cut(self, data: bytes | bytearray, packets: list[Packet]) -> int:
        """Append the complete packets at the start of `data`; give how many bytes they take."""
        start, end = 0, len(data)
        header = HEADER.size
        unpack = HEADER.unpack_from
        while start + 4 <= end:
            if end - start < header:
                (length,) = _COUNT.unpack_from(data, start)
                self._check(length)
                break
            length, program, version, procedure, type_, serial, status = unpack(data, start)
            if not header <= length <= self.limit:
                self._check(length)
            body, stop, fds, total = start + header, start + length, 0, length
            if type_ in _FD_TYPES:
                if length < header + 4:
                    raise RpcError(f"packet of {length} bytes has no room for its count of descriptors")
                if end < body + 4:
                    self._wanted = header + 4
                    return start
                (fds,) = _COUNT.unpack_from(data, body)
                if fds > FDS_MAX:
                    raise RpcError(f"Received too many FDs {fds}, expected {FDS_MAX} maximum")
                body += 4
                if self._carriers:
                    total += fds
            if start + total > end:
                self._wanted = total
                return start
            payload = bytes(memoryview(data)[body:stop]) if isinstance(data, bytearray) else data[body:stop]
            packets.append(Packet(program, version, procedure, type_, serial, status, payload, fds))
            start += total
        self._wanted = header
        return start

    def _check(self, length: int) -> None:
        if length < HEADER.size:
            raise RpcError(f"packet {length} bytes received from peer too small, want {HEADER.size}")
        if length > self.limit:
            raise RpcError(f"packet {length} bytes received from peer too large, want {self.limit}")


_ERROR_SCHEMA: Final = Schema(
    {
        "nonnull_domain": (("name", "nonnull_string"), ("uuid", "opaque[16]"), ("id", "i32")),
        "nonnull_network": (("name", "nonnull_string"), ("uuid", "opaque[16]")),
        "error": (
            ("code", "i32"),
            ("domain", "i32"),
            ("message", "nonnull_string?"),
            ("level", "i32"),
            ("dom", "nonnull_domain?"),
            ("str1", "nonnull_string?"),
            ("str2", "nonnull_string?"),
            ("str3", "nonnull_string?"),
            ("int1", "i32"),
            ("int2", "i32"),
            ("net", "nonnull_network?"),
        ),
    },
    {"nonnull_string": f"string<{STRING_MAX}>"},
)
_ERROR: Final = XdrStruct("error", _ERROR_SCHEMA.struct)
_RPC_DOMAINS: Final = (ErrorDomain.RPC, ErrorDomain.REMOTE)


def encode_error(error: QvirtError) -> bytes:
    """Encode an error as libvirt fills it in: str1 the template, str2 the detail, int1 an errno or -1."""
    errno = getattr(error, "errno", None) or -1
    texts = [_sendable(text) for text in (error.message, error.template, error.detail)]
    return _ERROR.encode(
        (error.code, error.domain, texts[0], error.level, None, texts[1], texts[2], None, errno, -1, None)
    )


def decode_error(payload: bytes) -> QvirtError:
    """Decode an error into the subclass for its code; raises RpcError when malformed.

    A code without a class of its own gives a QvirtError whose `code` is what was received.
    """
    code, domain, message, level, _, _, _, _, int1, _, _ = _ERROR.decode(payload)
    if code == ErrorNumber.RPC and domain in _RPC_DOMAINS and (message or "").startswith("unknown procedure"):
        # libvirt's clients turn exactly this sentence into "not supported", so drivers rely on it.
        code, message = ErrorNumber.NO_SUPPORT, NoSupport.template % message
    error = _received(code, domain, level, message or "unknown error")
    if isinstance(error, SystemError_) and int1 > 0:
        error.errno = int1
    return error


def _received(code: int, domain: int, level: int, message: str) -> QvirtError:
    base = _classes().get(code, QvirtError)
    prefix, _, suffix = base.template.partition("%s")
    detail = message[len(prefix) : len(message) - len(suffix)]
    if base.code == code and base.level == level and prefix + detail + suffix == message:
        return base(detail, domain=domain)
    return _variant(base, code, level)(message, domain=domain)


def _variant(base: type[QvirtError], code: int, level: int) -> type[QvirtError]:
    """Make a class for what a foreign daemon said in its own words: the message is the whole sentence."""
    made: type[QvirtError] = type(
        base.__name__, (base,), {"code": code, "level": level, "template": "%s", "__module__": __name__}
    )
    return made


@cache
def _classes() -> dict[int, type[QvirtError]]:
    classes: dict[int, type[QvirtError]] = {}
    waiting = [QvirtError]
    while waiting:
        for class_ in waiting.pop().__subclasses__():
            if class_.__module__ == QvirtError.__module__:
                classes.setdefault(class_.code, class_)
                waiting.append(class_)
    return classes


def _sendable(text: str) -> str:
    """Give a text that always encodes: no NUL, no lone surrogate that stands for no byte, not too long."""
    if len(text) * 4 > STRING_MAX:
        text = text[: STRING_MAX // 8] + "..."
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\0")
