"""What an interface may ask for: limits, isolation, devices of others, vhost-user; and what is refused."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.api.documents import domain
from tests.functional.guests.machines import write
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh, pytest.mark.root]


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    with namespace() as it:
        it.ip("link", "add", "br0", "type", "bridge")
        it.ip("link", "set", "br0", "up")
        it.ip("link", "add", "low0", "type", "veth", "peer", "name", "low1")
        it.ip("link", "set", "low0", "up")
        it.ip("link", "set", "low1", "up")
        yield it


@pytest.fixture(scope="module")
def daemon(host: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=host.prefix) as it:
        yield it


def start(daemon: Daemon, *interfaces: str, extra: str = "") -> None:
    text = domain("features", "".join(interfaces)).replace("</domain>", f"{extra}</domain>")
    daemon.virsh("create", write(daemon, "features", text), "--paused")


def test_limits(daemon: Daemon, host: Namespace) -> None:
    start(
        daemon,
        "<interface type='bridge'><source bridge='br0'/><bandwidth>"
        "<inbound average='1000' peak='2000' burst='512'/></bandwidth>"
        "</interface>",
    )
    try:
        (tap,) = (name for name in host.links() if name.startswith("vnet"))
        shaper = host.run("tc", "class", "show", "dev", tap).stdout
        assert "htb 1:1 root prio 0 rate 8Mbit ceil 16Mbit burst 512Kb" in shaper
        assert "<inbound average='1000' peak='2000' burst='512'/>" in daemon.virsh("dumpxml", "features")
    finally:
        daemon.virsh("destroy", "features")


@pytest.mark.parametrize(
    "place",
    [
        "<interface type='bridge'><source bridge='br0'/>{}</interface>",
        "<interface type='ethernet'>{}</interface>",
    ],
)
def test_another_mtu(daemon: Daemon, host: Namespace, place: str) -> None:
    """The host's end has it at once; what the guest was told at its start it keeps."""
    card = place.format("<mac address='52:54:00:a0:00:07'/><model type='virtio'/>{}")

    def update(more: str) -> str:
        done = daemon.virsh_run(
            "update-device", "features", write(daemon, "card", card.format(more)), "--live"
        )
        return done.stderr if done.returncode else ""

    def now() -> int:
        (dev,) = (name for name in host.links() if name.startswith("vnet"))
        return int(json.loads(host.ip("-j", "link", "show", "dev", dev))[0]["mtu"])

    start(daemon, card.format(""))
    try:
        assert now() == 1500
        assert update("<mtu size='1300'/>") == ""
        assert now() == 1300
        assert "<mtu size='1300'/>" in daemon.virsh("dumpxml", "features")
        assert update("<link state='down'/>") == ""  # what is left out stays
        assert now() == 1300
        assert "Cannot set MTU of" in update("<mtu size='70000'/>")
        assert now() == 1300
        daemon.kill()
        daemon.start()
        assert "<mtu size='1300'/>" in daemon.virsh("dumpxml", "features")
        assert update("<mtu size='1450'/>") == ""
        assert now() == 1450
    finally:
        daemon.virsh("destroy", "features")


def limits(daemon: Daemon, *words: str) -> dict[str, int]:
    """Return what domiftune says of the interface."""
    said = daemon.virsh("domiftune", "features", "52:54:00:a0:00:09", *words)
    return {
        name.strip(): int(value) for name, value in (line.split(":") for line in said.split("\n") if line)
    }


def test_limits_are_changed_in_the_guest_and_its_definition(daemon: Daemon, host: Namespace) -> None:
    card = "<interface type='bridge'><mac address='52:54:00:a0:00:09'/><source bridge='br0'/></interface>"
    daemon.virsh("define", write(daemon, "features", domain("features", card)))
    daemon.virsh("start", "features", "--paused")
    try:
        none = dict.fromkeys(
            (
                *(f"inbound.{name}" for name in ("average", "peak", "burst", "floor")),
                *(f"outbound.{name}" for name in ("average", "peak", "burst")),
            ),
            0,
        )
        assert limits(daemon) == none
        (tap,) = (name for name in host.links() if name.startswith("vnet"))
        daemon.virsh("domiftune", "features", tap, "--inbound", "1000,2000,512")
        said = none | {"inbound.average": 1000, "inbound.peak": 2000, "inbound.burst": 512}
        assert limits(daemon) == limits(daemon, "--live") == limits(daemon, "--current") == said
        assert limits(daemon, "--config") == none
        assert "rate 8Mbit ceil 16Mbit burst 512Kb" in host.run("tc", "class", "show", "dev", tap).stdout
        both = ("--inbound", "500", "--live", "--config")
        daemon.virsh("domiftune", "features", "52:54:0:a0:0:9", *both)
        assert limits(daemon, "--config") == limits(daemon, "--live") == none | {"inbound.average": 500}
        daemon.virsh("domiftune", "features", tap, "--inbound", "0")
        assert limits(daemon) == none
        assert not host.run("tc", "class", "show", "dev", tap).stdout
        assert limits(daemon, "--config") == none | {"inbound.average": 500}
        floor = ("--inbound", "500,,,100", "--live", "--config")
        refused = daemon.virsh_run("domiftune", "features", "52:54:00:a0:00:09", *floor)
        assert "Invalid use of 'floor' on interface with MAC address 52:54:00:a0:00:09" in refused.stderr
        assert limits(daemon, "--config") == none | {"inbound.average": 500}
        refused = daemon.virsh_run("domiftune", "features", "nowhere0")
        assert "'nowhere0' is not a known interface" in refused.stderr
    finally:
        daemon.virsh("destroy", "features")
        daemon.virsh("undefine", "features")


def test_a_device_of_somebody_else_stays_as_it_was(daemon: Daemon, host: Namespace) -> None:
    host.ip("tuntap", "add", "mine0", "mode", "tap", "vnet_hdr")
    before = json.loads(host.ip("-j", "link", "show", "mine0"))[0]
    start(daemon, "<interface type='ethernet'><target dev='mine0' managed='no'/></interface>")
    try:
        assert "mine0" in daemon.virsh("domiflist", "features")
        mac = daemon.virsh("domiflist", "features").split()[-1]
        card = f"<mac address='{mac}'/><target dev='mine0' managed='no'/><mtu size='1400'/>"
        path = write(daemon, "card", f"<interface type='ethernet'>{card}</interface>")
        refused = daemon.virsh_run("update-device", "features", path, "--live")
        assert "cannot modify MTU" in refused.stderr
    finally:
        daemon.virsh("destroy", "features")
    after = json.loads(host.ip("-j", "link", "show", "mine0"))[0]
    assert (after["address"], after["mtu"]) == (before["address"], before["mtu"])


def test_vhost_user(daemon: Daemon, tmp_path: Path) -> None:
    path = daemon.root / "vhost.sock"
    shared = "<memoryBacking><access mode='shared'/></memoryBacking>"
    with socket.socket(socket.AF_UNIX) as switch:
        switch.bind(str(path))
        path.chmod(0o777)
        refused = daemon.virsh_run(
            "create",
            write(
                daemon,
                "features",
                domain(
                    "features",
                    f"<interface type='vhostuser'><source type='unix' path='{path}.not' mode='client'/>"
                    "<model type='virtio'/></interface>",
                ).replace("</domain>", f"{shared}</domain>"),
            ),
        )
        assert f"{path}.not" in refused.stderr


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        ("<interface type='vdpa'><source dev='/dev/vhost-vdpa-9'/></interface>", "/dev/vhost-vdpa-9"),
        (
            "<interface type='bridge'><source bridge='br0'/><vlan><tag id='4'/></vlan></interface>",
            "vlan tag not supported for this connection type",
        ),
        (
            "<interface type='bridge'><source bridge='br0'/><virtualport type='openvswitch'/></interface>",
            "this host has no Open vSwitch",
        ),
        (
            "<interface type='direct'><source dev='low0'/><virtualport type='802.1Qbh'>"
            "<parameters profileid='x'/></virtualport></interface>",
            "<virtualport type='802.1Qbh'>, which needs",
        ),
        (
            "<interface type='ethernet'><target dev='nowhere0' managed='no'/></interface>",
            "target managed='no' but specified dev doesn't exist",
        ),
        (
            "<interface type='bridge'><source bridge='br0'/><target dev='much-too-long-a-name'/></interface>",
            "much-too-long-a-name",
        ),
        (
            "<interface type='hostdev'><source><address type='pci' bus='0' slot='31' function='0'/>"
            "</source></interface>",
            "supported on SR-IOV Virtual Functions only",
        ),
        (
            "<interface type='bridge'><source bridge='br0'/><filterref filter='clean-traffic'/></interface>",
            "network filter 'clean-traffic'",
        ),
    ],
)
def test_what_is_refused_leaves_nothing(
    daemon: Daemon, host: Namespace, interface: str, message: str
) -> None:
    before = host.links()
    beside = "<interface type='direct'><source dev='low0' mode='bridge'/></interface>"
    text = domain("features", beside + interface)
    refused = daemon.virsh_run("create", write(daemon, "features", text), "--paused")
    assert message in refused.stderr
    wait_until(lambda: host.links() == before, "nothing stays")
    assert not daemon.qemu_pids()
