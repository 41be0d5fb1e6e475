"""How much a peer that is not trusted may say in a second, before it has to wait."""

import asyncio
from collections.abc import Callable

SECOND = 1.0


class Pace:
    """Stops listening to a peer that says too much, until the second is over.

    What it has to say stays in the kernel's buffer, and when that is full it waits: its flood costs neither
    our memory nor the other guests' turns. stop, go: leave the peer alone, and listen to it again.
    """

    def __init__(self, allowed: int, stop: Callable[[], None], go: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._allowed = allowed
        self._stop = stop
        self._go = go
        self._since = 0.0
        self._spent = 0
        self._timer: asyncio.TimerHandle | None = None

    def spend(self, amount: int) -> None:
        """Count what the peer has said, in the unit of what is allowed."""
        now = self._loop.time()
        if now - self._since >= SECOND:
            self._since, self._spent = now, 0
        self._spent += amount
        if self._spent > self._allowed and self._timer is None:
            self._stop()
            self._timer = self._loop.call_at(self._since + SECOND, self._listen)

    def close(self) -> None:
        """Never listen again."""
        if self._timer is not None:
            self._timer.cancel()

    def _listen(self) -> None:
        self._timer = None
        self._go()
