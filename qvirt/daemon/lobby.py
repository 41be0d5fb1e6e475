"""Those who have connected and not yet proved who they are: how many there may be, from where, for how long.

Those from outside and those on this machine are counted apart: a flood out there keeps nobody in here away.
When those from outside are as many as there may be, no more are taken for a moment, which a burst of honest
clients does not notice. A host that lets many connections lie about half done is worse: for a while it has
half of the places at most, and its newer connections take those of its older ones; others find a place.
"""

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qvirt.daemon.client import Client

log = logging.getLogger(__name__)

STALE: Final = 1.0
"""Seconds after which a connection that is still half done lies about; honest ones take milliseconds."""
REMEMBERED: Final = 10.0
"""Seconds for which a host stays known for it."""


class Lobby:
    """The strangers, oldest first. Times are the loop's, limits max_anonymous_clients; 0 is no limit."""

    def __init__(self) -> None:
        self._strangers: dict[Client, None] = {}
        self._counts: Counter[bool] = Counter()
        self._hosts: Counter[str] = Counter()
        self._pests: dict[str, float] = {}
        self._dropped: Counter[str] = Counter()

    def __contains__(self, client: "Client") -> bool:
        return client in self._strangers

    def enter(self, client: "Client") -> None:
        """Count a stranger."""
        self._strangers[client] = None
        self._counts[client.service.is_remote] += 1
        if client.service.is_remote:
            self._hosts[client.host] += 1

    def leave(self, client: "Client") -> None:
        """Forget about one who is known now, or gone. Harmless for others."""
        if client not in self._strangers:
            return
        del self._strangers[client]
        self._counts[client.service.is_remote] -= 1
        if client.service.is_remote:
            self._hosts[client.host] -= 1
            if not self._hosts[client.host]:
                del self._hosts[client.host]

    def is_full(self, remote: bool, limit: int) -> bool:
        """Tell whether no more strangers may come for now."""
        return 0 < limit <= self._counts[remote]

    def displaced_by(self, client: "Client", limit: int) -> "list[Client]":
        """Give those that go as another one of their host has come."""
        host = client.host
        if host not in self._pests or not limit:
            return []
        return self._oldest(host, self._hosts[host] - _share(limit))

    def excess(self, limit: int, now: float) -> "list[Client]":
        """Give those that go since their host lets too many lie about; to be asked about once a second."""
        for host, until in list(self._pests.items()):
            if self._hosts[host] >= _share(limit):
                self._pests[host] = now + REMEMBERED
            elif until < now:
                del self._pests[host]
        if not self.is_full(True, limit):
            return []
        gone = []
        for host, count in self._stale(now).items():
            if count >= _share(limit):
                self._pests[host] = now + REMEMBERED
                gone += self._oldest(host, count - _share(limit) + 1)
        return gone

    def note_dropped(self, host: str) -> None:
        """Remember for the log that a host's connection was dropped in favour of another."""
        self._dropped[host] += 1

    def report(self) -> None:
        """Say in the log how many were dropped since the last time, lest the log be flooded, too."""
        for host, count in self._dropped.items():
            log.warning("%s lets connections lie about half done: %d of them are refused", host, count)
        self._dropped.clear()

    def _oldest(self, host: str, count: int) -> "list[Client]":
        if count <= 0:
            return []
        own = [client for client in self._strangers if client.service.is_remote and client.host == host]
        return own[:count]

    def _stale(self, now: float) -> Counter[str]:
        found: Counter[str] = Counter()
        for client in self._strangers:
            if now - client.connected_at < STALE:
                break
            if client.service.is_remote:
                found[client.host] += 1
        return found


def _share(limit: int) -> int:
    return max(1, limit // 2)
