"""Jobs: who may do something to a domain now. Each domain has its own; no domain waits for another.

A modify job is alone; query jobs share. Whoever comes waits in line, for at most a deadline, and is then
told who holds the domain.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import Enum

from qvirt.errors import OperationFailed, OperationTimeout
from qvirt.record import Record, field

#: seconds a job is waited for; libvirt's QEMU_JOB_WAIT_TIME
JOB_WAIT = 30.0


class Job(Enum):
    """What a job may do."""

    QUERY = "query"
    MODIFY = "modify"


class Held(Record, frozen=False, eq=False):
    """A job somebody holds or waits for. owner: the operation; since: the loop's clock when it began."""

    kind: Job
    owner: str
    since: float
    turn: asyncio.Future[None] | None = field(default=None, repr=False)


class JobQueue:
    """The jobs of one domain, in the order they were asked for."""

    __slots__ = ("_clock", "_holders", "_most", "_waiting")

    def __init__(self, clock: Callable[[], float], most: int = 0) -> None:
        """most: how many jobs may be there at a time, with those that wait; 0 for any number."""
        self._clock = clock
        self._most = most
        self._holders: list[Held] = []
        self._waiting: deque[Held] = deque()

    @property
    def holder(self) -> Held | None:
        """The job that has been held longest, or None."""
        return self._holders[0] if self._holders else None

    @property
    def busy(self) -> bool:
        """Tell whether a query would have to wait."""
        return bool(self._waiting) or any(held.kind is Job.MODIFY for held in self._holders)

    @contextlib.asynccontextmanager
    async def hold(self, kind: Job, owner: str, *, wait: float = JOB_WAIT) -> AsyncIterator[None]:
        """Hold a job for the length of the block.

        Raises OperationTimeout 'cannot acquire state change lock' when it is not to be had within ``wait``
        seconds, OperationFailed when too many wait for it already.
        """
        if self._most and len(self._holders) + len(self._waiting) >= self._most:
            raise OperationFailed("cannot acquire state change lock due to max_queued limit")
        held = Held(kind, owner, self._clock())
        if self._waiting or not self._may_start(held):
            await self._wait(held, wait)
        else:
            self._holders.append(held)
        try:
            yield
        finally:
            self._holders.remove(held)
            self._wake()

    async def _wait(self, held: Held, wait: float) -> None:
        held.turn = asyncio.get_running_loop().create_future()
        self._waiting.append(held)
        try:
            async with asyncio.timeout(wait):
                await held.turn
        except BaseException as error:
            if held in self._waiting:
                self._waiting.remove(held)
            else:  # the turn came in the moment we gave up
                self._holders.remove(held)
            self._wake()
            if isinstance(error, TimeoutError):
                raise OperationTimeout(self._refusal(wait)) from None
            raise
        held.since = self._clock()

    def _refusal(self, wait: float) -> str:
        holder = self.holder
        if holder is None:
            return "cannot acquire state change lock"
        age = self._clock() - holder.since
        return (
            f"cannot acquire state change lock (held by monitor={holder.owner}); "
            f"held for {age:.0f} s, waited {wait:g} s"
        )

    def _may_start(self, held: Held) -> bool:
        if held.kind is Job.MODIFY:
            return not self._holders
        return all(other.kind is Job.QUERY for other in self._holders)

    def _wake(self) -> None:
        while self._waiting and self._may_start(self._waiting[0]):
            held = self._waiting.popleft()
            self._holders.append(held)
            if held.turn is not None and not held.turn.done():
                held.turn.set_result(None)
