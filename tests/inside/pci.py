"""PCI devices given to guests for real; run inside the testbed by `tests/functional/security/test_pci.py`.

The machine has an IOMMU and devices behind it: a controller for NVMe disks with virtual functions, a network
card nobody drives, and one with two functions that share an IOMMU group. Guests are confined by AppArmor.
"""

import asyncio
import os
import re
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qvirt.constants.domain import DomainModificationImpact
from qvirt.errors import OperationInvalid, QvirtError
from qvirt.host.conf import parse_conf
from qvirt.host.config import QemuConfig, make_config
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths
from qvirt.runtime.plugging import hotplug
from qvirt.security.apparmor import profiles
from tests.functional.runtime.instance import EMULATOR, Instance, document, run, until
from tests.inside.apparmor import TEMPLATE

SYSFS = Path("/sys/bus/pci/devices")
LIVE = DomainModificationImpact.LIVE


def found(vendor: str, device: str) -> list[str]:
    """Return the functions of a maker's kind."""
    return sorted(
        path.name
        for path in SYSFS.iterdir()
        if ((path / "vendor").read_text().strip(), (path / "device").read_text().strip()) == (vendor, device)
    )


(STORE,) = found("0x1b36", "0x0010")[:1]
(CARD,) = found("0x8086", "0x10d3")
PAIR = [name for name in found("0x1af4", "0x1000") if name.startswith("0000:00:13.")]


def driver(name: str) -> str:
    """Return who has a function, '' for nobody."""
    link = SYSFS / name / "driver"
    return link.readlink().name if link.is_symlink() else ""


def group(name: str) -> str:
    """Return the node of a function's group."""
    return f"/dev/vfio/{(SYSFS / name / 'iommu_group').readlink().name}"


def hostdev(name: str, managed: str = "yes") -> str:
    """Return the device of a document that is a function of the host."""
    return (
        f"<hostdev mode='subsystem' type='pci' managed='{managed}'><source><address {place(name)}/></source>"
        "</hostdev>"
    )


def place(name: str) -> str:
    """Return where a function is, as documents say it."""
    domain, bus, rest = name.split(":")
    slot, function = rest.split(".")
    return f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'"


def nvme_disk(name: str) -> str:
    """Return the disk that is the first namespace of a controller of the host."""
    return (
        "<disk type='nvme' device='disk'><driver name='qemu' type='raw'/><source type='pci' managed='yes' "
        f"namespace='1'><address {place(name)}/></source><target dev='sdz' bus='scsi'/></disk>"
    )


def opened(domain: Domain) -> set[str]:
    """Return what of VFIO a guest's process has open."""
    folder = Path(f"/proc/{domain.need_running().pid}/fd")
    links = [os.readlink(path) for path in folder.iterdir()]
    return {link for link in links if "vfio" in link}


def locked(domain: Domain) -> int:
    """Return how much memory a guest's process may lock."""
    return resource.prlimit(domain.need_running().pid, resource.RLIMIT_MEMLOCK)[0]


def as_before(it: Instance) -> None:
    """Check that nothing of any guest is left."""
    assert [driver(name) for name in (STORE, CARD, *PAIR)] == ["nvme", "", "virtio-pci", "virtio-pci"]
    assert {(SYSFS / name / "driver_override").read_text().strip() for name in (STORE, CARD, *PAIR)} == {
        "(null)"
    }
    assert [path.name for path in Path("/dev/vfio").iterdir()] == ["vfio"]
    assert it.traces() == []
    assert not [name for name in profiles.loaded() if name.startswith("libvirt-")]
    assert not list(templates(it).glob("*.files"))


def templates(it: Instance) -> Path:
    """Return where profiles of guests are made."""
    return it.paths.etc.parent / "apparmor.d/libvirt"


def nodes_allowed(it: Instance, domain: Domain) -> set[str]:
    """Return the nodes of VFIO that the rules of a guest, which is confined by them, let it at."""
    label = domain.security_labels()[0]
    assert (label.label, label.enforcing) == (f"libvirt-{domain.uuid}", True)
    text = (templates(it) / f"libvirt-{domain.uuid}.files").read_text()
    return set(re.findall(r'"(/dev/vfio/\S+)" rw,', text))


@pytest.fixture
def it() -> Iterator[Instance]:
    one = Instance()
    templates(one).mkdir(parents=True)
    (templates(one) / "TEMPLATE.qemu").write_text(TEMPLATE.format(root=one.root, emulator=EMULATOR))
    try:
        yield one
        as_before(one)
    finally:
        one.close()


PLAIN = "namespaces = []\n"


def config(text: str) -> QemuConfig:
    return make_config(parse_conf(text, "qemu.conf"), privileged=True)


@asynccontextmanager
async def serve(it: Instance, text: str = "") -> AsyncIterator[Hypervisor]:
    hv = await Hypervisor.open(it.paths, config=config(text))
    try:
        yield hv
    finally:
        await hv.close()


@pytest.mark.parametrize("settings", ["", PLAIN])
def test_a_device_goes_to_a_guest_and_comes_back(it: Instance, settings: str) -> None:
    async def scenario() -> None:
        async with serve(it, settings) as hv:
            domain = await hv.create(document("a", hostdev(STORE)), paused=True)
            assert driver(STORE) == "vfio-pci"
            assert {"/dev/vfio/vfio", group(STORE)} <= opened(domain)
            assert nodes_allowed(it, domain) == {"/dev/vfio/vfio", group(STORE)}
            assert "<driver name='vfio'/>" in await domain.xml_desc()
            assert locked(domain) == (32 << 20) + (1 << 30)
            user = domain.need_running().user
            assert user is not None
            inner = os.stat(f"/proc/{domain.need_running().pid}/root{group(STORE)}")
            assert (inner.st_uid, inner.st_gid) == (user.uid, user.gid)
            assert (os.stat(group(STORE)).st_uid == 0) is (settings != PLAIN)
            with pytest.raises(OperationInvalid, match=f"{STORE} is in use by driver QEMU, domain a"):
                await hv.create(document("b", hostdev(STORE)), paused=True)
            await domain.destroy()
            assert driver(STORE) == "nvme"

    run(scenario())


@pytest.mark.parametrize("settings", ["", PLAIN])
def test_a_device_is_plugged_and_unplugged(it: Instance, settings: str) -> None:
    async def scenario() -> None:
        async with serve(it, settings) as hv:
            domain = await hv.create(document("a"))
            before = locked(domain)
            await hotplug.attach(domain, hostdev(STORE), LIVE)
            assert driver(STORE) == "vfio-pci"
            assert group(STORE) in opened(domain)
            assert nodes_allowed(it, domain) == {"/dev/vfio/vfio", group(STORE)}
            assert locked(domain) == (32 << 20) + (1 << 30)
            with pytest.raises(QvirtError, match=f"{STORE} is in use by driver QEMU, domain a"):
                await hotplug.attach(domain, hostdev(STORE), LIVE)
            await hotplug.detach(domain, hostdev(STORE), LIVE)
            await domain.need_running().execute("system_reset")
            await until(lambda: not domain.live.devices.hostdevs, "the guest lets go")
            await until(lambda: driver(STORE) == "nvme", "the driver is back")
            assert opened(domain) == set()
            assert nodes_allowed(it, domain) == set()
            assert locked(domain) == before
            assert not os.path.exists(f"/proc/{domain.need_running().pid}/root{group(STORE)}")
            await domain.destroy()

    run(scenario())


def test_groups_go_as_a_whole(it: Instance) -> None:
    async def scenario() -> None:
        async with serve(it) as hv:
            assert group(PAIR[0]) == group(PAIR[1])
            with pytest.raises(OperationInvalid, match=rf"is not viable: .* {PAIR[1]} \(driver virtio-pci\)"):
                await hv.create(document("a", hostdev(PAIR[0])), paused=True)
            as_before(it)
            domain = await hv.create(document("a", *map(hostdev, PAIR)), paused=True)
            assert [driver(name) for name in PAIR] == ["vfio-pci", "vfio-pci"]
            await domain.destroy()

    run(scenario())


def test_an_unmanaged_device_stays_where_it_is(it: Instance) -> None:
    async def scenario() -> None:
        async with serve(it) as hv:
            with pytest.raises(
                OperationInvalid, match=f"Unmanaged PCI device {CARD} must be manually detached"
            ):
                await hv.create(document("a", hostdev(CARD, "no")), paused=True)
            (SYSFS / CARD / "driver_override").write_text("vfio-pci")
            Path("/sys/bus/pci/drivers_probe").write_text(CARD)
            try:
                domain = await hv.create(document("a", hostdev(CARD, "no")), paused=True)
                assert group(CARD) in opened(domain)
                await domain.destroy()
                assert driver(CARD) == "vfio-pci"
            finally:
                (SYSFS / CARD / "driver_override").write_text("\n")
                (SYSFS / CARD / "driver/unbind").write_text(CARD)

    run(scenario())


SCSI = "<controller type='scsi' index='0' model='virtio-scsi'/>"


def test_a_disk_by_nvme(it: Instance) -> None:
    async def sizes(domain: Domain) -> list[int]:
        nodes: Any = await domain.need_running().execute("query-named-block-nodes")
        return [node["image"]["virtual-size"] for node in nodes if node["drv"] == "nvme"]

    async def scenario() -> None:
        async with serve(it) as hv:
            domain = await hv.create(document("a", SCSI, nvme_disk(STORE)))
            assert await sizes(domain) == [16 << 20]
            assert driver(STORE) == "vfio-pci"
            with pytest.raises(OperationInvalid, match=f"{STORE} is in use by driver QEMU, domain a"):
                await hv.create(document("b", hostdev(STORE)), paused=True)
            await domain.destroy()
            assert driver(STORE) == "nvme"
            domain = await hv.create(document("a", SCSI))
            await hotplug.attach(domain, nvme_disk(STORE), LIVE)
            assert await sizes(domain) == [16 << 20]
            assert nodes_allowed(it, domain) == {"/dev/vfio/vfio", group(STORE)}
            assert locked(domain) == (32 << 20) + (1 << 30)
            await hotplug.detach(domain, nvme_disk(STORE), LIVE)
            await domain.need_running().execute("system_reset")
            await until(lambda: driver(STORE) == "nvme", "the driver is back")
            await domain.destroy()

    run(scenario())


def kill_at(it: Instance, work: str, step: str) -> None:
    """Run a daemon that is killed at a step, in a process of its own that has all loaded already."""
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(victim(it.root, work, step))
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


async def victim(root: Path, work: str, step: str) -> None:
    """Start, plug or stop, and die at a step of that."""
    armed = work == "start"

    def checkpoint(name: str) -> None:
        if armed and name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    hv = await Hypervisor.open(Paths.root(root), checkpoint=checkpoint, autostart=False, config=config(""))
    async with asyncio.timeout(120):
        domain = await hv.create(document("victim", *([] if work == "attach" else [hostdev(STORE)])))
        armed = True
        if work == "attach":
            await hotplug.attach(domain, hostdev(STORE), LIVE)
        else:
            await domain.destroy()


@pytest.mark.parametrize("step", ["status written", "PCI device taken"])
def test_killed_while_it_starts_a_guest(it: Instance, step: str) -> None:
    kill_at(it, "start", step)

    async def scenario() -> None:
        async with serve(it) as hv:
            assert not list(hv.domains)
            assert driver(STORE) == "nvme"

    run(scenario())


@pytest.mark.parametrize("step", ["PCI device taken", "device's host side made"])
def test_killed_while_it_plugs(it: Instance, step: str) -> None:
    kill_at(it, "attach", step)

    async def scenario() -> None:
        async with serve(it) as hv:
            domain = hv.domains.by_name("victim")
            assert not domain.live.devices.hostdevs
            assert driver(STORE) == "nvme"
            await domain.destroy()

    run(scenario())


@pytest.mark.parametrize("step", ["killed", "PCI device given back"])
def test_killed_while_a_guest_ends(it: Instance, step: str) -> None:
    kill_at(it, "destroy", step)

    async def scenario() -> None:
        async with serve(it):
            assert driver(STORE) == "nvme"

    run(scenario())


def test_a_guest_goes_on_under_another_daemon(it: Instance) -> None:
    kill_at(it, "start", "started")

    async def scenario() -> None:
        async with serve(it) as hv:
            domain = hv.domains.by_name("victim")
            assert domain.active
            assert driver(STORE) == "vfio-pci"
            assert nodes_allowed(it, domain) == {"/dev/vfio/vfio", group(STORE)}
            with pytest.raises(OperationInvalid, match=f"{STORE} is in use by driver QEMU, domain victim"):
                await hv.create(document("b", hostdev(STORE)), paused=True)
            os.kill(domain.need_running().pid, signal.SIGKILL)
            await until(lambda: driver(STORE) == "nvme", "the driver is back")

    run(scenario())
