"""Guests as machines of systemd's, with a service on a bus of the test's own in machined's place."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvirt.errors import DBusService
from qvirt.host import cgroup, machined
from qvirt.host.machined import Machined
from tests.functional.runtime.instance import document, instance, run
from tests.functional.runtime.test_kill_at_every_step import strike

jeepney = pytest.importorskip("jeepney")
blocking = pytest.importorskip("jeepney.io.blocking")

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon"),
]

MACHINE1 = "org.freedesktop.machine1"


class FakeMachined:
    """Answers as machined does, and puts leaders into scopes as systemd does, in version 2's hierarchy."""

    def __init__(self, address: str, base: Path | None) -> None:
        self.machines: dict[str, tuple[Any, ...]] = {}
        self.scopes: dict[str, Path] = {}
        self.refuses = False
        self._base = base
        self._connection = blocking.open_dbus_connection(address)
        for name in (MACHINE1, "org.freedesktop.login1"):
            request = jeepney.message_bus.RequestName(name)
            assert self._connection.send_and_get_reply(request).body[0] == 1
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, EOFError, ConnectionResetError):
            while True:
                message = self._connection.receive()
                if message.header.message_type is not jeepney.MessageType.method_call:
                    continue
                method = message.header.fields[jeepney.HeaderFields.member]
                try:
                    reply = getattr(self, method)(message)
                except LookupError:
                    reply = jeepney.new_error(
                        message, f"{MACHINE1}.NoSuchMachine", "s", (f"No machine '{message.body[0]}' known",)
                    )
                self._connection.send(reply)

    def CreateMachineWithNetwork(self, message: Any) -> Any:
        name, _, _, _, leader, _, _, properties = message.body
        if self.refuses:
            return jeepney.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", ("no",))
        self.machines[name] = message.body
        if self._base is not None:
            folder = self._base / dict(properties)["Slice"][1] / f"machine-{machined.escape(name)}.scope"
            folder.mkdir(parents=True)
            (folder / "cgroup.procs").write_text(str(leader))
            self.scopes[name] = folder
        return jeepney.new_method_return(message, "o", ("/org/freedesktop/machine1/machine/x",))

    def TerminateMachine(self, message: Any) -> Any:
        del self.machines[message.body[0]]
        return jeepney.new_method_return(message, "", ())

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def serve_bus(address: str) -> Iterator[None]:
    process = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address={address}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A message bus of the test's own, as the system's."""
    address = f"unix:path={tmp_path}/bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    with serve_bus(address):
        yield address


@pytest.fixture
def service(bus: str) -> Iterator[FakeMachined]:
    fake = FakeMachined(bus, cgroup.find_mounts().v2 if os.geteuid() == 0 else None)
    try:
        yield fake
    finally:
        fake.close()


def groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has control groups")
def test_a_guest_is_a_machine_in_a_scope(service: FakeMachined) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                if hv.cgroups.mounts is None or hv.cgroups.mounts.v2 is None:
                    pytest.skip("no control groups of version 2 here")
                extra = "<resource><partition>/machine</partition></resource>"
                domain = await hv.create(document("in-scope", extra=extra), paused=True)
                running = domain.need_running()
                (name,) = service.machines
                assert name.startswith("qemu-embed-")
                assert name.endswith(f"-{running.id}-in-scope")
                _, uuid, maker, kind, leader, root, _, properties = service.machines[name]
                assert (maker, kind, leader, root) == ("libvirt-qemu", "vm", running.pid, "")
                assert bytes(uuid).hex() == domain.uuid.replace("-", "")
                assert dict(properties)["Slice"] == ("s", "machine.slice")
                assert running.group is not None
                assert running.group.path == f"machine.slice/machine-{machined.escape(name)}.scope/libvirt"
                assert f"0::/{running.group.path}/emulator\n" in groups(running.pid)
                for name_, base in hv.cgroups.mounts.v1.items():
                    if name_ == "memory":
                        assert (base / running.group.path / "memory.limit_in_bytes").exists()
                scope = service.scopes[name]
            async with it.serve() as hv:
                domain = hv.domains.by_name("in-scope")
                assert domain.need_running().group is not None
                await domain.destroy()
            assert service.machines == {}
            assert not scope.exists()
            left = [path for path in Path("/sys/fs/cgroup").glob(f"*/machine.slice/{scope.name}")]
            assert left == []

    run(scenario())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has control groups")
def test_a_machine_that_is_refused_fails_the_start_and_leaves_nothing(service: FakeMachined) -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                if hv.cgroups.machined is None:
                    pytest.skip("no control groups here")
                service.refuses = True
                with pytest.raises(DBusService, match="AccessDenied: no"):
                    await hv.create(document("refused"), paused=True)
            assert it.processes() == []
            assert it.traces() == []

    run(scenario())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has control groups")
def test_a_daemon_killed_around_the_machine_leaves_none(service: FakeMachined) -> None:
    async def scenario() -> None:
        with instance() as it:
            it.image()
            _, steps = await asyncio.to_thread(strike, it, "start", -1)
            if "machine made" not in steps:
                pytest.skip("no control groups here")
            async with it.serve(autostart=False) as hv:
                await hv.domains.by_name("victim").destroy()
        assert service.machines == {}
        for step in range(steps.index("machine made"), steps.index("executed") + 1):
            with instance() as it:
                it.image()
                killed, _ = await asyncio.to_thread(strike, it, "start", step)
                assert killed
                assert len(service.machines) == 1
                async with it.serve(autostart=False) as hv:
                    assert not hv.domains.by_name("victim").active
                assert service.machines == {}
                assert (it.processes(), it.traces()) == ([], [])

    run(scenario())


def test_the_bus_may_be_restarted_and_the_service_may_be_missing(tmp_path: Path) -> None:
    async def create(service: Machined, name: str) -> None:
        await service.create(name, uuid=bytes(16), leader=os.getpid(), slice="machine.slice")

    async def scenario() -> None:
        address = f"unix:path={tmp_path}/bus"
        assert await Machined.find(address) == (None, None)
        with serve_bus(address):
            assert await Machined.find(address) == (None, None)  # nobody has the names
            fake = FakeMachined(address, None)
            found, trouble = await Machined.find(address)
            assert trouble is None
            assert found is not None
            await create(found, "qemu-1-a")
            assert set(fake.machines) == {"qemu-1-a"}
            await found.terminate("qemu-1-a")
            await found.terminate("qemu-1-a")  # it has gone by itself
        fake.close()
        try:
            with serve_bus(address):
                fake = FakeMachined(address, None)
                await create(found, "qemu-2-b")
                assert set(fake.machines) == {"qemu-2-b"}
                fake.close()
                with pytest.raises(DBusService, match="ServiceUnknown"):
                    await create(found, "qemu-3-c")
        finally:
            await found.close()
        with pytest.raises(DBusService, match="cannot reach"):
            await create(found, "qemu-4-d")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "dead"))
            none, trouble = await Machined.find(f"unix:path={tmp_path}/dead")
        assert none is None
        assert trouble is not None
        assert "cannot reach" in trouble

    run(scenario())


def test_names_are_as_systemd_writes_them() -> None:
    assert machined.escape("qemu-1-my vm.x") == "qemu\\x2d1\\x2dmy\\x20vm.x"
    assert machined.escape(".hidden\\") == "\\x2ehidden\\x5c"
    assert machined.slice_of("/machine") == "machine.slice"
    assert machined.slice_of("/machine/fast-one") == "machine-fast\\x2done.slice"
    path = machined.scope_path("/machine/fast", "qemu-1-é")
    assert path == "machine.slice/machine-fast.slice/machine-qemu\\x2d1\\x2d\\xc3\\xa9.scope"
    assert machined.machine_of(f"{path}/libvirt") == "qemu-1-é"
    assert machined.machine_of("machine/qemu-1-a.libvirt-qemu") is None
