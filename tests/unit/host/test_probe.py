import asyncio
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qvirt.errors import InternalError, OperationTimeout, SystemError_
from qvirt.host.config import QemuUser
from qvirt.host.emulators import EmulatorTable, find_emulator
from qvirt.host.kvm import kvm_usable
from qvirt.host.probe import is_the_systems, probe
from qvirt.qemu.caps import Overview
from qvirt.security.launcher import confining
from tests.support.daemon import wait_until

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, 60))


def script(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.qemu
@needs_qemu
def test_a_real_emulator() -> None:
    assert QEMU is not None
    caps = run(probe(QEMU, kvm=kvm_usable()))
    assert caps.arch == "x86_64"
    assert caps.default_machine is not None
    assert caps.device_has("virtio-net-pci", "mac")
    assert caps.cpu_model("qemu64")
    assert caps.kvm == kvm_usable()


@pytest.mark.qemu
@needs_qemu
def test_the_cache(tmp_path: Path) -> None:
    assert QEMU is not None
    log, cache = tmp_path / "log", tmp_path / "cache"
    emulator = script(tmp_path / "qemu-system-x86_64", f'echo run >>{log}\nexec {QEMU} "$@"\n')

    async def ask(times: int = 1) -> int:
        """Return how many processes it took."""
        log.write_text("")
        table = EmulatorTable(cache, is_kvm_usable=lambda: False)
        for caps in await asyncio.gather(*(table.caps(emulator) for _ in range(times))):
            assert caps.has_device("virtio-blk-pci")
        return log.read_text().count("run")

    assert run(ask(3)) == 1  # asked by three at once
    assert run(ask()) == 0
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert run(ask()) == 1
    assert run(ask()) == 0
    head, _, rest = file.read_text().partition("\n")
    file.write_text(f"{head}\n" + json.dumps({**json.loads(rest), "machines": 5}))
    assert run(ask()) == 1

    emulator.write_text(emulator.read_text() + "# another\n")
    assert run(ask()) == 1
    assert [f.name for f in cache.iterdir()] == [file.name]


@pytest.mark.qemu
@needs_qemu
def test_overviews(tmp_path: Path) -> None:
    assert QEMU is not None
    log, cache = tmp_path / "log", tmp_path / "cache"
    emulator = str(script(tmp_path / "qemu-system-x86_64", f'echo run >>{log}\nexec {QEMU} "$@"\n'))
    broken = str(script(tmp_path / "qemu-system-arm", "exit 1\n"))
    missing = str(tmp_path / "none")

    async def ask(times: int = 1) -> tuple[Overview, int]:
        """Return the overview and how many processes it took."""
        log.write_text("")
        table = EmulatorTable(cache, is_kvm_usable=kvm_usable)
        found, *_ = await asyncio.gather(
            *(table.overviews([emulator, broken, missing]) for _ in range(times))
        )
        assert isinstance(found[broken], InternalError)
        assert isinstance(found[missing], SystemError_)
        overview = found[emulator]
        assert isinstance(overview, Overview)
        return overview, log.read_text().count("run")

    once = 1 + kvm_usable()
    brief, runs = run(ask(3))  # asked by three at once
    assert runs == once
    full = run(probe(QEMU, kvm=kvm_usable()))
    assert (brief.machines, brief.arch) == (full.machines, full.arch)
    assert brief.default_machine == full.default_machine
    assert set(brief.accels) == set(full.accels)
    stored, runs = run(ask())
    assert (stored, runs) == (brief, 0)
    (file,) = cache.iterdir()
    whole = file.read_text()
    for damaged in (whole[:1000], "{}", whole.replace('"machines"', '"machine"')):
        file.write_text(damaged)
        assert run(ask()) == (brief, once)
    Path(emulator).write_text(Path(emulator).read_text() + "# another\n")
    assert run(ask())[1] == once
    assert [f.name for f in cache.iterdir()] == [file.name]


@pytest.mark.qemu
@needs_qemu
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def main() -> None:
        assert QEMU is not None
        table = EmulatorTable(tmp_path / "file" / "cache", is_kvm_usable=lambda: False)
        assert (await table.caps(QEMU)).arch == "x86_64"

    run(main())


def test_one_that_fails(tmp_path: Path) -> None:
    emulator = script(tmp_path / "qemu", "echo 'no such library' >&2; exit 1\n")
    with pytest.raises(
        InternalError, match=f"Failed to probe QEMU binary with QMP: {emulator}: no such library"
    ):
        run(probe(emulator, kvm=True))


def test_one_that_hangs_is_reaped(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    emulator = script(tmp_path / "qemu", f"echo $$ >{pid_file}\nexec sleep 1000\n")
    with pytest.raises(OperationTimeout, match=r"did not describe its capabilities within 0.5 s"):
        run(probe(emulator, kvm=False, deadline=0.5))
    assert not alive(int(pid_file.read_text()))


def test_what_a_script_started_goes_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    emulator = script(tmp_path / "qemu", f"sleep 1000 & echo $! >{pid_file}; wait\n")
    with pytest.raises(OperationTimeout):
        run(probe(emulator, kvm=False, deadline=0.5))
    pid = int(pid_file.read_text())
    # init reaps it, in its own time
    wait_until(
        lambda: not alive(pid) or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z",
        f"process {pid} ends",
    )


def test_an_emulator_dies_with_the_daemon_that_asks(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    said = f"echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000\n"
    emulator = script(tmp_path / "qemu", said)
    code = f"import asyncio, qvirt.host.probe as p; asyncio.run(p.probe({str(emulator)!r}, kvm=False))"
    with subprocess.Popen([sys.executable, "-c", code]) as daemon:
        try:
            wait_until(pid_file.exists, "the emulator runs")
            pidfd = os.pidfd_open(int(pid_file.read_text()))
        finally:
            daemon.kill()
    try:
        assert select.select([pidfd], [], [], 10)[0], "the emulator lives on"
    finally:
        os.close(pidfd)


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemError_, match="No such file"):
        run(probe(tmp_path / "none", kvm=False))
    with pytest.raises(SystemError_, match="No such file"):
        run(_caps(tmp_path / "none"))


async def _caps(path: Path) -> None:
    await EmulatorTable(None).caps(path)


@pytest.mark.qemu
@needs_qemu
def test_a_question_that_ends_the_emulator_is_left_out(tmp_path: Path) -> None:
    # Stands between us and QEMU, and ends when QEMU is asked about one device.
    relay = tmp_path / "qemu"
    relay.write_text(
        f"""#!/usr/bin/env python3
import socket, subprocess, sys, threading
args = sys.argv[1:]
i = next(i for i, a in enumerate(args) if "fd=" in a)
client = socket.socket(fileno=int(args[i].rpartition("fd=")[2]))
ours, theirs = socket.socketpair()
args[i] = f"socket,id=monitor,fd={{theirs.fileno()}}"
process = subprocess.Popen(["{QEMU}", *args], pass_fds=[theirs.fileno()])
theirs.close()
def back():
    while data := ours.recv(65536):
        client.sendall(data)
thread = threading.Thread(target=back, daemon=True)
thread.start()
for line in client.makefile("rb"):
    if b'"e1000"' in line:
        # Everything asked before has been answered when this one's turn comes.
        ours.sendall(b'{{"execute":"quit"}}\\n')
        thread.join()
        process.wait()
        sys.exit("assertion failed")
    ours.sendall(line)
process.kill()
process.wait()
"""
    )
    relay.chmod(0o755)
    caps = run(probe(relay, kvm=False))
    assert "e1000" not in caps.properties
    assert "virtio-net-pci" in caps.properties
    assert "rtl8139" in caps.properties


def test_find(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    script(second / "qemu-system-x86_64", "")
    script(first / "qemu-system-aarch64", "")
    (first / "qemu-system-x86_64").write_text("not executable")
    search = [str(first), str(second), str(tmp_path / "none")]
    assert find_emulator("x86_64", search) == second / "qemu-system-x86_64"
    assert find_emulator("sparc", search) is None


def test_kvm_is_more_than_a_file(tmp_path: Path) -> None:
    (tmp_path / "kvm").write_text("")
    assert not kvm_usable(tmp_path / "kvm")
    assert not kvm_usable(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_program_that_is_asked_has_no_rights_of_roots(tmp_path: Path) -> None:
    """A client names it: it may be anything."""
    nobody = QemuUser(65534, 65534, (65534,))
    with tempfile.TemporaryDirectory(prefix="qvpr") as folder:
        Path(folder).chmod(0o755)
        emulator = script(Path(folder, "qemu"), "id -u >&2; grep -h Cap /proc/self/status >&2; exit 1")
        table = EmulatorTable(None)
        table.wrap = confining(nobody)
        with pytest.raises(InternalError, match="65534") as refused:
            run(table.caps(emulator))
    said = [line.split()[-1] for line in str(refused.value).splitlines() if "Cap" in line]
    assert len(said) == 5
    assert all(set(word) == {"0"} for word in said)


def test_what_nobody_but_root_can_have_put_there(tmp_path: Path) -> None:
    assert is_the_systems("/bin/true")  # by a link, too
    mine = tmp_path / "qemu"
    mine.touch()
    assert not is_the_systems(str(mine))  # everybody may write to the folder above
    assert not is_the_systems(str(tmp_path / "nothing"))
