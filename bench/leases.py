"""How long after dnsmasq has given a lease the daemon tells of it: from the packet to the client's answer.

Run inside a network namespace: ``python -m bench.leases URI NETWORK BRIDGE ROUNDS``; prints the median and
the longest, in ms. The guest is one end of a cable whose other end is in the bridge.
"""

import asyncio
import ipaddress
import socket
import statistics
import subprocess
import sys
import time

from qvirt.cli.doctor import packets
from qvirt.client.aio import Connection

_ETH_P_ALL = 3
_PATIENCE = 10.0


def ask(link: socket.socket, frame: bytes, xid: int, kind: int) -> packets.DhcpAnswer:
    """Send a request and wait for its answer."""
    deadline = time.monotonic() + _PATIENCE
    link.settimeout(0.5)
    while time.monotonic() < deadline:
        link.send(frame)
        try:
            while True:
                answer = packets.read_dhcp(link.recv(2048), xid)
                if answer is not None and answer.kind == kind:
                    return answer
        except TimeoutError:
            continue
    raise SystemExit("nobody answers on the bridge")


def lease(link: socket.socket, mac: bytes, xid: int) -> None:
    """Get a lease as a guest does."""
    offer = ask(link, packets.dhcp_frame(packets.DISCOVER, mac, xid, {}), xid, packets.OFFER)
    chosen = {
        code: ipaddress.IPv4Address(text).packed for code, text in ((50, offer.address), (54, offer.server))
    }
    ask(link, packets.dhcp_frame(packets.REQUEST, mac, xid, chosen), xid, packets.ACK)


async def known(connection: Connection, network: object, mac: str) -> None:
    """Ask until the daemon knows the lease."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        answer = await connection.call(
            "NETWORK_GET_DHCP_LEASES", net=network, mac=mac, need_results=1, flags=0
        )
        if answer.leases:
            return
    raise SystemExit("the daemon never tells of the lease")


def plug_in(bridge: str) -> None:
    """Lay the cable."""
    for words in (
        ("link", "add", "qvb0", "type", "veth", "peer", "name", "qvb1"),
        ("link", "set", "qvb0", "master", bridge, "up"),
        ("link", "set", "qvb1", "up"),
    ):
        subprocess.run(["ip", *words], check=True)


async def measure(uri: str, name: str, rounds: int) -> list[float]:
    """Return the times in ms."""
    took = []
    async with await Connection.open(uri) as connection:
        network = (await connection.call("NETWORK_LOOKUP_BY_NAME", name=name)).net
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as link:
            link.bind(("qvb1", 0))
            for number in range(rounds):
                mac = bytes((0x52, 0x54, 0, 0, 1, number))
                lease(link, mac, 1000 + number)
                given = time.perf_counter()
                await known(connection, network, mac.hex(":"))
                took.append((time.perf_counter() - given) * 1000)
    return took


def main() -> None:
    """Measure."""
    uri, name, bridge, rounds = sys.argv[1:]
    plug_in(bridge)
    took = asyncio.run(measure(uri, name, int(rounds)))
    print(statistics.median(took), max(took))


if __name__ == "__main__":
    main()
