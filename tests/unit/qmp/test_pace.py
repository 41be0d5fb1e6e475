"""Peers that say too much wait; nobody else does."""

import asyncio
from typing import Any

import pytest

from qvirt.qmp import agent as agents
from qvirt.qmp import client, pace
from qvirt.qmp.agent import GuestAgent
from qvirt.qmp.client import Monitor
from qvirt.qmp.wire import Event
from tests.unit.qmp.peer import Peer

EVENT = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE", "data": {"offset": 1}}\r\n'


async def flood(peer: Peer, data: bytes) -> int:
    """Write until nobody takes any more."""
    sent = 0
    while True:
        try:
            sent += peer.sock.send(data)
        except BlockingIOError:
            return sent
        await asyncio.sleep(0)


def test_a_monitor_that_floods_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "EVENTS_PER_SECOND", 100)
    monkeypatch.setattr(pace, "SECOND", 3600.0)

    async def main() -> None:
        peer = Peer()
        seen: list[Event] = []
        monitor = Monitor(peer.near, on_event=seen.append)
        sent = await flood(peer, EVENT * 50)
        assert 100 < len(seen) < sent // len(EVENT)
        # the second is over
        timer: Any = monitor._pace._timer
        assert timer is not None
        monitor._pace._listen()
        more = asyncio.Event()
        monitor.on_event = lambda _: more.set()
        await asyncio.wait_for(more.wait(), 10)
        monitor.close()

    asyncio.run(main())


def test_a_guest_that_floods_its_agent_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "BYTES_PER_SECOND", 100_000)
    monkeypatch.setattr(pace, "SECOND", 3600.0)

    async def main() -> None:
        peer = Peer()
        agent = GuestAgent(peer.near)
        sent = await flood(peer, b"x" * 5000)
        assert agent._pace._spent <= 100_000 + agents._READ_SIZE
        assert sent > agent._pace._spent
        agent.close()

    asyncio.run(main())


def test_few_words_that_take_long_count_by_the_time_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SHARE", 1e-9)
    monkeypatch.setattr(pace, "SECOND", 3600.0)

    async def main() -> None:
        peer = Peer()
        seen: list[Event] = []
        monitor = Monitor(peer.near, on_event=seen.append)
        assert await flood(peer, EVENT) > 0
        assert 0 < len(seen) < client.EVENTS_PER_SECOND
        timer: Any = monitor._pace._timer
        assert timer is not None
        # what was too much is made up for
        assert timer.when() - asyncio.get_running_loop().time() > 3600.0
        monitor.close()
        peer = Peer()
        monitor = Monitor(peer.near, trusted=True)
        peer.sock.send(EVENT * 10)
        await asyncio.sleep(0)
        assert monitor._pace._timer is None
        monitor.close()

    asyncio.run(main())


def test_answers_nobody_asked_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """They count as events do, and do not fill the log."""
    monkeypatch.setattr(client, "EVENTS_PER_SECOND", 100)
    monkeypatch.setattr(pace, "SECOND", 3600.0)

    async def main() -> None:
        peer = Peer()
        monitor = Monitor(peer.near)
        answer = b'{"return": "' + b"x" * 1000 + b'", "id": "strange"}\r\n'
        await flood(peer, answer * 50)
        assert monitor._pace._timer is not None
        monitor.close()

    asyncio.run(main())
    complaints = [text for text in caplog.messages if "answer to no command" in text]
    assert len(complaints) == 1
    assert len(complaints[0]) < 300
