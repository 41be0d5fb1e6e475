"""Devices served by processes that are not ours: they are connected to, and never ended by us."""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qvirt.constants.domain import DomainState
from qvirt.errors import QvirtError
from tests.functional.runtime.helping import helped
from tests.functional.runtime.instance import Instance, instance, run, until

pytestmark = pytest.mark.qemu

#: vhost-user requests that want a number in return: features, protocol features, number of queues
_ASKS = (1, 15, 17)


def serve_vhost_user(path: Path) -> socket.socket:
    """Listen as a network backend does that offers virtio 1 and nothing else."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(1)

    def answer() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                while head := connection.recv(12, socket.MSG_WAITALL):
                    request, _, size = struct.unpack("<III", head)
                    connection.recv(size, socket.MSG_WAITALL)
                    if request in _ASKS:
                        connection.send(struct.pack("<IIIQ", request, 5, 8, 1 << 32))

    threading.Thread(target=answer, daemon=True).start()
    return listener


@contextlib.contextmanager
def running(*words: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def interface(path: Path) -> str:
    return (
        f"<interface type='vhostuser'><source type='unix' path='{path}' mode='client'/><model type='virtio'/>"
        "</interface>"
    )


def test_a_network_backend() -> None:
    async def scenario() -> None:
        with instance() as it:
            path = it.root / "net.sock"
            with serve_vhost_user(path):
                async with it.serve() as hv:
                    domain = await hv.create(helped(interface(path)))
                    assert domain.state == DomainState.RUNNING
                    await domain.destroy()
                    assert path.exists()
                    with pytest.raises(QvirtError, match="no-such"):
                        await hv.create(helped(interface(it.root / "no-such.sock")))
                    assert it.traces() == []

    run(scenario())


@pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed")
def test_a_tpm_of_somebody_elses() -> None:
    async def scenario() -> None:
        with instance() as it:
            state, path = it.root / "state", it.root / "tpm.sock"
            state.mkdir()
            control = f"type=unixio,path={path},mode=0666"
            with running("swtpm", "socket", "--tpm2", "--ctrl", control, "--tpmstate", f"dir={state}") as tpm:
                await until(path.exists, "swtpm listens")
                source = f"<source type='unix' mode='connect' path='{path}'/>"
                text = helped(f"<tpm model='tpm-crb'><backend type='external'>{source}</backend></tpm>")
                async with it.serve() as hv:
                    domain = await hv.create(text)
                    assert source in await domain.xml_desc()
                    assert domain.need_running().helpers == {}
                    await domain.destroy()
                    assert tpm.wait(30) == 0  # QEMU itself tells it to shut down
                    assert not it.paths.swtpm_storage.exists()

    run(scenario())


@pytest.mark.skipif(shutil.which("qemu-storage-daemon") is None, reason="no qemu-storage-daemon here")
def test_a_disk_server() -> None:
    async def scenario() -> None:
        with instance() as it:
            path = it.root / "disk.sock"
            node = f"driver=file,node-name=it,filename={it.image()}"
            served = f"type=vhost-user-blk,id=it,addr.type=unix,addr.path={path},node-name=it,writable=on"
            with running("qemu-storage-daemon", "--blockdev", node, "--export", served):
                await until(path.exists, "the server listens")
                text = helped(disk(path))
                async with it.serve() as hv:
                    if hv.user is not None:
                        # it is the server's: who may connect is for its owner to say
                        with pytest.raises(QvirtError, match="allow it with"):
                            await hv.create(text)
                        assert path.stat().st_uid == os.getuid()
                    path.chmod(0o666)
                    domain = await hv.create(text)
                    assert domain.state == DomainState.RUNNING
                    await domain.destroy()
                    assert path.exists()
                    check_no_trace(it)

    run(scenario())


def disk(path: Path) -> str:
    return (
        f"<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>"
        f"<source type='unix' path='{path}'/><target dev='vda' bus='virtio'/></disk>"
    )


def check_no_trace(it: Instance) -> None:
    assert it.traces() == []


def relay(terminal: int, path: Path) -> None:
    """Carry commands and answers, each whole, between a terminal and a swtpm."""
    with socket.socket(socket.AF_UNIX) as tpm:
        tpm.connect(str(path))

        def message(read: Callable[[int], bytes]) -> bytes:
            text = b""
            while len(text) < 6 or len(text) < struct.unpack(">I", text[2:6])[0]:
                got = read(4096)
                if not got:
                    raise EOFError
                text += got
            return text

        with contextlib.suppress(OSError, EOFError):
            while True:
                tpm.sendall(message(lambda size: os.read(terminal, size)))
                os.write(terminal, message(tpm.recv))


@pytest.mark.root
@pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed")
def test_a_tpm_of_the_hosts() -> None:
    """A terminal with a swtpm behind it stands for the device of a machine that has one."""

    async def scenario() -> None:
        with instance() as it:
            state, path = it.root / "state", it.root / "tpm.sock"
            state.mkdir()
            control = ("--ctrl", f"type=unixio,path={it.root}/control.sock")
            flags = ("--flags", "not-need-init,startup-clear")
            server = ("--server", f"type=unixio,path={path}", "--tpmstate", f"dir={state}")
            with running("swtpm", "socket", "--tpm2", *server, *control, *flags):
                await until(path.exists, "swtpm listens")
                master, device = os.openpty()
                try:
                    tty.setraw(device)
                    threading.Thread(target=relay, args=(master, path), daemon=True).start()
                    await passed_through(it, os.ttyname(device))
                finally:
                    os.close(device)
                    os.close(master)

    run(scenario())


async def passed_through(it: Instance, device: str) -> None:
    owner = os.stat(device).st_uid
    text = helped(
        f"<tpm model='tpm-tis'><backend type='passthrough'><device path='{device}'/></backend></tpm>"
    )
    async with it.serve() as hv:
        domain = await hv.create(text)
        words = Path(f"/proc/{domain.need_running().pid}/cmdline").read_bytes().split(b"\0")
        (said,) = (word.decode() for word in words if word.startswith(b"passthrough,"))
        assert said == f"passthrough,id=tpm-tpm0,path={device},cancel-path=/dev/fdset/0"
        await domain.destroy()
    assert os.stat(device).st_uid == owner
    check_no_trace(it)
