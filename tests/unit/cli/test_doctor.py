"""The packets of the probe: what is sent can be read by others, what is read may be anything."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from qvirt.cli.doctor import packets

MAC = bytes.fromhex("525400a00001")


def answer(kind: int, xid: int, options: bytes = b"") -> bytes:
    """Make a server's answer out of a client's request."""
    payload = bytearray(packets.dhcp_message(kind, MAC, xid, {}))
    payload[0] = 2
    payload[16:20] = bytes((192, 168, 122, 9))
    payload[-1:] = options + b"\xff"
    frame = bytearray(packets.frame(MAC, bytes(payload)))
    frame[34:38] = struct.pack("!HH", 67, 68)
    return bytes(frame)


def test_an_offer_is_read() -> None:
    options = (
        bytes((54, 4, 192, 168, 122, 1, 1, 4, 255, 255, 255, 0, 3, 4, 192, 168, 122, 1))
        + bytes((6, 8, 192, 168, 122, 1, 9, 9, 9, 9, 51, 4, 0, 0, 14, 16))
    )  # fmt: skip
    read = packets.read_dhcp(answer(packets.OFFER, 77, options), 77)
    assert read is not None
    assert (read.kind, read.address, read.server, read.mask) == (
        packets.OFFER,
        "192.168.122.9",
        "192.168.122.1",
        "255.255.255.0",
    )
    assert (read.routers, read.dns, read.lease) == (("192.168.122.1",), ("192.168.122.1", "9.9.9.9"), 3600)


def test_what_is_for_others_is_not_read() -> None:
    assert packets.read_dhcp(answer(packets.OFFER, 77), 78) is None
    assert packets.read_dhcp(packets.dhcp_frame(packets.DISCOVER, MAC, 77, {}), 77) is None


def test_a_frame_is_sound() -> None:
    frame = packets.dhcp_frame(packets.DISCOVER, MAC, 1, {12: b"name"})
    assert frame[:6] == b"\xff" * 6
    assert frame[6:12] == MAC
    assert packets.checksum(frame[14:34]) == 0
    assert struct.unpack_from("!H", frame, 16)[0] == len(frame) - 14


def test_an_echo_is_answered() -> None:
    request = packets.echo(5, 1)
    assert packets.checksum(request) == 0
    reply = b"\x45" + b"\0" * 19 + b"\0" + request[1:]
    assert packets.is_echo_reply(reply, 5)
    assert not packets.is_echo_reply(reply, 6)
    assert not packets.is_echo_reply(reply[:24], 5)
    six = b"\x81" + packets.echo6(5, 1)[1:]
    assert packets.is_echo6_reply(six, 5)
    assert not packets.is_echo6_reply(packets.echo6(5, 1), 5)
    assert not packets.is_echo6_reply(six, 6)
    assert not packets.is_echo6_reply(six[:7], 5)


def test_a_name_is_asked_and_answered() -> None:
    question = packets.dns_question(9, "qvirt-net-doctor")
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + bytes((10, 0, 0, 1))
    reply = struct.pack("!HHHHHH", 9, 0x8180, 1, 1, 0, 0) + question[12:] + record
    assert packets.read_dns(reply, 9) == (0, ("10.0.0.1",))
    assert packets.read_dns(reply, 8) is None
    assert packets.read_dns(question, 9) is None
    missing = struct.pack("!HHHHHH", 9, 0x8183, 1, 0, 0, 0) + question[12:]
    assert packets.read_dns(missing, 9) == (3, ())


@given(st.binary(max_size=700))
def test_anything_may_come(data: bytes) -> None:
    packets.read_dhcp(data, 1)
    packets.read_dhcp(answer(packets.ACK, 1, data[:200]), 1)
    packets.read_dns(data, 1)
    packets.read_dns(struct.pack("!HH", 1, 0x8180) + data, 1)
    if data:
        packets.is_echo_reply(data, 1)
