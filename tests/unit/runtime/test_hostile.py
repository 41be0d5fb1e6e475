"""A guest's agent and a QEMU that its guest has taken over may answer anything.

Whatever it is, a call ends with an error of ours or with an answer the wire takes, events can be sent, and
the figures of other domains are not touched.
"""

import asyncio
import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvirt.api import calls
from qvirt.api.events import messages
from qvirt.api.registry import CALLS
from qvirt.api.typed_params import encode
from qvirt.constants.domain import DomainRunningReason, DomainState
from qvirt.daemon import encode_events
from qvirt.errors import InvalidArg, OperationTimeout, QvirtError, SystemError_
from qvirt.host import links
from qvirt.model.devices import parse_device
from qvirt.model.devices.interface import Interface
from qvirt.model.devices.video import Video
from qvirt.model.devices.watchdog import Watchdog
from qvirt.model.domain import parse_live
from qvirt.qmp.wire import Event, Json, JsonObject, Reply, parse_object
from qvirt.rpc import protocol
from qvirt.runtime import interfaces, live, monitor_events
from qvirt.runtime.asking import display, guest, reading, stats
from qvirt.runtime.asking.console import open_console
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import DomainEvent, EventBus
from qvirt.runtime.life import endings
from qvirt.runtime.running import Running
from qvirt.runtime.tuning import tunables

calls.load()

UUID = "11111111-2222-3333-4444-555555555555"
LIVE = f"""<domain type='qemu' id='3'><name>v</name><uuid>{UUID}</uuid>
<memory unit='KiB'>65536</memory><currentMemory unit='KiB'>65536</currentMemory><vcpu>2</vcpu>
<iothreads>1</iothreads>
<os><type arch='x86_64' machine='pc'>hvm</type></os><clock offset='variable' adjustment='100' basis='utc'/>
<devices><disk type='file' device='cdrom'><source file='/a.iso' index='2'/><target dev='hdc' bus='ide'/>
<alias name='ide0-1-0'/><address type='drive' controller='0' bus='1' target='0' unit='0'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a.img' index='1'/>
<target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/></disk>
<serial type='pty'><source path='/dev/pts/9'/><target port='0'/><alias name='serial0'/></serial>
<channel type='unix'><source mode='bind' path='/s'/>
<target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/><alias name='channel0'/></channel>
<memory model='dimm'><target><size unit='KiB'>1024</size></target><alias name='dimm0'/>
<address type='dimm' slot='0' base='0x100000000'/></memory>
<memballoon model='virtio'><alias name='balloon0'/></memballoon></devices></domain>"""

#: what an honest agent says
AGENT: dict[str, Any] = {
    "guest-get-time": 1700000000000000000,
    "guest-get-fsinfo": [
        {
            "name": "sda1", "mountpoint": "/", "type": "ext4", "total-bytes": 9, "used-bytes": 4,
            "disk": [
                {
                    "pci-controller": {"domain": 0, "bus": 0, "slot": 5, "function": 0},
                    "bus": 0, "target": 0, "unit": 0, "serial": "s", "dev": "/dev/sda1",
                }
            ],
        }
    ],
    "guest-get-host-name": {"host-name": "h"},
    "guest-network-get-interfaces": [
        {
            "name": "eth0", "hardware-address": "52:54:00:00:00:01",
            "ip-addresses": [{"ip-address": "10.0.0.1", "ip-address-type": "ipv4", "prefix": 24}],
        }
    ],
    "guest-get-vcpus": [{"logical-id": 0, "online": True, "can-offline": False}],
    "guest-get-users": [{"user": "u", "domain": "d", "login-time": 1.5}],
    "guest-get-osinfo": {"id": "debian", "name": "Debian", "kernel-release": "6"},
    "guest-get-timezone": {"zone": "UTC", "offset": 3600},
    "guest-get-disks": [
        {"name": "/dev/sda", "partition": False, "dependencies": ["x"], "address": {"serial": "s"},
         "alias": "a"}
    ],
    "guest-fsfreeze-freeze": 1,
    "guest-fsfreeze-thaw": 1,
    "guest-set-vcpus": 1,
}  # fmt: skip
AGENT_CALLS: dict[str, tuple[Any, ...]] = {
    "DOMAIN_GET_TIME": (0,),
    "DOMAIN_GET_FSINFO": (0,),
    "DOMAIN_FSFREEZE": ([], 0),
    "DOMAIN_FSTHAW": ([], 0),
    "DOMAIN_GET_HOSTNAME": (2,),
    "DOMAIN_INTERFACE_ADDRESSES": (1, 0),
    "DOMAIN_GET_GUEST_INFO": (0, 0),
    "DOMAIN_GET_GUEST_VCPUS": (0,),
    "DOMAIN_SET_GUEST_VCPUS": ("0", 1, 0),
}

#: what an honest QEMU says
QEMU: dict[str, Any] = {
    "query-blockstats": [
        {
            "qdev": "/machine/peripheral/virtio-disk0/virtio-backend", "node-name": "libvirt-1-format",
            "stats": {"rd_operations": 1, "rd_bytes": 2, "wr_operations": 3, "flush_total_time_ns": 4},
            "parent": {"stats": {"wr_highest_offset": 7}},
        }
    ],
    "query-named-block-nodes": [
        {"node-name": "libvirt-1-format", "image": {"virtual-size": 9, "actual-size": 4}}
    ],
    "query-block": [{"qdev": "virtio-disk0", "io-status": "nospace", "inserted": {"node-name": "x"}}],
    "query-iothreads": [{"id": "iothread1", "thread-id": 77, "poll-max-ns": 9, "poll-grow": 0}],
    "query-balloon": {"actual": 65536},
    "qom-get": {"stats": {"stat-free-memory": 9, "stat-swap-in": 0}, "last-update": 5},
    "query-dirty-rate": {"status": "measured", "start-time": 1, "calc-time": 1, "dirty-rate": 5,
                         "mode": "page-sampling"},
    "query-cpus-fast": [{"cpu-index": 0, "thread-id": 12, "qom-path": "/x"},
                        {"cpu-index": 1, "thread-id": 13}],
    "query-chardev": [
        {"label": "charserial0", "filename": "pty:/dev/pts/5", "frontend-open": True},
        {"label": "charchannel0", "filename": "unix:/s", "frontend-open": True},
    ],
    "query-memory-devices": [{"type": "dimm", "data": {"id": "dimm0", "addr": 4294967296}}],
    "query-status": {"status": "running", "running": True},
}  # fmt: skip
QEMU_CALLS: dict[str, tuple[Any, ...]] = {
    "DOMAIN_BLOCK_STATS": ("vda",),
    "DOMAIN_BLOCK_STATS_FLAGS": ("vda", 16, 4),
    "DOMAIN_GET_BLOCK_INFO": ("vda", 0),
    "DOMAIN_GET_DISK_ERRORS": (16, 0),
    "DOMAIN_MEMORY_STATS": (16, 0),
    "DOMAIN_GET_IOTHREAD_INFO": (1,),
    "DOMAIN_GET_INFO": (),
}
EVENTS: dict[str, Any] = {
    "BLOCK_IO_ERROR": {"device": "", "node-name": "libvirt-1-format", "qom-path": "/x", "action": "stop",
                       "reason": "No space", "nospace": True, "operation": "write"},
    "BALLOON_CHANGE": {"actual": 1 << 20},
    "DEVICE_DELETED": {"device": "virtio-disk0", "path": "/machine/peripheral/virtio-disk0"},
    "DEVICE_UNPLUG_GUEST_ERROR": {"device": "virtio-disk0", "path": "/x"},
    "ACPI_DEVICE_OST": {"info": {"device": "dimm0", "slot": "0", "source": 1, "status": 0}},
    "DEVICE_TRAY_MOVED": {"id": "ide0-1-0", "tray-open": True},
    "VSERPORT_CHANGE": {"id": "channel0", "open": True},
    "RTC_CHANGE": {"offset": 5},
    "MEMORY_FAILURE": {"recipient": "guest", "action": "inject", "flags": {"action-required": True}},
    "MEMORY_DEVICE_SIZE_CHANGE": {"id": "dimm0", "size": 1024},
    "BLOCK_WRITE_THRESHOLD": {"node-name": "libvirt-1-format", "write-threshold": 1, "amount-exceeded": 2},
    "BLOCK_JOB_COMPLETED": {"device": "virtio-disk0", "type": "commit", "error": "x"},
    "VNC_CONNECTED": {"server": {"host": "::", "service": "5900", "family": "ipv6", "auth": "none"},
                      "client": {"host": "::1", "service": "1", "family": "ipv6", "x509_dname": "CN=x"}},
    "WATCHDOG": {"action": "pause"},
    "GUEST_PANICKED": {"action": "pause", "info": {"type": "hyper-v", "arg1": 1, "arg2": 2}},
    "SHUTDOWN": {"guest": True, "reason": "guest-shutdown"},
}  # fmt: skip

NASTY = st.sampled_from(
    [cast(Any, None), True,
     -1, 0, 1 << 31, 1 << 63, (1 << 64) - 1, -(1 << 63), 1.5, 1e300, -1e300, "", "\0", "\ud800",
     "a\nb", "\x07<&>", [], {}, [[]], [None] * 3000, {"": 1}, "iothread" + "9" * 100, "pty:/etc/shadow"]
)  # fmt: skip
SIMPLE = st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False) | NASTY


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _places(item, (*at, index))
    return found


def _with(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = _with(value[at[0]], at[1:], new)
    return copy


def _at(value: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        value = value[key]
    return value


@st.composite
def distorted(draw: st.DrawFn, honest: dict[str, Any]) -> dict[str, Any]:
    """Honest answers with some of their parts replaced, as they come out of our parser."""
    said: Any = dict(honest)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(said)))
        at = draw(st.sampled_from(_places(said[name])))
        said[name] = _with(said[name], at, draw(SIMPLE))
    return cast(dict[str, Any], parse_object(json.dumps(said).encode()))


class Link:
    """A monitor that says what it is told to."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    async def execute(self, command: str, arguments: Any = None, **_: Any) -> Json:
        return cast(Json, self.answers.get(command, {}))

    def submit(self, command: str, arguments: Any = None) -> "asyncio.Future[Reply]":
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_result(Reply(0, self.answers.get(command, {})))
        return future


class Rig:
    """A daemon with one domain, whose QEMU and agent say what they are told to."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.events = EventBus()
        self.seen: list[DomainEvent] = []
        self.events.subscribe(self.seen.append)
        self.files = self
        self.config = SimpleNamespace(max_queued=0)
        self.domain = Domain(cast(Any, self), "v", UUID)
        self.running = Running(id=3, definition=parse_live(LIVE), folder="/f", monitor_path="/m")
        self.running.stage = "running"
        self.running.link = cast(Any, Link(answers))
        self.running.process = cast(Any, SimpleNamespace(pid=os.getpid(), send=lambda _: None))
        self.running.balloon_sample = {}
        self.domain.running = self.running
        self.domain.set_state(DomainState.RUNNING, DomainRunningReason.BOOTED)
        self.domains = SimpleNamespace(find=lambda _: self.domain)
        self.session = SimpleNamespace(instance=SimpleNamespace(hypervisor=self))

    async def run(self, what: str, work: Any) -> Any:
        try:
            return work()
        except OSError as error:
            raise SystemError_(what, error) from error

    def background(self, work: Any, name: str) -> None:
        work.close()

    async def call(self, name: str, arguments: tuple[Any, ...]) -> bytes:
        """Call as the dispatcher does, and encode the answer."""
        function = CALLS["remote", name].function
        handle = SimpleNamespace(name="v", uuid=bytes(16), id=3)
        answer = function(self.session, handle, *arguments)
        if asyncio.iscoroutine(answer):
            answer = await answer
        ret = protocol.remote().by_name[name].ret
        if ret is None:
            return b""
        return ret.encode((answer,) if len(ret.fields) == 1 else answer)


def check(name: str, arguments: tuple[Any, ...], answers: dict[str, Any]) -> bytes | None:
    """Make a call; it ends with an answer or an error of ours."""

    async def main() -> bytes | None:
        try:
            return await Rig(answers).call(name, arguments)
        except QvirtError:
            return None

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the scripted answers where the agent's come from."""

    async def ask(domain: Domain, command: str, arguments: Any = None, **_: Any) -> Json:
        return await cast(Any, domain.running).link.execute(command)  # type: ignore[no-any-return]

    async def agent_of(domain: Domain, **_: Any) -> None:
        return None

    monkeypatch.setattr(guest, "ask", ask)
    monkeypatch.setattr(guest, "agent_of", agent_of)


@pytest.mark.parametrize("name", AGENT_CALLS)
def test_honest_agents_are_understood(name: str) -> None:
    assert check(name, AGENT_CALLS[name], AGENT) is not None


@pytest.mark.parametrize("name", QEMU_CALLS)
def test_honest_qemus_are_understood(name: str) -> None:
    answer = check(name, QEMU_CALLS[name], QEMU)
    assert answer is not None or name == "DOMAIN_GET_BLOCK_INFO"  # there is no such image


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(AGENT_CALLS)), distorted(AGENT))
def test_agents(name: str, answers: dict[str, Any]) -> None:
    check(name, AGENT_CALLS[name], answers)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(QEMU_CALLS)), distorted(QEMU))
def test_qemus(name: str, answers: dict[str, Any]) -> None:
    check(name, QEMU_CALLS[name], answers)


@settings(max_examples=150, deadline=None)
@given(distorted(QEMU))
def test_bulk_statistics_are_given_whatever_one_says(answers: dict[str, Any]) -> None:
    async def main() -> None:
        rig = Rig(answers)
        (found,) = await stats.bulk([rig.domain], 0, nowait=False, backing=False, deadline=30)
        assert any(param.name == "state.state" for param in found.params)
        ret = protocol.remote().by_name["CONNECT_GET_ALL_DOMAIN_STATS"].ret
        assert ret is not None
        ret.encode(([(("v", bytes(16), 3), encode(found.params))],))

    asyncio.run(main())


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(EVENTS)), distorted(EVENTS))
def test_events_can_be_told(name: str, data: dict[str, Any]) -> None:
    async def main() -> None:
        rig = Rig(QEMU)
        said = data[name]
        monitor_events.handle(
            rig.domain, rig.running, Event(name, said if isinstance(said, dict) else {}, 1, 2)
        )
        for event in rig.seen:
            for message in messages(event):
                encode_events.encode(message, 1)
        parse_live(rig.running.text(0))

    asyncio.run(main())


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_events_are_told_however_long_their_words_are(name: str) -> None:
    async def main() -> None:
        rig = Rig(QEMU)
        long = "x" * (6 << 20)
        said = EVENTS[name]
        for at in _places(said):
            if at and isinstance(_at(said, at), str):
                said = _with(said, at, long)
        monitor_events.handle(rig.domain, rig.running, Event(name, said, 1, 2))
        for event in rig.seen:
            for message in messages(event):
                encode_events.encode(message, 1)

    asyncio.run(main())


@settings(max_examples=150, deadline=None)
@given(distorted(QEMU))
def test_what_is_taken_into_the_document_can_be_read_again(answers: dict[str, Any]) -> None:
    async def main() -> None:
        rig = Rig(answers)
        try:
            await live.after_reconnect(cast(Any, rig.domain), rig.running)
        except QvirtError:
            return
        parse_live(rig.running.text(0))

    asyncio.run(main())


def test_qemu_names_no_file_and_no_thread_of_others() -> None:
    async def main() -> None:
        mine = os.getpid()
        answers = {
            **QEMU,
            "query-chardev": [{"label": "charserial0", "filename": "pty:/etc/shadow"}],
            "query-cpus-fast": [
                {"cpu-index": 0, "thread-id": 1},
                {"cpu-index": 1, "thread-id": mine},
                {"cpu-index": 1 << 40, "thread-id": mine},
            ],
        }
        rig = Rig(answers)
        await live.after_reconnect(cast(Any, rig.domain), rig.running)
        assert rig.running.definition.devices.serials[0].path == "/dev/pts/9"
        assert rig.running.vcpu_threads == [0, mine]

    asyncio.run(main())


def test_a_terminal_of_somebody_else_is_not_opened(tmp_path: Any) -> None:
    async def main() -> None:
        rig = Rig(QEMU)
        master, slave = os.openpty()
        try:
            serial = rig.running.definition.devices.serials[0]
            serial.source.path = os.ttyname(slave)
            stream = await open_console(rig.domain, "serial0", 0)
            stream.close()
            rig.running.process = cast(Any, SimpleNamespace(pid=os.getppid()))
            with pytest.raises(QvirtError, match="is no terminal of QEMU"):
                await open_console(rig.domain, "serial0", 0)
        finally:
            os.close(master)
            os.close(slave)

    asyncio.run(main())


def test_a_qemu_that_leaves_one_question_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Link):
        def submit(self, command: str, arguments: Any = None) -> "asyncio.Future[Reply]":
            return asyncio.get_running_loop().create_future()

    async def main() -> None:
        monkeypatch.setattr(live, "COMMAND_DEADLINE", 0.01)
        rig = Rig(QEMU)
        rig.running.link = cast(Any, Slow(QEMU))
        with pytest.raises(OperationTimeout, match="query-status, query-cpus-fast"):
            await live.after_reconnect(rig.domain, rig.running)

    asyncio.run(main())


def test_a_dump_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may be writable for QEMU's user."""
    ours = tmp_path / "ours"
    ours.write_text("precious")

    async def main() -> None:
        rig = Rig({})
        cast(Any, rig).config = SimpleNamespace(dump_path=str(tmp_path))
        now = datetime.now()
        monkeypatch.setattr(endings, "datetime", SimpleNamespace(now=lambda: now))
        stamp = now.astimezone().strftime("%Y-%m-%d-%H:%M:%S")
        (tmp_path / f"v-{stamp}").symlink_to(ours)
        with pytest.raises(SystemError_, match="failed to create"):
            await endings.dump_memory(rig.domain, rig.running)
        assert ours.read_text() == "precious"

    asyncio.run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_picture_is_taken_of_a_guest_that_swaps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is QEMU's: by the name it could be given any file of the host."""
    ours = tmp_path / "ours"
    ours.write_text("precious")
    make = tempfile.mkstemp

    def swapped(**options: Any) -> tuple[int, str]:
        fd, path = make(**options)
        os.unlink(path)
        os.symlink(ours, path)
        return fd, path

    async def main() -> None:
        rig = Rig({"screendump": {}})
        folder = tmp_path / "folder"
        folder.mkdir()
        rig.running.folder = str(folder)
        rig.running.definition.devices.videos.append(Video())
        rig.running.guard = cast(Any, SimpleNamespace(own=lambda path: os.chown(path, 64055, 64055)))
        monkeypatch.setattr(tempfile, "mkstemp", swapped)
        picture = await display.screenshot(rig.domain, 0)
        assert os.fstat(picture.file.fileno()).st_uid == 64055
        picture.file.close()
        assert ours.stat().st_uid == 0
        assert not list(folder.iterdir())

    asyncio.run(main())


_CARD = """<interface type='direct' trustGuestRxFilters='yes'><mac address='52:54:00:00:00:01'/>
<source dev='eth0' mode='bridge'/><target dev='macvtap0'/><model type='virtio'/><alias name='net0'/>
</interface>"""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"main-mac": "52:54:00:00:00:02", "multicast-table": ["01:00:5e:00:00:01", "dev", 5]},
         ("52:54:00:00:00:02", 1, False)),
        ({"main-mac": "52:54:00:00:00:02", "multicast-table": ["01:00:5e:00:00:01"] * 100_000},
         ("52:54:00:00:00:02", 64, True)),
        ({"main-mac": "-x", "multicast-table": []}, None),
        ({"multicast-table": []}, None),
    ],
)  # fmt: skip
def test_filters_of_a_card(said: Any, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group is a program that is run on the host."""
    calls: list[Any] = []

    def note(name: str, *, mac: str, groups: list[str], all_groups: bool, promiscuous: bool) -> None:
        calls.append((mac, len(groups), all_groups))

    async def main() -> None:
        monkeypatch.setattr(links, "set_filter", note)
        rig = Rig({"query-rx-filter": [said]})
        rig.running.definition.devices.interfaces.append(cast(Interface, parse_device(_CARD)))
        await interfaces.follow_filter(rig.domain, rig.running, "net0")
        assert calls == ([told] if told is not None else [])

    asyncio.run(main())


@pytest.mark.parametrize("text", ["/dev/sda,²", "/dev/sda,99999999999999999999", "/dev/sda,-1", "/dev/sda"])
def test_rates_that_are_no_numbers(text: str) -> None:
    with pytest.raises(InvalidArg):
        tunables._devices(text, "device_weight")


def test_entries_of_disks_are_found_by_path_and_node_whatever_else_there_is() -> None:
    async def main() -> None:
        rig = Rig(QEMU)
        cdrom, disk = rig.running.definition.devices.disks
        honest: JsonObject = {"qdev": "/machine/peripheral/virtio-disk0/virtio-backend"}
        by_node: JsonObject = {"node-name": "libvirt-2-format"}
        others: list[Any] = [{"qdev": "/" * (1 << 20)}, {"qdev": 5, "node-name": None}, {}]
        known = reading.entries([*others, honest, by_node, {"qdev": "virtio-disk0"}])
        assert reading.stats_of(known, disk) is honest
        assert reading.stats_of(known, cdrom) is by_node
        assert len(known) < 20

    asyncio.run(main())


@pytest.mark.parametrize(
    ("event", "data"), [("WATCHDOG", {"action": "none"}), ("GUEST_PANICKED", {"action": "pause"})]
)
def test_events_without_end_are_followed_one_at_a_time(event: str, data: JsonObject) -> None:
    """Each dump is as large as the guest's memory, and whatever waits for its turn is memory of ours."""

    async def main() -> None:
        rig = Rig(QEMU)
        begun: list[str] = []

        def background(work: Any, name: str) -> None:
            begun.append(name)
            work.close()

        rig.background = background  # type: ignore[method-assign]
        rig.running.definition.on_crash = "coredump-restart"
        rig.running.definition.devices.watchdogs.append(Watchdog(model="i6300esb", action="dump"))
        for _ in range(100):
            monitor_events.handle(rig.domain, rig.running, Event(event, data, 1, 2))
        assert len([name for name in begun if "dump" in name or "crash" in name]) == 1

    asyncio.run(main())
