"""Processes: made waiting, let go, watched, found again, never left behind."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qvirt.errors import InternalError
from qvirt.host.proc import start_time, stat_fields
from qvirt.runtime.life.process import INFINITE, Limits, Maker, Process, become_reaper

SHELL = "echo begin; trap 'exit 3' TERM; while :; do sleep 0.05; done"


async def spawn(log: Path, *argv: str) -> Process:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return await Process.spawn(argv, env={"PATH": os.defpath, "ONLY": "this"}, log_fd=fd)
    finally:
        os.close(fd)


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - nothing announces what a process has written
            await asyncio.sleep(0.005)


def test_nothing_is_executed_before_the_word(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        log = tmp_path / "log"
        process = await spawn(log, "/bin/sh", "-c", SHELL)
        assert Path(f"/proc/{process.pid}/comm").read_text() == "sh\n"
        assert log.read_text() == ""
        process.go()
        await until(lambda: log.read_text() == "begin\n")
        assert not process.is_gone
        process.send(signal.SIGTERM)
        assert await process.wait(10)
        assert process.ending == "exited with status 3"
        assert stat_fields(process.pid) is None  # reaped: no zombie

    asyncio.run(scenario())


def test_its_id_is_written_down_before_the_word(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        pidfile = tmp_path / "it's pid"
        process = await Process.spawn(["true"], env={"PATH": os.defpath}, log_fd=2, pidfile=str(pidfile))
        assert pidfile.read_text() == f"{process.pid}\n"
        assert pidfile.stat().st_mode & 0o777 == 0o644
        process.go()
        assert await process.wait(10)
        assert process.ending == "exited with status 0"

    asyncio.run(scenario())


def test_an_id_that_cannot_be_written_down_ends_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        with (
            (tmp_path / "log").open("w") as log,
            pytest.raises(InternalError, match="cannot write '/proc/no'"),
        ):
            await Process.spawn(["true"], env={"PATH": os.defpath}, log_fd=log.fileno(), pidfile="/proc/no")

    asyncio.run(scenario())


def test_a_maker_prepares_at_once_and_says_what_failed() -> None:
    async def scenario() -> None:
        become_reaper()
        ready = threading.Event()
        maker = Maker(ready.set)
        assert await asyncio.to_thread(ready.wait, 10)
        maker.close()  # nothing was made

        def fail() -> None:
            raise ValueError("none")

        broken = Maker(fail)
        with pytest.raises(ValueError, match="none"):
            await Process.spawn(["true"], env={"PATH": os.defpath}, log_fd=2, maker=broken)
        broken.close()

    asyncio.run(scenario())


def test_it_goes_when_nobody_gives_the_word(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        process = await spawn(tmp_path / "log", "/bin/sh", "-c", "echo ran")
        process.close_gate()
        assert await process.wait(10)
        assert (tmp_path / "log").read_text() == ""
        process.go()  # too late, and harmless

    asyncio.run(scenario())


def test_what_the_process_is_given(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        log = tmp_path / "log"
        script = (
            "env; umask; pwd; ulimit -c; readlink /proc/$$/fd/0; ls /proc/$$/fd; cat /proc/$$/stat; sleep 9"
        )
        process = await spawn(log, "/bin/sh", "-c", script)
        process.go()
        await until(lambda: "(sh)" in log.read_text())
        lines = log.read_text().splitlines()
        assert {line for line in lines if "=" in line} == {f"PATH={os.defpath}", "ONLY=this", "PWD=/"}
        assert lines[3:7] == ["0002", "/", "0", "/dev/null"]
        assert lines[7:10] == ["0", "1", "2"]
        words = next(line for line in lines if "(sh)" in line).rpartition(")")[2].split()
        assert int(words[3]) != process.pid, "leads its session"
        assert int(words[3]) != os.getsid(0), "shares our session"
        process.send(signal.SIGKILL)
        await process.wait(10)
        assert process.ending == "was killed by signal SIGKILL"

    asyncio.run(scenario())


def test_command_that_is_not_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        process = await spawn(tmp_path / "log", "/nonexistent/qemu")
        process.go()
        assert await process.wait(10)
        assert "/nonexistent/qemu" in (tmp_path / "log").read_text()

    asyncio.run(scenario())


def test_found_again_by_pid_and_start_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        process = await spawn(tmp_path / "log", "/bin/sleep", "100")
        process.go()
        began = process.start_time
        process.close()
        again = Process.adopt(process.pid, began)
        with pytest.raises(ProcessLookupError):
            Process.adopt(process.pid, began + 1)
        os.kill(process.pid, signal.SIGSTOP)
        await until(again.is_stopped)
        again.send(signal.SIGKILL)
        assert await again.wait(10)
        assert start_time(process.pid) is None
        with pytest.raises(ProcessLookupError):
            Process.adopt(process.pid, began)

    asyncio.run(scenario())


def test_it_enters_its_control_groups_itself_before_it_executes(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        doors = [tmp_path / "a tasks", tmp_path / "b\\n"]
        process = await spawn(tmp_path / "log", "/bin/sh", "-c", f"cat '{doors[0]}' '{doors[1]}'")
        assert not process.executed.done()
        process.go(map(str, doors))
        async with asyncio.timeout(10):
            await process.executed
        assert await process.wait(10)
        assert (tmp_path / "log").read_text() == "0\n0\n"

    asyncio.run(scenario())


def test_it_executes_nothing_when_it_cannot_enter(tmp_path: Path) -> None:
    async def scenario() -> None:
        become_reaper()
        process = await spawn(tmp_path / "log", "/bin/sh", "-c", "echo ran")
        process.go([f"{tmp_path}/missing/tasks"])
        assert await process.wait(10)
        assert process.ending == "exited with status 1"
        assert process.executed.done()
        said = (tmp_path / "log").read_text()
        assert f"cannot enter the control group of '{tmp_path}/missing/tasks'" in said
        assert "ran" not in said

    asyncio.run(scenario())


def test_low_descriptors_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(InternalError, match="collide"):
            await Process.spawn(["true"], env={}, log_fd=2, fds=[5])

    asyncio.run(scenario())


def test_limits_are_words() -> None:
    assert Limits(core=None, files=4096).words() == "-n=4096"
    assert Limits(core=1024, processes=5).words() == "-c=2 -p=5"
    assert Limits(core=None, memlock=1 << 20).words() == "-l=1024"
    assert Limits(core=None, memlock=INFINITE).words() == "-l=unlimited"
