"""Daemons of several kinds: a user's own that clients start, read-only sockets, two at once, signals."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.api.documents import PRELUDE, domain
from tests.support.daemon import PATIENCE, Daemon, make_root, wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

IN_USERNS = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


@pytest.fixture
def home() -> Iterator[Path]:
    """A user's home; what still runs in it at the end is ended."""
    root = make_root()
    yield root
    pidfile = root / "daemon.pid"
    if pidfile.exists():
        pid = int(pidfile.read_text())
        if alive(pid):
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not alive(pid), "the user's daemon is gone")
    leftovers = Daemon(root)
    leftovers.clean()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.root
def test_a_users_own_daemon_is_started_by_clients(home: Path) -> None:
    if subprocess.run([*IN_USERNS, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, to be somebody else than root")
    # The variable names a folder, in which clients look for libvirtd.
    starter = home / "sbin/libvirtd"
    starter.parent.mkdir()
    starter.write_text(
        f'#!/bin/sh\necho "$@" > {home}/arguments\necho $$ > {home}/daemon.pid\n'
        f'exec {sys.executable} -m qvirt.daemon.main "$@" 2>> {home}/log\n'
    )
    starter.chmod(0o755)
    (home / "run").mkdir(mode=0o700)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "LIBVIRT"))},
        "LC_ALL": "C",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "LIBVIRTD_PATH": str(starter.parent),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }

    def virsh(*words: str, program: str = "virsh") -> str:
        done = subprocess.run(
            [*IN_USERNS, program, "-q", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        log = (home / "log").read_text() if (home / "log").exists() else ""
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{log}"
        return done.stdout

    assert virsh("-c", "qemu:///session", "uri").strip() == "qemu:///session"
    assert "--timeout=120" in (home / "arguments").read_text()
    assert virsh("uri").strip() == "qemu:///session"
    if shutil.which("virt-admin"):
        assert "libvirtd" in virsh("-c", "libvirtd:///session", "srv-list", program="virt-admin")
    document = home / "d.xml"
    document.write_text(domain("mine"))
    virsh("define", str(document))
    virsh("start", "mine")
    assert virsh("domstate", "mine").strip() == "running"
    sock = home / "run/libvirt/libvirt-sock"
    assert stat.S_IMODE(sock.stat().st_mode) == 0o700
    assert not sock.with_name("libvirt-sock-ro").exists()
    assert (home / ".config/libvirt/qemu/mine.xml").exists()
    virsh("destroy", "mine")
    virsh("undefine", "mine")


def test_a_daemon_nobody_needs_ends(home: Path) -> None:
    daemon = Daemon(home, "--timeout", "1").start()
    assert daemon.process is not None
    daemon.python("conn.createXML(sys.argv[1])", domain("needs-it"))
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(2)
    daemon.virsh("destroy", "needs-it")
    assert daemon.process.wait(PATIENCE) == 0
    assert not daemon.socket.exists()
    daemon.process = None


def test_read_only(daemon: Daemon) -> None:
    daemon.python("conn.defineXML(sys.argv[1])", domain("seen"))
    assert daemon.virsh("list", "--all", "--name", readonly=True).split() == ["seen"]
    done = daemon.virsh_run("start", "seen", readonly=True)
    assert "operation forbidden: read only access prevents virDomainCreate" in done.stderr
    daemon.python(
        PRELUDE
        + """
ro = libvirt.openReadOnly(conn.getURI())
d = ro.lookupByName("seen")
prevents = "operation forbidden: read only access prevents "
same(d.info()[0], 5)
# These are said by the client's own library, so only the daemon's own are of interest below.
same(fails(d.undefine)[0], 29)
same(fails(d.XMLDesc, libvirt.VIR_DOMAIN_XML_SECURE)[0], 29)
""",
    )


def test_two_daemons_on_one_tree(daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "qvirt.daemon.main", "--root", str(daemon.root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert second.returncode == 1
    assert "another daemon" in second.stderr
    assert daemon.virsh("version")


def test_a_socket_left_behind_is_replaced(own_daemon: Daemon) -> None:
    own_daemon.kill()
    assert own_daemon.socket.exists()
    own_daemon.start()
    assert "QEMU" in own_daemon.virsh("version")


def test_guests_stay_when_the_daemon_ends_and_are_found_again(own_daemon: Daemon) -> None:
    own_daemon.python("conn.createXML(sys.argv[1])", domain("stays"))
    number = own_daemon.virsh("domid", "stays").strip()
    pids = own_daemon.qemu_pids()
    for end in (own_daemon.stop, own_daemon.kill):
        end()
        assert own_daemon.qemu_pids() == pids
        own_daemon.start()
        assert own_daemon.virsh("domid", "stays").strip() == number
        assert own_daemon.virsh("domstate", "stays").strip() == "running"
    own_daemon.virsh("destroy", "stays")
    wait_until(lambda: not own_daemon.qemu_pids(), "the guest is gone")


def test_settings_are_read_anew(own_daemon: Daemon) -> None:
    assert own_daemon.process is not None
    conf = own_daemon.root / "etc/libvirt/libvirtd.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text("nonsense\n")
    own_daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the settings stay as they were" in own_daemon.log.read_text(), "the complaint")
    assert "QEMU" in own_daemon.virsh("version")
    conf.write_text("log_level = 1\n")
    own_daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: own_daemon.virsh("uri") and "is gone" in own_daemon.log.read_text(), "more words")


def test_settings_that_make_no_sense_are_named(home: Path) -> None:
    conf = home / "bad.conf"
    conf.write_text('max_clients = "many"\n')
    done = subprocess.run(
        [sys.executable, "-m", "qvirt.daemon.main", "--root", str(home), "-f", str(conf)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert f"{conf}:1: max_clients: 'many' is no number it can have" in done.stderr


def test_sub_drivers_open_and_say_what_they_are(daemon: Daemon) -> None:
    socket = f"?socket={daemon.socket}"
    daemon.python(
        PRELUDE
        + """
for driver in ("network", "storage", "nodedev", "secret", "nwfilter", "interface"):
    sub = libvirt.open(f"{driver}:///system" + sys.argv[1])
    same((sub.getType(), sub.getURI()), (driver, f"{driver}:///system" + sys.argv[1]))
    same(sub.isAlive(), 1)
    same(fails(sub.listAllDomains), (3, 20,
         "this function is not supported by the connection driver: virConnectListAllDomains"))
    # Networks are the network driver's and, as in one daemon with all of them, the hypervisor's.
    if driver == "network":
        same(sub.listAllNetworks(), conn.listAllNetworks())
        same(fails(sub.networkLookupByName, "nope")[:2], (43, 19))
    else:
        same(fails(sub.listAllNetworks), (3, 19,
             "this function is not supported by the connection driver: virConnectListAllNetworks"))
# What this driver does not have is refused in the words clients fall back on.
same(fails(conn.listAllStoragePools)[0], 3)
same(fails(libvirt.open, "qemu:///foo" + sys.argv[1])[2],
     "internal error: unexpected qemu URI path '/foo', try qemu:///system")
""",
        socket,
    )
