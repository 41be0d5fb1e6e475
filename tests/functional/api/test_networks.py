"""Networks through the stock clients: definitions, lists, updates, metadata and events."""

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.netns import namespace

pytestmark = pytest.mark.virsh

XML = """<network>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <forward mode='nat'/>
  <bridge name='{bridge}' stp='on' delay='0'/>
  <mac address='52:54:00:11:22:33'/>
  <ip address='10.91.{n}.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='10.91.{n}.2' end='10.91.{n}.100'/>
    </dhcp>
  </ip>
</network>
"""


def document(n: int) -> str:
    return XML.format(name=f"net{n}", bridge=f"qvbr{n}", n=n, uuid=f"11111111-2222-3333-4444-{n:012d}")


def define(daemon: Daemon, n: int) -> str:
    path = daemon.root / f"net{n}.xml"
    path.write_text(document(n))
    daemon.virsh("net-define", str(path))
    return f"net{n}"


def test_a_definition_is_shown_as_it_was_written(daemon: Daemon) -> None:
    name = define(daemon, 1)
    assert daemon.virsh("net-dumpxml", name).strip() == document(1).strip()
    assert daemon.virsh("net-dumpxml", name, "--inactive").strip() == document(1).strip()
    assert daemon.virsh("net-uuid", name).strip() == "11111111-2222-3333-4444-000000000001"
    assert daemon.virsh("net-name", "11111111-2222-3333-4444-000000000001").strip() == name
    assert (daemon.root / "etc/libvirt/qemu/networks/net1.xml").read_text().startswith("<!--")


def test_info_and_autostart(daemon: Daemon) -> None:
    name = define(daemon, 2)
    daemon.virsh("net-autostart", name)
    assert (daemon.root / "etc/libvirt/qemu/networks/autostart/net2.xml").is_symlink()
    info = daemon.virsh("net-info", name)
    for key, value in (("Active", "no"), ("Persistent", "yes"), ("Autostart", "yes"), ("Bridge", "qvbr2")):
        assert any(line.split() == [f"{key}:", value] for line in info.splitlines()), info
    daemon.virsh("net-autostart", name, "--disable")
    assert not (daemon.root / "etc/libvirt/qemu/networks/autostart/net2.xml").exists()


@pytest.mark.parametrize(
    ("flags", "listed"),
    [
        (("--all",), True),
        ((), False),
        (("--inactive",), True),
        (("--all", "--persistent"), True),
        (("--all", "--transient"), False),
        (("--all", "--autostart"), False),
        (("--all", "--no-autostart"), True),
    ],
)
def test_lists_are_filtered(daemon: Daemon, flags: tuple[str, ...], listed: bool) -> None:
    name = define(daemon, 3)
    assert (name in daemon.virsh("net-list", "--name", *flags).split()) is listed


def test_undefine_forgets_it(daemon: Daemon) -> None:
    name = define(daemon, 4)
    daemon.virsh("net-undefine", name)
    done = daemon.virsh_run("net-info", name)
    assert done.returncode
    assert f"Network not found: no network with matching name '{name}'" in done.stderr


def test_collisions_are_refused(daemon: Daemon) -> None:
    define(daemon, 5)
    for text, sentence in (
        (document(5).replace("-000000000005", "-000000000055"), "network 'net5' already exists with uuid"),
        (
            document(5).replace("net5", "other").replace("qvbr5", "qvbr55"),
            "network 'net5' is already defined with uuid",
        ),
        (
            document(6).replace("qvbr6", "qvbr5"),
            "internal error: bridge name 'qvbr5' already in use.",
        ),
    ):
        path = daemon.root / "clash.xml"
        path.write_text(text)
        done = daemon.virsh_run("net-define", str(path))
        assert sentence in done.stderr


def test_updates_of_the_definition(daemon: Daemon) -> None:
    name = define(daemon, 7)

    def update(*words: str) -> str:
        done = daemon.virsh_run("net-update", name, *words, "--config")
        return done.stderr if done.returncode else ""

    host = "<host mac='52:54:00:00:00:01' name='a' ip='10.91.7.20'/>"
    assert not update("add", "ip-dhcp-host", host)
    assert host in daemon.virsh("net-dumpxml", name)
    assert "there is an existing dhcp host entry in network 'net7' that matches" in update(
        "add", "ip-dhcp-host", host
    )
    assert not update("modify", "ip-dhcp-host", host.replace(".20", ".21"))
    assert not update("delete", "ip-dhcp-host", "<host mac='52:54:00:00:00:01'/>")
    assert "<host" not in daemon.virsh("net-dumpxml", name)
    assert not update("add-first", "ip-dhcp-range", "<range start='10.91.7.110' end='10.91.7.120'/>")
    assert not update("add", "dns-host", "<host ip='10.91.7.9'><hostname>x</hostname></host>")
    assert not update("add", "dns-txt", "<txt name='a' value='b'/>")
    assert not update("add", "dns-srv", "<srv service='s' protocol='tcp' target='t' port='4'/>")
    assert not update("add", "portgroup", "<portgroup name='p' default='yes'/>")
    shown = daemon.virsh("net-dumpxml", name)
    assert shown.index("10.91.7.110") < shown.index("10.91.7.2'")
    for words in ("<hostname>x", "<txt name='a' value='b'/>", "<srv service='s'", "<portgroup name='p'"):
        assert words in shown
    assert "can't update 'bridge' section of network" in update("add", "bridge", "<bridge/>")
    done = daemon.virsh_run("net-update", name, "add", "dns-txt", "<txt name='q' value='r'/>", "--live")
    assert "network is not running" in done.stderr


def test_what_is_written_survives_a_killed_daemon(own_daemon: Daemon) -> None:
    name = define(own_daemon, 8)
    own_daemon.virsh("net-autostart", name)
    own_daemon.virsh("net-autostart", name, "--disable")
    own_daemon.kill()
    own_daemon.start()
    assert own_daemon.virsh("net-dumpxml", name).strip() == document(8).strip()


def test_events_come_in_order(daemon: Daemon) -> None:
    seen = daemon.python(f"""
import libvirt
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open({daemon.uri!r})
seen = []
connection.networkEventRegisterAny(
    None,
    libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE,
    lambda c, n, event, detail, x: seen.append((n.name(), event)),
    None,
)
network = connection.networkDefineXML({document(9)!r})
network.undefine()
import time
end = time.monotonic() + 20
while len(seen) < 2 and time.monotonic() < end:
    libvirt.virEventRunDefaultImpl()
print(seen)
""")
    assert seen.strip().splitlines()[-1] == "[('net9', 0), ('net9', 1)]"


@pytest.mark.root
def test_the_default_network_is_defined_once_and_takes_no_range_in_use() -> None:
    with namespace() as net:
        net.ip("link", "add", "qvtb", "type", "bridge")
        net.ip("addr", "add", "192.168.122.7/24", "dev", "qvtb")
        net.ip("link", "set", "qvtb", "up")
        with running_daemon("--default-network", prefix=net.prefix) as daemon:
            shown = daemon.virsh("net-dumpxml", "default", "--inactive")
            assert "<ip address='192.168.123.1' netmask='255.255.255.0'>" in shown
            assert any(
                line.split() == ["Autostart:", "yes"]
                for line in daemon.virsh("net-info", "default").splitlines()
            )
            if "default" in daemon.virsh("net-list", "--name").split():
                daemon.virsh("net-destroy", "default")
            daemon.virsh("net-undefine", "default")
            daemon.kill()
            daemon.start()
            assert "default" not in daemon.virsh("net-list", "--all", "--name").split()
