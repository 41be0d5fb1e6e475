"""Pairs of categories, one for each domain that runs: what keeps two guests of one type apart."""

import secrets
import threading
from collections.abc import Callable

from qvirt.errors import InternalError
from qvirt.security.contexts import LAST_CATEGORY, Context, categories, level, sensitivity

#: how often a pair is drawn before all are looked through
_DRAWS = 64


class Pairs:
    """The pairs in use. own: the daemon's context, whose range bounds what it may give away.

    Where that has no categories, all of the policy's are there to be used: it gives what it does not have.
    Used by several threads.
    """

    def __init__(self, own: Context, below: Callable[[int], int] = secrets.randbelow) -> None:
        """below: draws a number under another. Raises InternalError where the range has no two categories."""
        self.sense = sensitivity(own.low or "s0")
        try:
            found = sorted(set(categories(own.high))) if own.high else []
        except ValueError as error:
            raise InternalError(f"the daemon's own SELinux range cannot be read: {error}") from error
        self._choice = found or list(range(LAST_CATEGORY + 1))
        if len(self._choice) < 2:
            raise InternalError(
                f"the daemon's own SELinux range '{own.range}' holds {len(self._choice)} categories; "
                "two are needed to keep guests apart"
            )
        self._below = below
        self._used: dict[frozenset[int], int] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """How many pairs there are."""
        return len(self._choice) * (len(self._choice) - 1) // 2

    @property
    def used(self) -> list[frozenset[int]]:
        """The pairs in use."""
        with self._lock:
            return list(self._used)

    def take(self) -> str:
        """Take a pair nobody has; returns the level. Raises InternalError when all are taken."""
        with self._lock:
            pair = self._free()
            self._used[pair] = 1
        return level(self.sense, pair)

    def _free(self) -> frozenset[int]:
        count = len(self._choice)
        for _ in range(_DRAWS):
            first = self._below(count)
            second = (first + 1 + self._below(count - 1)) % count
            pair = frozenset((self._choice[first], self._choice[second]))
            if pair not in self._used:
                return pair
        for at, one in enumerate(self._choice):
            for other in self._choice[at + 1 :]:
                if frozenset((one, other)) not in self._used:
                    return frozenset((one, other))
        raise InternalError(f"all {self.size} pairs of SELinux categories are in use")

    def reserve(self, context: Context) -> bool:
        """Note the categories of a domain that runs already, or has them by its document.

        Tells whether it is the only one that has them.
        """
        pair = context.pair
        if not pair:
            return True
        with self._lock:
            self._used[pair] = self._used.get(pair, 0) + 1
            return self._used[pair] == 1

    def release(self, context: Context) -> None:
        """Give the categories of a domain that has ended back."""
        pair = context.pair
        with self._lock:
            left = self._used.get(pair, 0) - 1
            if left > 0:
                self._used[pair] = left
            else:
                self._used.pop(pair, None)
