"""Virtual functions of cards, by networks and by name, where a bus in a folder stands in for the host's.

QEMU gets a device of its own in the function's place; what it opens are nodes of the test's.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvirt.constants.domain import DomainModificationImpact
from qvirt.errors import QvirtError
from qvirt.host import netlink, vf
from qvirt.host import pci as host_pci
from qvirt.host.netlink import VfConfig
from qvirt.qemu.devices import vfio
from qvirt.runtime.domain import Domain
from qvirt.runtime.jobs import Job
from qvirt.runtime.life import limits
from qvirt.runtime.plugging import hotplug
from qvirt.runtime.plugging import pci as runtime_pci
from qvirt.runtime.running import Running
from tests.functional.runtime.instance import EMULATOR, Instance, document, run, until
from tests.support.pci import FakeBus

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="device nodes and networks are root's to make"),
]

LIVE = DomainModificationImpact.LIVE
PF = "0000:02:00.0"
VFS = ("0000:02:10.1", "0000:02:10.3")
OWN = VfConfig("00:00:00:00:00:00")
MAC = "52:54:00:00:00:07"
PLUGGED = (
    f"<interface type='network'><mac address='{MAC}'/><source network='pool'/><vlan><tag id='42'/></vlan>"
    "</interface>"
)
POOL = (
    "<network><name>pool</name><forward mode='hostdev' managed='yes'>"
    "<address type='pci' bus='2' slot='16' function='1'/><address type='pci' bus='2' slot='16' function='3'/>"
    "</forward></network>"
)
#: what is not on this machine becomes a device that is on any
SCRIPT = f"""#!/usr/bin/python3
import json, os, sys
def stand_in(word):
    if '"driver":"vfio-pci"' not in word:
        return word
    return json.dumps(json.loads(word) | {{"driver": "pci-testdev", "host": None}})
words = [stand_in(word).replace(', "host": null', "") for word in sys.argv[1:]]
os.execv("{EMULATOR}", ["{EMULATOR}", *words])
"""


class Host(FakeBus):
    """A bus whose groups have nodes, and a card. told: its settings, and who had the function then."""

    def __init__(self, root: Path, nodes: Path) -> None:
        super().__init__(root)
        self.nodes = nodes
        self.kept = dict.fromkeys(range(len(VFS)), OWN)
        self.told: list[tuple[str, int, str]] = []
        self.add(PF, "ixgbe", "1")
        self.add_netdev(PF, "up0")
        for number, name in enumerate(VFS):
            self.add_vf(PF, number, name, "ixgbevf", str(20 + number))

    def _write(self, path: Path, text: str) -> None:
        super()._write(path, text)
        for name in VFS:
            node = self.nodes / str(self.group_of(name))
            if self.driver_of(name) != host_pci.VFIO:
                node.unlink(missing_ok=True)
            elif not node.exists():
                os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3))

    def read(self, name: str, number: int) -> VfConfig:
        return self.kept[number]

    def keep(self, name: str, number: int, config: VfConfig) -> None:
        self.kept[number] = config
        self.told.append((config.mac, config.vlan, self.driver_of(VFS[number])))

    def as_before(self) -> bool:
        """Tell whether no guest has anything."""
        return [self.driver_of(name) for name in VFS] == ["ixgbevf"] * 2 and set(self.kept.values()) == {OWN}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    nodes = Path(f"/dev/qvirt-pci-{os.getpid()}")
    nodes.mkdir()
    os.mknod(nodes / "vfio", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (nodes / "vfio").chmod(0o666)
    it = Host(tmp_path / "host", nodes)
    monkeypatch.setattr(host_pci, "BUS", it)
    monkeypatch.setattr(netlink, "vf_config", it.read)
    monkeypatch.setattr(netlink, "set_vf", it.keep)
    monkeypatch.setattr(vf, "_is_there", lambda card: True)
    for module in (vfio, runtime_pci):
        monkeypatch.setattr(module, "NODES", str(nodes))
        monkeypatch.setattr(module, "CONTAINER", str(nodes / "vfio"))
    # what may be locked is `tests/inside/pci.py`'s question: not every machine lets its root raise it
    monkeypatch.setattr(limits, "locked_memory", lambda definition: None)
    execute = Running.execute

    async def stand_in(self: Running, command: str, arguments: Any = None, **more: Any) -> Any:
        if command == "device_add" and arguments["driver"] == "vfio-pci":
            arguments = {key: value for key, value in arguments.items() if key != "host"}
            arguments["driver"] = "pci-testdev"
        return await execute(self, command, arguments, **more)

    monkeypatch.setattr(Running, "execute", stand_in)
    try:
        yield it
        assert it.as_before()
    finally:
        shutil.rmtree(nodes)


@pytest.fixture
def it() -> Iterator[Instance]:
    one = Instance()
    one.root.joinpath("emulator").write_text(SCRIPT)
    one.root.joinpath("emulator").chmod(0o755)
    try:
        yield one
        assert one.traces() == []
    finally:
        one.close()


def guest(it: Instance, name: str, *devices: str) -> str:
    return document(name, *devices).replace(EMULATOR, f"{it.root}/emulator")


def inside(domain: Domain, node: Path) -> Path:
    """Return where a guest's process sees a node."""
    return Path(f"/proc/{domain.need_running().pid}/root{node}")


def test_a_network_gives_each_guest_a_function(it: Instance, host: Host) -> None:
    async def scenario() -> None:
        async with it.serve() as hv:
            assert hv.networks is not None
            network = await hv.networks.create(POOL)
            first = await hv.create(guest(it, "first", PLUGGED), paused=True)
            text = await first.xml_desc()
            assert "<interface type='hostdev' managed='yes'>" in text
            assert "<driver name='vfio'/>" in text
            assert "<address type='pci' domain='0x0000' bus='0x02' slot='0x10' function='0x1'/>" in text
            assert "<alias name='hostdev0'/>" in text
            assert host.told == [(MAC, 42, "vfio-pci")]
            user = first.need_running().user
            assert user is not None
            assert inside(first, host.nodes / "20").stat().st_uid == user.uid
            second = await hv.create(guest(it, "second", PLUGGED), paused=True)
            assert [host.driver_of(name) for name in VFS] == ["vfio-pci"] * 2
            with pytest.raises(QvirtError, match="requires exclusive access to interfaces, but none are"):
                await hv.create(guest(it, "third", PLUGGED), paused=True)
            host.told.clear()
            await first.destroy()
            # before its driver comes back
            assert host.told == [(OWN.mac, 0, "vfio-pci")]
            assert [host.driver_of(name) for name in VFS] == ["ixgbevf", "vfio-pci"]
            assert len(network.ports) == 1
        # another daemon knows who has what
        async with it.serve() as hv:
            assert hv.networks is not None
            network = hv.networks.by_name("pool")
            assert len(network.ports) == 1
            second = hv.domains.by_name("second")
            third = await hv.create(guest(it, "third", PLUGGED), paused=True)
            with pytest.raises(QvirtError, match="requires exclusive access to interfaces, but none are"):
                await hv.create(guest(it, "fourth", PLUGGED), paused=True)
            await third.destroy()
            await second.destroy()
            assert network.ports == {}
            await hv.networks.destroy(network)

    run(scenario())


def test_plugged_and_unplugged(it: Instance, host: Host) -> None:
    async def scenario() -> None:
        async with it.serve() as hv:
            assert hv.networks is not None
            network = await hv.networks.create(POOL)
            domain = await hv.create(guest(it, "a"))
            await hotplug.attach(domain, PLUGGED, LIVE)
            (card,) = domain.live.devices.interfaces
            assert card.alias.name == "hostdev0"
            assert inside(domain, host.nodes / "20").exists()
            await hotplug.detach(domain, PLUGGED, LIVE)
            await domain.need_running().execute("system_reset")
            await until(lambda: not domain.live.devices.interfaces, "the guest lets go")
            await until(lambda: not domain.need_running().footprint.pci, "the function is given back")
            assert (host.as_before(), network.ports) == (True, {})
            assert not inside(domain, host.nodes).exists()
            await domain.destroy()
            await hv.networks.destroy(network)

    run(scenario())


def test_a_function_that_qemu_does_not_let_go_of(
    it: Instance, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking it from its driver would hold a thread of the daemon until QEMU ends."""
    monkeypatch.setattr(runtime_pci, "_LET_GO_WAIT", 0.05)
    monkeypatch.setattr(runtime_pci, "_open_files", lambda pid: {str(host.nodes / "20")})

    async def scenario() -> None:
        async with it.serve() as hv:
            assert hv.networks is not None
            network = await hv.networks.create(POOL)
            domain = await hv.create(guest(it, "a"))
            await hotplug.attach(domain, PLUGGED, LIVE)
            await hotplug.detach(domain, PLUGGED, LIVE)
            await domain.need_running().execute("system_reset")
            await until(lambda: not domain.live.devices.interfaces, "the guest lets go")
            async with domain.job(Job.QUERY, "until it is unplugged"):
                assert [one.name for one in domain.need_running().footprint.pci] == [VFS[0]]
            assert host.driver_of(VFS[0]) == host_pci.VFIO
            await domain.destroy()
            assert host.as_before()
            await hv.networks.destroy(network)

    run(scenario())


@pytest.mark.parametrize("fails", ["card", "driver", "rom"])
def test_a_plug_that_fails_half_way(
    it: Instance, host: Host, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with it.serve() as hv:
            assert hv.networks is not None
            network = await hv.networks.create(POOL)
            domain = await hv.create(guest(it, "a"), paused=True)
            if fails == "card":
                monkeypatch.setattr(netlink, "set_vf", _refuse_first(host))
            elif fails == "driver":
                host.stubborn.add(VFS[0])
            rom = "<rom file='/nosuch'/>" if fails == "rom" else ""
            with pytest.raises(QvirtError):
                await hotplug.attach(domain, PLUGGED.replace("<vlan>", f"{rom}<vlan>"), LIVE)
            assert (host.as_before(), network.ports) == (True, {})
            assert (domain.need_running().footprint.pci, domain.need_running().footprint.vfs) == ([], [])
            assert not inside(domain, host.nodes).exists()
            await domain.destroy()
            await hv.networks.destroy(network)

    run(scenario())


def _refuse_first(host: Host) -> Any:
    said: list[VfConfig] = []

    def keep(name: str, number: int, config: VfConfig) -> None:
        said.append(config)
        if len(said) == 1:
            raise QvirtError("Cannot set interface MAC")
        host.keep(name, number, config)

    return keep
