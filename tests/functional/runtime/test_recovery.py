"""A daemon that comes back: guests found again, what is half done cleared, what cannot be read kept aside."""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainPausedReason, DomainRunningReason, DomainShutoffReason, DomainState
from qvirt.errors import OperationFailed, OperationInvalid
from qvirt.runtime import recover
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.life import stopping
from tests.functional.runtime.instance import Instance, Recorder, disk, document, instance, run, until

pytestmark = pytest.mark.qemu

CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def test_running_paused_and_transient_guests_are_found_again() -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image()
            async with it.serve() as hv:
                one = await hv.define(document("one", disk(image), "<serial type='pty'/>", CHANNEL))
                await one.start()
                two = await hv.create(document("two"), paused=True)
                three = await hv.define(document("three"))
                await three.start()
                before = {domain.name: (domain.id, domain.need_running().qemu.pid) for domain in hv.domains}
                xml = await one.xml_desc()
                inactive = await two.xml_desc(2)
            assert len(it.processes()) == 3
            os.kill(before["three"][1], signal.SIGKILL)
            async with it.serve() as hv:
                one, two, three = (hv.domains.by_name(name) for name in ("one", "two", "three"))
                assert (one.id, one.need_running().qemu.pid) == before["one"]
                assert (one.state, one.reason) == (DomainState.RUNNING, DomainRunningReason.BOOTED)
                assert (two.state, two.reason) == (DomainState.PAUSED, DomainPausedReason.USER)
                assert not two.persistent
                assert await one.xml_desc() == xml
                assert await two.xml_desc(2) == inactive
                assert (three.state, three.reason) == (DomainState.SHUTOFF, DomainShutoffReason.CRASHED)
                console = await one.open_console()
                console.close()
                seen = Recorder(hv)
                await two.resume()
                assert seen.lifecycle() == [(4, 0)]
                four = await hv.create(document("four"))
                assert four.id > max(id for id, _ in before.values())
                for domain in (one, two, four):
                    await domain.destroy()
            assert it.traces() == []
            assert os.stat(image).st_uid == os.getuid()

    run(scenario())


def test_what_happened_meanwhile_is_noticed() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                paused = await hv.create(document("paused"))
                path = paused.need_running().monitor_path
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"execute":"qmp_capabilities"}\n{"execute":"stop"}\n')
            for _ in range(4):  # greeting, answer, STOP, answer
                await reader.readline()
            writer.close()
            async with it.serve() as hv:
                again = hv.domains.by_name("paused")
                assert again.state == DomainState.PAUSED
                await again.destroy()

    run(scenario())


def test_second_daemon_is_refused() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve():
                with pytest.raises(OperationFailed, match=r"another daemon .*serves this instance"):
                    await Hypervisor.open(it.paths)
            async with it.serve():
                pass

    run(scenario())


def test_definition_that_cannot_be_read_is_reported_and_kept() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                await hv.define(document("good"))
            bad = it.paths.definition("bad")
            bad.write_text("<domain><name>bad</name>")
            leftover = it.paths.definitions / "good.xml.new"
            leftover.write_text("half")
            async with it.serve() as hv:
                assert [domain.name for domain in hv.domains] == ["good"]
                assert any(str(bad) in report for report in hv.reports)
            assert bad.read_text() == "<domain><name>bad</name>"
            assert not leftover.exists()

    run(scenario())


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "newer"])
def test_damaged_status_file(damage: str) -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image()
            async with it.serve() as hv:
                domain = await hv.define(document("s", disk(image)))
                await domain.start()
                id, pid = domain.id, domain.need_running().qemu.pid
            path = it.paths.status("s")
            text = path.read_text()
            path.write_text(
                {
                    "truncated": text[: len(text) // 2],
                    "empty": "",
                    "garbage": "\0\1\2",
                    "newer": text.replace("<qvirt version='1'", "<qvirt version='7' later='yes'"),
                }[damage]
            )
            async with it.serve() as hv:
                again = hv.domains.by_name("s")
                assert any("status" in report for report in hv.reports)
                assert (again.id, again.need_running().qemu.pid) == (id, pid)
                assert again.state == DomainState.RUNNING
                assert "virtio-disk0" in await again.xml_desc()
                await again.block_stats("vda")
                await again.destroy()
                assert it.traces() == []

    run(scenario())


def _break_document(path: Path) -> None:
    """Leave a status file whose document says what none can."""
    text = path.read_text()
    broken = re.sub(r"<memory unit='KiB'>", "<memory unit='elephants'>", text)
    assert broken != text
    path.write_text(broken)


def test_status_file_with_a_document_that_cannot_be_read() -> None:
    """The definition stands in for it; what the guest has on the host is still known."""

    async def scenario() -> None:
        with instance() as it:
            image = it.image()
            async with it.serve() as hv:
                domain = await hv.define(document("s", disk(image)))
                await domain.start()
                pid = domain.need_running().qemu.pid
            _break_document(it.paths.status("s"))
            async with it.serve() as hv:
                again = hv.domains.by_name("s")
                assert again.need_running().qemu.pid == pid
                await again.block_stats("vda")
                await again.destroy()
                assert it.traces() == []
            assert os.stat(image).st_uid == os.getuid()

    run(scenario())


def test_a_guest_that_cannot_be_taken_over_is_not_started_twice() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                await hv.create(document("transient"))
                other = await hv.create(document("other"))
                pid = other.need_running().qemu.pid
            _break_document(it.paths.status("transient"))
            async with it.serve() as hv:
                assert any("'transient'" in report and "taken over" in report for report in hv.reports)
                other = hv.domains.by_name("other")
                assert other.need_running().qemu.pid == pid
                with pytest.raises(OperationInvalid, match="was not taken over"):
                    await hv.create(document("transient"))
                assert len(it.processes()) == 2
                await other.destroy()

    run(scenario())


def test_status_of_a_transient_domain_without_its_qemu() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(document("t"))
                pid = domain.need_running().qemu.pid
            it.paths.status("t").write_text("<domstatus")
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not it.processes(), "end of QEMU")
            async with it.serve() as hv:
                assert len(hv.domains) == 0
                assert len(hv.reports) == 1
            assert it.paths.status("t").with_name("t.xml.unreadable").exists()

    run(scenario())


def test_pid_that_is_somebody_elses_now() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("reused"))
                await domain.start()
                pid = domain.need_running().qemu.pid
            path = it.paths.status("reused")
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not it.processes(), "end of QEMU")
            path.write_text(path.read_text().replace(f"pid='{pid}'", f"pid='{os.getpid()}'"))
            async with it.serve() as hv:
                assert not hv.domains.by_name("reused").active  # and we are alive

    run(scenario())


def test_stopped_qemu_does_not_hold_up_the_others() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                stopped = await hv.create(document("stopped"))
                lively = await hv.create(document("lively"))
                pid = stopped.need_running().qemu.pid
            os.kill(pid, signal.SIGSTOP)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            async with it.serve() as hv:
                lively = hv.domains.by_name("lively")
                stopped = hv.domains.by_name("stopped")
                assert loop.time() - begin < 8
                assert lively.state == DomainState.RUNNING
                assert stopped.active
                os.kill(pid, signal.SIGCONT)
                await until(lambda: not stopped.need_running().monitor_failed, "reconnect")
                await stopped.suspend()
                await stopped.destroy()
                await lively.destroy()

    run(scenario())


def test_a_qemu_that_is_stopped_for_long_is_left_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped for longer than one is left alone that has closed its monitor."""
    monkeypatch.setattr(recover, "FIRST_DEADLINE", 0.2)
    monkeypatch.setattr(stopping, "KILL_WAIT", 0.5)

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                pid = (await hv.create(document("stopped"))).need_running().qemu.pid
            os.kill(pid, signal.SIGSTOP)
            async with it.serve() as hv:
                stopped = hv.domains.by_name("stopped")
                assert not await stopped.need_running().qemu.wait(1.0)
                os.kill(pid, signal.SIGCONT)
                await until(lambda: not stopped.need_running().monitor_failed, "reconnect")
                assert stopped.need_running().qemu.pid == pid
                monkeypatch.undo()
                await stopped.destroy()

    run(scenario())


def test_autostart_and_once() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                always = await hv.define(document("always"))
                once = await hv.define(document("once"))
                await always.set_autostart(True)
                await once.set_autostart_once(True)
                await hv.define(document("never"))
            link = it.paths.autostart_link("always")
            assert os.readlink(link) == str(it.paths.definition("always"))
            await _boot(it, {"always", "once"})
            await _boot(it, {"always"})

    run(scenario())


async def _boot(it: Instance, expected: set[str]) -> None:
    """Serve as after a boot of the machine: the mark in the run folder is gone."""
    mark = it.paths.run / "autostarted"
    mark.unlink(missing_ok=True)
    async with it.serve() as hv:
        await until(lambda: {d.name for d in hv.domains if d.active} == expected, f"autostart of {expected}")
        await until(lambda: all(d.state == DomainState.RUNNING for d in hv.domains if d.active), "running")
        await until(mark.exists, "the mark of this boot")
        for domain in hv.domains:
            with contextlib.suppress(Exception):
                await domain.destroy()
    async with it.serve() as hv:  # a restart of the daemon alone starts nothing
        await asyncio.sleep(0)
        assert not any(domain.active for domain in hv.domains)


def test_autodestroyed_domain_goes_with_the_daemon() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                await hv.create(document("auto"), autodestroy=object())
            async with it.serve():
                await until(lambda: not it.processes(), "autodestroy")

    run(scenario())


def test_a_guest_whose_status_file_is_gone_keeps_its_folder_and_can_be_adopted() -> None:
    """As when a user logs out, whose runtime folder goes."""

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("left"))
                await domain.start(paused=True)
                pid, monitor = domain.need_running().pid, Path(domain.need_running().monitor_path)
            it.paths.status("left").unlink()
            async with it.serve() as hv:
                domain = hv.domains.by_name("left")
                with pytest.raises(OperationInvalid, match=f"'qvirt adopt {monitor}'"):
                    await domain.start()
                assert (domain.state, monitor.is_socket()) == (DomainState.SHUTOFF, True)
                adopted = await hv.adopt(pid)
                assert (adopted.name, adopted.state) == ("left", DomainState.PAUSED)
                await adopted.destroy()

    run(scenario())
