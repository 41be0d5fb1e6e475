"""Cards of a real guest come, change and go, by virsh; the host's side is in a namespace of the test."""

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.functional.guests.machines import AGENT, Shell, booted, linux_xml, write
from tests.support.daemon import Daemon, make_root, wait_until
from tests.support.guest import Guest
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh, pytest.mark.root]

NAME = "cards"
MAC = "52:54:00:aa:00:01"
NETWORK = (
    "<network><name>nat</name><bridge name='qvt-hot' stp='off'/>"
    "<ip address='192.168.171.1' netmask='255.255.255.0'/></network>"
)


@pytest.fixture(scope="module")
def net() -> Iterator[Namespace]:
    """The machine's network: two bridges and one device to put a macvtap on."""
    with namespace() as it:
        for bridge in ("br0", "br1"):
            it.ip("link", "add", bridge, "type", "bridge")
        it.ip("link", "add", "low0", "type", "veth", "peer", "name", "low1")
        for end in ("low0", "low1"):
            it.ip("link", "set", end, "up")
        it.ip("addr", "add", "198.51.100.1/24", "dev", "low0")
        it.ip("route", "add", "default", "via", "198.51.100.2")
        yield it


@pytest.fixture(scope="module")
def daemon(net: Namespace) -> Iterator[Daemon]:
    it = Daemon(make_root(), prefix=net.prefix)
    try:
        it.start()
        it.virsh("net-define", write(it, "nat", NETWORK))
        it.virsh("net-start", "nat")
        yield it
        it.virsh_run("net-destroy", "nat")
    finally:
        it.clean()


@pytest.fixture(scope="module")
def guest(daemon: Daemon, linux: Guest) -> Iterator[Shell]:
    with booted(daemon, NAME, linux_xml(linux, NAME, AGENT)) as shell:
        yield shell


def device(daemon: Daemon, verb: str, text: str, *words: str) -> None:
    daemon.virsh(verb, NAME, write(daemon, "device", text), *words)


def shown(daemon: Daemon, which: int = 1) -> str:
    """Return the live document of one of the guest's cards."""
    text = daemon.virsh("dumpxml", NAME, "--xpath", f"//interface[{which}]")
    return text.replace('"', "'")


def cards(shell: Shell) -> str:
    return shell.ask("cat /sys/class/net/*/address")


def of_mac(shell: Shell, mac: str, command: str) -> str:
    """Ask about the guest's card of a MAC address; ``$c`` in the command is its name."""
    return shell.ask(f"c=$(basename $(dirname $(grep -l {mac} /sys/class/net/*/address))); {command}")


PLACES = {
    "user": "<interface type='user'>{}</interface>",
    "bridge": "<interface type='bridge'><source bridge='br0'/>{}</interface>",
    "network": "<interface type='network'><source network='nat'/>{}</interface>",
    "ethernet": "<interface type='ethernet'><target dev='mytap0'/>{}</interface>",
    "direct": "<interface type='direct'><source dev='low0' mode='bridge'/>{}</interface>",
    "passt": "<interface type='user'><backend type='passt'/>{}</interface>",
}


@pytest.mark.parametrize("kind", PLACES)
def test_card_comes_and_goes(daemon: Daemon, net: Namespace, guest: Shell, kind: str) -> None:
    if kind == "passt" and shutil.which("passt") is None:
        pytest.skip("no passt here")
    before = net.links()
    text = PLACES[kind].format(f"<mac address='{MAC}'/><model type='virtio'/>")
    device(daemon, "attach-device", text)
    wait_until(lambda: MAC in cards(guest), f"the guest has a card on '{kind}'")
    made = net.links() - before
    assert len(made) == (0 if kind in ("user", "passt") else 1)
    xml = shown(daemon)
    assert "<alias name='net0'/>" in xml
    assert all(f"<target dev='{name}'/>" in xml for name in made)
    if kind in ("bridge", "network"):
        member = json.loads(net.ip("-j", "link", "show", next(iter(made))))[0]
        assert member["master"] == ("br0" if kind == "bridge" else "qvt-hot")
    daemon.virsh("detach-interface", NAME, "user" if kind == "passt" else kind, "--mac", MAC, "--live")
    wait_until(lambda: MAC not in cards(guest), "the guest's card is gone")
    assert net.links() == before
    assert "net0" not in daemon.virsh("dumpxml", NAME)
    netdevs = daemon.virsh("qemu-monitor-command", NAME, "--hmp", "info network")
    assert netdevs.strip() == ""
    assert not list((daemon.root / "run").rglob("*passt*.socket"))


def test_link_and_bridge_change(daemon: Daemon, net: Namespace, guest: Shell) -> None:
    daemon.virsh(
        *("attach-interface", NAME, "bridge", "br0", "--mac", MAC, "--model", "virtio", "--live"),
        *("--target", "tap7", "--inbound", "100"),
    )
    wait_until(lambda: MAC in cards(guest), "the guest has the card")
    of_mac(guest, MAC, "ip link set $c up")
    assert of_mac(guest, MAC, "cat /sys/class/net/$c/carrier") == "1"
    daemon.virsh("domif-setlink", NAME, MAC, "down")
    assert daemon.virsh("domif-getlink", NAME, MAC).split()[-1] == "down"
    assert of_mac(guest, MAC, "cat /sys/class/net/$c/carrier") == "0"
    daemon.virsh("domif-setlink", NAME, MAC, "up")
    assert of_mac(guest, MAC, "cat /sys/class/net/$c/carrier") == "1"
    xml = shown(daemon)
    assert "<inbound average='100'/>" in xml
    assert "htb" in net.run("tc", "qdisc", "show", "dev", "tap7").stdout
    device(daemon, "update-device", xml.replace("br0", "br1").replace("average='100'", "average='300'"))
    assert json.loads(net.ip("-j", "link", "show", "tap7"))[0]["master"] == "br1"
    assert "<inbound average='300'/>" in daemon.virsh("dumpxml", NAME)
    done = daemon.virsh_run("update-device", NAME, write(daemon, "device", xml.replace("virtio", "e1000")))
    assert "cannot modify network device model from virtio to e1000" in done.stderr
    done = daemon.virsh_run("update-device", NAME, write(daemon, "device", xml.replace("br0", "br9")))
    assert done.returncode
    assert json.loads(net.ip("-j", "link", "show", "tap7"))[0]["master"] == "br1"
    daemon.virsh("detach-device-alias", NAME, "net0", "--live")
    wait_until(lambda: "tap7" not in net.links(), "the tap is gone")


def test_which_of_two(daemon: Daemon, guest: Shell) -> None:
    """Two cards of one MAC address: the address on the bus tells them apart."""
    text = f"<interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>"
    device(daemon, "attach-device", text)
    device(daemon, "attach-device", text)
    wait_until(lambda: cards(guest).count(MAC) == 2, "the guest has both")
    done = daemon.virsh_run("detach-device", NAME, write(daemon, "device", text))
    assert f"multiple devices matching MAC address {MAC} found" in done.stderr
    second = shown(daemon, 2)
    device(daemon, "detach-device", second)
    wait_until(lambda: cards(guest).count(MAC) == 1, "one is gone")
    assert "net0" in daemon.virsh("dumpxml", NAME)
    device(daemon, "detach-device", text)
    wait_until(lambda: MAC not in cards(guest), "both are gone")


def test_both_at_once_and_over_a_kill(daemon: Daemon, net: Namespace) -> None:
    """Live and configured, with one MAC address; kept when the daemon is killed."""
    text = "<domain type='qemu'><name>both</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os>"
    text += "<type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>"
    daemon.virsh("define", write(daemon, "both", text))
    daemon.virsh("start", "both", "--paused")
    before = net.links()
    daemon.virsh("attach-interface", "both", "network", "nat", "--model", "virtio", "--persistent")
    (mac,) = daemon.virsh("domiflist", "both").split()[-1:]
    assert mac in daemon.virsh("dumpxml", "both", "--inactive")
    live = daemon.virsh("dumpxml", "both")
    daemon.kill()
    daemon.start()
    assert daemon.virsh("dumpxml", "both") == live
    assert len(net.links() - before) == 1
    daemon.virsh("detach-interface", "both", "network", "--config")
    assert mac not in daemon.virsh("dumpxml", "both", "--inactive")
    daemon.virsh("destroy", "both")
    assert net.links() == before
