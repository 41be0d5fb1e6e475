"""Packets: framing in any pieces, limits, errors, streams, keepalive."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvirt import errors
from qvirt.constants.error import ErrorDomain, ErrorNumber
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Framer, Packet

LOOKUP = protocol.remote().by_name["DOMAIN_LOOKUP_BY_NAME"]
CALL = Packet(protocol.REMOTE, 1, 201, packet.CALL, 9, packet.OK, b"")

packets = st.builds(
    Packet,
    program=st.integers(0, 2**32 - 1),
    version=st.integers(0, 2**32 - 1),
    procedure=st.integers(-(2**31), 2**31 - 1),
    type=st.integers(0, 6),
    serial=st.integers(0, 2**32 - 1),
    status=st.integers(0, 2),
    payload=st.binary(max_size=40),
    fds=st.integers(0, 32),
).map(lambda p: p if p.type in (packet.CALL_WITH_FDS, packet.REPLY_WITH_FDS) else p._replace(fds=0))


def wire(item: Packet, carriers: bool = True) -> bytes:
    payload = item.payload
    if item.type in (packet.CALL_WITH_FDS, packet.REPLY_WITH_FDS):
        payload = packet.pack_fd_count(item.fds) + payload
    data = packet.pack(*item[:6], payload)
    return data + bytes(item.fds) if carriers else data


@settings(max_examples=400, deadline=None)
@given(st.lists(packets, max_size=6), st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_packets_survive_any_cutting_of_the_stream(
    sent: list[Packet], cuts: list[int], carriers: bool
) -> None:
    data = b"".join(wire(item, carriers) for item in sent)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    framer = Framer(carriers=carriers)
    received = [item for start, stop in pairwise(places) for item in framer.feed(data[start:stop])]
    assert received == sent
    assert framer.pending == 0


def test_byte_by_byte() -> None:
    framer = Framer()
    data = packet.pack_call(LOOKUP, 7, LOOKUP.encode_args(("vm",)))
    received = [item for position in range(len(data)) for item in framer.feed(data[position : position + 1])]
    assert received == [Packet(protocol.REMOTE, 1, 23, 0, 7, 0, b"\0\0\0\2vm\0\0")]


def test_header_as_libvirt_sends_it() -> None:
    assert packet.pack_call(protocol.remote().by_name["AUTH_LIST"], 0) == bytes.fromhex(
        "0000001c 20008086 00000001 00000042 00000000 00000000 00000000"
    )


@pytest.mark.parametrize("length", [0, 4, 27, 33554433 + 4, 2**32 - 1])
def test_a_bad_length_is_refused_before_anything_is_buffered(length: int) -> None:
    for more in (b"", bytes(24)):
        framer = Framer()
        with pytest.raises(errors.RpcError, match=f"packet {length} bytes"):
            framer.feed(length.to_bytes(4) + more)


def test_the_largest_packet_passes() -> None:
    framer = Framer()
    data = packet.pack(protocol.REMOTE, 1, 1, 0, 0, 0, bytes(packet.PAYLOAD_MAX))
    received = [
        item for at in range(0, len(data), 1 << 20) for item in framer.feed(data[at : at + (1 << 20)])
    ]
    assert [len(item.payload) for item in received] == [33554408]
    with pytest.raises(errors.RpcError, match="33554409"):
        packet.pack(protocol.REMOTE, 1, 1, 0, 0, 0, bytes(packet.PAYLOAD_MAX + 1))


def test_a_lowered_limit_holds_and_can_be_raised() -> None:
    data = packet.pack(protocol.REMOTE, 1, 1, 0, 0, 0, bytes(100))
    framer = Framer(limit=127)
    with pytest.raises(errors.RpcError, match="too large"):
        framer.feed(data)
    framer = Framer(limit=127)
    framer.limit = packet.PACKET_MAX
    assert len(framer.feed(data)) == 1


def test_too_many_descriptors() -> None:
    with pytest.raises(errors.RpcError, match="Too many FDs"):
        packet.pack_call(LOOKUP, 1, b"", fds=33)
    data = packet.pack(protocol.REMOTE, 1, 1, packet.CALL_WITH_FDS, 0, 0, (33).to_bytes(4))
    with pytest.raises(errors.RpcError, match="too many FDs 33"):
        Framer().feed(data)
    with pytest.raises(errors.RpcError, match="no room"):
        Framer().feed(packet.pack(protocol.REMOTE, 1, 1, packet.CALL_WITH_FDS, 0, 0))


def test_reply_echoes_the_call() -> None:
    call = Packet(protocol.REMOTE, 1, 23, packet.CALL, 77, packet.OK, b"x")
    (reply,) = Framer().feed(packet.pack_reply(call, b"abcd"))
    assert reply == Packet(protocol.REMOTE, 1, 23, packet.REPLY, 77, packet.OK, b"abcd")
    (reply,) = Framer().feed(packet.pack_reply(call, b"abcd", fds=2) + b"\0\0")
    assert reply == Packet(protocol.REMOTE, 1, 23, packet.REPLY_WITH_FDS, 77, packet.OK, b"abcd", 2)


def test_event_message() -> None:
    event = protocol.remote().by_number[318]
    (message,) = Framer().feed(packet.pack_event(event, b""))
    assert message == Packet(protocol.REMOTE, 1, 318, packet.MESSAGE, 1, packet.OK, b"")


def test_stream_packets() -> None:
    data = packet.pack_stream(CALL, packet.CONTINUE, b"abc") + packet.pack_stream(CALL, packet.CONTINUE)
    data += packet.pack_hole(CALL, 1 << 40) + packet.pack_stream(CALL, packet.OK)
    data += packet.pack_stream_error(CALL, errors.OperationFailed("no"))
    one, end, hole, finish, failed = Framer().feed(data)
    assert (one.type, one.serial, one.status, one.payload) == (packet.STREAM, 9, packet.CONTINUE, b"abc")
    assert (end.status, end.payload) == (packet.CONTINUE, b"")
    assert (hole.type, hole.status, packet.decode_hole(hole.payload)) == (6, 2, 1 << 40)
    assert (finish.status, finish.payload) == (packet.OK, b"")
    assert isinstance(packet.decode_error(failed.payload), errors.OperationFailed)


@pytest.mark.parametrize(
    "payload", [b"", bytes(11), (-1).to_bytes(8, signed=True) + bytes(4), bytes(11) + b"\1"]
)
def test_bad_holes(payload: bytes) -> None:
    with pytest.raises(errors.RpcError, match="Unable to decode message payload"):
        packet.decode_hole(payload)


def test_error_as_libvirt_fills_it_in() -> None:
    text = b"Domain not found: no domain with matching name 'x'"
    recorded = (
        bytes.fromhex("0000002a 0000000a 00000001 00000032")
        + text
        + b"\0\0"
        + bytes.fromhex("00000002 00000000 00000001 00000014")
        + b"Domain not found: %s"
        + bytes.fromhex("00000001 00000020")
        + b"no domain with matching name 'x'"
        + bytes.fromhex("00000000 ffffffff ffffffff 00000000")
    )
    assert packet.encode_error(errors.NoDomain("no domain with matching name 'x'")) == recorded
    error = packet.decode_error(recorded)
    assert type(error) is errors.NoDomain
    assert error.detail == "no domain with matching name 'x'"
    assert error.domain == ErrorDomain.QEMU


def classes() -> list[type[errors.QvirtError]]:
    return [
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, errors.QvirtError)
    ]


@pytest.mark.parametrize("class_", classes(), ids=lambda class_: class_.__name__)
def test_every_error_class_crosses_the_wire(class_: type[errors.QvirtError]) -> None:
    sent = class_("the detail", domain=ErrorDomain.STORAGE)
    received = packet.decode_error(packet.encode_error(sent))
    assert (received.code, received.domain, received.level) == (sent.code, ErrorDomain.STORAGE, sent.level)
    assert received.message == str(received) == sent.message
    assert isinstance(received, class_)


def test_an_error_in_foreign_words_keeps_them() -> None:
    sent = errors.NoDomain("x")
    data = packet.encode_error(sent).replace(b"Domain not found: x", b"Domain nicht da.. x")
    received = packet.decode_error(data)
    assert isinstance(received, errors.NoDomain)
    assert str(received) == "Domain nicht da.. x"
    assert received.code == ErrorNumber.NO_DOMAIN


def test_an_unknown_error_code_is_kept() -> None:
    data = (4711).to_bytes(4) + packet.encode_error(errors.InternalError("strange"))[4:]
    received = packet.decode_error(data)
    assert (received.code, str(received)) == (4711, "internal error: strange")


def test_unknown_procedure_becomes_not_supported() -> None:
    sent = errors.RpcError("unknown procedure: 444")
    received = packet.decode_error(packet.encode_error(sent))
    assert isinstance(received, errors.NoSupport)
    assert "unknown procedure: 444" in str(received)


def test_an_errno_crosses_the_wire() -> None:
    sent = errors.SystemError_("cannot open '/x'", OSError(2, "No such file or directory"))
    received = packet.decode_error(packet.encode_error(sent))
    assert isinstance(received, errors.SystemError_)
    assert received.errno == 2


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 5_000_000, "\udcff "])
def test_any_text_can_be_an_error(text: str) -> None:
    assert packet.decode_error(packet.encode_error(errors.InternalError(text))).code == 1


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_a_malformed_error_is_an_rpc_error(data: bytes) -> None:
    try:
        packet.decode_error(data)
    except errors.RpcError as error:
        assert "Unable to decode" in str(error)  # noqa: PT017


def test_keepalive_packets() -> None:
    assert bytes.fromhex("0000001c 6b656570 00000001 00000001 00000002 00000000 00000000") == packet.PING
    assert bytes.fromhex("0000001c 6b656570 00000001 00000002 00000002 00000000 00000000") == packet.PONG
