"""The probe: a process in a network namespace of its own, plugged into the network as a guest would be.

It is run by `qvirt.cli.commands.network` as a child; questions come as one JSON line, findings go out as JSON
lines. When it ends its namespace goes, and with it both ends of its cable.
"""

import contextlib
import ctypes
import ipaddress
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from qvirt.cli.doctor import packets
from qvirt.cli.doctor.packets import DhcpAnswer

_CLONE_NEWNET: Final = 0x40000000
_ETH_P_ALL: Final = 3
#: what the probe calls itself when it asks for a lease
HOSTNAME: Final = "qvirt-net-doctor"

#: seconds to wait for one answer, and how often a request is sent
WAIT: Final = 2.0
TRIES: Final = 3
#: a bridge that looks for loops lets nothing through for up to 30 s; with the usual settings for 4
FIRST_TRIES: Final = 8


def main() -> int:
    """Leave the host's network, wait for the cable, answer."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        _tell("ready", ok=False, detail=os.strerror(ctypes.get_errno()))
        return 1
    _tell("ready", ok=True)
    question = json.loads(sys.stdin.readline())
    _ip("link", "set", "lo", "up")
    _ip("link", "set", "eth0", "up")
    try:
        _examine(question)
        if question["host6"]:
            _ip("addr", "add", question["address6"], "dev", "eth0", "nodad")
            _tell("host", ok=_ping(question["host6"]), address=question["host6"])
    except OSError as error:
        _tell("probe", ok=False, detail=str(error))
    return 0


def _tell(step: str, *, ok: bool, **more: Any) -> None:
    sys.stdout.write(json.dumps({"step": step, "ok": ok, **more}) + "\n")
    sys.stdout.flush()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10.0)


def _examine(question: dict[str, Any]) -> None:
    mac = bytes.fromhex(str(question["mac"]).replace(":", ""))
    with _Link("eth0", mac) as link:
        granted: DhcpAnswer | None = None
        if question["dhcp"]:
            granted = link.lease()
            if granted is None:
                return
            length = ipaddress.IPv4Network(f"0.0.0.0/{granted.mask or '255.255.255.0'}").prefixlen
            _ip("addr", "add", f"{granted.address}/{length}", "dev", "eth0")
            gateway = granted.routers[0] if granted.routers else None
        elif question["address"]:
            _ip("addr", "add", question["address"], "dev", "eth0")
            gateway = question["host"]
        else:
            return
        # whoever else may be asked while the parent looks for the lease
        _tell("plugged", ok=True)
        sys.stdin.readline()
        host = question["host"]
        if host:
            _tell("host", ok=_ping(host), address=host)
        if gateway:
            _ip("route", "add", "default", "via", gateway)
        servers = granted.dns if granted is not None else ((host,) if question["dns"] else ())
        if question["dns"] and servers:
            name = HOSTNAME if granted is not None else "localhost"
            _resolve(servers[0], name, granted.address if granted is not None else None)
        if question["beyond"]:
            _tell("way out", ok=_ping(question["beyond"]), address=question["beyond"], gateway=gateway)
        if granted is not None:
            link.release(granted)


class _Link:
    """The probe's end of the cable, for packets that need no address."""

    def __init__(self, name: str, mac: bytes) -> None:
        self._name, self._mac = name, mac

    def __enter__(self) -> "_Link":
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind((self._name, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _ask(self, kind: int, wanted: tuple[int, ...], xid: int, more: dict[int, bytes]) -> DhcpAnswer | None:
        options = {12: HOSTNAME.encode(), 55: bytes((1, 3, 6, 15, 51, 54)), **more}
        message = packets.dhcp_frame(kind, self._mac, xid, options)
        for _ in range(FIRST_TRIES if kind == packets.DISCOVER else TRIES):
            with contextlib.suppress(OSError):  # the cable may still be coming up
                self._socket.send(message)
            for data in _received(self._socket, WAIT):
                answer = packets.read_dhcp(data, xid)
                if answer is not None and answer.kind in wanted:
                    return answer
        return None

    def lease(self) -> DhcpAnswer | None:
        """Ask for a lease as a guest would, and tell."""
        xid = secrets.randbits(32)
        offer = self._ask(packets.DISCOVER, (packets.OFFER,), xid, {})
        if offer is None:
            _tell("lease", ok=False, detail="nobody offered one")
            return None
        chosen = {
            50: ipaddress.IPv4Address(offer.address).packed,
            54: ipaddress.IPv4Address(offer.server).packed,
        }
        answer = self._ask(packets.REQUEST, (packets.ACK, packets.NAK), xid, chosen)
        if answer is None or answer.kind == packets.NAK:
            said = "was refused" if answer is not None else "was never confirmed"
            _tell("lease", ok=False, detail=f"{offer.address}, offered by {offer.server}, {said}")
            return None
        _tell("lease", ok=True, address=answer.address, server=answer.server, seconds=answer.lease)
        return answer

    def release(self, granted: DhcpAnswer) -> None:
        """Give the lease back."""
        options = {54: ipaddress.IPv4Address(granted.server).packed}
        message = packets.dhcp_message(
            packets.RELEASE, self._mac, secrets.randbits(32), options, granted.address
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((granted.address, 68))
            with contextlib.suppress(OSError):
                sock.sendto(message, (granted.server, 67))


def _received(sock: socket.socket, patience: float) -> Iterator[bytes]:
    end = time.monotonic() + patience
    while (left := end - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            yield sock.recv(65535)


def _ping(address: str) -> bool:
    number = os.getpid() & 0xFFFF
    if ":" in address:
        family, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
        echo, is_reply = packets.echo6, packets.is_echo6_reply
    else:
        family, protocol = socket.AF_INET, socket.IPPROTO_ICMP
        echo, is_reply = packets.echo, packets.is_echo_reply
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        for sequence in range(FIRST_TRIES if family == socket.AF_INET6 else TRIES):
            with contextlib.suppress(OSError):
                sock.sendto(echo(number, sequence), (address, 0))
            for data in _received(sock, WAIT):
                if is_reply(data, number):
                    return True
    return False


def _resolve(server: str, name: str, expected: str | None) -> None:
    number = secrets.randbits(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(TRIES):
            with contextlib.suppress(OSError):
                sock.sendto(packets.dns_question(number, name), (server, 53))
            with contextlib.suppress(ConnectionRefusedError):
                for data in _received(sock, WAIT):
                    answer = packets.read_dns(data, number)
                    if answer is None:
                        continue
                    code, found = answer
                    good = expected in found if expected is not None else code == 0
                    _tell("name", ok=good, server=server, name=name, found=list(found), code=code)
                    return
    _tell("name", ok=False, server=server, name=name, found=[], code=None)


if __name__ == "__main__":
    sys.exit(main())
