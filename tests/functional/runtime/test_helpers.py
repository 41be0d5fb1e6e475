"""Helpers of a guest: what they leave, what is said when one fails, and that none outlives its guest."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainModificationImpact, DomainState, DomainUndefineFlags
from qvirt.errors import InternalError, OperationFailed, OperationInvalid, OperationUnsupported, QvirtError
from qvirt.host.proc import stat_fields
from qvirt.runtime.domain import Domain
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.helping import (
    PORTS,
    QUICK_SETUP,
    TPM,
    helped,
    path_with,
    program,
    shared_folder,
    state_of,
)
from tests.functional.runtime.instance import Instance, instance, run, until
from tests.functional.runtime.test_kill_at_every_step import strike

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed"),
]

LIVE, CONFIG = DomainModificationImpact.LIVE, DomainModificationImpact.CONFIG


@pytest.fixture(autouse=True)
def quick_setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of programs that come first; keys and certificates are not made here."""
    # not pytest's folder, which other users cannot search
    folder = Path(tempfile.mkdtemp(prefix="qvbin"))
    program(folder, "swtpm_setup", QUICK_SETUP)
    monkeypatch.setenv("PATH", path_with(folder))
    yield folder
    shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[Instance, Hypervisor]]:
    with instance() as it:
        async with it.serve(autostart=False) as hv:
            yield it, hv


def clean(it: Instance) -> None:
    """Nothing of a guest is left but its TPM's state."""
    assert it.processes() == []
    assert it.traces() == []
    assert not list(it.paths.swtpm_run.glob("*"))
    assert not list(it.paths.swtpm_storage.glob("*/*.new"))


def uncollected() -> set[int]:
    """Return the children of this process that have ended without being noticed."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        fields = stat_fields(int(folder.name))
        if fields is not None and fields[0] == "Z" and int(fields[1]) == os.getpid():
            found.add(int(folder.name))
    return found


def end(pid: int) -> None:
    """Kill a process that no daemon of this process watches."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def pid_of(domain: Domain, name: str) -> int:
    return domain.need_running().helpers[name].process.pid


def test_they_live_and_end_with_their_guest() -> None:
    async def scenario() -> None:
        async with served() as (it, hv):
            domain = await hv.define(helped(TPM, shared_folder(it.root)))
            await domain.start()
            running = domain.need_running()
            assert sorted(running.helpers) == ["fs0-virtiofsd", "swtpm"]
            pids = [helper.process.pid for helper in running.helpers.values()]
            status = (it.paths.run / "helped.xml").read_text()
            for pid in pids:
                assert f" pid='{pid}' startTime=" in status
            assert (state_of(it) / "tpm2/was-set-up").exists()
            live = await domain.xml_desc()
            assert "<binary path='/" in live
            assert "<binary" not in domain.text
            await domain.destroy()
            clean(it)
            assert (state_of(it) / "tpm2/was-set-up").exists()
            await domain.undefine()
            assert not state_of(it).exists()

    run(scenario())


@pytest.mark.parametrize(
    ("persistent", "flags", "stays"),
    [
        ("", 0, False),
        ("", DomainUndefineFlags.KEEP_TPM, True),
        (" persistent_state='yes'", 0, True),
        (" persistent_state='yes'", DomainUndefineFlags.TPM, False),
    ],
)
def test_what_becomes_of_a_tpm(persistent: str, flags: int, stays: bool) -> None:
    async def scenario() -> None:
        tpm = TPM.replace("version='2.0'", f"version='2.0'{persistent}")
        async with served() as (it, hv):
            domain = await hv.define(helped(tpm))
            await domain.start()
            await domain.destroy()
            await domain.undefine(flags)
            assert state_of(it).exists() == stays
            domain = await hv.create(helped(tpm))
            await domain.destroy()
            assert state_of(it).exists() == bool(persistent)

    run(scenario())


def test_one_that_dies_is_reported_and_leaves_no_child() -> None:
    async def scenario() -> None:
        before = uncollected()  # guests of other tests may have outlived their daemon
        async with served() as (it, hv):
            domain = await hv.create(helped(TPM, shared_folder(it.root)))
            log = hv.paths.logfile("helped")
            for name in ("fs0-virtiofsd", "swtpm"):
                os.kill(pid_of(domain, name), signal.SIGKILL)
                said = f"helper {name} was killed by signal SIGKILL; the guest goes on without it"
                await until(lambda said=said: said in log.read_text(), said)  # type: ignore[misc]
            qemu = domain.need_running().pid
            await until(lambda: it.processes() == [qemu], "only QEMU is left")
            assert domain.state == DomainState.RUNNING
            await domain.destroy()
            clean(it)
            assert uncollected() <= before

    run(scenario())


def test_one_that_hears_nothing_ends_all_the_same() -> None:
    async def scenario() -> None:
        before = uncollected()  # guests of other tests may have outlived their daemon
        async with served() as (it, hv):
            domain = await hv.create(helped(TPM, shared_folder(it.root)))
            running = domain.need_running()
            for name in ("swtpm", "fs0-virtiofsd"):
                os.kill(pid_of(domain, name), signal.SIGSTOP)
            os.kill(running.pid, signal.SIGKILL)
            await running.ended
            clean(it)
            assert uncollected() <= before

    run(scenario())


def test_what_a_failing_one_says_is_in_the_error(quick_setup: Path) -> None:
    async def scenario() -> None:
        says = program(quick_setup, "grumbler", "#!/bin/sh\necho I will not >&2\nexit 3\n")
        async with served() as (it, hv):

            async def refused(*devices: str) -> str:
                with pytest.raises(QvirtError) as caught:
                    await hv.create(helped(*devices))
                clean(it)
                assert not state_of(it).exists()
                return str(caught.value)

            grumbling = shared_folder(it.root, inside=f"<binary path='{says}'/>")
            found = await refused(TPM, grumbling)
            assert "fs0-virtiofsd (pid " in found
            assert "exited with status 3: I will not" in found
            assert "'/no/where' is not executable" in await refused(
                shared_folder(it.root, inside="<binary path='/no/where'/>")
            )
            missing = shared_folder(it.root).replace("shared-share", "missing")
            assert "the virtiofs export directory" in await refused(missing)
            (quick_setup / "swtpm_setup").write_text(says.read_text())
            found = await refused(TPM)
            assert "Could not run" in found
            assert "swtpm_setup'. swtpm-setup (pid " in found
            assert "exited with status 3: I will not" in found

    run(scenario())


def test_what_may_be_plugged() -> None:
    async def scenario() -> None:
        async with served() as (it, hv):
            domain = await hv.define(helped(PORTS))
            await domain.start()
            share = shared_folder(it.root, "plugged")
            await hotplug.attach(domain, share, LIVE | CONFIG)
            assert list(domain.need_running().helpers) == ["fs0-virtiofsd"]
            with pytest.raises(OperationInvalid, match="Target already exists"):
                await hotplug.attach(domain, share, CONFIG)
            with pytest.raises(OperationUnsupported, match="only virtiofs filesystems can be hotplugged"):
                await hotplug.attach(domain, share.replace("<driver type='virtiofs'/>", ""), LIVE)
            for act in (hotplug.attach, hotplug.detach):
                for flags, word in ((LIVE, "live"), (CONFIG, "persistent")):
                    with pytest.raises(OperationUnsupported, match=f"{word} .* of device 'tpm' is not"):
                        await act(domain, TPM, flags)
            before = await domain.xml_desc()
            with pytest.raises(InternalError, match="does not exist"):
                await hotplug.attach(domain, share.replace("shared-plugged", "missing"), LIVE)
            assert await domain.xml_desc() == before
            await domain.destroy()
            clean(it)

    run(scenario())


def test_without_swtpm_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served() as (it, hv):
            for name in ("sh", "setpriv"):
                os.symlink(str(shutil.which(name)), tmp_path / name)
            monkeypatch.setenv("PATH", str(tmp_path))
            with pytest.raises(OperationFailed, match="install the packages swtpm and swtpm-tools"):
                await hv.create(helped(TPM))
            clean(it)

    run(scenario())


def test_the_next_daemon_knows_them() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve(autostart=False) as hv:
                domain = await hv.define(helped(TPM, shared_folder(it.root)))
                await domain.start()
                pids = {name: one.process.pid for name, one in domain.need_running().helpers.items()}
            end(pids.pop("swtpm"))
            async with it.serve(autostart=False) as hv:
                domain = next(iter(hv.domains))
                assert {n: h.process.pid for n, h in domain.need_running().helpers.items()} == pids
                await domain.destroy()
                clean(it)
                await domain.start()
                assert sorted(domain.need_running().helpers) == ["fs0-virtiofsd", "swtpm"]
            end(domain.need_running().pid)
            async with it.serve(autostart=False) as hv:
                await until(lambda: it.processes() == [], "helpers of a guest that has ended end")
                await asyncio.sleep(0)
                clean(it)

    run(scenario())


#: the first and the last step between which what a helper needs is made
WINDOWS = {"helped": ("host prepared", "spawned"), "share": ("device written down", "device_add done")}


async def look(it: Instance, what: str) -> None:
    """A guest has all its helpers or none; a TPM's state is whole or missing; either way it can be used."""
    async with it.serve(autostart=False) as hv:
        assert hv.reports == []
        domain = next(iter(hv.domains))
        state = state_of(it) / "tpm2"
        assert not state.exists() or (state / "was-set-up").exists()
        if domain.active:
            running = domain.need_running()
            plugged = "plugged" in await domain.xml_desc()
            expected = ["fs0-virtiofsd", "swtpm"] + (["fs1-virtiofsd"] if plugged else [])
            assert sorted(running.helpers) == sorted(expected)
            assert [mark.name for mark in running.footprint.helpers if not mark.pid] == []
            # QEMU, swtpm, and two for each virtiofsd
            assert len(it.processes()) == 2 + 2 * (1 + plugged)
            if not plugged:
                await hotplug.attach(domain, shared_folder(it.root, "plugged"), LIVE)
        else:
            # a launcher nobody had written down reads end-of-file and goes, when it gets to it
            await until(lambda: it.processes() == [], "launchers go")
            clean(it)
            await domain.start()
        await domain.destroy()
        clean(it)
        assert (state / "was-set-up").exists()


@pytest.mark.parametrize("what", WINDOWS)
def test_the_daemon_is_killed_at_every_step(what: str) -> None:
    first, last = WINDOWS[what]

    async def scenario() -> None:
        step, names = 0, [first]
        while names[step] != last:
            with instance() as it:
                killed, found = await asyncio.to_thread(strike, it, what, step if step else -1)
                assert killed == bool(step)
                if not killed:
                    names, step = found, found.index(first) - 1
                await look(it, what)
                step += 1
        assert step > 5

    run(scenario())


def test_no_link_is_followed_where_others_may_put_one() -> None:
    """What is not root's alone holds links to a file of root's, which must stay as it is."""

    async def scenario() -> None:
        async with served() as (it, hv):
            victim = it.root / "victim"
            victim.write_text("as it was")
            victim.chmod(0o600)
            domain = await hv.define(helped(TPM))
            await domain.start()
            await domain.destroy()
            next_id = domain.hypervisor.next_id() + 1
            places = {
                hv.paths.swtpm_run / f"{next_id}-helped-swtpm.pid": "Failed to open pid file",
                hv.paths.swtpm_log / "helped-swtpm.log": "is a symbolic link",
                state_of(it) / "tpm2": "is a symbolic link",
            }
            for place, said in places.items():
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
                place.symlink_to(victim)
                with pytest.raises(QvirtError, match=said):
                    await domain.start()
                place.unlink(missing_ok=True)
                assert victim.read_text() == "as it was"
                assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (os.getuid(), 0o600)
                clean(it)
            for folder in (hv.paths.swtpm_run, hv.paths.swtpm_log, state_of(it)):
                assert (folder.stat().st_uid, folder.stat().st_mode & 0o022) == (os.getuid(), 0)

    run(scenario())
