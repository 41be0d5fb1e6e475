"""Everything that can be read of a domain, running or not, by the stock clients."""

# ruff: noqa: E501 - the scripts quote whole messages

import pytest

from tests.functional.api.documents import AGENT, CONSOLE, PRELUDE, SCREEN, domain
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

NOT_RUNNING = "Requested operation is not valid: domain is not running"


def test_an_inactive_domain(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
d = conn.defineXML(sys.argv[1])
same(d.info(), [5, 65536, 65536, 1, 0])
same(d.state(), [5, 0])
same((d.isActive(), d.isPersistent(), d.isUpdated(), d.ID()), (0, 1, 0, -1))
same((d.OSType(), d.maxMemory(), d.hasManagedSaveImage()), ("hvm", 65536, 0))
same(conn.lookupByUUIDString(d.UUIDString()).name(), "reads")
same(conn.lookupByUUID(d.UUID()).name(), "reads")
same(d.vcpusFlags(0), 1)
same(d.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_CONFIG), 1)
same(d.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_MAXIMUM | libvirt.VIR_DOMAIN_AFFECT_CONFIG), 1)
not_running = "Requested operation is not valid: domain is not running"
for function, arguments in (
    (d.maxVcpus, ()),
    (d.vcpusFlags, (libvirt.VIR_DOMAIN_AFFECT_LIVE,)),
    (d.controlInfo, ()),
    (d.jobInfo, ()),
    (d.jobStats, ()),
    (d.memoryStats, ()),
    (d.blockStats, ("vda",)),
    (d.blockStatsFlags, ("vda",)),
    (d.interfaceStats, ("vnet0",)),
    (d.getCPUStats, (True,)),
    (d.diskErrors, ()),
    (d.suspend, ()),
    (d.resume, ()),
    (d.reset, ()),
    (d.shutdown, ()),
    (d.reboot, ()),
    (d.destroy, ()),
    (d.getTime, ()),
    (d.fsInfo, ()),
    (d.injectNMI, ()),
    (d.screenshot, (conn.newStream(), 0)),
    (d.openConsole, (None, conn.newStream())),
):
    code, domain, message = fails(function, *arguments)
    same((function.__name__, code, message), (function.__name__, 55, not_running))
same(fails(d.vcpus)[2], "Requested operation is not valid: cannot retrieve vcpu information for inactive domain")
same(len(d.vcpuPinInfo(0)), 1)
same(d.securityLabelList() in ([], [["", False]]), True)
same(d.messages(), [])
""",
        domain("reads", memory=64),
    )


def test_a_running_domain(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
d = conn.defineXML(sys.argv[1])
d.create()
info = d.info()
same((info[0], info[1], info[3]), (1, 65536, 1))
assert info[4] > 0, "it has used some time"
same((d.maxVcpus(), d.maxMemory(), d.vcpusFlags(0)), (1, 65536, 1))
until(lambda: d.controlInfo() == [0, 0, 0], "the monitor is free")
same(d.jobInfo(), [0] * 12)
same(d.jobStats(), {"type": 0})
vcpus, maps = d.vcpus()
same((len(vcpus), vcpus[0][0], vcpus[0][1]), (1, 0, 1))
same((len(maps), len(maps[0])), (1, conn.getInfo()[2]))
same(d.vcpuPinInfo(0), [(True,) * conn.getInfo()[2]])
same(d.emulatorPinInfo(0), (True,) * conn.getInfo()[2])
same(d.ioThreadInfo(0), [])
stats = d.memoryStats()
same(stats["actual"], 65536)
assert stats["rss"] > 1000
total = d.getCPUStats(True)
assert total[0]["cpu_time"] > 0, total
same(len(d.blockStats("vda")), 5)
block = d.blockStatsFlags("vda")
same(sorted(block), sorted(["wr_bytes", "wr_operations", "rd_bytes", "rd_operations", "flush_operations",
                            "wr_total_times", "rd_total_times", "flush_total_times"]))
same(d.blockInfo("vda")[0], 1 << 20)
same(d.blockInfo(sys.argv[2])[0], 1 << 20)
same(fails(d.blockStats, "vdz"), (8, 10, "invalid argument: invalid path: vdz"))
same(fails(d.blockInfo, "vdz"), (8, 10, "invalid argument: invalid path vdz not assigned to domain"))
same(len(d.blockStats("")), 5)
same(d.diskErrors(), {})
same(fails(d.interfaceStats, "vnet99"), (8, 20, "invalid argument: 'vnet99' is not a known interface"))
same(d.messages(), [])
same(fails(d.interfaceAddresses, 9), (74, 10, "argument unsupported: Unknown IP address data source 9"))
same(fails(d.hostname), (74, 10, "argument unsupported: QEMU guest agent is not configured"))
""",
        domain(
            "running",
            f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{_image(daemon)}'/>"
            "<target dev='vda' bus='virtio'/></disk>",
            memory=64,
        ),
        _image(daemon),
    )


def _image(daemon: Daemon) -> str:
    path = daemon.root / "one.img"
    path.write_bytes(bytes(1 << 20))
    path.chmod(0o666)
    return str(path)


def test_an_agent_that_is_not_there(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
import libvirt_qemu
d = conn.createXML(sys.argv[1])
absent = (86, 10, "Guest agent is not responding: QEMU guest agent is not connected")
same(fails(d.pMSuspendForDuration, 0, 0), absent)
same(fails(d.getTime), absent)
same(fails(d.setTime, {"seconds": 1, "nseconds": 0}), absent)
same(fails(d.fsInfo), absent)
same(fails(d.guestInfo), absent)
same(fails(d.setUserPassword, "a", "b"), absent)
same(fails(d.fSTrim, None, 0), absent)
same(fails(d.fsFreeze), absent)
same(fails(d.fsThaw), absent)
same(fails(d.hostname, libvirt.VIR_DOMAIN_GET_HOSTNAME_AGENT), absent)
same(fails(d.interfaceAddresses, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT), absent)
same(fails(d.shutdownFlags, libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT), absent)
same(fails(d.reboot, libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT), absent)
same(fails(libvirt_qemu.qemuAgentCommand, d, '{"execute":"guest-ping"}', -2, 0), absent)
n = conn.createXML(sys.argv[2])
same(fails(n.getTime), (74, 10, "argument unsupported: QEMU guest agent is not configured"))
""",
        domain("agent", AGENT),
        domain("no-agent"),
    )


def test_documents(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
d = conn.defineXML(sys.argv[1])
inactive = d.XMLDesc()
assert inactive.startswith("<domain type='qemu'>\\n  <name>documents</name>\\n"), inactive[:200]
assert "passwd" not in inactive
assert "passwd='secret'" in d.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
d.create()
live = d.XMLDesc()
assert live.startswith(f"<domain type='qemu' id='{d.ID()}'>\\n"), live[:200]
assert "<alias name='serial0'/>" in live and "<source path='/dev/pts/" in live and "passwd" not in live
same(d.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), inactive)
assert "passwd='secret'" in d.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
same(fails(d.XMLDesc, 1 << 10), (8, 10, "unsupported flags (0x400) in function qemuDomainGetXMLDesc"))
assert "<cpu" in d.XMLDesc(libvirt.VIR_DOMAIN_XML_UPDATE_CPU)
d.destroy()
same(d.XMLDesc(), inactive)
""",
        domain(
            "documents",
            CONSOLE + "<graphics type='vnc' port='-1' passwd='secret'/><video><model type='vga'/></video>",
        ),
    )


def test_metadata_titles_and_descriptions(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
L = libvirt
d = conn.defineXML(sys.argv[1])
live, config = L.VIR_DOMAIN_AFFECT_LIVE, L.VIR_DOMAIN_AFFECT_CONFIG
T, D, E = L.VIR_DOMAIN_METADATA_TITLE, L.VIR_DOMAIN_METADATA_DESCRIPTION, L.VIR_DOMAIN_METADATA_ELEMENT
none = (80, 20, "metadata not found: Requested metadata element is not present")
for kind, uri in (T, None), (D, None), (E, "http://x"):
    same(fails(d.metadata, kind, uri), none)
d.create()
d.setMetadata(T, "a title", None, None, live)
same(d.metadata(T, None, live), "a title")
same(fails(d.metadata, T, None, config), none)
assert "<title>a title</title>" in d.XMLDesc() and "<title>" not in d.XMLDesc(L.VIR_DOMAIN_XML_INACTIVE)
d.setMetadata(D, "two\\nlines <&>", None, None, live | config)
same((d.metadata(D, None, live), d.metadata(D, None, config)), ("two\\nlines <&>",) * 2)
d.setMetadata(E, "<app one='1'><deep/></app>", "k", "http://x", live | config)
same(d.metadata(E, "http://x"), '<app one="1">\\n  <deep/>\\n</app>')
assert '<k:app xmlns:k="http://x" one="1">' in d.XMLDesc().replace("'", '"'), d.XMLDesc()
d.setMetadata(E, None, None, "http://x", live)
same(fails(d.metadata, E, "http://x", live), none)
same(d.metadata(E, "http://x", config), '<app one="1">\\n  <deep/>\\n</app>')
d.setMetadata(D, None, None, None, config)
same(fails(d.metadata, D, None, config), none)
same(fails(d.setMetadata, T, "ti\\ntle", None, None, 0), (8, 20, "metadata title can't contain newlines"))
same(fails(d.setMetadata, 9, "x", "k", "u", 0)[:2], (8, 20))
same(fails(d.setMetadata, E, "<a", "k", "u", 0)[0], 35)
d.destroy()
same(fails(d.setMetadata, T, "x", None, None, live), (55, 20, "Requested operation is not valid: domain is not running"))
d.setMetadata(T, "kept", None, None, 0)
same(d.metadata(T, None), "kept")
""",
        domain("metadata"),
    )


def test_doors_to_the_monitor(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
import json, libvirt_qemu
d = conn.createXML(sys.argv[1])
answer = json.loads(libvirt_qemu.qemuMonitorCommand(d, '{"execute":"query-status"}', 0))
same(answer["return"]["running"], True)
assert "VM status: running" in libvirt_qemu.qemuMonitorCommand(d, "info status", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
assert json.loads(libvirt_qemu.qemuMonitorCommand(d, '{"execute":"nonsense"}', 0))["error"]["class"] == "CommandNotFound"
same(any("custom monitor" in line or "tainted" in line for line in d.messages()), True)
""",
        domain("doors"),
    )


def test_pictures_and_displays(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
import socket
d = conn.createXML(sys.argv[1])
def picture(screen=0):
    stream = conn.newStream()
    mime = d.screenshot(stream, screen)
    data = bytearray()
    while part := stream.recv(65536):
        data += part
    stream.finish()
    return mime, bytes(data)
mime, data = picture()
assert (mime, data[:4]) in (("image/png", b"\\x89PNG"), ("image/x-portable-pixmap", data[:4])), (mime, data[:10])
assert len(data) > 100
same(fails(d.screenshot, conn.newStream(), 7), (55, 10, "Requested operation is not valid: no such screen ID"))
def greeting(fd):
    with socket.socket(fileno=fd) as sock:
        sock.settimeout(10)
        return sock.recv(4)
same(greeting(d.openGraphicsFD(0)), b"RFB ")
ours, theirs = socket.socketpair()
d.openGraphics(0, theirs.fileno())
theirs.close()
same(greeting(ours.detach()), b"RFB ")
same(fails(d.openGraphicsFD, 5), (1, 10, "internal error: No graphics backend with index 5"))
""",
        domain("pictures", SCREEN),
    )


def test_bulk_statistics(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
L = libvirt
on = conn.createXML(sys.argv[1])
off = conn.defineXML(sys.argv[2])
records = conn.getAllDomainStats()
same(sorted(d.name() for d, _ in records), ["bulk-off", "bulk-on"])
by = {d.name(): stats for d, stats in records}
same((by["bulk-on"]["state.state"], by["bulk-on"]["state.reason"]), (1, 1))
same((by["bulk-off"]["state.state"], by["bulk-off"]["balloon.maximum"]), (5, 32768))
for key in ("cpu.time", "cpu.user", "cpu.system", "balloon.current", "balloon.maximum", "balloon.rss",
            "vcpu.current", "vcpu.maximum", "vcpu.0.state", "vcpu.0.time", "net.count", "block.count",
            "block.0.name", "block.0.rd.reqs", "block.0.capacity", "block.0.physical"):
    assert key in by["bulk-on"], (key, sorted(by["bulk-on"]))
same([d.name() for d, _ in conn.getAllDomainStats(0, L.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE)], ["bulk-on"])
same(sorted(conn.domainListGetStats([on], L.VIR_DOMAIN_STATS_STATE)[0][1]), ["state.reason", "state.state"])
same(fails(conn.getAllDomainStats, 1 << 20, L.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS)[0], 74)
conn.getAllDomainStats(0, L.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT | L.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING)
""",
        domain(
            "bulk-on",
            f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{_image(daemon)}'/>"
            "<target dev='vda' bus='virtio'/></disk>",
        ),
        domain("bulk-off"),
    )


def test_virsh_reads(daemon: Daemon) -> None:
    document = daemon.root / "v.xml"
    document.write_text(domain("v", CONSOLE + SCREEN))
    daemon.virsh("create", str(document))
    try:
        for words, wanted in (
            (("dominfo", "v"), "State:          running"),
            (("domstate", "v"), "running"),
            (("vcpuinfo", "v"), "VCPU:           0"),
            (("vcpucount", "v"), "current      live"),
            (("vcpupin", "v"), " 0"),
            (("domcontrol", "v"), "ok"),
            (("domjobinfo", "v"), "Job type:         None"),
            (("domblklist", "v"), ""),
            (("domiflist", "v"), ""),
            (("domdisplay", "v"), "vnc://"),
            (("vncdisplay", "v"), ":"),
            (("ttyconsole", "v"), "/dev/pts/"),
            (("dommemstat", "v"), "actual 32768"),
            (("cpu-stats", "v", "--total"), "cpu_time"),
            (("domstats", "v"), "state.state=1"),
            (("domfsinfo", "--help"), "domfsinfo"),
            (("dumpxml", "v", "--security-info"), "<domain type='qemu' id="),
            (("qemu-monitor-command", "v", "--hmp", "info version"), "7."),
            (("guest-agent-timeout", "--help"), "timeout"),
            (("iothreadinfo", "v"), ""),
        ):
            assert wanted in daemon.virsh(*words), words
    finally:
        daemon.virsh("destroy", "v")


def test_the_command_line_of_a_document(daemon: Daemon) -> None:
    document = daemon.root / "n.xml"
    document.write_text(domain("native"))
    line = daemon.virsh("domxml-to-native", "qemu-argv", str(document))
    assert " -name guest=native," in line
    assert "/usr/bin/qemu-system-x86_64 " in line
    assert line.startswith("LC_ALL=C ")
    daemon.python(
        PRELUDE
        + """
same(fails(conn.domainXMLToNative, "other", sys.argv[1]), (8, 10, "invalid argument: unsupported config type other"))
same(fails(conn.domainXMLFromNative, "other", "x"), (8, 10, "invalid argument: unsupported config type other"))
same(fails(conn.domainXMLFromNative, "qemu-argv", "x")[0], 8)
""",
        domain("native"),
    )
