"""Keepalive: the times at which libvirtd was seen to ping and to give up."""

from qvirt.rpc import packet
from qvirt.rpc.keepalive import Keepalive, answer, is_keepalive
from qvirt.rpc.packet import Framer


def test_a_silent_peer_is_pinged_five_times_and_dropped_after_thirty_seconds() -> None:
    timer = Keepalive(5, 5, now=0)
    seen = []
    for now in range(31):
        action = timer.tick(now)
        if action != "wait":
            seen.append((now, action))
    assert seen == [(5, "ping"), (10, "ping"), (15, "ping"), (20, "ping"), (25, "ping"), (30, "dead")]


def test_any_packet_starts_it_anew() -> None:
    timer = Keepalive(5, 1, now=0)
    assert timer.tick(5) == "ping"
    timer.received(9)
    assert timer.due == 14
    assert timer.tick(13) == "wait"
    assert timer.tick(14) == "ping"
    assert timer.tick(19) == "dead"


def test_interval_zero_never_pings() -> None:
    assert Keepalive(0, 5, now=0).tick(1000) == "wait"


def test_ping_is_answered_and_pong_is_not() -> None:
    ping, pong = Framer().feed(packet.PING + packet.PONG)
    assert is_keepalive(ping)
    assert answer(ping) == packet.PONG
    assert answer(pong) is None
