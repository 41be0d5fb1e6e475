"""trustGuestRxFilters: a macvtap follows its guest's card; without it, it does not."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import booted, linux_xml
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.guest import Guest
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh, pytest.mark.root]

OWN, CHANGED = "52:54:00:a0:00:05", "52:54:00:a0:00:06"


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as it:
        it.ip("link", "add", "low0", "type", "veth", "peer", "name", "low1")
        it.ip("link", "set", "low0", "up")
        it.ip("link", "set", "low1", "up")
        yield it


@pytest.fixture
def daemon(host: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=host.prefix) as it:
        yield it


@pytest.mark.parametrize("trusted", ["yes", "no"])
def test_a_guest_that_changes_its_address(
    daemon: Daemon, host: Namespace, linux: Guest, trusted: str
) -> None:
    card = (
        f"<interface type='direct' trustGuestRxFilters='{trusted}'><mac address='{OWN}'/>"
        "<source dev='low0' mode='bridge'/><model type='virtio'/></interface>"
    )
    with booted(daemon, "trusted", linux_xml(linux, "trusted", card)) as guest:
        tap = daemon.virsh("domiflist", "trusted").split()[0]

        def address() -> str:
            return str(json.loads(host.ip("-j", "link", "show", tap))[0]["address"])

        assert address() == OWN
        guest.ask(f"ip link set eth0 down; ip link set eth0 address {CHANGED}; ip link set eth0 up")
        if trusted == "yes":
            wait_until(lambda: address() == CHANGED, "the host follows")
        else:
            assert address() == OWN


def test_groups_come_and_go(host: Namespace) -> None:
    """A guest that names ever other groups does not fill the kernel with them."""
    host.ip("link", "add", "link", "low0", "name", "tap0", "type", "macvtap", "mode", "bridge")

    def groups() -> set[str]:
        (entry,) = json.loads(host.ip("-j", "maddr", "show", "dev", "tap0"))
        return {each["link"] for each in entry["maddr"] if "link" in each}

    own = groups()
    for wanted in (["01:00:5E:00:00:05", "01:00:5e:00:00:06"], ["01:00:5e:00:00:06"], []):
        code = (
            "from qvirt.host import links\n"
            f"links.set_filter('tap0', mac=links.Path('/sys/class/net/tap0/address').read_text().strip(), "
            f"groups={wanted}, all_groups=False, promiscuous=False)"
        )
        subprocess.run([*host.prefix, sys.executable, "-c", code], check=True)
        assert groups() - own == {group.lower() for group in wanted}
    assert own <= groups()
