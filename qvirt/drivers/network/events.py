"""What happens to networks, typed, and who is told of it."""

from typing import ClassVar

from qvirt.constants.network import NetworkEventID
from qvirt.drivers.events import EventBus
from qvirt.record import Record


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


NetworkEvents = EventBus[NetworkEvent]
