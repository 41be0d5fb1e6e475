"""What happens to networks, typed, and who is told of it."""

import logging
from collections.abc import Callable
from typing import ClassVar

from qvirt.constants import NetworkEventID
from qvirt.record import Record

log = logging.getLogger(__name__)


class NetworkEvent(Record):
    """Base. event_id: virNetworkEventID."""

    event_id: ClassVar[int]
    name: str
    uuid: str


class NetworkLifecycle(NetworkEvent):
    """event: NetworkEventLifecycleType; detail: always 0."""

    event_id: ClassVar[int] = NetworkEventID.LIFECYCLE
    event: int
    detail: int = 0


class NetworkMetadataChange(NetworkEvent):
    """type: NetworkMetadataType; nsuri: only for metadata elements."""

    event_id: ClassVar[int] = NetworkEventID.METADATA_CHANGE
    type: int
    nsuri: str | None


Subscriber = Callable[[NetworkEvent], None]


class NetworkEvents:
    """Synchronous publish and subscribe."""

    def __init__(self) -> None:
        self._subscribers: dict[int, Subscriber] = {}
        self._next = 0

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every event from now on; returns what ends that."""
        key = self._next
        self._next += 1
        self._subscribers[key] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def publish(self, event: NetworkEvent) -> None:
        """Tell every subscriber; one that fails is logged and harms nobody."""
        for subscriber in list(self._subscribers.values()):
            try:
                subscriber(event)
            except Exception:
                log.exception("subscriber failed on %s", type(event).__name__)
