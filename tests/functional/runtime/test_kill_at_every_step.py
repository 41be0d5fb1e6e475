"""The daemon is killed between any two steps; the next one finds everything old or new, and nothing else."""

import asyncio
import os
import subprocess
import sys

import pytest

from qvirt.constants import DomainState
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from tests.functional.runtime.instance import Instance, instance, run
from tests.functional.runtime.victim import UUID

pytestmark = pytest.mark.qemu

#: more than any work has; the test fails if one has more
MOST_STEPS = 40


def strike(it: Instance, what: str, step: int) -> tuple[bool, list[str]]:
    """Run the victim; tells whether it was killed, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.functional.runtime.victim", str(it.root), what, str(step)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9, done.stdout.split("\n")


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
            assert os.stat(it.root / "disk.img").st_uid == os.getuid()


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
                it.image()
                killed, _ = await asyncio.to_thread(strike, it, what, step)
                await check(it, what)
                if not killed:
                    assert step > 0
                    return
        raise AssertionError("there are more steps than the test goes through")

    run(scenario())
