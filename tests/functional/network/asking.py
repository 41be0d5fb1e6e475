"""Asks a network's dnsmasq as a guest would: ``python -m tests.functional.network.asking WHAT …``.

dns SERVER NAME TYPE: the answer's bytes, as text. dhcp6 DEVICE MAC: the address of a lease by DHCPv6 (RFC
8415). It prints JSON.
"""

import ipaddress
import json
import socket
import struct
import sys

_TYPES = {"A": 1, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33}
_SOLICIT, _ADVERTISE, _REQUEST, _REPLY = 1, 2, 3, 7
_CLIENTID, _SERVERID, _IA_NA, _IAADDR = 1, 2, 3, 5
_WAIT = 5.0


def dns(server: str, name: str, kind: str) -> dict[str, object]:
    """Ask for a record; give the response code, how many answers there are, and the packet as Latin 1."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, _TYPES[kind], 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_WAIT)
        sock.sendto(question, (server, 53))
        data = sock.recv(4096)
    _, flags, _, answers, *_ = struct.unpack_from("!6H", data)
    return {"code": flags & 0xF, "answers": answers, "said": data[len(question) :].decode("latin-1")}


def _options(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        kind, length = struct.unpack_from("!HH", data, at)
        found[kind] = data[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def _option(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value


def dhcp6(device: str, mac: str) -> dict[str, object]:
    """Ask for a lease with all four messages."""
    duid = struct.pack("!HH", 3, 1) + bytes.fromhex(mac.replace(":", ""))
    identity = struct.pack("!III", 0x11, 0, 0)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_WAIT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.bind(("::", 546))
        target = ("ff02::1:2", 547, 0, socket.if_nametoindex(device))

        def ask(kind: int, wanted: int, body: bytes) -> dict[int, bytes]:
            for number in range(3):
                head = bytes((kind, 0, kind, number))
                sock.sendto(head + _option(_CLIENTID, duid) + body, target)
                try:
                    data = sock.recv(4096)
                except TimeoutError:
                    continue
                if data[0] == wanted:
                    return _options(data[4:])
            raise SystemExit(f"no answer to message {kind}")

        offered = ask(_SOLICIT, _ADVERTISE, _option(_IA_NA, identity))
        chosen = _option(_SERVERID, offered[_SERVERID]) + _option(_IA_NA, offered[_IA_NA])
        given = ask(_REQUEST, _REPLY, chosen)
    address = _options(given[_IA_NA][12:])[_IAADDR][:16]
    return {"address": str(ipaddress.IPv6Address(address))}


if __name__ == "__main__":
    print(json.dumps({"dns": dns, "dhcp6": dhcp6}[sys.argv[1]](*sys.argv[2:])))  # type: ignore[operator]
