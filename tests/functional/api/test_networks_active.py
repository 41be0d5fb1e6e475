"""Active networks through the stock clients, in a network namespace of the test's own."""

from collections.abc import Iterator

import pytest

from tests.functional.api.test_networks import define, document
from tests.support.daemon import Daemon, running_daemon
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.virsh, pytest.mark.root]


@pytest.fixture(scope="module")
def net() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


@pytest.fixture(scope="module")
def inside(net: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=net.prefix) as it:
        yield it
        for name in it.virsh("net-list", "--name").split():
            it.virsh("net-destroy", name)


def test_start_update_and_stop(inside: Daemon, net: Namespace) -> None:
    name = define(inside, 20)
    inside.virsh("net-start", name)
    assert "qvbr20" in net.links()
    assert "already active" in inside.virsh_run("net-start", name).stderr
    host = "<host mac='52:54:00:00:00:01' name='a' ip='10.91.20.120'/>"
    inside.virsh("net-update", name, "add", "ip-dhcp-host", host, "--live")
    assert host in inside.virsh("net-dumpxml", name)
    assert host not in inside.virsh("net-dumpxml", name, "--inactive")
    assert not inside.virsh("net-port-list", name).split("\n", 2)[0].strip()
    inside.virsh("net-undefine", name)
    assert name in inside.virsh("net-list", "--transient", "--name").split()
    inside.virsh("net-destroy", name)
    assert "qvbr20" not in net.links()
    assert "no network with matching name" in inside.virsh_run("net-info", name).stderr


def test_a_transient_network_is_gone_when_it_stops(inside: Daemon, net: Namespace) -> None:
    path = inside.root / "net21.xml"
    path.write_text(document(21))
    inside.virsh("net-create", str(path))
    done = inside.virsh_run("net-autostart", "net21")
    assert "cannot set autostart for transient network" in done.stderr
    assert "can't undefine transient network" in inside.virsh_run("net-undefine", "net21").stderr
    inside.virsh("net-destroy", "net21")
    assert "net21" not in inside.virsh("net-list", "--all", "--name").split()


def test_a_port_comes_and_goes(inside: Daemon) -> None:
    name = define(inside, 22)
    inside.virsh("net-start", name)
    uuid = "99999999-2222-3333-4444-555555555555"
    path = inside.root / "port.xml"
    path.write_text(
        f"<networkport><uuid>{uuid}</uuid><owner><name>g</name>"
        "<uuid>99999999-2222-3333-4444-555555555556</uuid></owner><mac address='52:54:00:00:00:09'/>"
        "<plug type='network' bridge='qvbr22'/></networkport>"
    )
    inside.virsh("net-port-create", name, str(path))
    assert uuid in inside.virsh("net-port-list", name)
    assert "<plug type='network' bridge='qvbr22'/>" in inside.virsh("net-port-dumpxml", name, uuid)
    assert " connections='1'" in inside.virsh("net-dumpxml", name)
    inside.virsh("net-port-delete", name, uuid)
    assert uuid not in inside.virsh("net-port-list", name)
    inside.virsh("net-destroy", name)


def test_a_killed_daemon_comes_back_to_its_networks(inside: Daemon, net: Namespace) -> None:
    name = define(inside, 23)
    inside.virsh("net-start", name)
    inside.kill()
    inside.start()
    assert name in inside.virsh("net-list", "--name").split()
    assert "qvbr23" in net.links()
    inside.virsh("net-destroy", name)
    assert "qvbr23" not in net.links()


def test_events_tell_starts_and_stops(inside: Daemon) -> None:
    name = define(inside, 24)
    seen = inside.python(f"""
import time
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open({inside.uri!r})
seen = []
network = connection.networkLookupByName({name!r})
connection.networkEventRegisterAny(
    network,
    libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE,
    lambda c, n, event, detail, x: seen.append((n.name(), event, detail)),
    None,
)
network.create()
network.destroy()
end = time.monotonic() + 20
while len(seen) < 2 and time.monotonic() < end:
    libvirt.virEventRunDefaultImpl()
print(seen)
""")
    assert seen.strip().splitlines()[-1] == f"[('{name}', 2, 0), ('{name}', 3, 0)]"
