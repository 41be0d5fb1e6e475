"""The daemon is killed between any two steps; the next one finds everything old or new, and nothing else."""

import asyncio
import os
import subprocess
import sys

import pytest

from qvirt.constants import DomainDeviceModifyFlags, DomainState
from qvirt.runtime import hotplug
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from tests.functional.runtime.instance import Instance, instance, run
from tests.functional.runtime.victim import UUID, plugged_document

pytestmark = pytest.mark.qemu

#: more than any work has; the test fails if one has more
MOST_STEPS = 40

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

    run(scenario())


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


#: the steps between which everything that matters happens
PLUGGING = {
    "attach": {"blockdev-add done", "device_add done", "device plugged"},
    "detach": {"device deleted", "device's backends removed", "device's host side released"},
}


@pytest.mark.parametrize("what", PLUGGING)
def test_killed_while_plugging(what: str) -> None:
    async def scenario() -> None:
        for step in range(MOST_STEPS):
            with instance() as it:
                it.image()
                it.image("plugged.img")
                killed, steps = await asyncio.to_thread(strike, it, what, step)
                await check_plugged(it, what)
                if not killed:
                    assert len(steps) == step
                    assert set(steps) > PLUGGING[what]
                    return
        raise AssertionError("there are more steps than the test goes through")

    run(scenario())
