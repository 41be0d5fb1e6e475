"""When to ping a silent peer and when to give it up; the caller owns clock, timer and socket."""

from typing import Literal

from qvirt.rpc import protocol
from qvirt.rpc.packet import PING_PROCEDURE, PONG, Packet

Action = Literal["wait", "ping", "dead"]


class Keepalive:
    """libvirt's keepalive timer: after `interval` seconds of silence a ping, after `count` of them one
    interval more, then the peer is dead. Any packet received starts it anew. Times are seconds of one clock.
    """

    def __init__(self, interval: float, count: int, now: float) -> None:
        self.interval = interval
        self.count = count
        self._due = now + interval
        self._pings = 0

    def received(self, now: float) -> None:
        """Note that a packet, of any kind, came in."""
        self._due = now + self.interval
        self._pings = 0

    @property
    def due(self) -> float:
        """The time at which to call `tick` next."""
        return self._due

    def tick(self, now: float) -> Action:
        """Say what to do now: nothing yet, send a PING, or close the connection."""
        if self.interval <= 0 or now < self._due:
            return "wait"
        if self._pings >= self.count:
            return "dead"
        self._pings += 1
        self._due = now + self.interval
        return "ping"


def answer(packet: Packet) -> bytes | None:
    """Give what to send back for a keepalive packet: PONG for PING, nothing for PONG."""
    return PONG if packet.procedure == PING_PROCEDURE else None


def is_keepalive(packet: Packet) -> bool:
    """Tell whether the packet belongs to the keepalive program."""
    return packet.program == protocol.KEEPALIVE
