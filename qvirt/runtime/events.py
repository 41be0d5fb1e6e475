"""Domain events, typed, and the synchronous bus that carries them.

One record per event of libvirt's API; the names of the fields are libvirt's. Whoever changes a domain
publishes; subscribers are called in the order they came, before publish returns, and must not block.
"""

from typing import ClassVar

from qvirt.constants.domain_event import DomainEventID
from qvirt.drivers import events
from qvirt.record import Record


class DomainRef(Record):
    """Which domain an event is about, as it was then. id: -1 when it does not run."""

    name: str
    uuid: str
    id: int


class DomainEvent(Record):
    """Base. event_id: virDomainEventID, None for what libvirt's API has no event for."""

    event_id: ClassVar[int | None] = None
    domain: DomainRef


class Lifecycle(DomainEvent):
    """event: DomainEventType; detail: the matching DomainEvent…DetailType."""

    event_id: ClassVar[int | None] = DomainEventID.LIFECYCLE
    event: int
    detail: int


class Reboot(DomainEvent):
    """The guest has rebooted."""

    event_id: ClassVar[int | None] = DomainEventID.REBOOT


class RtcChange(DomainEvent):
    """The guest has set its clock; utcoffset in seconds."""

    event_id: ClassVar[int | None] = DomainEventID.RTC_CHANGE
    utcoffset: int


class Watchdog(DomainEvent):
    """The watchdog has fired; action: DomainEventWatchdogAction."""

    event_id: ClassVar[int | None] = DomainEventID.WATCHDOG
    action: int


class IoError(DomainEvent):
    """A disk has failed. Published once; it serves IO_ERROR (without reason) and IO_ERROR_REASON.

    action: DomainEventIOErrorAction; reason: "enospc" or empty.
    """

    event_id: ClassVar[int | None] = DomainEventID.IO_ERROR
    src_path: str
    dev_alias: str
    action: int
    reason: str


class GraphicsAddress(Record):
    """One end of a display connection. family: DomainEventGraphicsAddressType."""

    family: int
    node: str
    service: str


class Graphics(DomainEvent):
    """A display client came or went; phase: DomainEventGraphicsPhase; subject: (type, name) pairs."""

    event_id: ClassVar[int | None] = DomainEventID.GRAPHICS
    phase: int
    local: GraphicsAddress
    remote: GraphicsAddress
    auth_scheme: str
    subject: tuple[tuple[str, str], ...] = ()


class ControlError(DomainEvent):
    """The monitor is of no use any more."""

    event_id: ClassVar[int | None] = DomainEventID.CONTROL_ERROR


class BlockJob(DomainEvent):
    """A block job changed. Serves BLOCK_JOB (path) and BLOCK_JOB_2 (dst).

    type: DomainBlockJobType; status: ConnectDomainEventBlockJobStatus.
    """

    event_id: ClassVar[int | None] = DomainEventID.BLOCK_JOB
    path: str
    dst: str
    type: int
    status: int


class DiskChange(DomainEvent):
    """A disk's source went missing at start; reason: ConnectDomainEventDiskChangeReason."""

    event_id: ClassVar[int | None] = DomainEventID.DISK_CHANGE
    old_src_path: str | None
    new_src_path: str | None
    dev_alias: str
    reason: int


class TrayChange(DomainEvent):
    """A tray was opened (reason 0) or closed (1)."""

    event_id: ClassVar[int | None] = DomainEventID.TRAY_CHANGE
    dev_alias: str
    reason: int


class PmWakeup(DomainEvent):
    """The guest woke up."""

    event_id: ClassVar[int | None] = DomainEventID.PMWAKEUP
    reason: int = 0


class PmSuspend(DomainEvent):
    """The guest went to sleep (S3)."""

    event_id: ClassVar[int | None] = DomainEventID.PMSUSPEND
    reason: int = 0


class PmSuspendDisk(DomainEvent):
    """The guest went to sleep (S4)."""

    event_id: ClassVar[int | None] = DomainEventID.PMSUSPEND_DISK
    reason: int = 0


class BalloonChange(DomainEvent):
    """The guest's memory is now ``actual`` KiB."""

    event_id: ClassVar[int | None] = DomainEventID.BALLOON_CHANGE
    actual: int


class DeviceAdded(DomainEvent):
    event_id: ClassVar[int | None] = DomainEventID.DEVICE_ADDED
    dev_alias: str


class DeviceRemoved(DomainEvent):
    event_id: ClassVar[int | None] = DomainEventID.DEVICE_REMOVED
    dev_alias: str


class DeviceRemovalFailed(DomainEvent):
    event_id: ClassVar[int | None] = DomainEventID.DEVICE_REMOVAL_FAILED
    dev_alias: str


class Tunable(DomainEvent):
    """A tunable changed; params: (field name, TypedParameterType, value)."""

    event_id: ClassVar[int | None] = DomainEventID.TUNABLE
    params: tuple[tuple[str, int, int | str], ...]


class AgentLifecycle(DomainEvent):
    """The guest agent came or went; state, reason: ConnectDomainEventAgentLifecycle…."""

    event_id: ClassVar[int | None] = DomainEventID.AGENT_LIFECYCLE
    state: int
    reason: int


class MetadataChange(DomainEvent):
    """type: DomainMetadataType; nsuri: only for metadata elements."""

    event_id: ClassVar[int | None] = DomainEventID.METADATA_CHANGE
    type: int
    nsuri: str | None


class BlockThreshold(DomainEvent):
    event_id: ClassVar[int | None] = DomainEventID.BLOCK_THRESHOLD
    dev: str
    path: str | None
    threshold: int
    excess: int


class MemoryFailure(DomainEvent):
    """recipient, action, flags: DomainMemoryFailure…."""

    event_id: ClassVar[int | None] = DomainEventID.MEMORY_FAILURE
    recipient: int
    action: int
    flags: int


class MemoryDeviceSizeChange(DomainEvent):
    """size: KiB."""

    event_id: ClassVar[int | None] = DomainEventID.MEMORY_DEVICE_SIZE_CHANGE
    dev_alias: str
    size: int


class MonitorEvent(DomainEvent):
    """A raw QMP event (virConnectDomainQemuMonitorEventRegister). details: its data as JSON, or None."""

    event: str
    seconds: int
    micros: int
    details: str | None


EventBus = events.EventBus[DomainEvent]
