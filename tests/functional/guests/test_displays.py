"""Displays that real viewers could connect to: ports, passwords, sockets, spice."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator

import pytest

from tests.functional.api.documents import domain
from tests.functional.guests.machines import write
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.virsh]

VIDEO = "<video><model type='vga'/></video>"


@contextlib.contextmanager
def shown(daemon: Daemon, name: str, graphics: str) -> Iterator[str]:
    """Create a guest with displays for a block; gives its live document."""
    daemon.virsh("create", write(daemon, name, domain(name, graphics + VIDEO)), "--paused")
    try:
        yield daemon.virsh("dumpxml", name)
    finally:
        daemon.virsh("destroy", name)


def ports(live: str, kind: str = "vnc") -> list[int]:
    """Return the ports of the displays of a kind."""
    return [int(port) for port in re.findall(rf"<graphics type='{kind}' port='(-?\d+)'", live)]


def vnc_security(address: "tuple[str, int] | str") -> set[int]:
    """Talk to a VNC server up to the kinds of authentication it offers."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(address)
        greeting = sock.recv(12)
        assert greeting.startswith(b"RFB 003."), greeting
        sock.sendall(b"RFB 003.008\n")
        count = sock.recv(1)[0]
        return set(sock.recv(count))


NONE, VNC_PASSWORD = 1, 2


def test_ports_are_found(daemon: Daemon) -> None:
    auto = "<graphics type='vnc' port='-1' autoport='yes'/>"
    with shown(daemon, "first", auto) as one, shown(daemon, "second", auto) as two:
        (first,), (second,) = ports(one), ports(two)
        assert first >= 5900
        assert second > first
        assert vnc_security(("127.0.0.1", first)) == {NONE}
        assert vnc_security(("127.0.0.1", second)) == {NONE}
        assert daemon.virsh("vncdisplay", "second").strip() == f"127.0.0.1:{second - 5900}"
        assert daemon.virsh("domdisplay", "second").strip() == f"vnc://127.0.0.1:{second - 5900}"
    with shown(daemon, "third", auto) as three:
        assert ports(three)[0] <= second  # given back


def test_a_port_of_ones_own(daemon: Daemon) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wanted = f"<graphics type='vnc' port='{port}' listen='127.0.0.1'/>"
    with shown(daemon, "own", wanted) as live:
        assert ports(live) == [port]
        assert vnc_security(("127.0.0.1", port)) == {NONE}
        refused = daemon.virsh_run("create", write(daemon, "same", domain("same", wanted + VIDEO)))
        assert refused.returncode
        assert "address" in refused.stderr.lower() or "port" in refused.stderr.lower()
        assert "same" not in daemon.virsh("list", "--all", "--name").split()


def test_passwords(daemon: Daemon) -> None:
    with shown(daemon, "secret", "<graphics type='vnc' port='-1' passwd='secret'/>") as live:
        (port,) = ports(live)
        assert vnc_security(("127.0.0.1", port)) == {VNC_PASSWORD}
        assert "secret'" not in re.sub("<name>.*", "", live)
        assert "passwd='secret'" in daemon.virsh("dumpxml", "secret", "--security-info")
        assert daemon.virsh("domdisplay", "secret", "--include-password").strip() == (
            f"vnc://:secret@127.0.0.1:{port - 5900}"
        )
        answer = daemon.virsh("qemu-monitor-command", "secret", '{"execute":"query-vnc"}')
        assert '"auth":"vnc"' in answer


def test_unix_sockets_and_websockets(daemon: Daemon) -> None:
    made = "<graphics type='vnc'><listen type='socket'/></graphics>"
    with shown(daemon, "by-socket", made) as live:
        path = re.search(r"<listen type='socket' socket='([^']+)'/>", live)
        assert path is not None
        assert vnc_security(path[1]) == {NONE}
        assert daemon.virsh("domdisplay", "by-socket").strip() == f"vnc+unix://{path[1]}"
    assert not os.path.exists(path[1])
    with shown(daemon, "web", "<graphics type='vnc' port='-1' websocket='-1'/>") as live:
        web = re.search(r"websocket='(\d+)'", live)
        assert web is not None
        with socket.create_connection(("127.0.0.1", int(web[1])), timeout=20) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(12).startswith(b"HTTP/1.1 ")


def test_spice(daemon: Daemon) -> None:
    if "<value>spice</value>" not in daemon.virsh("domcapabilities"):
        pytest.skip("this QEMU has no spice")
    graphics = """<graphics type='spice' autoport='yes' passwd='secret'><image compression='off'/>
      <clipboard copypaste='no'/></graphics><channel type='spicevmc'><target type='virtio'/></channel>
      <redirdev bus='usb' type='spicevmc'/><sound model='ich6'/>"""
    with shown(daemon, "spice", graphics) as live:
        (port,) = ports(live, "spice")
        assert port >= 5900
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            # magic, version 2.2, size, connection, channel main, no capabilities
            body = bytes.fromhex("000000000100000000000000000012000000")
            sock.sendall(b"REDQ" + bytes.fromhex("0200000002000000") + len(body).to_bytes(4, "little") + body)
            assert sock.recv(4) == b"REDQ"
        assert daemon.virsh("domdisplay", "spice").strip() == f"spice://127.0.0.1:{port}"
        assert "<audio id='1' type='spice'/>" in live
        assert "<redirdev bus='usb' type='spicevmc'>" in live


def test_two_displays_and_none(daemon: Daemon) -> None:
    both = "<graphics type='vnc' port='-1'/><graphics type='spice' autoport='yes'/>"
    if "<value>spice</value>" in daemon.virsh("domcapabilities"):
        with shown(daemon, "both", both) as live:
            assert len({*ports(live), *ports(live, "spice")}) == 2
            kinds = daemon.virsh("domdisplay", "both", "--all").split()
            assert sorted(kind.split(":")[0] for kind in kinds) == ["spice", "vnc"]
    with shown(daemon, "none", ""):
        assert "No graphical display found" in daemon.virsh_run("domdisplay", "none").stderr
