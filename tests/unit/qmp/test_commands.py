"""The command wrappers against a real QEMU."""

import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable

import pytest

from qvirt.qmp import commands
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import QmpError, WireError
from qvirt.qmp.wire import Event

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed"),
]


def with_qemu(main: Callable[[Monitor, list[Event]], Awaitable[None]], *options: str) -> None:
    async def body() -> None:
        ours, theirs = socket.socketpair()
        assert QEMU is not None
        with theirs:
            process = await asyncio.create_subprocess_exec(
                QEMU, "-S", "-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg",
                "-chardev", f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control", *options,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        events: list[Event] = []
        try:
            monitor = await Monitor.from_socket(ours, on_event=events.append)
            await main(monitor, events)
            monitor.close()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_guest() -> None:
    async def main(mon: Monitor, events: list[Event]) -> None:
        await commands.cont(mon)
        await mon.execute("stop")
        assert (await commands.human_monitor_command(mon, "info status")).startswith("VM status: paused")
        assert [e.name for e in events] == ["RESUME", "STOP"]
        assert events[0].seconds > 0
        assert len(await commands.query_hotpluggable_cpus(mon)) == 2
        (thread,) = await commands.query_iothreads(mon)
        assert (thread.id, thread.poll_max_ns) == ("io1", 32768)
        assert os.path.exists(f"/proc/{thread.thread_id}")
        await commands.qom_set(mon, "/objects/io1", "poll-max-ns", 1000)
        assert (await commands.query_iothreads(mon))[0].poll_max_ns == 1000
        await mon.execute("object-add", {"qom-type": "iothread", "id": "io2"})
        await commands.object_del(mon, "io2")
        assert [it.id for it in await commands.query_iothreads(mon)] == ["io1"]
        assert await commands.query_block(mon) == []
        assert await commands.query_blockstats(mon, query_nodes=True) == []
        await commands.set_action(mon, reboot="shutdown")
        with pytest.raises(QmpError) as caught:
            await commands.device_del(mon, "nope")
        assert caught.value.error_class == "DeviceNotFound"
        await commands.system_powerdown(mon)
        await commands.system_reset(mon)
        await mon.wait_closed()
        assert "SHUTDOWN" in [e.name for e in events]

    with_qemu(
        main,
        "-machine",
        "pc",
        "-m",
        "64",
        "-smp",
        "2",
        "-object",
        "iothread,id=io1",
        "-device",
        "virtio-balloon-pci",
    )


def test_descriptors() -> None:
    async def main(mon: Monitor, events: list[Event]) -> None:
        fd = os.open("/dev/null", os.O_RDWR)
        await commands.getfd(mon, "null", fd)
        os.close(fd)
        await mon.execute("closefd", {"fdname": "null"})
        with pytest.raises(QmpError):
            await mon.execute("closefd", {"fdname": "null"})

    with_qemu(main, "-machine", "none")


@pytest.mark.parametrize("narrow", [commands.as_object, commands.as_objects, commands.as_text])
def test_an_answer_of_another_shape_is_refused(narrow: Callable[[object, str], object]) -> None:
    with pytest.raises(WireError, match="'query-it' answered int instead of a"):
        narrow(7, "query-it")
