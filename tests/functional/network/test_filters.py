"""trustGuestRxFilters: a macvtap follows its guest's card; without it, it does not."""

import json
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
