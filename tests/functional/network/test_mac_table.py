"""macTableManager='libvirt': a bridge knows of its guests what it was told, and learns nothing."""

from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import booted, linux_xml, shell
from tests.functional.network.test_guests import MACS, card, lease, works
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.guest import Guest
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh, pytest.mark.root]

NETWORK = """<network><name>told</name><bridge name='vbtold' stp='off' macTableManager='libvirt'/>
<ip address='192.168.171.1' prefix='24'><dhcp><range start='192.168.171.10' end='192.168.171.99'/></dhcp></ip>
</network>"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


@pytest.fixture
def daemon(host: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=host.prefix) as it:
        path = it.root / "told.xml"
        path.write_text(NETWORK)
        it.virsh("net-define", str(path))
        it.virsh("net-start", "told")
        yield it
        it.virsh_run("net-destroy", "told")


def told(host: Namespace, tap: str) -> bool:
    """Tell whether the bridge has the card's address from us, and learns and floods nothing at its port."""
    table = host.run("bridge", "fdb", "show", "dev", tap).stdout
    settings = [
        host.run("cat", f"/sys/class/net/{tap}/brport/{name}").stdout.strip()
        for name in ("learning", "unicast_flood")
    ]
    line = next((line for line in table.splitlines() if line.startswith(MACS[0])), "")
    return "static" in line and settings == ["0", "0"]


def test_a_guest_is_heard_under_its_own_address_alone(daemon: Daemon, host: Namespace, linux: Guest) -> None:
    with booted(daemon, "told", linux_xml(linux, "told", card("told"))) as guest:
        mine = lease(daemon, "told", MACS[0])
        wait_until(lambda: mine in guest.ask("ip addr show eth0"), "the guest has taken its address")
        assert works(guest.ask("ping -c 2 192.168.171.1"))
        tap = daemon.virsh("domiflist", "told").split()[0]
        assert told(host, tap)
        assert "bridge='vbtold' macTableManager='libvirt'/>" in daemon.virsh("dumpxml", "told")
        (port,) = daemon.virsh("net-port-list", "told").split()
        assert "macTableManager='libvirt'" in daemon.virsh("net-port-dumpxml", "told", port)
        # a network that went and came, under a daemon that did, knows it again
        daemon.kill()
        daemon.start()
        daemon.virsh("net-destroy", "told")
        daemon.virsh("net-start", "told")
        wait_until(lambda: told(host, tap), "the bridge has been told again")
        with shell(daemon, "told") as console:
            guest = console.booted()
            wait_until(lambda: works(guest.ask("ping -c 1 -W 1 192.168.171.1")), "the host is reached again")


def test_a_guest_with_anothers_address(daemon: Daemon, host: Namespace, linux: Guest) -> None:
    with booted(daemon, "told", linux_xml(linux, "told", card("told"))) as guest:
        lease(daemon, "told", MACS[0])
        guest.ask(f"ip link set eth0 down; ip link set eth0 address {MACS[1]}; ip link set eth0 up")
        guest.ask("ip addr flush dev eth0; ip addr add 192.168.171.7/24 dev eth0")
        assert not works(guest.ask("ping -c 2 -W 1 192.168.171.1"))
        guest.ask(f"ip link set eth0 down; ip link set eth0 address {MACS[0]}; ip link set eth0 up")
        wait_until(lambda: works(guest.ask("ping -c 1 -W 1 192.168.171.1")), "its own is heard")
