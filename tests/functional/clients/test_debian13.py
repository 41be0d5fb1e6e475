"""Unmodified clients of libvirt 11.3 against qvirtd, where a root of Debian 13 is at hand."""

from collections.abc import Iterator

import pytest

from tests.functional.api.documents import CONSOLE, domain
from tests.support import debian13
from tests.support.daemon import Daemon, make_root
from tests.support.remote import Pki, Port, write_settings

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]


class Site:
    """A daemon that listens near and far."""

    def __init__(self, daemon: Daemon, pki: Pki, port: int) -> None:
        self.daemon = daemon
        self.near = daemon.uri
        self.far = f"qemu://localhost:{port}/system?pkipath={pki.client('admin')}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    debian13.root()
    daemon = Daemon(make_root(), "--listen")
    try:
        # what the clients are to see lies below the daemon's folder
        pki = Pki(daemon.root)
        with Port() as port:
            write_settings(daemon, f'tls_port = "{port.number}"\n{pki.settings()}')
            daemon.start()
            (daemon.root / "guest.xml").write_text(domain("guest", CONSOLE + "<interface type='user'/>"))
            yield Site(daemon, pki, port.number)
    finally:
        daemon.clean()


#: what is typed, and what the answer has
SESSION = [
    (("version",), "QEMU 11.3.0"),
    (("define", "FOLDER/guest.xml"), "Domain 'guest' defined"),
    (("start", "guest", "--paused"), "Domain 'guest' started"),
    (("domstate", "guest", "--reason"), "paused (user)"),
    (("resume", "guest"), "Domain 'guest' resumed"),
    (("dominfo", "guest"), "State:          running"),
    (("domstats", "guest"), "state.state=1"),
    (("vcpuinfo", "guest"), "State:          running"),
    (("dommemstat", "guest"), "actual "),
    (("domiflist", "guest"), "user"),
    (("qemu-monitor-command", "guest", '{"execute": "query-status"}'), '"running":true'),
    (("dumpxml", "guest"), "<domain type='qemu' id='"),
    (("domcapabilities", "--virttype", "qemu"), "<domainCapabilities>"),
    (("net-list", "--all"), "Name"),
    (("autostart", "guest"), "marked as autostarted"),
    (("list", "--all", "--autostart"), "guest"),
    (("destroy", "guest"), "Domain 'guest' destroyed"),
    (("undefine", "guest"), "Domain 'guest' has been undefined"),
    (("pool-list",), "unknown procedure"),
]


@pytest.mark.parametrize("way", ["near", "far"])
def test_a_session_of_virsh(site: Site, way: str) -> None:
    folder = site.daemon.root
    for words, wanted in SESSION:
        typed = [word.replace("FOLDER", str(folder)) for word in words]
        done = debian13.run(folder, "virsh", "-c", site.near if way == "near" else site.far, *typed)
        assert wanted in done.stdout + done.stderr, (words, done.stdout, done.stderr)


SCRIPT = """
import sys, libvirt
libvirt.virEventRegisterDefaultImpl()
conn = libvirt.open(sys.argv[1])
seen = []
lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
conn.domainEventRegisterAny(None, lifecycle, lambda c, d, e, r, o: seen.append(e), None)
domain = conn.createXML(open(sys.argv[2]).read(), libvirt.VIR_DOMAIN_START_PAUSED)
assert domain.info()[0] == libvirt.VIR_DOMAIN_PAUSED
assert "/dev/pts/" in domain.XMLDesc()
stats = conn.getAllDomainStats()
assert [one[0].name() for one in stats] == ["guest"]
stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
domain.openConsole(None, stream, 0)
stream.abort()
domain.destroy()
while libvirt.VIR_DOMAIN_EVENT_STOPPED not in seen:
    assert libvirt.virEventRunDefaultImpl() == 0
print(libvirt.getVersion(), seen)
"""


def test_python(site: Site) -> None:
    folder = site.daemon.root
    (folder / "script.py").write_text(SCRIPT)
    done = debian13.run(
        folder, "timeout", "60", "python3", f"{folder}/script.py", site.near, f"{folder}/guest.xml"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "11003000"
