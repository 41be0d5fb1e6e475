"""The command wrappers against a real QEMU."""

import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable

import pytest

from qvirt.qmp import commands
from qvirt.qmp.client import Monitor
from qvirt.qmp.errors import QmpError
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
        assert await commands.query_status(mon) == commands.Status(False, "prelaunch")
        await commands.cont(mon)
        assert (await commands.query_status(mon)).running
        await commands.stop(mon)
        assert (await commands.query_status(mon)).status == "paused"
        assert [e.name for e in events] == ["RESUME", "STOP"]
        assert events[0].seconds > 0
        cpus = await commands.query_cpus_fast(mon)
        assert [cpu.index for cpu in cpus] == [0, 1]
        assert all(os.path.exists(f"/proc/{cpu.thread_id}") for cpu in cpus)
        assert (await commands.query_iothreads(mon))[0].id == "io1"
        assert await commands.query_balloon(mon) == 64 << 20
        assert await commands.query_memory_size_summary(mon) == (64 << 20, 0)
        assert await commands.qom_get(mon, "/objects/io1", "poll-max-ns") == 32768
        await commands.qom_set(mon, "/objects/io1", "poll-max-ns", 1000)
        assert (await commands.query_iothreads(mon))[0].poll_max_ns == 1000
        assert "type" in {p.name for p in await commands.qom_list(mon, "/machine")}
        assert "m" in await commands.query_chardev(mon)
        assert (await commands.human_monitor_command(mon, "info status")).startswith("VM status: paused")
        await commands.object_add(mon, {"qom-type": "iothread", "id": "io2"})
        await commands.object_del(mon, "io2")
        await commands.blockdev_add(mon, {"driver": "null-co", "node-name": "n0", "size": 1024})
        assert [n["node-name"] for n in await commands.query_named_block_nodes(mon, flat=True)] == ["n0"]
        await commands.blockdev_del(mon, "n0")
        with pytest.raises(QmpError) as caught:
            await commands.device_del(mon, "nope")
        assert caught.value.error_class == "DeviceNotFound"
        await commands.system_powerdown(mon)
        await commands.system_reset(mon)
        await commands.quit(mon)
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
        await commands.closefd(mon, "null")
        set_id, _ = await commands.add_fd(mon, fd, opaque="what for")
        os.close(fd)
        assert (await commands.query_fdsets(mon))[0]["fdset-id"] == set_id
        await commands.remove_fd(mon, set_id)

    with_qemu(main, "-machine", "none")


def test_what_it_can_do() -> None:
    async def main(mon: Monitor, events: list[Event]) -> None:
        assert await commands.query_target(mon) == "x86_64"
        assert len(await commands.query_qmp_schema(mon)) > 100
        assert "pc" in [m.get("alias") for m in await commands.query_machines(mon)]
        assert await commands.query_cpu_definitions(mon)
        model = await commands.query_cpu_model_expansion(mon, "static", {"name": "qemu64"})
        assert model["name"] == "base"
        assert "mac" in {p.name for p in await commands.device_list_properties(mon, "e1000")}
        assert await commands.query_kvm(mon) in {(False, True), (False, False)}
        assert "query-status" in await commands.query_commands(mon)
        assert isinstance(await commands.query_tpm_types(mon), list)
        assert await commands.query_vnc(mon) == {"enabled": False}

    with_qemu(main, "-machine", "none")
