"""Character devices, displays, cards, sound and random numbers of guests that really run."""

import re
import socket

import pytest

from tests.functional.api.documents import AGENT, domain
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

LOTS = (
    "<serial type='pty'/>"
    "<serial type='file'><source path='{dir}/serial.log'/><log file='{dir}/copy.log'/></serial>"
    "<serial type='unix'><source mode='bind' path='{dir}/serial.sock'/></serial>"
    "<parallel type='null'/><console type='pty'/><console type='pty'><target type='virtio'/></console>"
    "<channel type='udp'><source host='127.0.0.1' service='9'/><target type='virtio' name='u'/></channel>"
    "<channel type='pty'><target type='virtio' name='p'/></channel>"
    "<graphics type='vnc' passwd='secret' keymap='de'/><video><model type='virtio' heads='2'/></video>"
    "<sound model='ich6'/><sound model='ac97'/><sound model='pcspk'/><audio id='1' type='none'/>"
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend><rate bytes='1000'/></rng>"
    "<rng model='virtio'><backend model='builtin'/></rng>"
)


def started(daemon: Daemon, name: str, devices: str) -> str:
    """Create a guest and return its live document."""
    path = daemon.root / f"{name}.xml"
    path.write_text(domain(name, devices))
    daemon.virsh("create", str(path))
    return daemon.virsh("dumpxml", name)


def test_a_guest_with_one_of_everything(daemon: Daemon) -> None:
    live = started(daemon, "everything", LOTS.format(dir=daemon.root) + AGENT)
    try:
        ptys = re.findall(r"<source path='(/dev/pts/\d+)'/>", live)
        assert len(ptys) == 4  # the first serial port twice, the virtio console, the channel
        assert ptys[0] == ptys[1]
        assert f"<console type='pty' tty='{ptys[0]}'>" in live
        assert live.count("<alias name='serial0'/>") == 2
        assert re.search(
            r"<source mode='bind' path='[^']*/domain-\d+-everything/org.qemu.guest_agent.0'/>", live
        )
        assert "name='org.qemu.guest_agent.0' state='disconnected'/>" in live
        port = re.search(
            r"<graphics type='vnc' port='(\d+)' autoport='yes' listen='127.0.0.1' keymap='de'>", live
        )
        assert port is not None
        assert "secret" not in live
        assert "passwd='secret'" in daemon.virsh("dumpxml", "everything", "--security-info")
        with socket.create_connection(("127.0.0.1", int(port[1])), timeout=10) as viewer:
            viewer.settimeout(10)
            assert viewer.recv(12).startswith(b"RFB ")
        assert daemon.virsh("ttyconsole", "everything").strip() == ptys[0]
        assert daemon.virsh("vncdisplay", "everything").strip() == f"127.0.0.1:{int(port[1]) - 5900}"
        assert (daemon.root / "serial.log").exists()
        assert (daemon.root / "copy.log").exists()
    finally:
        daemon.virsh("destroy", "everything")
    assert not daemon.qemu_pids()


def test_two_guests_get_two_ports(daemon: Daemon) -> None:
    ports = set()
    for name in ("one", "two"):
        found = re.search(
            r"<graphics type='vnc' port='(\d+)'", started(daemon, name, "<graphics type='vnc'/>")
        )
        assert found is not None
        ports.add(found[1])
    for name in ("one", "two"):
        daemon.virsh("destroy", name)
    assert len(ports) == 2


def test_a_display_on_a_socket_of_its_own(daemon: Daemon) -> None:
    live = started(daemon, "socketed", "<graphics type='vnc'><listen type='socket'/></graphics>")
    try:
        found = re.search(r"<listen type='socket' socket='([^']+/domain-\d+-socketed/vnc\.sock)'/>", live)
        assert found is not None
        with socket.socket(socket.AF_UNIX) as viewer:
            viewer.settimeout(10)
            viewer.connect(found[1])
            assert viewer.recv(12).startswith(b"RFB ")
    finally:
        daemon.virsh("destroy", "socketed")
