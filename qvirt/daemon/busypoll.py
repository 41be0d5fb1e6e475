"""Staying awake between calls that follow each other closely.

Going to sleep and being woken costs more than a small call itself. While calls come so fast that the next
one is due within the time that would take, the loop polls instead of sleeping. It yields the processor on
every turn, and stops at the first gap, so an idle or slowly used daemon never polls.
"""

import asyncio
from os import sched_yield
from time import perf_counter
from typing import Final

WINDOW: Final = 100e-6
"""Seconds to poll for the next call; about what two wake-ups cost."""

STREAK: Final = 16
"""Calls that must have followed each other within the window before polling begins."""


class BusyPoll:
    """Keeps the loop turning for a moment after each call of a streak."""

    __slots__ = ("_last", "_loop", "_polling", "_streak")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = 0.0
        self._streak = 0
        self._polling = False

    def touch(self) -> None:
        """Note that a call came in."""
        now = perf_counter()
        if now - self._last > WINDOW:
            self._streak = 0
        elif self._streak < STREAK:
            self._streak += 1
        elif not self._polling:
            self._polling = True
            self._loop.call_soon(self._poll)
        self._last = now

    def _poll(self) -> None:
        if perf_counter() - self._last < WINDOW:
            sched_yield()
            self._loop.call_soon(self._poll)
        else:
            self._polling = False
