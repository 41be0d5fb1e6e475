"""The packets a probe sends and reads: DHCP in Ethernet frames, ICMP echo, DNS questions. Pure."""

import ipaddress
import struct
from typing import Final

from qvirt.record import Record, field

DISCOVER: Final = 1
OFFER: Final = 2
REQUEST: Final = 3
ACK: Final = 5
NAK: Final = 6
RELEASE: Final = 7

NO_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - what a client says that has none yet
_COOKIE: Final = b"\x63\x82\x53\x63"
_BROADCAST: Final = b"\xff" * 6


class DhcpAnswer(Record):
    """What a DHCP server says. kind: OFFER, ACK, NAK; times in seconds; addresses as text."""

    kind: int
    address: str
    server: str
    mask: str = ""
    routers: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    lease: int = 0
    options: dict[int, bytes] = field(default_factory=dict)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def dhcp_frame(kind: int, mac: bytes, xid: int, options: dict[int, bytes]) -> bytes:
    """Return a broadcast frame with a client's DHCP message (RFC 2131)."""
    return frame(mac, dhcp_message(kind, mac, xid, options))


def dhcp_message(
    kind: int, mac: bytes, xid: int, options: dict[int, bytes], address: str = NO_ADDRESS
) -> bytes:
    """Return a client's DHCP message; it asks for answers by broadcast. address: the one it has."""
    ciaddr = ipaddress.IPv4Address(address).packed
    head = struct.pack("!BBBBIHH4s12s16s192x", 1, 1, 6, 0, xid, 0, 0x8000, ciaddr, b"", mac)
    tail = b"".join(
        bytes((code, len(value))) + value for code, value in {53: bytes((kind,)), **options}.items()
    )
    return head + _COOKIE + tail + b"\xff"


def frame(mac: bytes, payload: bytes) -> bytes:
    """Wrap a payload from port 68 to 67 in UDP, IP and Ethernet, all broadcast."""
    udp = struct.pack("!HHHH", 68, 67, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\0" * 4, b"\xff" * 4)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return _BROADCAST + mac + b"\x08\x00" + head + udp


def read_dhcp(data: bytes, xid: int) -> DhcpAnswer | None:
    """Read a frame; None when it is not an answer to the exchange ``xid``."""
    if len(data) < 14 + 20 + 8 + 240 or data[12:14] != b"\x08\x00" or data[23] != 17:
        return None
    start = 14 + (data[14] & 0xF) * 4
    source, target = struct.unpack_from("!HH", data, start)
    message = data[start + 8 :]
    if (source, target) != (67, 68) or len(message) < 240 or message[236:240] != _COOKIE:
        return None
    if message[0] != 2 or struct.unpack_from("!I", message, 4)[0] != xid:
        return None
    options = _options(message[240:])
    return DhcpAnswer(
        kind=(options.get(53) or b"\0")[0],
        address=str(ipaddress.IPv4Address(message[16:20])),
        server=(_addresses(options.get(54)) or ("",))[0],
        mask=(_addresses(options.get(1)) or ("",))[0],
        routers=_addresses(options.get(3)),
        dns=_addresses(options.get(6)),
        lease=int.from_bytes(options.get(51, b""), "big"),
        options=options,
    )


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data):
            break
        size = data[at + 1]
        found[data[at]] = data[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def _addresses(value: bytes | None) -> tuple[str, ...]:
    if not value:
        return ()
    return tuple(
        str(ipaddress.IPv4Address(value[at : at + 4])) for at in range(0, len(value) - len(value) % 4, 4)
    )


def echo(number: int, sequence: int) -> bytes:
    """Return an ICMP echo request."""
    body = struct.pack("!BBHHH", 8, 0, 0, number, sequence) + b"qvirt net doctor"
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def is_echo_reply(packet: bytes, number: int) -> bool:
    """Tell whether an IP packet is the answer to one of our echo requests."""
    start = (packet[0] & 0xF) * 4
    if len(packet) < start + 8:
        return False
    kind, _, _, id = struct.unpack_from("!BBHH", packet, start)
    return bool(kind == 0 and id == number)


def echo6(number: int, sequence: int) -> bytes:
    """Return an ICMPv6 echo request; its checksum is the kernel's to fill in."""
    return struct.pack("!BBHHH", 128, 0, 0, number, sequence) + b"qvirt net doctor"


def is_echo6_reply(packet: bytes, number: int) -> bool:
    """Tell whether what an ICMPv6 socket gives is the answer to one of our echo requests."""
    if len(packet) < 8:
        return False
    kind, _, _, id = struct.unpack_from("!BBHH", packet)
    return bool(kind == 129 and id == number)


def dns_question(number: int, name: str) -> bytes:
    """Return a question for a name's IPv4 address."""
    labels = b"".join(bytes((len(part),)) + part.encode("ascii") for part in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def read_dns(data: bytes, number: int) -> tuple[int, tuple[str, ...]] | None:
    """Read an answer: its response code and the IPv4 addresses; None when it answers something else."""
    if len(data) < 12:
        return None
    id, flags, questions, answers, _, _ = struct.unpack_from("!HHHHHH", data)
    if id != number or not flags & 0x8000:
        return None
    found: list[str] = []
    try:
        at = 12
        for _ in range(questions):
            at = _skip_name(data, at) + 4
        for _ in range(answers):
            at = _skip_name(data, at)
            kind, _, _, size = struct.unpack_from("!HHIH", data, at)
            if kind == 1 and size == 4:
                found.append(str(ipaddress.IPv4Address(data[at + 10 : at + 14])))
            at += 10 + size
    except (IndexError, struct.error, ValueError):
        return None
    return flags & 0xF, tuple(found)


def _skip_name(data: bytes, at: int) -> int:
    while data[at]:
        if data[at] & 0xC0:
            return at + 2
        at += 1 + data[at]
    return at + 1
