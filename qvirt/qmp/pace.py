"""How much a peer that is not trusted may say in a second, before it has to wait."""

import asyncio
from collections.abc import Callable

SECOND = 1.0
SHARE = 0.1
"""The part of our time that one peer may have."""


class Pace:
    """Stops listening to a peer that says too much, until the second is over.

    What it has to say stays in the kernel's buffer, and when that is full it waits: its flood costs neither
    our memory nor the other guests' turns. One that has cost us more than its share of the second, as a
    single message may take a third of one, waits until it has not.
    """

    def __init__(
        self, allowed: float, stop: Callable[[], None], go: Callable[[], None], *, share: float = SHARE
    ) -> None:
        """stop, go: leave the peer alone, and listen to it again. share: the part of our time it may have."""
        self._loop = asyncio.get_running_loop()
        self._allowed = allowed
        self._share = share
        self._stop = stop
        self._go = go
        self._since = 0.0
        self._spent = 0
        self._worked = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def spend(self, amount: int, worked: float) -> None:
        """Count what the peer has said, in the unit of what is allowed, and the seconds it has cost us."""
        now = self._loop.time()
        if now - self._since >= SECOND:
            self._since, self._spent, self._worked = now, 0, 0.0
        self._spent += amount
        self._worked += worked
        if self._timer is None and (self._spent > self._allowed or self._worked > self._share * SECOND):
            self._stop()
            self._timer = self._loop.call_at(
                self._since + max(SECOND, self._worked / self._share), self._listen
            )

    def close(self) -> None:
        """Never listen again."""
        if self._timer is not None:
            self._timer.cancel()

    def _listen(self) -> None:
        self._timer = None
        self._go()
