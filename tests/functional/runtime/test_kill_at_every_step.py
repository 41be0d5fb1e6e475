"""The daemon is killed between any two steps; the next one finds everything old or new, and nothing else."""

import asyncio
import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags, DomainState
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.instance import Instance, instance, run
from tests.functional.runtime.vdpa import fdsets, prlimit, stand_in, vdpa_card, vdpa_node
from tests.functional.runtime.victim import (
    UUID,
    card_document,
    drive_document,
    node_document,
    node_path,
    plugged_document,
    tap_name,
)

pytestmark = pytest.mark.qemu

LIVE = DomainDeviceModifyFlags.LIVE

#: more than any work has; the test fails if one has more
MOST_STEPS = 40

#: seconds for all steps, each of which starts a daemon and a guest or two
PATIENCE = 600.0

#: whom the image belongs to
OWNER = 12345 if os.geteuid() == 0 else os.geteuid()


def strike(it: Instance, what: str, step: int) -> tuple[bool, list[str]]:
    """Run the victim; tells whether it was killed, and the steps it went through when it was not."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.functional.runtime.victim", str(it.root), what, str(step)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9, done.stdout.splitlines()


async def check(it: Instance, what: str) -> None:
    """Serve the tree again and look at everything."""
    async with it.serve(autostart=False) as hv:
        assert hv.reports == [] or what == "rename"
        domain = hv.domains.find(UUID)
        if domain is None:
            assert what in ("define", "undefine", "destroy", "create")
        else:
            await check_definition(domain, what)
            await check_run(it, hv, domain)
        if domain is None or not domain.active:
            assert it.processes() == []
            assert it.traces() == []
            assert os.stat(it.root / "disk.img").st_uid == OWNER
            assert os.listxattr(it.root / "disk.img") == []


async def check_definition(domain: Domain, what: str) -> None:
    """A definition is old or new."""
    title = (await domain.definition()).title
    assert title in {"define": ("new",), "redefine": ("old", "new")}.get(what, ("old", "new"))
    if domain.persistent:
        assert domain.name in (("victim", "renamed") if what == "rename" else ("victim",))
        files = [path.name for path in domain.hypervisor.paths.definitions.glob("*.xml")]
        assert files == [f"{domain.name}.xml"]


async def check_run(it: Instance, hv: Hypervisor, domain: Domain) -> None:
    """A domain that runs is wholly ours again; one that does not can be started."""
    if domain.active:
        assert len(it.processes()) == 1
        running = domain.need_running()
        assert running.pid == it.processes()[0]
        assert domain.state in (DomainState.RUNNING, DomainState.PAUSED)
        assert "alias name='virtio-disk0'" in await domain.xml_desc()
        assert hv.next_id() > running.id
        await domain.monitor_command("query-status")
        await domain.destroy()
    else:
        assert it.processes() == []
        if domain.persistent:
            await domain.start()
            assert domain.state == DomainState.RUNNING
            await domain.destroy()


@pytest.mark.parametrize(
    "what", ["define", "redefine", "undefine", "rename", "start", "create", "destroy", "poweroff"]
)
def test_killed_at_every_step(what: str) -> None:
    async def scenario() -> None:
        for step in range(MOST_STEPS):
            with instance() as it:
                os.chown(it.image(), OWNER, -1)
                killed, steps = await asyncio.to_thread(strike, it, what, step)
                await check(it, what)
                if not killed:
                    assert len(steps) == step > 0
                    return
        raise AssertionError("there are more steps than the test goes through")

    run(scenario(), PATIENCE)


async def check_plugged(it: Instance, what: str) -> None:
    """A device is there for everybody or for nobody, and can go or come."""
    image = it.root / "plugged.img"
    async with it.serve(autostart=False) as hv:
        domain = hv.domains.by_uuid(UUID)
        running = domain.need_running()
        assert running.footprint.plugging == []
        live = "plugged.img" in await domain.xml_desc()
        tree = await running.execute("qom-list", {"path": "/machine/peripheral"})
        nodes = await running.execute("query-named-block-nodes", {"flat": True})
        assert ("scsi0-0-0-0" in str(tree)) == live
        assert ("plugged.img" in str(nodes)) == live
        if hv.user is not None:
            assert (image.stat().st_uid == hv.user.uid) == live
        configured = "plugged.img" in domain.text
        assert not configured or live or what == "detach"
        if live:
            await hotplug.detach(domain, plugged_document(it.root), DomainDeviceModifyFlags.LIVE)
        assert image.stat().st_uid == os.getuid()
        await hotplug.attach(domain, plugged_document(it.root), DomainDeviceModifyFlags.LIVE)
        await domain.destroy()
    assert it.processes() == []
    assert it.traces() == []
    assert image.stat().st_uid == os.getuid()


async def check_transient(it: Instance, what: str) -> None:
    """A disk that forgets is there with its overlay, or neither is; nothing is left of the last overlay."""
    made = it.root / "plugged.img.TRANSIENT-victim"
    async with it.serve(autostart=False) as hv:
        domain = hv.domains.by_uuid(UUID)
        assert made.exists() == (made.name in await domain.xml_desc())
        assert made.name not in domain.text
        if made.exists() and hv.user is not None:
            assert made.stat().st_uid == hv.user.uid
    await check_plugged(it, what)
    assert not made.exists()


async def check_vdpa(it: Instance, _: str) -> None:
    """A card, its backend and its set of descriptors are all there or all not."""
    async with it.serve(autostart=False) as hv:
        domain = hv.domains.by_uuid(UUID)
        running = domain.need_running()
        assert running.footprint.plugging == []
        live = str(vdpa_node(it.root)) in await domain.xml_desc()
        tree = await running.execute("qom-list", {"path": "/machine/peripheral"})
        assert ("net0" in str(tree)) == live
        assert live or await fdsets(domain) == {}
        if live:
            await domain.destroy()
            return
        stand_in(domain)
        with patch.object(resource, "prlimit", prlimit):
            await hotplug.attach(domain, vdpa_card(it.root), LIVE)
        assert list(await fdsets(domain)) == [str(vdpa_node(it.root))]
        await domain.destroy()
    assert it.processes() == []
    assert it.traces() == []


async def check_medium(it: Instance, _: str) -> None:
    """One of two media is in the drive, in the document and lent; the other is neither; the tray is shut."""
    media = [it.root / "first.iso", it.root / "second.iso"]
    async with it.serve(autostart=False) as hv:
        domain = hv.domains.by_uuid(UUID)
        running = domain.need_running()
        assert running.footprint.changing == ""
        text = await domain.xml_desc()
        inside = [path for path in media if str(path) in text]
        assert len(inside) == 1
        blocks = await running.execute("query-block")
        assert isinstance(blocks, list)
        drive = next(one for one in blocks if isinstance(one, dict) and "ide0-1-0" in str(one.get("qdev")))
        assert str(inside[0]) in str(drive["inserted"])
        assert drive["tray_open"] is False
        assert "tray=" not in text
        nodes = str(await running.execute("query-named-block-nodes", {"flat": True}))
        for path in media:
            assert (str(path) in nodes) == (path in inside)
            if hv.user is not None:
                assert (path.stat().st_uid == hv.user.uid) == (path in inside)
        assert domain.text.count("second.iso") == 0 or media[1] in inside
        for name in ("second.iso", "first.iso"):
            flags = DomainDeviceModifyFlags.LIVE | DomainDeviceModifyFlags.FORCE
            await hotplug.update(domain, drive_document(it.root, name), flags)
            assert name in await domain.xml_desc()
        await domain.destroy()
    assert it.processes() == []
    assert it.traces() == []
    assert {path.stat().st_uid for path in media} == {os.getuid()}


async def check_card(it: Instance, what: str) -> None:
    """A card and its tap are there or not, its link is up or down, and both can change."""
    async with it.serve(autostart=False) as hv:
        domain = hv.domains.by_uuid(UUID)
        running = domain.need_running()
        assert (running.footprint.plugging, running.footprint.changing) == ([], "")
        text = await domain.xml_desc()
        live = "52:54:00:66:77:88" in text
        tap = Path("/sys/class/net") / tap_name(it.root)
        tree = await running.execute("qom-list", {"path": "/machine/peripheral"})
        assert (tap.exists(), "net0" in str(tree)) == (live, live)
        assert live or what == "card"
        down = "<link state='down'/>" in text
        if not live:
            await hotplug.attach(domain, card_document(it.root), LIVE)
        assert tap.exists()
        await hotplug.update(domain, card_document(it.root, "up" if down else "down"), LIVE)
        assert ("<link state='down'/>" in await domain.xml_desc()) != down
        await domain.destroy()
        assert not tap.exists()
    assert it.processes() == []
    assert it.traces() == []


async def check_node(it: Instance, _: str) -> None:
    """A device and its node in the guest's own /dev are both there or both not."""
    node = node_path(it.root)
    async with it.serve(autostart=False) as hv:
        domain = hv.domains.by_uuid(UUID)
        running = domain.need_running()
        assert running.footprint.plugging == []
        assert running.private_dev == hv.private_dev
        live = str(node) in await domain.xml_desc()
        tree = await running.execute("qom-list", {"path": "/machine/peripheral"})
        assert ("rng0" in str(tree)) == live
        own = Path(f"/proc/{running.pid}/root{node}")
        if running.private_dev:
            assert (own.exists(), own.parent.exists()) == (live, live)
        if not live:
            await hotplug.attach(domain, node_document(it.root), LIVE)
        assert own.exists()
        await domain.destroy()
    assert it.processes() == []
    assert it.traces() == []


#: what looks at the outcome, and the steps between which everything that matters happens
PLUGGING: dict[str, tuple[Callable[[Instance, str], Awaitable[None]], set[str]]] = {
    "attach": (check_plugged, {"blockdev-add done", "device_add done", "device plugged"}),
    "transient": (check_transient, {"device written down", "device_add done", "device plugged"}),
    "vdpa": (check_vdpa, {"netdev_add done", "device_add done", "device plugged"}),
    "detach": (
        check_plugged,
        {"device deleted", "device's backends removed", "device's host side released"},
    ),
    "medium": (
        check_medium,
        {"blockdev-open-tray done", "blockdev-insert-medium done", "blockdev-del done", "device changed"},
    ),
    "card": (check_card, {"device written down", "device_add done", "device plugged"}),
    "link": (check_card, {"set_link done", "device changed"}),
    "node": (check_node, {"device written down", "device_add done", "device plugged"}),
}

#: what only root can do
ROOTS = frozenset(("card", "link", "node"))


@contextlib.contextmanager
def node(it: Instance) -> Iterator[None]:
    """A device node of this tree's own in the host's /dev."""
    path = node_path(it.root)
    path.parent.mkdir()
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.stat("/dev/urandom").st_rdev)
        path.chmod(0o666)
        yield
    finally:
        shutil.rmtree(path.parent)


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=pytest.mark.root) if what in ROOTS else what for what in PLUGGING],
)
def test_killed_while_plugging(what: str) -> None:
    look, known = PLUGGING[what]

    async def scenario() -> None:
        for step in range(MOST_STEPS):
            with instance() as it:
                it.image()
                for name in ("plugged.img", "first.iso", "second.iso"):
                    it.image(name)
                with node(it) if what == "node" else contextlib.nullcontext():
                    killed, steps = await asyncio.to_thread(strike, it, what, step)
                    await look(it, what)
                if not killed:
                    assert len(steps) == step
                    assert set(steps) > known
                    return
        raise AssertionError("there are more steps than the test goes through")

    run(scenario(), PATIENCE)
