"""A real QEMU through its life: states, reasons, events, what is left behind."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from qvirt.constants.domain import (
    DomainCrashedReason,
    DomainPausedReason,
    DomainRunningReason,
    DomainShutoffReason,
    DomainState,
)
from qvirt.constants.domain_event import DomainEventStoppedDetailType, DomainEventType
from qvirt.errors import (
    InternalError,
    NoDomain,
    NoNetwork,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
    QvirtError,
    SystemError_,
)
from qvirt.host.ports import PortAllocator
from qvirt.qmp.wire import Event, JsonObject
from qvirt.runtime import monitor_events
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import AgentLifecycle, IoError, Reboot
from qvirt.runtime.helpers import processes
from tests.functional.runtime.instance import PATIENCE, Recorder, disk, document, instance, run, until

pytestmark = pytest.mark.qemu


def test_define_start_suspend_resume_destroy_undefine() -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image()
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(document("one", disk(image)))
                assert (domain.id, domain.active, domain.persistent) == (-1, False, True)
                await domain.start()
                assert (domain.state, domain.reason) == (DomainState.RUNNING, DomainRunningReason.BOOTED)
                assert domain.id == 1
                await domain.suspend()
                assert (domain.state, domain.reason) == (DomainState.PAUSED, DomainPausedReason.USER)
                await domain.resume()
                assert (domain.state, domain.reason) == (DomainState.RUNNING, DomainRunningReason.UNPAUSED)
                await domain.destroy()
                assert (domain.state, domain.reason) == (DomainState.SHUTOFF, DomainShutoffReason.DESTROYED)
                assert domain.id == -1
                await domain.undefine()
                assert len(hv.domains) == 0
                assert seen.lifecycle() == [(0, 0), (4, 0), (2, 0), (3, 0), (4, 0), (6, 2), (5, 1), (1, 0)]
            assert it.traces() == []
            assert it.processes() == []
            assert (os.stat(image).st_uid, os.stat(image).st_gid) == (os.getuid(), os.getgid())

    run(scenario())


def test_paused_start_and_what_is_refused_in_which_state() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(document("p"))
                for call in (domain.suspend, domain.resume, domain.reset, domain.shutdown, domain.destroy):
                    with pytest.raises(OperationInvalid, match="domain is not running"):
                        await call()
                await domain.start(paused=True)
                assert (domain.state, domain.reason) == (DomainState.PAUSED, DomainPausedReason.USER)
                assert seen.lifecycle()[1:] == [(2, 0), (3, 0)]
                with pytest.raises(OperationInvalid, match="domain is already running"):
                    await domain.start()
                await domain.suspend()  # harmless, as in libvirt
                await domain.resume()
                with pytest.raises(OperationInvalid, match="domain is already running"):
                    await domain.resume()
                with pytest.raises(OperationInvalid, match="cannot rename active domain"):
                    await domain.rename("q")
                await domain.destroy()

    run(scenario())


def test_transient_domain_is_gone_when_it_stops() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(document("t"))
                with pytest.raises(OperationInvalid, match="cannot set autostart for transient domain"):
                    await domain.set_autostart(True)
                with pytest.raises(OperationInvalid, match="cannot undefine transient domain"):
                    await domain.undefine()
                with pytest.raises(OperationFailed, match="domain 't' already exists with uuid"):
                    await hv.create(document("t"))
                with pytest.raises(OperationInvalid, match="domain 't' is already active"):
                    await hv.create(document("t", uuid=domain.uuid))
                await domain.destroy()
                with pytest.raises(NoDomain, match="no domain with matching name 't'"):
                    hv.domains.by_name("t")

    run(scenario())


def test_undefine_makes_a_running_domain_transient_and_define_keeps_it() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("u"))
                await domain.start()
                await domain.undefine()
                assert not domain.persistent
                assert domain.active
                assert not it.paths.definition("u").exists()
                again = await hv.define(document("u", uuid=domain.uuid))
                assert again is domain
                assert domain.persistent
                await domain.destroy()
                assert hv.domains.by_name("u") is domain

    run(scenario())


def test_guest_power_off_reset_and_quit() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.create(document("g"))
                await domain.reset()
                await until(lambda: seen.of(Reboot), "reboot event")
                await domain.monitor_command("quit")
                await seen.stopped()
                assert seen.lifecycle()[-2:] == [(6, 2), (5, 0)]
                assert not hv.domains.find(domain.uuid)

    run(scenario())


@pytest.mark.parametrize(("number", "events", "reason"), [
    (signal.SIGKILL, [(5, 5)], DomainShutoffReason.CRASHED),
    (signal.SIGTERM, [(6, 2), (5, 0)], DomainShutoffReason.SHUTDOWN),
    (signal.SIGSEGV, [(5, 5)], DomainShutoffReason.CRASHED),
])  # fmt: skip
def test_qemu_is_killed_from_outside(
    number: signal.Signals, events: list[tuple[int, int]], reason: int
) -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image()
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(document("k", disk(image)))
                await domain.start()
                before = len(seen.lifecycle())
                os.kill(domain.need_running().qemu.pid, number)
                await seen.stopped()
                assert seen.lifecycle()[before:] == events
                assert (domain.state, domain.reason) == (DomainState.SHUTOFF, reason)
                assert it.traces() == []
                assert os.stat(image).st_uid == os.getuid()
                await domain.start()
                await domain.destroy()

    run(scenario())


def test_stopped_qemu_is_destroyed_at_once_and_harms_nobody() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                one = await hv.create(document("stopped"))
                two = await hv.create(document("lively"))
                os.kill(one.need_running().qemu.pid, signal.SIGSTOP)
                waiting = [
                    asyncio.ensure_future(one.monitor_command("info status", hmp=True)) for _ in range(30)
                ]
                loop = asyncio.get_running_loop()
                begin = loop.time()
                await two.suspend()
                await two.resume()
                stats = await hv.bulk_stats(hv.domains, 0, deadline=0.5)
                assert [stat.answered for stat in stats if stat.name == "lively"] == [True]
                assert loop.time() - begin < 2
                assert one.control_info().state == 2
                begin = loop.time()
                await one.destroy()
                assert loop.time() - begin < 2
                for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                    assert isinstance(outcome, QvirtError)
                await two.destroy()

    run(scenario())


def test_graceful_destroy_refuses_to_kill() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(document("gr"))
                await domain.destroy(graceful=True)
                assert domain.reason == DomainShutoffReason.DESTROYED

    run(scenario())


@pytest.mark.parametrize(
    ("document_of", "error", "text"),
    [
        (lambda root: document("x", disk(root / "missing.img")), SystemError_,
         "Cannot access storage file '.*missing.img': No such file or directory"),
        (lambda root: document("x", "<interface type='network'><source network='default'/></interface>"),
         NoNetwork, "Network not found: no network with matching name 'default'"),
        (lambda root: document("x", "<interface type='bridge'><source bridge='qvnobridge'/></interface>"),
         SystemError_, "Cannot get interface MTU on 'qvnobridge': No such device"),
        (lambda root: document("x", "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='1'/>"
                                    "<protocol type='raw'/></serial>"),
         InternalError, "(?s)process exited|unexpectedly closed.*<serial>"),
    ],
)  # fmt: skip
def test_a_start_that_fails_says_why_and_leaves_nothing(
    document_of: Callable[[Path], str], error: type[QvirtError], text: str
) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.define(document_of(it.root))
                with pytest.raises(error, match=text):
                    await domain.start()
                assert (domain.id, domain.state, domain.active) == (-1, DomainState.SHUTOFF, False)
                assert domain.reason == DomainShutoffReason.FAILED
                assert seen.lifecycle() == [(0, 0)]
                assert it.traces() == []
                assert it.processes() == []

    run(scenario())


@pytest.mark.root
def test_folder_that_qemu_cannot_search_is_named() -> None:
    async def scenario() -> None:
        with instance() as it:
            closed = it.root / "closed"
            closed.mkdir(mode=0o700)
            image = it.image("closed/disk.img")
            it.paths.etc.mkdir(parents=True)
            (it.paths.etc / "qemu.conf").write_text('user = "nobody"\ngroup = "nogroup"\n')
            async with it.serve() as hv:
                with pytest.raises(SystemError_, match=rf"directory '{closed}' cannot be searched"):
                    await hv.create(document("c", disk(image)))
                assert it.traces() == []

    run(scenario())


def test_image_locked_by_another_qemu() -> None:
    async def scenario() -> None:
        with instance() as it:
            image = it.image()
            async with it.serve() as hv:
                first = await hv.create(document("first", disk(image)))
                with pytest.raises(InternalError, match=r'(?s)Failed to get "write" lock.*<disk>'):
                    await hv.create(document("second", disk(image)))
                assert first.state == DomainState.RUNNING
                await first.destroy()
            assert os.stat(image).st_uid == os.getuid()

    run(scenario())


async def panic_guest(domain: Domain) -> None:
    """Do what a panicking guest's driver does: write to a port. QEMU may be gone before it answers."""
    with contextlib.suppress(QvirtError):
        await domain.monitor_command("o /b 0x505 1", hmp=True)


def test_on_crash_preserve_and_destroy() -> None:
    panic = "<panic model='isa'/>"

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                kept = await hv.create(document("kept", panic, on="<on_crash>preserve</on_crash>"))
                gone = await hv.create(document("gone", panic, on="<on_crash>destroy</on_crash>"))
                for domain in (kept, gone):
                    await panic_guest(domain)
                await seen.stopped()
                assert (kept.state, kept.reason) == (DomainState.CRASHED, DomainCrashedReason.PANICKED)
                assert gone.reason == DomainShutoffReason.CRASHED
                mine = seen.lifecycle()
                assert mine.count((8, 0)) == 2
                assert (5, 2) in mine
                await kept.destroy()

    run(scenario())


def test_on_crash_restart_runs_again() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(
                    document("again", "<panic model='isa'/>", on="<on_crash>restart</on_crash>")
                )
                pid = domain.need_running().qemu.pid
                await panic_guest(domain)
                await until(
                    lambda: (domain.state, domain.reason)
                    == (DomainState.RUNNING, DomainRunningReason.CRASHED),
                    "run after the crash",
                )
                assert domain.need_running().qemu.pid == pid
                await domain.destroy()

    run(scenario())


def test_on_crash_coredump_destroy_leaves_a_dump() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.create(
                    document("dumped", "<panic model='isa'/>", on="<on_crash>coredump-destroy</on_crash>")
                )
                await panic_guest(domain)
                await seen.stopped()
                (dump,) = (it.paths.lib / "dump").iterdir()
                assert dump.name.startswith("dumped-")
                assert dump.stat().st_size > 1 << 20

    run(scenario())


def test_disk_full_pauses_with_an_io_error() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                image = it.image()
                xml = document(
                    "io",
                    f"<disk type='file' device='disk'><driver name='qemu' type='raw' error_policy='stop'/>"
                    f"<source file='{image}'/><target dev='vda' bus='virtio'/></disk>",
                )
                domain = await hv.create(xml)
                running = domain.need_running()
                event: JsonObject = {
                    "device": "",
                    "node-name": "libvirt-1-format",
                    "nospace": True,
                    "action": "stop",
                    "qom-path": "/machine/peripheral/virtio-disk0/virtio-backend",
                }
                monitor_events.handle(domain, running, Event("BLOCK_IO_ERROR", event, 0, 0))
                assert (domain.state, domain.reason) == (DomainState.PAUSED, DomainPausedReason.IOERROR)
                (error,) = seen.of(IoError)
                assert (error.src_path, error.dev_alias, error.action, error.reason) == (
                    str(image), "virtio-disk0", 1, "enospc",
                )  # fmt: skip
                assert seen.lifecycle()[-1] == (3, 2)
                await domain.destroy()

    run(scenario())


def test_agent_channel_state_at_start() -> None:
    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                seen = Recorder(hv)
                domain = await hv.create(document("a", channel))
                (event,) = seen.of(AgentLifecycle)
                assert (event.state, event.reason) == (2, 1)
                assert seen.names().index("AgentLifecycle") < seen.names().index("Lifecycle")
                assert "state='disconnected'" in await domain.xml_desc()
                with pytest.raises(QvirtError, match="QEMU guest agent is not connected"):
                    await domain.time()
                await domain.destroy()

    run(scenario())


def test_two_starts_and_two_defines_at_once() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                first, second = await asyncio.gather(
                    hv.define(document("same")), hv.define(document("same")), return_exceptions=True
                )
                errors = [x for x in (first, second) if isinstance(x, OperationFailed)]
                assert len(errors) == 1
                assert len(hv.domains) == 1
                domain = hv.domains.by_name("same")
                outcomes = await asyncio.gather(*(domain.start() for _ in range(5)), return_exceptions=True)
                assert sum(outcome is None for outcome in outcomes) == 1
                assert all(outcome is None or isinstance(outcome, OperationInvalid) for outcome in outcomes)
                assert len(it.processes()) == 1
                outcomes = await asyncio.gather(*(domain.destroy() for _ in range(5)), return_exceptions=True)
                assert all(outcome is None or isinstance(outcome, OperationInvalid) for outcome in outcomes)
                assert it.processes() == []

    run(scenario())


def test_destroy_while_it_starts() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("early"))
                starting = asyncio.ensure_future(domain.start())
                await until(
                    lambda: domain.running is not None and domain.running.process is not None, "process"
                )
                await domain.destroy()
                with pytest.raises(QvirtError):
                    await starting
                assert not domain.active
                assert it.traces() == []
                assert it.processes() == []
                await domain.start()
                await domain.destroy()

    run(scenario())


def test_autodestroy_follows_its_owner() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                owner = object()
                mine = await hv.create(document("mine"), autodestroy=owner)
                other = await hv.create(document("other"))
                await hv.drop_owner(owner)
                assert not mine.active
                assert other.active
                await other.destroy()

    run(scenario())


class Blind(PortAllocator):
    """Does not see who listens, as when another program is quicker."""

    def acquire(self) -> int:
        port = next(port for port in range(self.low, self.high + 1) if port not in self._taken)
        self.reserve(port)
        return port


def test_port_that_another_program_takes_first() -> None:
    async def scenario() -> None:
        with instance() as it, socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))  # the kernel chooses from 32768 to 60999
            busy.listen()
            port = busy.getsockname()[1]
            async with it.serve() as hv:
                hv.display_ports = Blind("display", port, port + 20)
                seen = Recorder(hv)
                domain = await hv.create(document("vnc", "<graphics type='vnc' port='-1'/>"))
                assert port < (domain.live.devices.graphics[0].port or 0) <= port + 20
                assert seen.lifecycle() == [(4, 0), (2, 0)]
                assert hv.domains.find(domain.uuid) is domain
                await domain.destroy()
                assert list(hv.domains) == []
                fixed = document("fixed", f"<graphics type='vnc' port='{port}' autoport='no'/>")
                with pytest.raises(InternalError, match=r"(?s)Address already in use.*<graphics>"):
                    await hv.create(fixed)
                assert (list(hv.domains), it.traces()) == ([], [])

    run(scenario())


def test_destroy_before_there_is_a_process() -> None:
    async def scenario() -> None:
        with instance() as it:
            destroying: list[asyncio.Task[None]] = []

            def strike(step: str) -> None:
                if step == "checked" and not destroying:
                    assert domain.need_running().process is None
                    destroying.append(asyncio.get_running_loop().create_task(domain.destroy()))

            async with it.serve(checkpoint=strike) as hv:
                seen = Recorder(hv)
                domain = await hv.define(document("earlier"))
                with pytest.raises(OperationFailed, match="was destroyed while it started"):
                    await domain.start()
                await destroying[0]
                assert (domain.active, it.traces(), it.processes()) == (False, [], [])
                assert seen.lifecycle() == [(0, 0)]
                await domain.start()
                await domain.destroy()
                assert seen.lifecycle()[-1] == (5, 1)

    run(scenario())


@pytest.mark.parametrize(
    "error", [OperationTimeout("slow"), PermissionError(1, "no"), RuntimeError("a mistake")]
)
def test_an_end_that_cannot_be_cleared_up_is_an_end(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for a guest whose QEMU has gone, and it can be started again."""

    async def fail(*_: object) -> None:
        raise error

    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("e"))
                seen = Recorder(hv)
                await domain.start()
                with monkeypatch.context() as patch:
                    patch.setattr(processes, "stop", fail)
                    await asyncio.wait_for(domain.destroy(), PATIENCE)
                assert domain.state == DomainState.SHUTOFF
                assert seen.lifecycle()[-1] == (
                    DomainEventType.STOPPED,
                    DomainEventStoppedDetailType.DESTROYED,
                )
                if not isinstance(error, RuntimeError):  # the rest is taken away all the same
                    assert it.traces() == []
                await domain.start()
                await domain.destroy()

    run(scenario())
