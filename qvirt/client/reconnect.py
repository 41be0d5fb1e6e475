"""Coming back to a daemon that was lost: when to try, and when to give up."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from qvirt.errors import (
    AccessDenied,
    AuthCancelled,
    AuthFailed,
    AuthUnavailable,
    ConfigSyntax,
    ConfigUnsupported,
    InvalidArg,
    NoConnect,
    NoSupport,
    OperationDenied,
    OperationTimeout,
    QvirtError,
)
from qvirt.record import Record

log = logging.getLogger(__name__)

T = TypeVar("T")

FINAL: Final = (
    AccessDenied,
    AuthCancelled,
    AuthFailed,
    AuthUnavailable,
    ConfigSyntax,
    ConfigUnsupported,
    InvalidArg,
    NoConnect,
    NoSupport,
    OperationDenied,
)
"""Errors that say no: trying again would only repeat the question."""


class Reconnect(Record):
    """How a lost connection is made anew; all in seconds.

    delay: before the first attempt, and doubled for each further one up to `longest`.
    attempt: that one attempt may take, whoever is asked for a password included.
    patience: from the loss until it is given up; None never gives up.
    """

    delay: float = 0.1
    longest: float = 10.0
    attempt: float = 60.0
    patience: float | None = 300.0

    def check(self) -> None:
        """Refuse values that make no sense; raises InvalidArg."""
        for name in ("delay", "longest", "attempt", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidArg(f"reconnect: {name} is {value:g}, expected more than 0 seconds")

    async def again(self, attempt: Callable[[], Awaitable[T]], what: str) -> T:
        """Make attempts until one succeeds; raises the daemon's no, OperationTimeout when patience is over.

        what: whose connection it is, for the log.
        """
        loop = asyncio.get_running_loop()
        end = None if self.patience is None else loop.time() + self.patience
        delay, last = self.delay, "no attempt was made"
        while end is None or loop.time() + delay < end:
            # Not all at the same moment: whoever lost this daemon comes back to it, too.
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - nobody is to guess it
            delay = min(delay * 2, self.longest)
            limit = loop.time() + self.attempt
            try:
                async with asyncio.timeout_at(limit if end is None else min(limit, end)):
                    return await attempt()
            except FINAL:
                raise
            except QvirtError as error:
                last = str(error)
            except TimeoutError:
                last = "it did not come about in time"
            log.info("%s: not back yet: %s", what, last)
        raise OperationTimeout(f"{what} did not come back within {self.patience:g} s: {last}")
