"""``<domain>``: the order of its children, how its text is read and how much of it is shown."""

from typing import Self

from lxml import etree

from qvirt.errors import ConfigUnsupported, InternalError, NoName, XmlDetail, XmlError
from qvirt.model.clock import Clock
from qvirt.model.cpu import Cpu
from qvirt.model.cputune import CpuTune
from qvirt.model.devices import Devices
from qvirt.model.features import Features
from qvirt.model.launch import KeyWrap, LaunchSecurity
from qvirt.model.memory import CurrentMemory, MaxMemory, MemoryBacking, TotalMemory
from qvirt.model.memtune import BlkioTune, MemTune
from qvirt.model.numa import NumaTune
from qvirt.model.os import Os
from qvirt.model.qemu_namespace import (
    QEMU_NAMESPACE,
    QemuCapabilities,
    QemuCommandline,
    QemuDeprecation,
    QemuOverride,
)
from qvirt.model.seclabel import SecLabel
from qvirt.model.sysinfo import Sysinfo
from qvirt.model.vcpu import DefaultIothread, IothreadIds, Vcpu, Vcpus
from qvirt.xml.codecs import Codec, at_most, string, uint, uuid, words, yes_no
from qvirt.xml.document import parse
from qvirt.xml.fields import attr, child, children, part, text
from qvirt.xml.node import Node, Raw, Reader, complain

#: what each lifecycle event may lead to
LIFECYCLE_ACTIONS = ("destroy", "restart", "rename-restart", "preserve")
CRASH_ACTIONS = (*LIFECYCLE_ACTIONS, "coredump-destroy", "coredump-restart")
LOCK_FAILURE_ACTIONS = ("default", "poweroff", "restart", "pause", "ignore")


class Metadata(Node, tag="metadata"):
    """``<metadata>``: other programs' elements, one per namespace, kept word for word."""

    items: list[Raw]

    def _read(self, el: etree._Element, reader: Reader) -> None:
        super()._read(el, Reader())
        seen: set[str] = set()
        items = []
        for kid in el:
            if kid.tag.__class__ is not str:
                continue
            namespace = str(kid.tag)[1:].partition("}")[0] if str(kid.tag).startswith("{") else ""
            if namespace and namespace not in seen:  # the first of a namespace stays
                seen.add(namespace)
                items.append(Raw(kid))
        self.items = items

    def copy(self) -> Self:
        twin = super().copy()
        twin.items = self.items.copy()
        return twin

    def write_body(self, out: list[str], indent: str) -> None:
        for item in self.items:
            item.write(out, indent)


class FibreChannel(Node, tag="fibrechannel"):
    appid: str = attr(string, required=True)


class Resource(Node, tag="resource"):
    """``<resource>``: where the domain sits among the host's control groups."""

    partition: str | None = text(string)
    fibrechannel: FibreChannel | None = child(FibreChannel)


class IdMapEntry(Node):
    complaints = complain(
        {
            f"!{name}": (XmlError, "invalid idmap start/target/count settings")
            for name in ("start", "target", "count")
        }
    )
    start: int = attr(uint, required=True)
    target: int = attr(uint, required=True)
    count: int = attr(uint, required=True)


class IdMap(Node, tag="idmap"):
    """User namespaces of a container; kept."""

    uids: list[IdMapEntry] = children(IdMapEntry, "uid")
    gids: list[IdMapEntry] = children(IdMapEntry, "gid")


class Suspend(Node):
    enabled: bool | None = attr(yes_no)


class Pm(Node, tag="pm"):
    """``<pm>``: which sleep states the firmware offers."""

    suspend_to_mem: Suspend | None = child(Suspend, "suspend-to-mem")
    suspend_to_disk: Suspend | None = child(Suspend, "suspend-to-disk")

    def check(self) -> None:
        for name in ("suspend_to_mem", "suspend_to_disk"):
            state: Suspend | None = getattr(self, name)
            if state is not None and state.enabled is None:
                del self.__dict__[name]


PERF_EVENTS = (
    "cmt", "mbmt", "mbml", "cpu_cycles", "instructions", "cache_references", "cache_misses",
    "branch_instructions", "branch_misses", "bus_cycles", "stalled_cycles_frontend", "stalled_cycles_backend",
    "ref_cpu_cycles", "cpu_clock", "task_clock", "page_faults", "context_switches", "cpu_migrations",
    "page_faults_min", "page_faults_maj", "alignment_faults", "emulation_faults",
)  # fmt: skip


class PerfEvent(Node, tag="event"):
    name: str = attr(words(*PERF_EVENTS), required=True)
    enabled: bool = attr(yes_no, required=True)


class Perf(Node, tag="perf"):
    """``<perf>``: which performance events are counted."""

    events: list[PerfEvent] = children(PerfEvent)

    def check(self) -> None:
        self.events.sort(key=lambda event: PERF_EVENTS.index(event.name))
        for one, two in zip(self.events, self.events[1:], strict=False):
            if one.name == two.name:
                raise XmlError(f"perf event '{one.name}' was already specified")


def _parse_id(value: str) -> int | None:
    return int(value) if value.isdecimal() else None


#: the id of a document that is read means nothing, so neither does a bad one
_ID: Codec[int | None] = Codec(_parse_id, str, "a non-negative integer")
#: empty: one is to be made
_GENID: Codec[str] = Codec(lambda value: uuid.parse(value) if value else "", str, uuid.expects)
#: each is a thread of its own; a number nobody can mean is refused before they are listed
_IOTHREADS: Codec[int] = at_most(16384)
DOMAIN_TYPES = frozenset(
    ("qemu", "kqemu", "kvm", "xen", "lxc", "uml", "openvz", "test", "vmware", "hyperv", "vbox", "phyp",
     "parallels", "bhyve", "vz", "hvf")
)  # fmt: skip


class Domain(Node, tag="domain"):
    """A virtual machine, as the user describes it."""

    complaints = complain(
        {
            "!type": (InternalError, "missing domain type attribute"),
            "!name": (NoName, ""),
            "!os": (XmlError, "an os <type> must be specified"),
            "uuid": (InternalError, "malformed uuid element"),
            "genid": (InternalError, "malformed genid element"),
            "iothreads": (XmlError, "invalid iothreads count '{}'"),
            "on_poweroff": (ConfigUnsupported, "unknown on_poweroff action: {}"),
            "on_reboot": (ConfigUnsupported, "unknown on_reboot action: {}"),
            "on_crash": (ConfigUnsupported, "unknown on_crash action: {}"),
            "on_lockfailure": (ConfigUnsupported, "unknown on_lockfailure action: {}"),
        }
    )
    type: str = attr(string, required=True)
    id: int | None = attr(_ID)
    name: str = text(string, required=True)
    uuid: str | None = text(uuid)
    genid: str | None = text(_GENID)
    title: str | None = text(string)
    description: str | None = text(string)
    metadata: Metadata | None = child(Metadata)
    max_memory: MaxMemory | None = child(MaxMemory)
    memory: TotalMemory | None = child(TotalMemory)
    current_memory: CurrentMemory | None = child(CurrentMemory)
    blkiotune: BlkioTune = part(BlkioTune)
    memtune: MemTune = part(MemTune)
    memory_backing: MemoryBacking = part(MemoryBacking)
    vcpu: Vcpu | None = child(Vcpu)
    vcpus: Vcpus | None = child(Vcpus)
    iothreads: int | None = text(_IOTHREADS, omit=0)
    iothreadids: IothreadIds = part(IothreadIds)
    defaultiothread: DefaultIothread | None = child(DefaultIothread)
    cputune: CpuTune = part(CpuTune)
    numatune: NumaTune = part(NumaTune)
    resource: Resource | None = child(Resource)
    sysinfos: list[Sysinfo] = children(Sysinfo)
    bootloader: str | None = text(string)
    bootloader_args: str | None = text(string)
    os: Os = child(Os, required=True)
    idmap: IdMap = part(IdMap)
    features: Features = part(Features)
    cpu: Cpu | None = child(Cpu)
    clock: Clock | None = child(Clock)
    on_poweroff: str | None = text(words(*LIFECYCLE_ACTIONS))
    on_reboot: str | None = text(words(*LIFECYCLE_ACTIONS))
    on_crash: str | None = text(words(*CRASH_ACTIONS))
    on_lockfailure: str | None = text(words(*LOCK_FAILURE_ACTIONS), omit="default")
    pm: Pm = part(Pm)
    perf: Perf = part(Perf)
    devices: Devices = part(Devices)
    seclabels: list[SecLabel] = children(SecLabel)
    qemu_commandline: QemuCommandline | None = child(QemuCommandline)
    qemu_capabilities: QemuCapabilities | None = child(QemuCapabilities)
    qemu_override: QemuOverride | None = child(QemuOverride)
    qemu_deprecation: QemuDeprecation | None = child(QemuDeprecation)
    keywrap: KeyWrap | None = child(KeyWrap)
    launch_security: LaunchSecurity | None = child(LaunchSecurity)

    def extra_attributes(self) -> str:
        if (
            self.qemu_commandline is None
            and self.qemu_capabilities is None
            and self.qemu_override is None
            and self.qemu_deprecation is None
        ):
            return ""
        return f" xmlns:qemu='{QEMU_NAMESPACE}'"

    def check(self) -> None:
        if self.type not in DOMAIN_TYPES:
            raise ConfigUnsupported(f"invalid domain type {self.type}")
        if not self.name:
            raise NoName("")
        if "\n" in self.name:
            raise XmlDetail("invalid char in name: \n")
        if "/" in self.name:
            raise XmlError(f"name {self.name} cannot contain '/'")
        if self.title is not None and "\n" in self.title:
            raise XmlError("Domain title can't contain newlines")
        for name in ("title", "description", "bootloader", "bootloader_args"):
            if self.__dict__.get(name) == "":
                del self.__dict__[name]
        self._drop_empty()

    def _drop_empty(self) -> None:
        """Drop elements that say nothing, which libvirt does not keep."""
        for name in ("defaultiothread", "keywrap", "qemu_commandline", "qemu_capabilities", "qemu_override"):
            node: Node | None = self.__dict__.get(name)
            if node is not None and node.is_empty():
                del self.__dict__[name]
        if self.qemu_deprecation is not None and self.qemu_deprecation.behavior is None:
            self.qemu_deprecation = None
        if self.vcpus is not None and not self.vcpus.vcpus:
            self.vcpus = None

    @property
    def vcpus_current(self) -> int:
        """How many CPUs the guest has at boot."""
        if self.vcpu is None:
            return 1
        return self.vcpu.value if self.vcpu.current is None else self.vcpu.current


def parse_domain(xml: str, *, validate: bool = False) -> Domain:
    """Read a domain document. Raises XmlDetail, XmlError, XmlInvalidSchema."""
    return parse(xml, Domain, "(domain_definition)", validate=validate)


def parse_live(xml: str) -> Domain:
    """Read the document of a running domain, whose aliases, labels and ports are part of what it says."""
    return parse(xml, Domain, "(domain_status)")
