"""Every way to start, stop and change the state of a domain, by the stock clients."""

# ruff: noqa: E501 - the scripts quote whole messages

import re
import shutil

import pytest

from tests.functional.api.documents import PRELUDE, domain
from tests.support.daemon import Daemon, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


def test_the_whole_life_by_virsh(daemon: Daemon, tmp_path: pytest.TempPathFactory) -> None:
    document = f"{tmp_path}/d.xml"
    with open(document, "w") as file:
        file.write(domain("life"))
    out = daemon.virsh("define", document)
    assert "life" in daemon.virsh("list", "--all", "--name").split()
    assert daemon.virsh("domstate", "life", "--reason").split("\n")[0] in ("shut off (unknown)", "shut off")
    assert out == ""
    daemon.virsh("start", "life")
    assert daemon.virsh("domstate", "life", "--reason").strip() == "running (booted)"
    assert re.search(r"^ *\d+ +life +running$", daemon.virsh("list"), re.MULTILINE)
    assert int(daemon.virsh("domid", "life")) > 0
    daemon.virsh("suspend", "life")
    assert daemon.virsh("domstate", "life", "--reason").strip() == "paused (user)"
    daemon.virsh("resume", "life")
    assert daemon.virsh("domstate", "life", "--reason").strip() == "running (unpaused)"
    daemon.virsh("reset", "life")
    done = daemon.virsh_run("start", "life")
    assert done.returncode == 1
    assert "Domain is already active" in done.stderr
    daemon.virsh("destroy", "life")
    assert daemon.virsh("domstate", "life", "--reason").strip() == "shut off (destroyed)"
    assert daemon.virsh("domid", "life").strip() in ("-", "")
    done = daemon.virsh_run("destroy", "life")
    assert "Requested operation is not valid: domain is not running" in done.stderr
    daemon.virsh("undefine", "life")
    assert "life" not in daemon.virsh("list", "--all", "--name").split()
    assert not daemon.qemu_pids()


def test_starts(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
d = conn.defineXML(sys.argv[1])
assert d.create() == 0 and d.isActive() and d.ID() > 0
first = d.ID()
same(fails(d.create), (55, 10, "Requested operation is not valid: domain is already running"))
d.destroy()
assert d.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED) == 0
same(d.state(), [3, 1])
assert d.ID() > first
d.resume()
same(d.state(), [1, 5])
d.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)
same(d.state(), [5, 2])
d.undefine()
same(fails(d.info)[0], 42)
t = conn.createXML(sys.argv[2])
assert t.isActive() and not t.isPersistent()
same(fails(t.undefine)[0], 55)
same(fails(t.setAutostart, 1), (55, 10, "Requested operation is not valid: cannot set autostart for transient domain"))
t.destroy()
same(fails(conn.lookupByName, "transient")[0], 42)
""",
        domain("starts"),
        domain("transient"),
    )


def test_a_transient_domain_that_is_defined_stays(daemon: Daemon) -> None:
    document = domain("becomes")
    daemon.python(
        PRELUDE
        + """
d = conn.createXML(sys.argv[1])
assert not d.isPersistent()
conn.defineXML(sys.argv[1])
assert d.isPersistent() and d.isActive()
d.undefine()
assert d.isActive() and not d.isPersistent()
conn.defineXML(sys.argv[1])
d.destroy()
assert conn.lookupByName("becomes").isPersistent()
conn.lookupByName("becomes").undefine()
""",
        document,
    )


def test_autodestroy_ends_with_the_connection(daemon: Daemon) -> None:
    daemon.python(
        "conn.createXML(sys.argv[1], libvirt.VIR_DOMAIN_START_AUTODESTROY)\n"
        "conn.defineXML(sys.argv[2]).createWithFlags(libvirt.VIR_DOMAIN_START_AUTODESTROY)",
        domain("ends-along"),
        domain("ends-too"),
    )
    wait_until(lambda: not daemon.qemu_pids(), "the guests are gone")
    assert daemon.virsh("list", "--all", "--name").split() == ["ends-too"]
    assert daemon.virsh("domstate", "ends-too", "--reason").strip() == "shut off (destroyed)"
    daemon.virsh("undefine", "ends-too")


def test_clashes_of_name_and_uuid(daemon: Daemon) -> None:
    one = "11111111-2222-3333-4444-555555555555"
    daemon.python(
        PRELUDE
        + """
one, other_uuid, other_name = sys.argv[1:]
d = conn.defineXML(one)
u = d.UUIDString()
same(fails(conn.defineXML, other_uuid), (9, 20, f"operation failed: domain 'clash' already exists with uuid {u}"))
same(fails(conn.defineXML, other_name), (9, 20, f"operation failed: domain 'clash' is already defined with uuid {u}"))
d.create()
assert fails(conn.createXML, one)[0] in (9, 55), fails(conn.createXML, one)
same(fails(conn.createXML, other_uuid)[0], 9)
d.destroy()
d.undefine()
""",
        domain("clash", uid=one),
        domain("clash"),
        domain("clashes", uid=one),
    )


def test_rename(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
d = conn.defineXML(sys.argv[1])
d.setAutostart(1)
u = d.UUIDString()
d.rename("new-name", 0)
n = conn.lookupByName("new-name")
assert n.UUIDString() == u and n.autostart() == 1
assert "<name>new-name</name>" in n.XMLDesc()
same(fails(conn.lookupByName, "old-name")[0], 42)
same(fails(n.rename, "")[2], "string new_name in virDomainRename must not be empty")
n.create()
same(fails(n.rename, "x"), (55, 10, "Requested operation is not valid: cannot rename active domain"))
n.destroy()
n.undefine()
""",
        domain("old-name"),
    )


def test_autostart(own_daemon: Daemon) -> None:
    own_daemon.python(
        """
d = conn.defineXML(sys.argv[1])
assert d.autostart() == 0
d.setAutostart(1)
assert d.autostart() == 1
assert [x.name() for x in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)] == ["auto"]
conn.defineXML(sys.argv[2])
""",
        domain("auto"),
        domain("manual"),
    )
    own_daemon.stop()
    # Once per boot of the host: a daemon that only comes back starts nothing.
    own_daemon.start()
    assert own_daemon.virsh("list", "--name").split() == []
    reboot(own_daemon)
    wait_until(lambda: own_daemon.virsh("list", "--name").split() == ["auto"], "autostart")
    own_daemon.virsh("autostart", "auto", "--disable")
    own_daemon.virsh("destroy", "auto")
    reboot(own_daemon)
    assert own_daemon.virsh("list", "--name").split() == []
    assert own_daemon.virsh("list", "--all", "--name").split() == ["auto", "manual"]


def reboot(daemon: Daemon) -> None:
    """Come back as after a boot of the host, which empties /run."""
    daemon.stop()
    shutil.rmtree(daemon.root / "run")
    daemon.start()


def test_filters_of_the_list(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
L = libvirt
off = conn.defineXML(sys.argv[1]); off.setAutostart(1)
on = conn.defineXML(sys.argv[2]); on.create()
paused = conn.createXML(sys.argv[3], L.VIR_DOMAIN_START_PAUSED)
def names(flags):
    return sorted(x.name() for x in conn.listAllDomains(flags))
for flags, want in (
    (0, ["f-off", "f-on", "f-paused"]),
    (L.VIR_CONNECT_LIST_DOMAINS_ACTIVE, ["f-on", "f-paused"]),
    (L.VIR_CONNECT_LIST_DOMAINS_INACTIVE, ["f-off"]),
    (L.VIR_CONNECT_LIST_DOMAINS_ACTIVE | L.VIR_CONNECT_LIST_DOMAINS_INACTIVE, ["f-off", "f-on", "f-paused"]),
    (L.VIR_CONNECT_LIST_DOMAINS_PERSISTENT, ["f-off", "f-on"]),
    (L.VIR_CONNECT_LIST_DOMAINS_TRANSIENT, ["f-paused"]),
    (L.VIR_CONNECT_LIST_DOMAINS_RUNNING, ["f-on"]),
    (L.VIR_CONNECT_LIST_DOMAINS_PAUSED, ["f-paused"]),
    (L.VIR_CONNECT_LIST_DOMAINS_SHUTOFF, ["f-off"]),
    (L.VIR_CONNECT_LIST_DOMAINS_OTHER, []),
    (L.VIR_CONNECT_LIST_DOMAINS_RUNNING | L.VIR_CONNECT_LIST_DOMAINS_SHUTOFF, ["f-off", "f-on"]),
    (L.VIR_CONNECT_LIST_DOMAINS_AUTOSTART, ["f-off"]),
    (L.VIR_CONNECT_LIST_DOMAINS_NO_AUTOSTART | L.VIR_CONNECT_LIST_DOMAINS_TRANSIENT, ["f-paused"]),
    (L.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE, []),
    (L.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT, []),
    (L.VIR_CONNECT_LIST_DOMAINS_NO_CHECKPOINT, ["f-off", "f-on", "f-paused"]),
):
    same((flags, names(flags)), (flags, want))
assert conn.numOfDomains() == 2 and conn.numOfDefinedDomains() == 1
assert sorted(conn.listDomainsID()) == sorted([on.ID(), paused.ID()])
assert conn.listDefinedDomains() == ["f-off"]
assert conn.lookupByID(on.ID()).name() == "f-on"
same(fails(conn.listAllDomains, 1 << 30)[2], "unsupported flags (0x40000000) in function qemuConnectListAllDomains")
for d in on, paused:
    d.destroy()
for d in off, on:
    d.undefine()
""",
        domain("f-off"),
        domain("f-on"),
        domain("f-paused"),
    )


@pytest.mark.parametrize(
    ("element", "command", "states"),
    [
        ("", "quit", [[5, 1], [5, 3]]),
        ("<on_reboot>destroy</on_reboot>", "system_reset", [[5, 1]]),
        ("<on_reboot>restart</on_reboot>", "system_reset", [[1, 1]]),
    ],
    ids=["QEMU ends", "reboot destroys", "reboot restarts"],
)
def test_what_happens_at_the_guests_end(
    daemon: Daemon, element: str, command: str, states: list[list[int]]
) -> None:
    # The monitor plays the guest: these commands raise the events a guest would.
    daemon.python(
        PRELUDE
        + """
import libvirt_qemu
d = conn.defineXML(sys.argv[1])
d.create()
try:
    libvirt_qemu.qemuMonitorCommand(d, '{"execute":"%s"}' % sys.argv[2], 0)
except libvirt.libvirtError:
    pass    # QEMU may go before it answers
states = eval(sys.argv[3])
until(lambda: d.state() in states, f"one of {states}")
""",
        domain("on-action", extra=element),
        command,
        repr(states),
    )


def test_shutdown_needs_somebody_to_listen(daemon: Daemon) -> None:
    daemon.python(
        PRELUDE
        + """
d = conn.defineXML(sys.argv[1])
d.create()
d.shutdown()
d.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
same(fails(d.shutdownFlags, libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)[0], 74)
same(fails(d.shutdownFlags, libvirt.VIR_DOMAIN_SHUTDOWN_PARAVIRT)[2], "unsupported flags (0x10) in function qemuDomainShutdownFlags")
d.reboot()
d.injectNMI()
d.sendKey(0, 0, [28], 1, 0)
same(fails(d.sendKey, 0, 0, [0xffff], 1, 0), (1, 10, "internal error: cannot translate keycode 65535 of linux codeset to qnum keycode"))
assert fails(d.pMWakeup)[2].startswith("internal error: unable to execute QEMU command 'system_wakeup'")
d.destroy()
same(fails(d.shutdown)[2], "Requested operation is not valid: domain is not running")
d.undefine()
""",
        domain("deaf"),
    )
