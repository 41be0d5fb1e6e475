import asyncio
import json
import os
import socket
from collections.abc import Coroutine
from pathlib import Path

import pytest
import uvloop

from qvirt.errors import OperationTimeout, QvirtError, SystemError_
from qvirt.qmp import client
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import MonitorClosed, QmpError, WireError
from qvirt.qmp.wire import Event
from tests.unit.qmp.peer import GREETING, Peer


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(loop: str, main: Coroutine[None, None, None]) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main, 30))


async def pair(**options: object) -> tuple[Peer, Monitor]:
    peer = Peer()
    greeting = asyncio.create_task(peer.greet())
    monitor = await Monitor.from_socket(peer.near, name="vm1", **options)  # type: ignore[arg-type]
    await greeting
    return peer, monitor


def test_negotiation(loop: str) -> None:
    async def main() -> None:
        _, monitor = await pair()
        assert monitor.version == (7, 2, 9)
        assert monitor.greeting is not None
        assert monitor.greeting.package == "Debian 7.2"
        monitor.close()

    run(loop, main())


def test_answers_out_of_order_find_their_callers(loop: str) -> None:
    async def main() -> None:
        peer, monitor = await pair()
        calls = [asyncio.create_task(monitor.execute(f"c{i}", {"n": i})) for i in range(3)]
        commands = [await peer.hear() for _ in calls]
        assert [c["execute"] for c in commands] == ["c0", "c1", "c2"]
        for command in reversed(commands):
            peer.answer(command, command["arguments"]["n"])
        assert await asyncio.gather(*calls) == [0, 1, 2]
        monitor.close()

    run(loop, main())


def test_an_error_keeps_class_and_sentence(loop: str) -> None:
    async def main() -> None:
        peer, monitor = await pair()
        call = asyncio.create_task(monitor.execute("device_add"))
        id = (await peer.hear())["id"]
        peer.say({"id": id, "error": {"class": "GenericError", "desc": "no such thing"}})
        with pytest.raises(QmpError) as caught:
            await call
        assert caught.value.error_class == "GenericError"
        assert str(caught.value) == (
            "internal error: unable to execute QEMU command 'device_add': no such thing"
        )
        monitor.close()

    run(loop, main())


def test_events_come_in_order_and_before_the_reply_they_precede(loop: str) -> None:
    async def main() -> None:
        seen: list[Event] = []
        peer, monitor = await pair(on_event=seen.append)
        call = asyncio.create_task(monitor.execute("stop"))
        command = await peer.hear()
        peer.say({"event": "A", "timestamp": {"seconds": 1, "microseconds": 2}})
        peer.say({"event": "B", "data": {"x": 1}, "timestamp": {"seconds": 1, "microseconds": 3}})
        peer.answer(command)
        await call
        assert seen == [Event("A", {}, 1, 2), Event("B", {"x": 1}, 1, 3)]
        monitor.close()

    run(loop, main())


def test_a_failing_event_handler_is_reported_and_costs_nothing() -> None:
    async def main() -> None:
        reported: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: reported.append(str(c["exception"])))

        def handler(event: Event) -> None:
            raise RuntimeError(event.name)

        peer, monitor = await pair(on_event=handler)
        call = asyncio.create_task(monitor.execute("stop"))
        command = await peer.hear()
        peer.say({"event": "A"})
        peer.answer(command, 5)
        assert await call == 5
        assert reported == ["A"]
        monitor.close()

    run("asyncio", main())


def test_deadline_drops_the_late_answer_and_keeps_the_monitor(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        peer, monitor = await pair()
        with pytest.raises(OperationTimeout, match=r"'slow' within 0.01 s"):
            await monitor.execute("slow", deadline=0.01)
        late = await peer.hear()
        call = asyncio.create_task(monitor.execute("quick"))
        peer.answer(late, "late")
        peer.answer(await peer.hear(), "quick")
        assert await call == "quick"
        monitor.close()

    run(loop, main())
    assert not caplog.records


def test_cancellation_passes_through(loop: str) -> None:
    async def main() -> None:
        peer, monitor = await pair()
        call = asyncio.create_task(monitor.execute("slow"))
        late = await peer.hear()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        peer.answer(late)
        call = asyncio.create_task(monitor.execute("quick"))
        peer.answer(await peer.hear(), 1)
        assert await call == 1
        monitor.close()

    run(loop, main())


def test_disconnect_fails_every_call_and_tells_once(loop: str) -> None:
    async def main() -> None:
        reasons: list[QvirtError] = []
        peer, monitor = await pair(on_closed=reasons.append)
        calls = [asyncio.create_task(monitor.execute(c)) for c in ("a", "b")]
        await peer.hear()
        await peer.hear()
        peer.close()
        for call in calls:
            with pytest.raises(MonitorClosed, match=r"End of file from qemu monitor \(vm='vm1'\)"):
                await call
        await monitor.wait_closed()
        monitor.close()
        assert [str(r) for r in reasons] == ["internal error: End of file from qemu monitor (vm='vm1')"]
        with pytest.raises(MonitorClosed, match="cannot run 'c'"):
            await monitor.execute("c")

    run(loop, main())


def test_who_closes_is_not_told(loop: str) -> None:
    async def main() -> None:
        reasons: list[QvirtError] = []
        _, monitor = await pair(on_closed=reasons.append)
        call = asyncio.create_task(monitor.execute("a"))
        await asyncio.sleep(0)
        monitor.close()
        with pytest.raises(MonitorClosed):
            await call
        assert not reasons

        peer = Peer()
        with pytest.raises(OperationTimeout):
            await Monitor.from_socket(peer.near, on_closed=reasons.append, deadline=0.01)
        assert not reasons

    run(loop, main())


def test_last_words_arrive_before_the_end(loop: str) -> None:
    async def main() -> None:
        seen: list[str] = []
        peer, monitor = await pair(on_event=lambda e: seen.append(e.name))
        peer.say({"event": "SHUTDOWN"})
        peer.close()
        with pytest.raises(MonitorClosed):
            await monitor.execute("query-status")
        await monitor.wait_closed()
        assert seen == ["SHUTDOWN"]

    run(loop, main())


def test_garbage_closes_with_a_clear_reason(loop: str) -> None:
    async def main() -> None:
        reasons: list[QvirtError] = []
        peer, monitor = await pair(on_closed=reasons.append)
        peer.say_bytes(b"Segmentation fault\n")
        await monitor.wait_closed()
        assert isinstance(reasons[0], WireError)
        assert "Segmentation fault" in str(reasons[0])

    run(loop, main())


def test_descriptors_go_with_their_command(loop: str) -> None:
    async def main() -> None:
        peer, monitor = await pair()
        read, write = os.pipe()
        call = asyncio.create_task(monitor.execute("getfd", {"fdname": "f"}, fds=(write,)))
        command = await peer.hear()
        os.close(write)
        (received,) = peer.fds
        os.write(received, b"hello")
        os.close(received)
        assert os.read(read, 10) == b"hello"
        os.close(read)
        peer.answer(command)
        await call
        monitor.close()

    run(loop, main())


def test_a_full_socket_keeps_order_and_descriptors(loop: str) -> None:
    async def main() -> None:
        peer, monitor = await pair()
        big = "x" * 300_000
        calls = [asyncio.create_task(monitor.execute("big", {"i": i, "x": big})) for i in range(4)]
        read, write = os.pipe()
        calls.append(asyncio.create_task(monitor.execute("getfd", {"i": 4}, fds=(write,))))
        await asyncio.sleep(0)
        os.close(write)
        for i in range(5):
            command = await peer.hear()
            assert command["arguments"]["i"] == i
            # The kernel may hand them over with the end of the message before.
            assert i >= 3 or not peer.fds
            peer.answer(command, i)
        assert await asyncio.gather(*calls) == list(range(5))
        os.close(peer.fds[0])
        assert os.read(read, 1) == b""  # no copy of the descriptor is left with us
        os.close(read)
        monitor.close()

    run(loop, main())


def test_a_qemu_that_hangs_is_not_asked_without_end(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "UNANSWERED", 3)

    async def main() -> None:
        peer, monitor = await pair()
        for _ in range(3):
            monitor.submit("query-stats").cancel()
        with pytest.raises(OperationTimeout, match=r"has not answered 3 commands; cannot run 'cont'"):
            await monitor.execute("cont")
        peer.answer(await peer.hear())
        while True:  # until the answer is there
            try:
                call = monitor.submit("cont")
                break
            except OperationTimeout:
                await asyncio.sleep(0)
        for _ in range(2):
            await peer.hear()
        command = await peer.hear()
        peer.answer(command, {})
        assert (await call).value == {}
        monitor.close()

    run(loop, main())


def test_a_large_answer(loop: str) -> None:
    async def main() -> None:
        peer, monitor = await pair()
        call = asyncio.create_task(monitor.execute("query-blockstats"))
        command = await peer.hear()
        value = ["y" * 1000] * 3000
        peer.sock.setblocking(True)
        await asyncio.to_thread(peer.sock.sendall, _reply(command, value))
        assert await call == value
        monitor.close()

    run(loop, main())


def _reply(command: dict[str, object], value: object) -> bytes:
    return json.dumps({"return": value, "id": command["id"]}).encode() + b"\n"


def test_no_greeting_in_time(loop: str) -> None:
    async def main() -> None:
        peer = Peer()
        with pytest.raises(OperationTimeout, match=r"capability negotiation within 0.02 s"):
            await Monitor.from_socket(peer.near, deadline=0.02)
        await peer.hear()
        with pytest.raises(AssertionError, match="closed"):
            await peer.hear_line()

    run(loop, main())


def test_end_before_the_greeting(loop: str) -> None:
    async def main() -> None:
        peer = Peer()
        peer.close()
        with pytest.raises(MonitorClosed):
            await Monitor.from_socket(peer.near)

    run(loop, main())


def test_connect_to_nobody(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(SystemError_, match="No such file or directory"):
            await Monitor.connect(tmp_path / "none")
        with pytest.raises(OperationTimeout):
            await Monitor.connect(tmp_path / "none", deadline=0.03, wait=True)

    run(loop, main())


@pytest.mark.parametrize("length", [20, 150])
def test_connect_by_path(loop: str, tmp_path: Path, length: int) -> None:
    async def main() -> None:
        directory = tmp_path / ("d" * length)
        directory.mkdir()
        listener = socket.socket(socket.AF_UNIX)
        here = os.open(directory, os.O_PATH)
        peer = Peer()
        async with asyncio.TaskGroup() as group:
            connecting = group.create_task(Monitor.connect(directory / "s", wait=True))
            await asyncio.sleep(0)
            listener.bind(f"/proc/self/fd/{here}/s")
            listener.listen()
            listener.setblocking(False)
            peer.sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            peer.say(GREETING)
            peer.answer(await peer.hear())
        monitor = await connecting
        monitor.close()
        listener.close()
        os.close(here)

    run(loop, main())


def test_a_qemu_that_ends_without_reading_all_is_heard_to_its_end(loop: str) -> None:
    async def main() -> None:
        events: list[Event] = []
        peer, monitor = await pair(on_event=events.append)
        call = monitor.submit("cont")  # which is never read, so the connection is reset
        peer.say({"event": "SHUTDOWN", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}})
        peer.sock.close()
        monitor.read_rest()
        assert [event.name for event in events] == ["SHUTDOWN"]
        assert monitor.is_closed
        with pytest.raises(MonitorClosed, match="End of file"):
            await call

    run(loop, main())
