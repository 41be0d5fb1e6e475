"""What happens to secrets, typed, and who is told of it."""

from typing import ClassVar

from qvirt.constants.secret import SecretEventID
from qvirt.drivers.events import EventBus
from qvirt.record import Record


class SecretEvent(Record):
    """Base. event_id: virSecretEventID; usage_type, usage_id: part of a secret's handle."""

    event_id: ClassVar[int]
    uuid: str
    usage_type: int
    usage_id: str


class SecretLifecycle(SecretEvent):
    """event: SecretEventLifecycleType; detail: always 0."""

    event_id: ClassVar[int] = SecretEventID.LIFECYCLE
    event: int
    detail: int = 0


class SecretValueChanged(SecretEvent):
    """A value was set."""

    event_id: ClassVar[int] = SecretEventID.VALUE_CHANGED


SecretEvents = EventBus[SecretEvent]
