"""What a network's limited rate keeps for single guests: classes of its bridge, read back from the kernel."""

import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.functional.api.documents import domain
from tests.functional.guests.machines import write
from tests.support.daemon import Daemon, running_daemon, wait_until
from tests.support.netns import Namespace, namespace

pytestmark = [pytest.mark.qemu, pytest.mark.virsh, pytest.mark.root]

NETWORK = """<network><name>{0}</name><bridge name='vb-{0}'/>
<bandwidth><inbound average='1000' {1}/></bandwidth></network>"""
CARD = """<interface type='network'><mac address='52:54:00:f1:00:{:02x}'/><source network='{}'/>
<model type='virtio'/><bandwidth><inbound {}/></bandwidth></interface>"""
PORT = """<networkport><uuid>11111111-2222-3333-4444-5555555555{0:02x}</uuid>
<owner><name>x</name><uuid>fc2c7b23-9eca-4323-af09-62ad94b06edb</uuid></owner>
<mac address='52:54:00:f2:00:{0:02x}'/><bandwidth><inbound floor='{1}'/></bandwidth></networkport>"""
_UNITS = {"bit": 1, "Kbit": 1000, "Mbit": 10**6}


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    with namespace() as it:
        yield it


@pytest.fixture
def daemon(host: Namespace) -> Iterator[Daemon]:
    with running_daemon(prefix=host.prefix) as it:
        for name, more in (("flat", "burst='64'"), ("peaky", "peak='1500'")):
            it.virsh("net-define", write(it, name, NETWORK.format(name, more)))
            it.virsh("net-start", name)
        try:
            yield it
        finally:
            for name in ("flat", "peaky"):
                it.virsh_run("net-destroy", name)


def classes(host: Namespace, network: str) -> dict[int, int]:
    """Return the classes of a network's bridge and their rates, KiB a second, as near as tc says."""
    said = host.run("tc", "class", "show", "dev", f"vb-{network}").stdout
    found = {}
    for number, rate, unit in re.findall(r"class htb 1:(\w+) .*? rate (\d+)(\w*?bit) ", said):
        found[int(number, 16)] = round(int(rate) * _UNITS[unit] / 8 / 1024)
    return found


def macs(host: Namespace, network: str) -> dict[int, str]:
    """Return whose traffic each class has, by the filters."""
    said = host.run("tc", "filter", "show", "dev", f"vb-{network}").stdout
    found = re.findall(r"protocol all .*flowid 1:(\w+).*\n.*match (\w+)/.* at -12\n.*match 0000(\w+)/", said)
    return {int(number, 16): head + tail for number, tail, head in found}


def start(daemon: Daemon, name: str, *cards: str) -> None:
    text = domain(name, "".join(cards)).replace("<devices>", "<features><acpi/></features><devices>")
    daemon.virsh("create", write(daemon, name, text), "--paused")


def status(daemon: Daemon, network: str) -> tuple[str, str]:
    """Return what the network's status file says of its classes."""
    text = (daemon.root / f"run/libvirt/network/{network}.xml").read_text()
    (found,) = re.findall(r"<class_id bitmap='(.*)'/>\s*<floor sum='(.*)'/>", text)
    return found[0], found[1]


def test_guests_have_classes(daemon: Daemon, host: Namespace) -> None:
    """From start to stop, over a restart of the daemon; the rest is for those without."""
    assert classes(host, "flat") == {1: 1000, 2: 1000}
    start(
        daemon,
        "one",
        CARD.format(1, "flat", "floor='300'"),
        CARD.format(2, "flat", "average='50' floor='200'"),
    )
    start(daemon, "two", CARD.format(3, "flat", "average='70'"), CARD.format(4, "peaky", "floor='1200'"))
    guaranteed = {1: 1000, 2: 500, 3: 300, 4: 200}
    assert classes(host, "flat") == guaranteed
    assert classes(host, "peaky") == {1: 1000, 2: 300, 3: 1200}
    assert macs(host, "flat") == {3: "525400f10001", 4: "525400f10002"}
    assert macs(host, "peaky") == {3: "525400f10004"}
    assert status(daemon, "flat") == ("0-4", "500")
    ports = daemon.root / "run/libvirt/network/flat/ports"
    written = "".join(path.read_text() for path in ports.glob("*.xml"))
    assert sorted(re.findall("classID='(.)'", written)) == ["3", "4"]
    assert "classID" not in daemon.virsh("dumpxml", "one")
    daemon.kill()
    daemon.start()
    assert classes(host, "flat") == guaranteed
    assert macs(host, "flat") == {3: "525400f10001", 4: "525400f10002"}
    daemon.virsh("destroy", "one")
    assert classes(host, "flat") == {1: 1000, 2: 1000}
    assert macs(host, "flat") == {}
    assert status(daemon, "flat") == ("0-2", "0")
    daemon.virsh("destroy", "two")
    assert classes(host, "peaky") == {1: 1000, 2: 1000}


def test_changed_while_the_guest_runs(daemon: Daemon, host: Namespace) -> None:
    """By domiftune, update-device, attach and detach; what there is not enough for changes nothing."""
    start(daemon, "one", CARD.format(1, "flat", "floor='300'"))
    try:
        card = "52:54:00:f1:00:01"
        daemon.virsh("domiftune", "one", card, "--inbound", "10,,,400", "--live")
        assert classes(host, "flat") == {1: 1000, 2: 600, 3: 400}
        assert "inbound.floor  : 400" in daemon.virsh("domiftune", "one", card)
        changed = write(daemon, "card", CARD.format(1, "flat", "floor='500'"))
        daemon.virsh("update-device", "one", changed, "--live")
        expected = {1: 1000, 2: 500, 3: 500}
        assert classes(host, "flat") == expected
        other = write(daemon, "other", CARD.format(2, "flat", "floor='600'"))
        too_much = (
            "interface into 'vb-flat' because new combined inbound floor={} would overcommit average=1000 on "
            "network 'flat'"
        )
        for words, total in (
            (("attach-device", "one", other, "--live"), 1100),
            (("domiftune", "one", card, "--inbound", "10,,,4000", "--live"), 4000),
            (("update-device", "one", write(daemon, "x", CARD.format(1, "flat", "floor='1001'"))), 1001),
            (("net-port-create", "flat", write(daemon, "port", PORT.format(1, 501))), 1001),
        ):
            assert too_much.format(total) in daemon.virsh_run(*words).stderr
            assert classes(host, "flat") == expected
        assert "floor='500'" in daemon.virsh("dumpxml", "one")
        assert daemon.virsh("dumpxml", "one").count("<interface") == 1
        daemon.virsh("attach-device", "one", write(daemon, "other", CARD.format(2, "flat", "floor='250'")))
        assert classes(host, "flat") == {1: 1000, 2: 250, 3: 500, 4: 250}
        daemon.virsh("domiftune", "one", card, "--inbound", "0", "--live")
        assert classes(host, "flat") == {1: 1000, 2: 750, 4: 250}
        assert macs(host, "flat") == {4: "525400f10002"}
        # to another network and what is left of that
        daemon.virsh(
            "update-device", "one", write(daemon, "y", CARD.format(1, "peaky", "floor='77'")), "--live"
        )
        assert classes(host, "peaky") == {1: 1000, 2: 1423, 3: 77}
    finally:
        daemon.virsh("destroy", "one")
    assert classes(host, "flat") == classes(host, "peaky") == {1: 1000, 2: 1000}


def test_ports_of_others(daemon: Daemon, host: Namespace) -> None:
    """net-port-create takes a class, a change of its limits changes it, and it goes with the port."""
    daemon.virsh("net-port-create", "flat", write(daemon, "port", PORT.format(7, 100)))
    port = "11111111-2222-3333-4444-555555555507"
    assert macs(host, "flat") == {3: "525400f20007"}
    assert "<bandwidth classID='3'>" in daemon.virsh("net-port-dumpxml", "flat", port)
    daemon.python(
        "port = conn.networkLookupByName('flat').portLookupByUUIDString(sys.argv[1])\n"
        "assert port.parameters(0)['inbound.floor'] == 100\n"
        "port.setParameters({'inbound.floor': 150}, 0)",
        port,
    )
    assert classes(host, "flat") == {1: 1000, 2: 850, 3: 150}
    daemon.virsh("net-port-delete", "flat", port)
    assert classes(host, "flat") == {1: 1000, 2: 1000}


def test_a_guest_that_ends_while_nobody_watches(daemon: Daemon, host: Namespace) -> None:
    start(daemon, "one", CARD.format(1, "flat", "floor='300'"))
    daemon.kill()
    (pid,) = daemon.qemu_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not daemon.qemu_pids(), "the guest is gone")
    daemon.start()
    wait_until(lambda: classes(host, "flat") == {1: 1000, 2: 1000}, "its class is gone")
    ports = daemon.root / "run/libvirt/network/flat/ports"
    wait_until(lambda: not list(ports.glob("*.xml")), "its port is gone")


def test_a_network_that_is_started_anew(daemon: Daemon, host: Namespace) -> None:
    """Its guests are plugged in again, with their floors."""
    start(daemon, "one", CARD.format(1, "flat", "floor='300'"))
    try:
        daemon.virsh("net-destroy", "flat")
        daemon.virsh("net-start", "flat")
        wait_until(lambda: classes(host, "flat") == {1: 1000, 2: 700, 3: 300}, "its class is there again")
        assert macs(host, "flat") == {3: "525400f10001"}
    finally:
        daemon.virsh("destroy", "one")
