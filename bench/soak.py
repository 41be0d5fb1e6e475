"""Let clients come and go by the thousand, and see whether anything of them stays with the daemon.

    python bench/soak.py [-n COUNT] [-p PIECES]

They come by the local socket, by TLS, and by TCP, where SASL refuses them. Between pieces, with nobody
connected, the daemon's descriptors, resident memory, Python objects and tasks are counted. What the first
piece leaves is kept for those after it; growth from there on is a leak.
"""

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).parent.parent)
    os.environ["PYTHONPATH"] = sys.path[0]

from bench.daemons import Qvirtd, resident
from qvirt.net.authority import Authority, write_pair
from qvirt.net.tls import WELCOME
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Framer, Packet

TLS_PORT, TCP_PORT = 26624, 26625
AT_ONCE = 16
PATIENCE = 60.0
MECHANISM = "DIGEST-MD5"


class Held(NamedTuple):
    """What the daemon holds: open descriptors, MiB of memory, Python objects, tasks."""

    descriptors: int
    memory: float
    objects: int
    tasks: int


class Watched(Qvirtd):
    """Ours, listening to networks, with somebody inside who counts.

    pki: folder of the certificates, which are made there.
    """

    def __init__(self, pki: Path, tls_port: int = TLS_PORT, tcp_port: int = TCP_PORT) -> None:
        super().__init__()
        self.tls_port, self.tcp_port = tls_port, tcp_port
        self.answer = self.root / "held"
        authority = Authority.create(pki, "Soak")
        for role, name in (("server", "localhost"), ("client", "soak")):
            write_pair(pki / f"{role}cert.pem", pki / f"{role}key.pem", *authority.issue(role, name))  # type: ignore[arg-type]
        self.context = ssl.create_default_context(cafile=str(pki / "cacert.pem"))
        self.context.load_cert_chain(pki / "clientcert.pem", pki / "clientkey.pem")
        for folder in ("etc/libvirt", "etc/sasl2"):
            (self.root / folder).mkdir(parents=True)
        (self.root / "etc/sasl2/libvirt.conf").write_text(
            f"mech_list: {MECHANISM.lower()}\npwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
            f"sasldb_path: {self.root}/passwd.db\n"
        )
        (self.root / "etc/libvirt/libvirtd.conf").write_text(
            f'listen_addr = "127.0.0.1"\nlisten_tcp = 1\ntls_port = "{tls_port}"\ntcp_port = "{tcp_port}"\n'
            f'auth_tcp = "sasl"\nca_file = "{pki}/cacert.pem"\ncert_file = "{pki}/servercert.pem"\n'
            f'key_file = "{pki}/serverkey.pem"\nlog_outputs = "4:stderr"\n'
            # So many strangers of one host would otherwise drive each other out.
            "max_anonymous_clients = 100\n"
        )

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.watched", str(self.answer), "--root", str(self.root), "--listen"]

    def held(self) -> Held:
        """Count what it holds; raises RuntimeError when it does not answer."""
        self.answer.unlink(missing_ok=True)
        os.kill(self.pid(), signal.SIGUSR2)
        end = time.monotonic() + PATIENCE
        while not self.answer.exists():
            if time.monotonic() > end:
                raise RuntimeError(f"the daemon has not counted within {PATIENCE:g} s")
            time.sleep(0.01)
        counted = json.loads(self.answer.read_text())
        descriptors = len(os.listdir(f"/proc/{self.pid()}/fd"))
        return Held(descriptors, resident(self.pid()), counted["objects"], counted["tasks"])


class Visitor:
    """One connection that says a few words."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._framer = Framer()
        self._serial = 0

    async def call(self, name: str, *values: Any) -> Packet:
        """Call, and give the reply."""
        procedure = protocol.program(protocol.REMOTE).by_name[name]
        self._writer.write(packet.pack_call(procedure, self._serial, procedure.encode_args(values)))
        self._serial += 1
        while True:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionError(f"the daemon hung up instead of answering {name}")
            for reply in self._framer.feed(data):
                return reply

    async def welcome(self) -> None:
        """Wait for what the daemon says first by TLS."""
        if await self._reader.readexactly(1) != WELCOME:
            raise ConnectionError("the daemon has not bidden welcome")

    async def open(self) -> None:
        """Do what every client does."""
        for name, values in (
            ("AUTH_LIST", ()),
            ("CONNECT_OPEN", ("qemu:///system", 0)),
            ("CONNECT_GET_LIB_VERSION", ()),
            ("CONNECT_CLOSE", ()),
        ):
            _expect((await self.call(name, *values)).status == packet.OK, name)

    async def be_refused(self) -> None:
        """Begin to authenticate, and say nonsense where the proof is wanted."""
        _expect((await self.call("AUTH_LIST")).status == packet.OK, "AUTH_LIST")
        _expect((await self.call("AUTH_SASL_INIT")).status == packet.OK, "AUTH_SASL_INIT")
        begun = await self.call("AUTH_SASL_START", MECHANISM, 1, b"")
        _expect(begun.status == packet.OK, "AUTH_SASL_START")
        refused = await self.call("AUTH_SASL_STEP", 0, b"let me in\0")
        _expect(refused.status == packet.ERROR, "AUTH_SASL_STEP")


def _expect(fine: bool, name: str) -> None:
    if not fine:
        raise ConnectionError(f"{name} was answered otherwise than it should be")


@asynccontextmanager
async def visiting(opening: Awaitable[Any]) -> AsyncIterator[Visitor]:
    """Hold a connection for a block."""
    reader, writer = await opening
    try:
        yield Visitor(reader, writer)
    finally:
        writer.transport.abort()


async def by_unix(daemon: Watched) -> None:
    """Come by the local socket."""
    async with visiting(asyncio.open_unix_connection(daemon.run_folder / "libvirt-sock")) as visitor:
        await visitor.open()


async def by_tls(daemon: Watched) -> None:
    """Come by TLS."""
    async with visiting(
        asyncio.open_connection("localhost", daemon.tls_port, ssl=daemon.context, server_hostname="localhost")
    ) as visitor:
        await visitor.welcome()
        await visitor.open()


async def by_tcp(daemon: Watched) -> None:
    """Come by TCP, and be refused."""
    async with visiting(asyncio.open_connection("127.0.0.1", daemon.tcp_port)) as visitor:
        await visitor.be_refused()


WAYS: dict[str, Callable[[Watched], Awaitable[None]]] = {"unix": by_unix, "tls": by_tls, "tcp": by_tcp}


async def come_and_go(daemon: Watched, way: str, count: int) -> None:
    """Have so many clients come one way, a few at a time, and go."""
    left = iter(range(count))

    async def one_after_another() -> None:
        for _ in left:
            async with asyncio.timeout(PATIENCE):
                await WAYS[way](daemon)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_another())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=100_000, help="connections of all ways together")
    parser.add_argument("-p", "--pieces", type=int, default=10, help="how often is counted")
    args = parser.parse_args()
    each = args.count // (args.pieces * len(WAYS))
    with tempfile.TemporaryDirectory(prefix="qbs") as folder:
        daemon = Watched(Path(folder))
        try:
            daemon.start()
            ways = "".join(f"{way:>6}/s" for way in WAYS)
            print(f"connections{ways}   descriptors     MiB objects tasks")
            counts: list[Held] = []
            for piece in range(1, args.pieces + 1):
                rates = []
                for way in WAYS:
                    begin = time.monotonic()
                    asyncio.run(come_and_go(daemon, way, each))
                    rates.append(each / (time.monotonic() - begin))
                held = daemon.held()
                counts.append(held)
                print(f"{piece * each * len(WAYS):11}{''.join(f'{rate:8.0f}' for rate in rates)}   ", end="")
                print(f"{held.descriptors:11} {held.memory:7.1f} {held.objects:7} {held.tasks:5}", flush=True)
        finally:
            daemon.close()
    first, last, more = counts[0], counts[-1], (args.pieces - 1) * each * len(WAYS)
    if more:
        memory, objects = (last.memory - first.memory) * 2**20 / more, (last.objects - first.objects) / more
        print(f"left of each of {more} behind the first piece: {memory:.1f} bytes, {objects:.4f} objects")
        descriptors, tasks = last.descriptors - first.descriptors, last.tasks - first.tasks
        print(f"left of all: {descriptors} descriptors, {tasks} tasks")


if __name__ == "__main__":
    main()
