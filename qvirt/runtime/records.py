"""What the readings of a domain return: plain records, in libvirt's words and units.

Sizes of memory are KiB and times are nanoseconds, as in libvirt's API, unless a field says otherwise.
"""

from qvirt.record import Record, field


class Info(Record):
    """virDomainGetInfo. max_mem, memory: KiB; cpu_time: ns."""

    state: int
    max_mem: int
    memory: int
    nr_virt_cpu: int
    cpu_time: int


class ControlInfo(Record):
    """virDomainGetControlInfo: DomainControlState, DomainControlErrorReason, how long in ms."""

    state: int = 0
    details: int = 0
    state_time: int = 0


class VcpuInfo(Record):
    """One vCPU. state: VcpuState; cpu_time: ns; cpu: the host CPU it runs on, -1 when it runs on none."""

    number: int
    state: int
    cpu_time: int
    cpu: int
    affinity: frozenset[int]


class IothreadInfo(Record):
    """One iothread and the host CPUs it may run on."""

    iothread_id: int
    affinity: frozenset[int]


class BlockStats(Record):
    """Counters of one disk, or of all; None where QEMU does not tell. Times: ns; errs: -1 as in libvirt."""

    rd_req: int
    rd_bytes: int
    wr_req: int
    wr_bytes: int
    rd_total_times: int | None = None
    wr_total_times: int | None = None
    flush_req: int | None = None
    flush_total_times: int | None = None
    errs: int = -1


class BlockInfo(Record):
    """virDomainGetBlockInfo, bytes: what the guest sees, what the host has given, where the data ends."""

    capacity: int
    allocation: int
    physical: int


class InterfaceStats(Record):
    """Counters of one network interface, from the guest's side: received is what the guest received."""

    rx_bytes: int
    rx_packets: int
    rx_errs: int
    rx_drop: int
    tx_bytes: int
    tx_packets: int
    tx_errs: int
    tx_drop: int


class JobInfo(Record):
    """virDomainGetJobInfo of a domain without an asynchronous job; type is DomainJobType."""

    type: int = 0
    time_elapsed: int = 0
    time_remaining: int = 0


class FsInfo(Record):
    """One file system of the guest."""

    mountpoint: str
    name: str
    fstype: str
    dev_alias: tuple[str, ...] = ()


class IpAddress(Record):
    """One address. type: IPAddrType (0 IPv4, 1 IPv6)."""

    type: int
    addr: str
    prefix: int


class GuestInterface(Record):
    """One network interface with its addresses. hwaddr: None when it has none."""

    name: str
    hwaddr: str | None
    addrs: tuple[IpAddress, ...] = ()


class SecurityLabel(Record):
    """The label a domain's process runs under."""

    label: str
    enforcing: bool


class DiskError(Record):
    """A disk QEMU has stopped on. error: DomainDiskErrorCode."""

    disk: str
    error: int


#: A typed parameter's value: int (which of the integer types is the name's business), float, bool, str.
ParamValue = int | float | bool | str


class Param(Record):
    """A typed parameter: libvirt's field name, TypedParameterType, value."""

    name: str
    type: int
    value: ParamValue


class DomainStats(Record, frozen=False):
    """What bulk stats found out about one domain.

    answered: False when the monitor did not answer in time or was busy (NOWAIT), so params holds only what
    is known without it.
    """

    name: str
    uuid: str
    id: int
    params: list[Param] = field(default_factory=list)
    answered: bool = True
