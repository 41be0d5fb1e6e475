"""What a stock client hears while another acts: libvirt's events, in libvirt's order."""

import pytest

from tests.functional.api.documents import AGENT, PRELUDE, domain
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

LISTEN = """
import threading
heard = []
FENCE = "<domain type='qemu'><name>fence</name><memory>1024</memory><os><type>hvm</type></os></domain>"

def listener():
    while True:
        libvirt.virEventRunDefaultImpl()

libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=listener, daemon=True).start()
ears = libvirt.open(sys.argv[-1])

def lifecycle(conn_, dom, event, detail, opaque):
    if dom.name() != "fence":
        heard.append((dom.name(), event, detail))

def settle():
    '''Return when all that has happened so far is heard: events come in order, and a last one is heard.'''
    last = []
    fence = ears.lookupByUUID(conn.defineXML(FENCE).UUID())
    note = lambda *_: last.append(True)
    number = ears.domainEventRegisterAny(fence, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, note, None)
    fence.undefine()
    until(lambda: last, "the fence is heard")
    ears.domainEventDeregisterAny(number)

def expect(wanted):
    until(lambda: len(heard) >= len(wanted), f"{wanted} heard, so far {heard}")
    settle()
    same(heard, wanted)
    heard.clear()
"""


def run(daemon: Daemon, code: str, *arguments: str) -> str:
    """Run a script that listens by a second connection."""
    return daemon.python(PRELUDE + LISTEN + code, *arguments, daemon.uri)


def test_the_life_of_a_domain(daemon: Daemon) -> None:
    run(
        daemon,
        """
ears.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
d = conn.defineXML(sys.argv[1])
expect([("heard", 0, 0)])                               # defined, added
conn.defineXML(sys.argv[1])
expect([("heard", 0, 1)])                               # defined, updated
d.create()
expect([("heard", 4, 0), ("heard", 2, 0)])              # resumed, started: booted
d.suspend()
expect([("heard", 3, 0)])                               # suspended: paused
d.resume()
expect([("heard", 4, 0)])                               # resumed: unpaused
d.destroy()
expect([("heard", 6, 2), ("heard", 5, 1)])              # shutdown: host, stopped: destroyed
d.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
expect([("heard", 2, 0), ("heard", 3, 0)])              # started, suspended
d.destroy()
expect([("heard", 6, 2), ("heard", 5, 1)])
d.rename("renamed")
expect([("heard", 1, 1), ("renamed", 0, 2)])            # undefined: renamed, defined: renamed
conn.lookupByName("renamed").undefine()
expect([("renamed", 1, 0)])
t = conn.createXML(sys.argv[1])
expect([("heard", 4, 0), ("heard", 2, 0)])
t.destroy()
expect([("heard", 6, 2), ("heard", 5, 1)])
""",
        domain("heard"),
    )


def test_one_domain_alone_and_no_more(daemon: Daemon) -> None:
    run(
        daemon,
        """
one, two = conn.defineXML(sys.argv[1]), conn.defineXML(sys.argv[2])
mine = ears.lookupByName("one")
number = ears.domainEventRegisterAny(mine, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
two.setAutostart(1)
two.create(); two.destroy(); two.undefine()
one.undefine()
expect([("one", 1, 0)])
ears.domainEventDeregisterAny(number)
conn.defineXML(sys.argv[1])
settle()
same(heard, [])
same(fails(ears.domainEventDeregisterAny, 99)[0] in (1, 8), True)
""",
        domain("one"),
        domain("two"),
    )


def test_what_the_guest_and_its_devices_do(daemon: Daemon) -> None:
    run(
        daemon,
        """
import libvirt_qemu
L = libvirt
def simple(kind):
    return lambda conn_, dom, *rest: heard.append((kind, dom.name(), *rest[:-1]))
for kind in ("REBOOT", "AGENT_LIFECYCLE", "METADATA_CHANGE", "BALLOON_CHANGE", "TRAY_CHANGE", "WATCHDOG"):
    ears.domainEventRegisterAny(None, getattr(L, "VIR_DOMAIN_EVENT_ID_" + kind), simple(kind), None)
raw = []
def monitor_event(conn_, dom, event, seconds, micros, details, opaque):
    raw.append((dom.name(), event))
libvirt_qemu.qemuMonitorEventRegister(ears, None, "RESET", monitor_event, None, 0)
d = conn.createXML(sys.argv[1])
expect([("AGENT_LIFECYCLE", "busy", 2, 1)])            # disconnected: domain started
d.setMetadata(L.VIR_DOMAIN_METADATA_TITLE, "t", None, None, L.VIR_DOMAIN_AFFECT_LIVE)
expect([("METADATA_CHANGE", "busy", 1, None)])
d.reset()
until(lambda: raw, "the raw event")
same(raw[0], ("busy", "RESET"))
until(lambda: ("REBOOT", "busy") in heard)      # the firmware may well reset once more
""",
        domain("busy", AGENT),
    )


def test_every_number_can_be_registered_by_virsh(daemon: Daemon) -> None:
    done = daemon.virsh_run("event", "--all", "--timeout", "1")
    assert "event loop timed out" in done.stdout
    assert "rror" not in done.stderr


def test_the_old_style(daemon: Daemon) -> None:
    run(
        daemon,
        """
ears.domainEventRegister(lifecycle, None)
conn.defineXML(sys.argv[1]).undefine()
expect([("old", 0, 0), ("old", 1, 0)])
ears.domainEventDeregister(lifecycle)
conn.defineXML(sys.argv[1]).undefine()
settle()
same(heard, [])
""",
        domain("old"),
    )


def test_the_daemon_says_goodbye(own_daemon: Daemon) -> None:
    own_daemon.python(
        PRELUDE.replace("@atexit.register", "")
        + LISTEN
        + """
import signal
closed = []
ears.registerCloseCallback(lambda conn_, reason, opaque: closed.append(reason), None)
ears.setKeepAlive(5, 3)
os.kill(int(sys.argv[1]), signal.SIGTERM)
until(lambda: closed, "the close callback")
same(closed, [libvirt.VIR_CONNECT_CLOSE_REASON_EOF])
""",
        str(own_daemon.process.pid if own_daemon.process else 0),
        own_daemon.uri,
    )
    assert own_daemon.process is not None
    own_daemon.process.wait(20)
    own_daemon.process = None
