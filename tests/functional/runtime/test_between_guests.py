"""What guests share with each other and with the host beside disks and networks: memory, and vsock."""

import array
import contextlib
import mmap
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from qvirt.constants.domain import DomainDeviceModifyFlags as Modify
from qvirt.errors import DeviceMissing, OperationInvalid, QvirtError, SystemError_
from qvirt.host import vsock
from qvirt.runtime.domain import Domain
from qvirt.runtime.events import DeviceRemoved
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.plugging import hotplug
from tests.functional.runtime.helping import program
from tests.functional.runtime.instance import EMULATOR, Instance, Recorder, document, instance, run, until
from tests.functional.runtime.test_hotplug import everything

pytestmark = pytest.mark.qemu

SIZE = 1 << 20
VSOCK = "<vsock model='virtio'><cid auto='yes'/></vsock>"


class Bells:
    """A server of shared memory with bells, as ivshmem-server: it gives each peer memory and its bells."""

    def __init__(self, path: Path) -> None:
        self.memory = os.memfd_create("shared")
        os.ftruncate(self.memory, SIZE)
        self.path = path
        self.peers: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it is shut down
            while True:
                peer, _ = self._listener.accept()
                self.peers.append(peer)
                number = len(self.peers)
                for value in (0, number):  # the protocol's version, and who it is
                    peer.sendall(struct.pack("<q", value))
                self._hand(peer, -1, self.memory)
                for _ in range(2):
                    bell = os.eventfd(0)
                    self._hand(peer, number, bell)
                    os.close(bell)

    @staticmethod
    def _hand(peer: socket.socket, value: int, fd: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        peer.sendmsg([struct.pack("<q", value)], rights)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for one in (self._listener, *self.peers):
            one.close()
        os.close(self.memory)


@pytest.fixture
def name() -> Iterator[str]:
    """The name of memory nobody else shares."""
    made = f"qvirt-test-{os.getpid()}"
    yield made
    Path("/dev/shm", made).unlink(missing_ok=True)


def plain(name: str, role: str = "") -> str:
    return f"<shmem name='{name}'{role}><model type='ivshmem-plain'/><size unit='M'>1</size></shmem>"


def write(path: Path, text: bytes) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as memory:
        memory[: len(text)] = text


def memory_of(domain: Domain, path: str) -> bytes:
    """Return the first bytes of a guest's shared memory, as QEMU sees them."""
    pid = domain.need_running().pid
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith(path):
            start = int(line.partition("-")[0], 16)
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(start)
                return memory.read(5)
    raise AssertionError(f"no memory of '{path}'")


@pytest.mark.root
def test_memory_is_shared_and_stays(name: str) -> None:
    """Two guests and the host see the same; it outlives them, and has the owner it had."""

    async def scenario() -> None:
        path = Path("/dev/shm", name)
        with instance() as it:
            async with it.serve() as hv:
                first = await hv.create(document("first", plain(name, " role='master'")), paused=True)
                second = await hv.create(document("second"), paused=True)
                await hotplug.attach(second, plain(name, " role='peer'"), Modify.LIVE)
                assert "<alias name='shmem0'/>" in await second.xml_desc()
                owner = path.stat().st_uid
                assert owner == (hv.user.uid if hv.user is not None else os.getuid())
                write(path, b"hello")
                for domain in (first, second):
                    assert memory_of(domain, str(path)) == b"hello"
                    assert [loan.path for loan in domain.need_running().footprint.loans] == []
                await first.destroy()
                await second.destroy()
            assert path.read_bytes()[:5] == b"hello"
            assert path.stat().st_uid == owner
            assert it.traces() == []

    run(scenario())


@pytest.mark.root
def test_memory_that_is_somebody_elses_is_named_before_anything_is_done(name: str) -> None:
    async def scenario() -> None:
        path = Path("/dev/shm", name)
        path.write_bytes(b"\0" * SIZE)
        path.chmod(0o600)
        with instance() as it:
            async with it.serve() as hv:
                if hv.user is None:
                    pytest.skip("QEMU runs as root here")
                with pytest.raises(SystemError_, match=f"'{path}'.*Permission denied"):
                    await hv.create(document("closed", plain(name)))
            assert it.traces() == []
        assert path.stat().st_uid == os.getuid()

    run(scenario())


def test_a_doorbell_at_boot_and_plugged() -> None:
    async def scenario() -> None:
        with instance() as it:
            bells = Bells(it.root / "bells.sock")
            device = (
                f"<shmem name='rung'><model type='ivshmem-doorbell'/><server path='{bells.path}'/>"
                "<msi vectors='2'/></shmem>"
            )
            try:
                async with it.serve() as hv:
                    booted = await hv.create(document("booted", device), paused=True)
                    domain = await hv.create(document("plugged"), paused=False)
                    before = await everything(domain)
                    await hotplug.attach(domain, device, Modify.LIVE)
                    assert len(bells.peers) == 2
                    assert "<msi vectors='2' ioeventfd='on'/>" in await domain.xml_desc()
                    for one in (booted, domain):
                        assert memory_of(one, "/memfd:shared (deleted)") == bytes(5)
                    events = Recorder(hv)
                    await hotplug.detach(domain, device, Modify.LIVE)
                    await domain.need_running().execute("system_reset")
                    await until(lambda: events.of(DeviceRemoved), "the guest lets go")
                    assert (await everything(domain))["chardevs"] == before["chardevs"]
                    with pytest.raises(DeviceMissing, match="model 'ivshmem-doorbell' shmem device"):
                        await hotplug.detach(domain, device, Modify.LIVE)
            finally:
                bells.close()

    run(scenario())


def test_without_a_server_the_guest_does_not_start() -> None:
    async def scenario() -> None:
        with instance() as it:
            path = it.root / "none.sock"
            device = f"<shmem name='a'><model type='ivshmem-doorbell'/><server path='{path}'/></shmem>"
            async with it.serve() as hv:
                with pytest.raises(SystemError_, match=f"Cannot access storage file '{path}': No such file"):
                    await hv.create(document("alone", device))
            assert it.traces() == []

    run(scenario())


def test_definitions() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.define(document("kept"))
                first = await domain.xml_desc(2)
                for text, words in (
                    (plain("kept"), "device is already in the domain configuration"),
                    (VSOCK, "already has a vsock device"),
                ):
                    await hotplug.attach(domain, text, Modify.CONFIG)
                    with pytest.raises(OperationInvalid, match=words):
                        await hotplug.attach(domain, text, Modify.CONFIG)
                    await hotplug.detach(domain, text, Modify.CONFIG)
                    assert await domain.xml_desc(2) == first

    run(scenario())


# ------------------------------------------------------------------------------- vsock


@pytest.mark.skipif(os.path.exists(vsock.PATH), reason="this machine has vsock")
def test_without_the_kernels_device_it_is_said() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                with pytest.raises(SystemError_, match=r"unable to open vhost-vsock .*load"):
                    await hv.create(document("mute", VSOCK))
                domain = await hv.create(document("plain"), paused=True)
                before = await everything(domain)
                with pytest.raises(SystemError_, match="unable to open vhost-vsock device"):
                    await hotplug.attach(domain, VSOCK, Modify.LIVE)
                assert await everything(domain) == before
                await domain.destroy()
            assert it.traces() == []

    run(scenario())


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An emulator in which a stand-in answers for the kernel's vsock device; addresses 3 and 4 are taken."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = Path("/tmp", f"qvirt-vhost-{os.getpid()}")
    source = Path(__file__).with_name("vhost_stand_in.c")
    emulator = program(folder, "emulator", f'#!/bin/sh\nLD_PRELOAD={folder}/vhost.so exec {EMULATOR} "$@"\n')
    library = folder / "vhost.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    device = tmp_path / "vhost-vsock"
    device.touch()
    monkeypatch.setattr(vsock, "PATH", str(device))
    taken = {3, 4}

    def ioctl(fd: int, request: int, argument: bytes) -> int:
        (cid,) = struct.unpack("=Q", argument)
        if cid in taken:
            raise OSError(98, "Address already in use")
        return 0

    monkeypatch.setattr(vsock, "fcntl", SimpleNamespace(ioctl=ioctl))
    yield str(emulator)
    shutil.rmtree(folder)


async def address_of(domain: Domain) -> object:
    """Return the address QEMU says the guest has."""
    path = "/machine/peripheral/vsock0"
    return await domain.need_running().execute("qom-get", {"path": path, "property": "guest-cid"})


def test_a_free_address_at_boot_and_plugged(stand_in: str) -> None:
    async def scenario(it: Instance, hv: Hypervisor) -> None:
        text = document("talks", VSOCK).replace(EMULATOR, stand_in)
        domain = await hv.create(text)
        assert "<cid auto='yes' address='5'/>" in await domain.xml_desc()
        assert await address_of(domain) == 5
        with pytest.raises(OperationInvalid, match="already has a vsock device"):
            await hotplug.attach(domain, VSOCK, Modify.LIVE)
        await domain.destroy()

        domain = await hv.create(document("hears").replace(EMULATOR, stand_in))
        before = await everything(domain)
        given = "<vsock model='virtio'><cid auto='no' address='{}'/></vsock>"
        with pytest.raises(SystemError_, match="failed to set guest cid: 4 is another guest's"):
            await hotplug.attach(domain, given.format(4), Modify.LIVE)
        assert await everything(domain) == before
        await hotplug.attach(domain, given.format(9), Modify.LIVE)
        assert await address_of(domain) == 9
        with pytest.raises(DeviceMissing, match="matching vsock device not found"):
            await hotplug.detach(domain, given.format(8), Modify.LIVE)
        await hotplug.detach(domain, given.format(9), Modify.LIVE)
        await domain.need_running().execute("system_reset")
        await until(lambda: not domain.live.devices.vsocks, "the guest lets go")
        assert (await everything(domain))["devices"] == before["devices"]
        await domain.destroy()
        assert it.traces() == []

    async def served() -> None:
        with instance() as it:
            async with it.serve() as hv:
                await scenario(it, hv)

    run(served())


@pytest.mark.parametrize(
    "device",
    [
        "<crypto model='virtio' type='qemu'><backend model='builtin' queues='1'/></crypto>",
        "<smartcard mode='passthrough' type='unix'><source mode='bind' path='{root}/card.sock'/></smartcard>",
    ],
    ids=["crypto", "smartcard"],
)
def test_devices_that_are_there_from_the_start(device: str) -> None:
    async def scenario() -> None:
        with instance() as it:
            text = document("has", device.replace("{root}", str(it.root)))
            if "smartcard" in device:
                text = text.replace("<controller type='usb' model='none'/>", "")
            async with it.serve() as hv:
                domain = await hv.create(text)
                made = (await everything(domain))["devices"]
                (alias,) = [name for name in made if name in ("crypto0", "smartcard0")]
                assert f"<alias name='{alias}'/>" in await domain.xml_desc()
                with pytest.raises(QvirtError, match="live attach of device"):
                    await hotplug.attach(domain, device, Modify.LIVE)
                await domain.destroy()
            assert it.traces() == []

    run(scenario())


S390 = """<domain type='qemu'><name>keys</name><memory unit='MiB'>64</memory>
<os><type arch='s390x' machine='s390-ccw-virtio'>hvm</type></os>
<keywrap><cipher name='aes' state='off'/><cipher name='dea' state='on'/></keywrap>
<devices><emulator>/usr/bin/qemu-system-s390x</emulator><memballoon model='none'/></devices></domain>"""


@pytest.mark.skipif(shutil.which("qemu-system-s390x") is None, reason="no emulator of s390x here")
def test_wrapped_keys() -> None:
    async def scenario() -> None:
        with instance() as it:
            async with it.serve() as hv:
                domain = await hv.create(S390, paused=True)
                for cipher, state in (("aes", False), ("dea", True)):
                    said = {"path": "/machine", "property": f"{cipher}-key-wrap"}
                    assert await domain.need_running().execute("qom-get", said) is state
                await domain.destroy()
            assert it.traces() == []

    run(scenario())
