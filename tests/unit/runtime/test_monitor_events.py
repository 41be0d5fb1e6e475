"""QEMU's events against states, reasons and libvirt's events; the hypervisor is a small stand-in."""

import asyncio
from typing import Any, cast

import pytest

from qvirt.constants.domain import DomainPausedReason, DomainRunningReason, DomainState
from qvirt.model.domain import parse_live
from qvirt.qmp.wire import Event, JsonObject
from qvirt.runtime import events, monitor_events
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import EventBus
from qvirt.runtime.running import Running

LIVE = """<domain type='qemu' id='3'><name>v</name><uuid>11111111-2222-3333-4444-555555555555</uuid>
<memory unit='KiB'>65536</memory><currentMemory unit='KiB'>65536</currentMemory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><clock offset='variable' adjustment='100' basis='utc'/>
<on_poweroff>preserve</on_poweroff><on_crash>preserve</on_crash>
<devices><disk type='file' device='cdrom'><source file='/a.iso' index='2'/><target dev='hdc' bus='ide'/>
<alias name='ide0-1-0'/></disk>
<channel type='unix'><source mode='bind' path='/s'/>
<target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/><alias name='channel0'/></channel>
</devices></domain>"""


class StandIn:
    """What a domain needs of its hypervisor here."""

    def __init__(self) -> None:
        self.events = EventBus()
        self.seen: list[events.DomainEvent] = []
        self.events.subscribe(self.seen.append)
        self.tasks: list[str] = []

    def background(self, work: Any, name: str) -> None:
        self.tasks.append(name)
        work.close()


class Rig:
    """A running domain without a QEMU."""

    def __init__(self) -> None:
        self.hypervisor = StandIn()
        self.domain = Domain(cast(Any, self.hypervisor), "v", "11111111-2222-3333-4444-555555555555")
        self.running = Running(id=3, definition=parse_live(LIVE), folder="/f", monitor_path="/m")
        self.running.stage = "running"
        self.running.clock_base = 100
        self.domain.running = self.running
        self.domain.set_state(DomainState.RUNNING, DomainRunningReason.BOOTED)

    def say(self, name: str, data: JsonObject | None = None) -> list[events.DomainEvent]:
        """Let QEMU say something; returns the events but the raw one."""
        before = len(self.hypervisor.seen)
        monitor_events.handle(self.domain, self.running, Event(name, data or {}, 10, 20))
        new = self.hypervisor.seen[before:]
        assert isinstance(new[0], events.MonitorEvent)
        return new[1:]

    @property
    def state(self) -> tuple[int, int]:
        return self.domain.state, self.domain.reason


def lifecycle(found: list[events.DomainEvent]) -> list[tuple[int, int]]:
    return [(e.event, e.detail) for e in found if isinstance(e, events.Lifecycle)]


def in_loop(scenario: Any) -> None:
    async def run() -> None:
        scenario()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "data", "state", "told"),
    [
        ("STOP", {}, (DomainState.PAUSED, DomainPausedReason.UNKNOWN), [(3, 0)]),
        ("RESUME", {}, (DomainState.RUNNING, DomainRunningReason.BOOTED), []),
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, (DomainState.SHUTDOWN, 0), [(6, 1)]),
        ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"}, (DomainState.SHUTDOWN, 0), [(6, 2)]),
        ("SHUTDOWN", {}, (DomainState.SHUTDOWN, 0), [(6, 0)]),
        ("GUEST_PANICKED", {"action": "pause"}, (DomainState.CRASHED, 1), [(8, 0)]),
        ("SUSPEND", {}, (DomainState.PMSUSPENDED, 0), [(7, 0)]),
        ("SUSPEND_DISK", {}, (DomainState.PMSUSPENDED, 0), [(7, 1)]),
        ("WATCHDOG", {"action": "pause"}, (DomainState.PAUSED, DomainPausedReason.WATCHDOG), [(3, 3)]),
        ("WATCHDOG", {"action": "reset"}, (DomainState.RUNNING, DomainRunningReason.BOOTED), []),
        ("POWERDOWN", {}, (DomainState.RUNNING, DomainRunningReason.BOOTED), []),
        ("NEVER_HEARD_OF", {"x": 1}, (DomainState.RUNNING, DomainRunningReason.BOOTED), []),
    ],
)
def test_state_and_lifecycle(
    name: str, data: JsonObject, state: tuple[int, int], told: list[tuple[int, int]]
) -> None:
    def scenario() -> None:
        rig = Rig()
        assert lifecycle(rig.say(name, data)) == told
        assert rig.state == state

    in_loop(scenario)


def test_sequences_tell_each_thing_once() -> None:
    def scenario() -> None:
        rig = Rig()
        rig.running.paused_reason = DomainPausedReason.USER
        assert lifecycle(rig.say("STOP")) == [(3, 0)]
        assert rig.state == (DomainState.PAUSED, DomainPausedReason.USER)
        assert lifecycle(rig.say("STOP")) == []
        assert lifecycle(rig.say("RESUME")) == [(4, 0)]
        assert rig.state == (DomainState.RUNNING, DomainRunningReason.UNPAUSED)
        rig.say("SUSPEND")
        found = rig.say("WAKEUP")
        assert [type(e).__name__ for e in found] == ["PmWakeup", "Lifecycle"]
        assert rig.state == (DomainState.RUNNING, DomainRunningReason.WAKEUP)
        rig.say("SHUTDOWN", {"guest": True})
        assert rig.say("SHUTDOWN", {"guest": True}) == []
        assert rig.say("STOP") == []
        assert rig.state == (DomainState.SHUTDOWN, 0)

    in_loop(scenario)


def test_a_faked_reboot_hides_the_power_off() -> None:
    def scenario() -> None:
        rig = Rig()
        rig.running.fake_reboot = True
        assert rig.say("SHUTDOWN", {"guest": True}) == []
        assert rig.state == (DomainState.RUNNING, DomainRunningReason.BOOTED)
        assert isinstance(rig.say("RESET", {"guest": False})[0], events.Reboot)

    in_loop(scenario)


def test_an_io_error_comes_before_the_pause_it_causes() -> None:
    def scenario() -> None:
        rig = Rig()
        found = rig.say("BLOCK_IO_ERROR", {"device": "", "node-name": "libvirt-2-format", "action": "stop"})
        assert [type(e).__name__ for e in found] == ["IoError", "Lifecycle"]
        error = found[0]
        assert isinstance(error, events.IoError)
        assert (error.src_path, error.dev_alias, error.action, error.reason) == ("/a.iso", "ide0-1-0", 1, "")
        assert lifecycle(found) == [(3, 2)]
        assert rig.say("STOP") == []
        assert rig.state == (DomainState.PAUSED, DomainPausedReason.IOERROR)
        assert rig.running.disk_errors == {"ide0-1-0": 1}
        rig.say("RESUME")
        assert rig.running.disk_errors == {}

    in_loop(scenario)


def test_devices_tell_and_the_document_follows() -> None:
    def scenario() -> None:
        rig = Rig()
        (tray,) = rig.say("DEVICE_TRAY_MOVED", {"id": "ide0-1-0", "tray-open": True})
        assert isinstance(tray, events.TrayChange)
        assert (tray.dev_alias, tray.reason) == ("ide0-1-0", 0)
        assert "tray='open'" in rig.running.text(0)
        (agent,) = rig.say("VSERPORT_CHANGE", {"id": "channel0", "open": True})
        assert isinstance(agent, events.AgentLifecycle)
        assert (agent.state, agent.reason) == (1, 2)
        assert rig.running.agent_connected
        assert rig.say("VSERPORT_CHANGE", {"id": "channel0", "open": True}) == []
        assert "state='connected'" in rig.running.text(0)
        (balloon,) = rig.say("BALLOON_CHANGE", {"actual": 32 << 20})
        assert isinstance(balloon, events.BalloonChange)
        assert balloon.actual == 32768
        assert "<currentMemory unit='KiB'>32768</currentMemory>" in rig.running.text(0)
        (rtc,) = rig.say("RTC_CHANGE", {"offset": 7})
        assert isinstance(rtc, events.RtcChange)
        assert rtc.utcoffset == 107
        assert "adjustment='107'" in rig.running.text(0)
        before = len(rig.hypervisor.tasks)
        assert rig.say("DEVICE_DELETED", {"path": "/machine/peripheral/ide0-1-0/virtio-backend"}) == []
        # the event for others comes when all that belongs to the device has gone
        for _ in range(3):  # once is enough, as long as nothing has been done about it
            assert rig.say("DEVICE_DELETED", {"device": "ide0-1-0", "path": "/machine/peripheral/x"}) == []
        assert rig.say("DEVICE_DELETED", {"device": "nobody", "path": "/machine/peripheral/nobody"}) == []
        assert rig.hypervisor.tasks[before:] == ["'ide0-1-0' of v unplugged"]

    in_loop(scenario)


def test_displays_memory_and_thresholds() -> None:
    def scenario() -> None:
        rig = Rig()
        end: JsonObject = {"host": "127.0.0.1", "service": "5900", "family": "ipv4"}
        data: JsonObject = {"server": {**end, "auth": "none"}, "client": {**end, "sasl_username": "joe"}}
        (shown,) = rig.say("VNC_INITIALIZED", data)
        assert isinstance(shown, events.Graphics)
        assert (shown.phase, shown.auth_scheme, shown.subject) == (1, "none", (("saslUsername", "joe"),))
        assert shown.local == events.GraphicsAddress(0, "127.0.0.1", "5900")
        failure: JsonObject = {
            "recipient": "guest",
            "action": "inject",
            "flags": {"action-required": True, "recursive": False},
        }
        assert rig.say("MEMORY_FAILURE", failure) == [events.MemoryFailure(rig.domain.ref, 1, 1, 1)]
        passed: JsonObject = {"node-name": "libvirt-2-storage", "write-threshold": 9, "amount-exceeded": 4}
        assert rig.say("BLOCK_WRITE_THRESHOLD", passed) == [
            events.BlockThreshold(rig.domain.ref, "hdc", "/a.iso", 9, 4)
        ]

    in_loop(scenario)


def test_raw_events_carry_time_and_details() -> None:
    def scenario() -> None:
        rig = Rig()
        rig.say("RESUME")
        rig.say("X", {"a": [1]})
        raw = [e for e in rig.hypervisor.seen if isinstance(e, events.MonitorEvent)]
        assert [(e.event, e.seconds, e.micros, e.details) for e in raw] == [
            ("RESUME", 10, 20, None),
            ("X", 10, 20, '{"a":[1]}'),
        ]

    in_loop(scenario)


def test_a_subscriber_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bus = EventBus()
    seen: list[events.DomainEvent] = []

    def fail(event: events.DomainEvent) -> None:
        raise RuntimeError("broken")

    bus.subscribe(fail)
    end = bus.subscribe(seen.append)
    event = events.Reboot(events.DomainRef("a", "b", 1))
    bus.publish(event)
    end()
    bus.publish(event)
    assert seen == [event]
    assert "broken" in caplog.text


def test_an_event_that_comes_while_another_is_followed_is_not_forgotten() -> None:
    async def main() -> None:
        rig = Rig()
        started: list[Any] = []
        cast(Any, rig.hypervisor).background = lambda work, _: started.append(work)
        gate = asyncio.Event()
        done: list[int] = []

        async def work() -> None:
            done.append(len(done))
            await gate.wait()

        def follow() -> None:
            monitor_events._follow(rig.domain, rig.running, "it", work)

        follow()
        follow()
        (following,) = started
        task = asyncio.ensure_future(following)
        await asyncio.sleep(0)
        assert done == [0]
        for _ in range(100):
            follow()
        gate.set()
        await task
        assert done == [0, 1]
        assert len(started) == 1
        follow()
        assert len(started) == 2
        started[1].close()

    asyncio.run(main())
