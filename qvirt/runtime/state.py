"""The status file of a running domain: all that a daemon needs to find its QEMU again.

The form is libvirt's ``<domstatus>``; what libvirt has no word for is in one ``<qvirt>`` element, which
libvirt skips. The file is written before anything is made for a start and after each change.
"""

from functools import cache
from pathlib import Path
from typing import cast

from lxml import etree

from qvirt.constants.domain import (
    DomainCrashedReason,
    DomainPausedReason,
    DomainPMSuspendedReason,
    DomainRunningReason,
    DomainShutdownReason,
    DomainShutoffReason,
    DomainState,
)
from qvirt.errors import XmlError
from qvirt.record import Record, field
from qvirt.runtime.foreign.renaming import Kind, Name
from qvirt.security.loans import Loan
from qvirt.xml.document import parse_element
from qvirt.xml.fields import escape, quoted

VERSION = 1

#: the words libvirt writes for a state
STATE_WORDS = {
    DomainState.NOSTATE: "no state",
    DomainState.RUNNING: "running",
    DomainState.BLOCKED: "idle",
    DomainState.PAUSED: "paused",
    DomainState.SHUTDOWN: "in shutdown",
    DomainState.SHUTOFF: "shut off",
    DomainState.CRASHED: "crashed",
    DomainState.PMSUSPENDED: "pmsuspended",
}

#: state -> the class whose constants, in lower case with dashes for some, are the words of its reasons
_REASONS: dict[int, type] = {
    DomainState.RUNNING: DomainRunningReason,
    DomainState.PAUSED: DomainPausedReason,
    DomainState.SHUTDOWN: DomainShutdownReason,
    DomainState.SHUTOFF: DomainShutoffReason,
    DomainState.CRASHED: DomainCrashedReason,
    DomainState.PMSUSPENDED: DomainPMSuspendedReason,
}
_SPELLED = {
    "FROM_SNAPSHOT": "from snapshot",
    "MIGRATION_CANCELED": "migration canceled",
    "SAVE_CANCELED": "save canceled",
    "IOERROR": "ioerror",
    "SHUTTING_DOWN": "shutting down",
    "STARTING_UP": "starting up",
    "POSTCOPY_FAILED": "post-copy failed",
    "POSTCOPY": "post-copy",
    "API_ERROR": "api error",
}


def _words(cls: type) -> dict[int, str]:
    return {
        value: _SPELLED.get(name, name.lower().replace("_", " "))
        for name, value in vars(cls).items()
        if name.isupper() and isinstance(value, int)
    }


REASON_WORDS = {state: _words(cls) for state, cls in _REASONS.items()}


class HelperMark(Record, frozen=False):
    """A process beside QEMU that serves the guest; see runtime/helpers/processes.py.

    pid: 0 before there is one. start_time: of the process, in clock ticks since boot. log: where its last
    words are. files: its sockets and pid file, removed with it.
    """

    name: str
    pid: int = 0
    start_time: int = 0
    log: str = ""
    files: list[str] = field(default_factory=list)


class PciMark(Record, frozen=False):
    """A PCI function of the host that the guest has.

    driver, override: what it had before, '' for none. managed: it is taken from its driver and given back.
    group: its IOMMU group, which no other guest may have a function of.
    """

    name: str
    managed: bool = False
    driver: str = ""
    override: str = ""
    group: str = ""


class VfMark(Record):
    """A virtual function of a card's that has a guest's address meanwhile, and what the card kept before.

    card: network device of the physical function; number: the virtual one's. mac, vlan, qos: before.
    """

    name: str
    card: str
    number: int
    mac: str
    vlan: int = 0
    qos: int = 0


class Footprint(Record, frozen=False):
    """What a start leaves on the host, to be undone when the domain ends, however it ends.

    folders: removed with what is in them. files: removed. ports: TCP ports taken from the allocator.
    loans: files whose labels are changed for QEMU, given back in reverse order. links: network devices that
    outlive QEMU (macvtap), removed.
    macs: devices of the host that have a guest's MAC address meanwhile, and their own.
    plugging: aliases of the devices that are being plugged in and may not be there yet.
    cgroup: where its control groups are, below each hierarchy.
    changing: while a device changes, the document of the one that is not in the definition; else empty.
    helpers: processes, ended.
    pci: functions of the host, given back to their drivers. vfs: those of cards, which get their own settings
    back before.
    """

    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    loans: list[Loan] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    macs: dict[str, str] = field(default_factory=dict)
    plugging: list[str] = field(default_factory=list)
    cgroup: str = ""
    changing: str = ""
    helpers: list[HelperMark] = field(default_factory=list)
    pci: list[PciMark] = field(default_factory=list)
    vfs: list[VfMark] = field(default_factory=list)


class Written:
    """The live document as it is written into the status file, kept by its parts until one of them changes.

    whole: all of it. frame: what stands before the devices and after them. lists: the text of each list of
    devices, by its name.
    """

    __slots__ = ("frame", "lists", "whole")

    def __init__(self) -> None:
        self.whole: str | None = None
        self.frame: list[str] | None = None
        self.lists: dict[str, str] = {}

    def forget(self, lists: set[str]) -> None:
        """Forget what has changed: lists of devices that have come or gone, or everything."""
        self.whole = None
        if not lists:
            self.lists.clear()
        if not lists or "memory" in lists:  # the guest has more or less of it
            self.frame = None
        for name in lists if lists.isdisjoint(_MIRRORED) else lists | _MIRRORED:
            self.lists.pop(name, None)


_MIRRORED = frozenset({"serials", "consoles"})
"""The first console is the first serial port under another name."""


class Status(Record, frozen=False):
    """What a status file says.

    stage: "starting" or "running". xml: the live definition, secrets included. inactive_xml: what a transient
    domain was started from. extras: elements of libvirt's that we do not use and hand back to it.
    names: what a QEMU that somebody else started calls things. start_time: of the process, in clock ticks
    since boot; 0 when a foreign file does not say. boot_id: the boot those ticks belong to.
    """

    name: str
    id: int
    state: int
    reason: int
    stage: str
    xml: str
    monitor: str
    pid: int = 0
    start_time: int = 0
    boot_id: str = ""
    folder: str = ""
    vcpu_pids: list[int] = field(default_factory=list)
    taints: list[str] = field(default_factory=list)
    footprint: Footprint = field(default_factory=Footprint)
    fake_reboot: bool = False
    autodestroy: bool = False
    clock_base: int = 0
    vcpus_gone: int = 0
    inactive_xml: str = ""
    extras: list[str] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)
    version: int = VERSION

    def to_text(self, header: str) -> str:
        """Return the whole file."""
        pid = f" pid='{self.pid}'" if self.pid else ""
        out = [
            header,
            f"<domstatus state='{STATE_WORDS[self.state]}'"
            f" reason='{_reason(self.state, self.reason)}'{pid}>\n",
        ]
        out += [f"  <taint flag='{quoted(taint)}'/>\n" for taint in self.taints]
        out.append(f"  <monitor path='{quoted(self.monitor)}' type='unix'/>\n")
        if self.vcpu_pids:
            out.append("  <vcpus>\n")
            out += [f"    <vcpu id='{i}' pid='{pid}'/>\n" for i, pid in enumerate(self.vcpu_pids)]
            out.append("  </vcpus>\n")
        out += [f"  {extra}\n" for extra in self.extras]
        if self.fake_reboot:
            out.append("  <fakereboot/>\n")
        out.append(f"  <libDir path='{quoted(self.folder)}'/>\n")
        out.append(
            f"  <qvirt version='{self.version}' stage='{self.stage}' startTime='{self.start_time}'"
            f" bootId='{quoted(self.boot_id)}' autodestroy='{'yes' if self.autodestroy else 'no'}'"
            f" clockBase='{self.clock_base}' vcpusGone='{self.vcpus_gone}'>\n"
        )
        mark = self.footprint
        out += [f"    <folder path='{quoted(path)}'/>\n" for path in mark.folders]
        out += [f"    <file path='{quoted(path)}'/>\n" for path in mark.files]
        out += [f"    <port number='{port}'/>\n" for port in mark.ports]
        out += [
            f"    <loan path='{quoted(loan.path)}' model='{loan.model}'"
            f" before='{quoted(loan.before)}' label='{quoted(loan.label)}'"
            + (" shared='yes'/>\n" if loan.shared else "/>\n")
            for loan in mark.loans
        ]
        out += [f"    <link name='{quoted(name)}'/>\n" for name in mark.links]
        out += [
            f"    <mac device='{quoted(name)}' address='{quoted(mac)}'/>\n" for name, mac in mark.macs.items()
        ]
        out += [
            f"    <pci device='{one.name}' managed='{'yes' if one.managed else 'no'}'"
            f" driver='{quoted(one.driver)}' override='{quoted(one.override)}' group='{one.group}'/>\n"
            for one in mark.pci
        ]
        out += [
            f"    <vf device='{vf.name}' card='{quoted(vf.card)}' number='{vf.number}' address='{vf.mac}'"
            f" vlan='{vf.vlan}' qos='{vf.qos}'/>\n"
            for vf in mark.vfs
        ]
        out += [f"    <plugging alias='{quoted(alias)}'/>\n" for alias in mark.plugging]
        for helper in mark.helpers:
            out.append(
                f"    <helper name='{quoted(helper.name)}' pid='{helper.pid}' startTime='{helper.start_time}'"
                f" log='{quoted(helper.log)}'>\n"
            )
            out += [f"      <file path='{quoted(path)}'/>\n" for path in helper.files]
            out.append("    </helper>\n")
        if mark.cgroup:
            out.append(f"    <cgroup path='{quoted(mark.cgroup)}'/>\n")
        if mark.changing:
            out.append(f"    <changing>{escape(mark.changing)}</changing>\n")
        out += [
            f"    <name kind='{name.kind}' ours='{quoted(name.ours)}' theirs='{quoted(name.theirs)}'"
            f" implicit='{'yes' if name.implicit else 'no'}'/>\n"
            for name in self.names
        ]
        if self.inactive_xml:
            out.append("    <inactive>\n")
            out += [f"      {line}\n" for line in self.inactive_xml.rstrip("\n").split("\n")]
            out.append("    </inactive>\n")
        out.append("  </qvirt>\n")
        out += [f"  {line}\n" for line in self.xml.rstrip("\n").split("\n")]
        out.append("</domstatus>\n")
        return "".join(out)


#: what we read; all other elements are handed on
_KNOWN = frozenset({"taint", "monitor", "vcpus", "fakereboot", "libDir", "qvirt", "domain"})


def _reason(state: int, reason: int) -> str:
    return REASON_WORDS.get(state, {}).get(reason, "unknown")


def read_status(text: str, source: str) -> Status:
    """Read a status file, ours of any version or libvirt's. Raises XmlError and XmlDetail."""
    root = parse_element(text, source)
    if root.tag != "domstatus":
        raise XmlError(f"{source}: unexpected root element <{root.tag}>, expecting <domstatus>")
    domain = root.find("domain")
    monitor = root.find("monitor")
    if domain is None or monitor is None or not domain.findtext("name"):
        raise XmlError(f"{source}: no domain or no monitor in it")
    state = next((s for s, word in STATE_WORDS.items() if word == root.get("state")), None)
    if state is None:
        raise XmlError(f"{source}: invalid domain state '{root.get('state')}'")
    reasons = {word: number for number, word in REASON_WORDS.get(state, {}).items()}
    ours = root.find("qvirt")
    lib = root.find("libDir")
    monitor_path = monitor.get("path", "")
    return Status(
        name=cast(str, domain.findtext("name")),
        id=_number(domain.get("id"), -1),
        state=state,
        reason=reasons.get(root.get("reason", ""), 0),
        stage="running" if ours is None else ours.get("stage", "starting"),
        xml=domain_text(domain),
        monitor=monitor_path,
        pid=_number(root.get("pid"), 0),
        start_time=0 if ours is None else _number(ours.get("startTime"), 0),
        boot_id="" if ours is None else ours.get("bootId", ""),
        folder=lib.get("path", "") if lib is not None else str(Path(monitor_path).parent),
        vcpu_pids=[_number(el.get("pid"), 0) for el in root.iterfind("vcpus/vcpu")],
        taints=[el.get("flag", "") for el in root.iterfind("taint")],
        footprint=_footprint(ours),
        fake_reboot=root.find("fakereboot") is not None,
        clock_base=0 if ours is None else _number(ours.get("clockBase"), 0),
        vcpus_gone=0 if ours is None else _number(ours.get("vcpusGone"), 0),
        inactive_xml=_inactive(ours),
        extras=[_whole(el) for el in root if isinstance(el.tag, str) and el.tag not in _KNOWN],
        names=_names(ours),
        autodestroy=ours is not None and ours.get("autodestroy") == "yes",
        version=0 if ours is None else _number(ours.get("version"), 0),
    )


def _whole(el: etree._Element) -> str:
    """Return an element of a status file as it stood there."""
    return etree.tostring(el, encoding="unicode", with_tail=False)


def domain_text(domain: etree._Element) -> str:
    """Return the document of a ``<domain>`` inside another one."""
    return etree.tostring(domain, encoding="unicode", with_tail=False)


def _inactive(ours: etree._Element | None) -> str:
    found = ours.find("inactive/domain") if ours is not None else None
    return domain_text(found) if found is not None else ""


def _footprint(ours: etree._Element | None) -> Footprint:
    if ours is None:
        return Footprint()
    return Footprint(
        folders=[el.get("path", "") for el in ours.iterfind("folder")],
        files=[el.get("path", "") for el in ours.iterfind("file")],
        ports=[_number(el.get("number"), 0) for el in ours.iterfind("port")],
        loans=[
            Loan(
                el.get("path", ""),
                el.get("before", ""),
                el.get("label", ""),
                el.get("model", "dac"),
                el.get("shared") == "yes",
            )
            for el in ours.iterfind("loan")
        ],
        cgroup=next((el.get("path", "") for el in ours.iterfind("cgroup")), ""),
        links=[el.get("name", "") for el in ours.iterfind("link")],
        macs={el.get("device", ""): el.get("address", "") for el in ours.iterfind("mac")},
        plugging=[el.get("alias", "") for el in ours.iterfind("plugging")],
        changing=ours.findtext("changing", ""),
        helpers=[
            HelperMark(
                el.get("name", ""),
                _number(el.get("pid"), 0),
                _number(el.get("startTime"), 0),
                el.get("log", ""),
                [file.get("path", "") for file in el.iterfind("file")],
            )
            for el in ours.iterfind("helper")
        ],
        pci=[
            PciMark(
                el.get("device", ""),
                el.get("managed") == "yes",
                el.get("driver", ""),
                el.get("override", ""),
                el.get("group", ""),
            )
            for el in ours.iterfind("pci")
        ],
        vfs=[
            VfMark(
                el.get("device", ""),
                el.get("card", ""),
                _number(el.get("number"), 0),
                el.get("address", ""),
                _number(el.get("vlan"), 0),
                _number(el.get("qos"), 0),
            )
            for el in ours.iterfind("vf")
        ],
    )


def _names(ours: etree._Element | None) -> list[Name]:
    if ours is None:
        return []
    kinds = {str(kind): kind for kind in Kind}
    return [
        Name(
            kinds[el.get("kind", "")],
            el.get("ours", ""),
            el.get("theirs", ""),
            el.get("implicit") == "yes",
        )
        for el in ours.iterfind("name")
        if el.get("kind") in kinds
    ]


def _number(text: str | None, default: int) -> int:
    try:
        return default if text is None else int(text)
    except ValueError:
        return default


@cache
def boot_id() -> str:
    """Return what tells this boot of the machine from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
