"""A helper for reservations that dies comes back, a log that grows is set aside; real programs of QEMU's."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qvirt.model.devices import parse_device
from qvirt.model.devices.disk import Disk
from qvirt.qmp.wire import Event
from qvirt.record import replace
from qvirt.runtime import domainlog, monitor_events
from qvirt.runtime.domain import Domain
from qvirt.runtime.helpers import helper_kinds, helper_watch, pr_helper, processes
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hostside
from tests.functional.runtime.helping import program
from tests.functional.runtime.instance import Instance, document, instance, run, until

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.skipif(not os.access("/usr/bin/qemu-pr-helper", os.X_OK), reason="no qemu-pr-helper here"),
]

NAME = pr_helper.NAME
LUN = (
    "<disk type='block' device='lun'><driver name='qemu' type='raw'/>"
    "<source dev='/dev/null'><reservations managed='yes'/></source><target dev='sda' bus='scsi'/></disk>"
)


@contextlib.asynccontextmanager
async def reserving(it: Instance) -> AsyncIterator[tuple[Hypervisor, Domain]]:
    """A guest with a helper for reservations.

    QEMU takes no disk that is none of SCSI's, and there is none here: so the document alone has it, and QEMU
    gets the object that talks to the helper.
    """
    async with it.serve(autostart=False) as hv:
        domain = await hv.create(document("reserves"), paused=True)
        running = domain.need_running()
        lun = parse_device(LUN)
        assert isinstance(lun, Disk)
        running.definition.devices.disks.append(lun)
        running.touch()
        recipes = helper_kinds.recipes(domain, running, [lun], await hostside.context(domain, running))
        processes.reserve(running, recipes)
        await helper_watch.start(domain, running, recipes)
        await connect(domain)
        yield hv, domain


async def connect(domain: Domain) -> None:
    """Have QEMU come to the helper; it fails where nobody answers."""
    path = domain.need_running().footprint.helpers[0].files[0]
    props = {"qom-type": "pr-manager-helper", "id": NAME, "path": path}
    await domain.need_running().execute("object-add", props)
    answer = await domain.need_running().execute("query-pr-managers")
    assert answer == [{"id": NAME, "connected": True}]


async def connect_again(domain: Domain) -> None:
    await domain.need_running().execute("object-del", {"id": NAME})
    await connect(domain)


def pid_of(domain: Domain) -> int:
    """Return the process of the helper that lives, 0 while there is none."""
    helper = domain.need_running().helpers.get(NAME)
    return helper.process.pid if helper is not None and not helper.process.is_gone else 0


async def killed(domain: Domain) -> int:
    """Kill the helper, and return the process that comes in its place."""
    before = pid_of(domain)
    os.kill(before, signal.SIGKILL)
    log = domain.hypervisor.paths.logfile(domain.name)
    await until(lambda: pid_of(domain) not in (0, before), "it is started again")
    pid = pid_of(domain)
    await until(lambda: f"helper {NAME} runs again (pid {pid})" in log.read_text(), "it serves")
    return pid


def test_one_that_dies_comes_back() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with reserving(it) as (hv, domain):
                pid = await killed(domain)
                assert (
                    "was killed by signal SIGKILL; it is started again"
                    in hv.paths.logfile("reserves").read_text()
                )
                mark = domain.need_running().footprint.helpers[0]
                assert f"name='{NAME}' pid='{pid}'" in (it.paths.run / "reserves.xml").read_text()
                assert Path(mark.files[1]).read_text().strip() == str(pid)
                if hv.user is not None:
                    assert os.stat(mark.files[0]).st_uid == hv.user.uid
                await connect_again(domain)
                await killed(domain)
                await connect_again(domain)
                await domain.destroy()
                assert it.processes() == []
                assert it.traces() == []

    run(scenario())


def test_one_that_dies_again_and_again_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And tried again when the guest wants it later."""
    monkeypatch.setattr(helper_watch, "PAUSE", 0.01)
    monkeypatch.setattr(helper_watch, "MOST_RETURNS", 3)

    async def scenario() -> None:
        with instance() as it:
            async with reserving(it) as (hv, domain):
                count = it.root / "count"
                dying = program(
                    it.root / "bin", "dies", f"#!/bin/sh\necho . >>{count}\necho alas >&2\nexit 3\n"
                )
                count.touch()
                count.chmod(0o666)
                config = hv.config
                hv.config = replace(config, pr_helper=str(dying))
                log = hv.paths.logfile("reserves")
                os.kill(pid_of(domain), signal.SIGKILL)
                given_up = f"helper {NAME} ended 3 times within 60 s; the guest goes on without it"
                await until(lambda: given_up in log.read_text(), "it is left alone")
                assert count.read_text().count(".") == 3
                wanted = Event("PR_MANAGER_STATUS_CHANGED", {"id": NAME, "connected": False}, 0, 0)
                for _ in range(3):
                    monitor_events.handle(domain, domain.need_running(), wanted)
                await domain.reset()  # waits for those that hold the job
                assert count.read_text().count(".") == 3
                assert log.read_text().count(given_up) == 1
                hv.config = config
                monkeypatch.setattr(helper_watch, "RETURNS_WITHIN", 0.0)
                monitor_events.handle(domain, domain.need_running(), wanted)
                await until(lambda: "runs again" in log.read_text(), "it is started when it is wanted")
                await connect_again(domain)
                monitor_events.handle(domain, domain.need_running(), wanted)
                pid = pid_of(domain)
                await domain.reset()
                assert pid_of(domain) == pid
                await domain.destroy()
                assert it.processes() == []
                assert it.traces() == []

    run(scenario())


def test_one_that_ended_while_nobody_watched_comes_back() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with reserving(it) as (_, domain):
                await domain.save_status()
                pid = pid_of(domain)
            os.kill(pid, signal.SIGKILL)
            async with it.serve(autostart=False) as hv:
                domain = hv.domains.by_name("reserves")
                await until(lambda: pid_of(domain), "it is started again")
                log = hv.paths.logfile("reserves")
                await until(lambda: "runs again" in log.read_text(), "it serves")
                await connect_again(domain)
                await domain.destroy()
            assert it.traces() == []

    run(scenario())


def test_the_guest_ends_while_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with reserving(it) as (hv, domain):
                running = domain.need_running()
                slow = program(it.root / "bin", "slow", "#!/bin/sh\nexec sleep 60\n")
                hv.config = replace(hv.config, pr_helper=str(slow))
                os.kill(pid_of(domain), signal.SIGKILL)
                await until(lambda: pid_of(domain), "it is started again")
                os.kill(running.pid, signal.SIGKILL)
                await running.ended
                assert running.helpers == {}
                assert it.processes() == []
                assert it.traces() == []

    run(scenario())


def test_a_helpers_log_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domainlog, "BOUND_EVERY", 0.02)
    monkeypatch.setattr(domainlog, "MAX_SIZE", 1000)

    async def scenario() -> None:
        with instance() as it:
            async with reserving(it) as (_, domain):
                log = it.paths.log / f"reserves-{NAME}.log"
                aside = log.with_name(f"{log.name}.0")
                with log.open("ab") as file:
                    file.write(b"x" * 5000)
                await until(lambda: aside.exists() and not log.stat().st_size, "it is set aside")
                assert aside.stat().st_size == 1000
                # what it says later is found in the log that began anew
                with log.open("ab") as file:
                    file.write(b"the last words\n")
                assert "the last words" in domain.need_running().helpers[NAME].last_words()
                await domain.destroy()

    run(scenario())
