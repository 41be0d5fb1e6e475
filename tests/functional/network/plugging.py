"""A hypervisor with two networks: ``python -m tests.functional.network.plugging ROOT WHAT``.

It works through the life of a guest that is plugged into both, and says what it sees as one JSON object.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from qvirt.constants.network import NetworkEventLifecycleType
from qvirt.drivers.network.driver import Networks
from qvirt.drivers.network.events import NetworkEvents, NetworkLifecycle
from qvirt.drivers.network.network import Network, NetworkFolders, NetworkHost
from qvirt.errors import NoNetwork, QvirtError
from qvirt.model.devices.interface import Interface
from qvirt.model.network import parse_network
from qvirt.model.network_port import parse_network_port
from qvirt.runtime import interfaces
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths
from qvirt.xml.document import parse_element
from tests.functional.runtime.instance import document

NETWORKS = {
    "second": "<network><name>second</name><bridge name='br2'/></network>",
    "idle": "<network><name>idle</name><bridge name='br9'/></network>",
    "bridged": "<network><name>bridged</name><forward mode='nat'/><bridge name='br0'/></network>",
    "pool": "<network><name>pool</name>"
    "<forward mode='passthrough'><interface dev='low0'/></forward></network>",
}
BRIDGED = "<interface type='network'><source network='bridged'/><model type='virtio'/>{}</interface>"
POOL = (
    "<interface type='network'><mac address='52:54:00:00:00:77'/><source network='pool'/>"
    "<model type='virtio'/></interface>"
)


DYING = "11111111-2222-3333-4444-555555555566"


class TwoNetworks:
    """Networks that are there, and one that is not active."""

    def __init__(self, hv: Hypervisor) -> None:
        folder = hv.paths.sockets / "network"
        self.events = NetworkEvents()
        self.reports: list[str] = []
        folders = NetworkFolders(folder, folder, folder, folder)
        self._networks = {}
        for name, text in NETWORKS.items():
            network = Network(NetworkHost(folders, hv.files, True), name, str(uuid4()))
            network.definition = parse_network(text)
            network.live = None if name == "idle" else network.definition
            for path in folders.ports(name).glob("*.xml"):
                port = parse_network_port(path.read_text())
                network.ports[str(port.uuid)] = port
            self._networks[name] = network

    def by_name(self, name: str) -> Network:
        """Return a network."""
        if name not in self._networks:
            raise NoNetwork(f"no network with matching name '{name}'")
        return self._networks[name]

    def __iter__(self) -> Iterator[Network]:
        return iter(self._networks.values())

    async def close(self) -> None:
        """Nothing is watched."""

    async def leased(self, network: Network, mac: str) -> list[tuple[str, int]]:
        """Return a guest's leases."""
        return [("198.18.0.5", 24), ("2001:db8::5", 64)] if network.name == "bridged" else []


class Plugged(Hypervisor):
    """A hypervisor whose guests have these networks, which are not on the host."""

    async def _open_networks(self, with_default: bool) -> Networks:
        return cast(Networks, TwoNetworks(self))


def book(hv: Hypervisor) -> list[tuple[str, str]]:
    """Return every port's network and kind."""
    assert hv.networks is not None
    return sorted(
        (network.name, port.plug.type)
        for network in hv.networks
        for port in network.ports.values()
        if port.plug is not None
    )


def ip(*words: str) -> str:
    """Run ip."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30).stdout


def links() -> dict[str, dict[str, Any]]:
    """Return what ip knows of the devices."""
    return {link["ifname"]: link for link in json.loads(ip("-j", "-d", "link"))}


async def refusal(hv: Hypervisor, *devices: str) -> str:
    """Start a guest that does not start, and return why."""
    try:
        await hv.create(document("refused", *devices), paused=True)
    except QvirtError as error:
        return str(error)
    raise AssertionError("it started")


async def work(root: Path) -> dict[str, Any]:
    """Do it all."""
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "br0", "up")
    ip("link", "add", "br2", "type", "bridge")
    ip("link", "add", "low0", "type", "veth", "peer", "name", "low1")
    ip("link", "set", "low0", "up")
    ip("link", "set", "low1", "up")
    before = links()
    seen: dict[str, Any] = {"low": before["low0"]["address"]}
    hv = await Plugged.open(Paths.root(root), autostart=False)
    isolated = BRIDGED.format(
        "<port isolated='yes'/><mtu size='1400'/><coalesce><rx><frames max='7'/></rx></coalesce>"
    )
    domain = await hv.create(document("plugged", isolated, POOL), paused=True)
    now = links()
    seen["leases"] = [
        [one.name, [[each.type, each.addr, each.prefix] for each in one.addrs]]
        for one in await domain.interface_addresses(0)
    ]
    seen["live"] = await domain.xml_desc(0)
    seen["inactive"] = await domain.xml_desc(2)
    seen["ports"] = book(hv)
    seen["files"] = len(list(root.glob("run/libvirt/network/**/????????-*.xml")))
    seen["tap"] = {key: now["vnet0"].get(key) for key in ("master", "mtu", "address")}
    seen["isolated"] = Path("/sys/class/net/vnet0/brport/isolated").read_text().strip()
    seen["macvtap"] = now["macvtap0"]["linkinfo"]["info_data"]["mode"]
    seen["low with guest"] = now["low0"]["address"]
    seen["second"] = await refusal(hv, POOL)
    seen["missing"] = await refusal(hv, BRIDGED.replace("bridged", "nowhere"))
    seen["idle"] = await refusal(hv, BRIDGED.replace("bridged", "idle"))
    seen["vlan"] = await refusal(hv, BRIDGED.format("<vlan><tag id='4'/></vlan>"))
    seen["ovs"] = await refusal(
        hv, "<interface type='bridge'><source bridge='br0'/><virtualport type='openvswitch'/></interface>"
    )
    seen["ports after refusals"] = len(book(hv))

    # the seam that hot-plug uses
    running = domain.need_running()
    extra = Interface.from_xml(parse_element(BRIDGED.format("<mac address='52:54:00:00:00:99'/>"), "extra"))
    extra.alias.name = "net9"
    with await interfaces.connect(domain, running, extra) as connection:
        seen["extra"] = [connection.names, extra.target.dev, extra.target.dev in links()]
        seen["ports with extra"] = len(book(hv))
        other = extra.copy()
        other.unplug()
        assert other.source is not None
        other.source.network = "second"
        other.link.state = "down"
        await interfaces.update(domain, running, extra, other)
        moved = links()["vnet1"]
        seen["moved"] = [moved["master"], "UP" in moved["flags"], book(hv)]
        impossible = other.copy()
        impossible.unplug()
        assert impossible.source is not None
        impossible.source.network = "pool"
        try:
            await interfaces.update(domain, running, other, impossible)
        except QvirtError as error:
            seen["impossible"] = str(error)
        seen["still"] = [links()["vnet1"]["master"], book(hv)]
    extra = other
    await interfaces.disconnect(domain, running, extra)
    seen["extra gone"] = [len(book(hv)), "vnet1" in links()]
    await domain.save_status()
    pid = running.pid
    await hv.close()

    # a daemon that comes back finds its ports, and one that nobody has is given back
    assert hv.networks is not None
    network = hv.networks.by_name("bridged")
    folder = network.host.folders.ports("bridged")
    mine = next(folder.glob("*.xml"))
    stray = folder / "11111111-2222-3333-4444-555555555555.xml"
    stray.write_text(mine.read_text().replace(mine.stem, stray.stem))
    lost = next(network.host.folders.ports("pool").glob("*.xml"))
    lost.unlink()
    hv = await Plugged.open(Paths.root(root), autostart=False)
    domain = hv.domains.by_name("plugged")
    seen["same live"] = await domain.xml_desc(0) == seen["live"]
    seen["ports again"] = book(hv)
    seen["files again"] = [stray.exists(), lost.exists()]

    # its bridge goes and comes
    ip("link", "del", "br0")
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "br0", "up")
    # as a network that was started anew: its ports were forgotten with it
    assert hv.networks is not None
    hv.networks.by_name("bridged").ports.clear()
    hv.networks.events.publish(NetworkLifecycle("bridged", "", NetworkEventLifecycleType.STARTED))
    for _ in range(500):
        if links()["vnet0"].get("master") == "br0":
            break
        await asyncio.sleep(0.01)
    seen["ports once more"] = book(hv)
    seen["plugged again"] = [
        links()["vnet0"].get("master"),
        Path("/sys/class/net/vnet0/brport/isolated").read_text().strip(),
    ]
    running = domain.need_running()
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(asyncio.shield(running.ended), 30)
    seen["ports in the end"] = len(book(hv))
    seen["files in the end"] = len(list(root.glob("run/libvirt/network/**/????????-*.xml")))
    seen["links in the end"] = sorted(set(links()) - set(before))
    seen["low in the end"] = links()["low0"]["address"]
    await hv.close()
    return seen


async def die(root: Path, fatal: int) -> list[str]:
    """Start a guest that is plugged into both networks and die at a step; returns the steps' names."""
    steps: list[str] = []

    def checkpoint(name: str) -> None:
        if len(steps) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        steps.append(name)

    hv = await Plugged.open(Paths.root(root), autostart=False)
    domain = await hv.define(document("dying", BRIDGED.format(""), POOL, uuid=DYING))
    hv.checkpoint = checkpoint
    await domain.start(paused=True)
    return steps


async def look(root: Path) -> dict[str, Any]:
    """Come back after a death, end what goes on, and say what is left."""
    hv = await Plugged.open(Paths.root(root), autostart=False)
    domain = hv.domains.by_name("dying")
    was_active = domain.active
    seen: dict[str, Any] = {"active": was_active, "ports": book(hv)}
    if was_active:
        await domain.destroy()
    seen["ports in the end"] = book(hv)
    seen["files in the end"] = len(list(root.glob("run/libvirt/network/**/????????-*.xml")))
    seen["links"] = sorted(links())
    seen["low"] = links()["low0"]["address"]
    await hv.close()
    return seen


def main(root: Path, what: str, step: str = "-1") -> None:
    """Do one thing and print what was seen."""
    seen: Any
    match what:
        case "work":
            seen = asyncio.run(work(root))
        case "die":
            seen = asyncio.run(die(root, int(step)))
        case _:
            seen = asyncio.run(look(root))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
