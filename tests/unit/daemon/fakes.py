"""A hypervisor of memory alone, a server over it on real sockets, and a client that speaks raw packets."""

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from qvirt.api.events import EventHub
from qvirt.api.node import Node
from qvirt.api.session import Instance
from qvirt.daemon.config import Config, Limits
from qvirt.daemon.listen import listen
from qvirt.daemon.server import Server
from qvirt.errors import NoDomain
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Framer, Packet
from qvirt.runtime.events import DomainRef, EventBus
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths

PATIENCE = 10.0


@dataclass(eq=False)
class FakeDomain:
    """A domain that only answers."""

    name: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    id: int = -1
    persistent: bool = True
    autostart: bool = False
    state: int = 5
    reason: int = 0
    has_managed_save: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    consoles: "list[FakeConsole]" = field(default_factory=list)

    @property
    def active(self) -> bool:
        return self.id >= 0

    @property
    def ref(self) -> DomainRef:
        return DomainRef(self.name, self.uuid, self.id)

    async def xml_desc(self, flags: int = 0) -> str:
        """Take as long as the test wants."""
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return f"<domain><name>{self.name}</name></domain>"

    def os_type(self) -> str:
        """Fail as nothing should."""
        raise ZeroDivisionError("a mistake in the daemon")

    async def open_console(self, dev_name: str | None, flags: int) -> "FakeConsole":
        console = FakeConsole()
        self.consoles.append(console)
        return console


class FakeConsole:
    """A console whose guest is the other end of a socket pair."""

    def __init__(self) -> None:
        self.ours, self.guest = socket.socketpair()
        for sock in (self.ours, self.guest):
            sock.setblocking(False)
        self.fd = self.ours.fileno()
        self.closed = False
        self.on_closed: Any = None

    def close(self) -> None:
        self.closed = True
        self.ours.close()


class FakeRegistry:
    """Domains by name and uuid."""

    def __init__(self) -> None:
        self.domains: dict[str, FakeDomain] = {}

    def add(self, name: str) -> FakeDomain:
        domain = FakeDomain(name)
        self.domains[name] = domain
        return domain

    def by_name(self, name: str) -> FakeDomain:
        if name not in self.domains:
            raise NoDomain(f"no domain with matching name '{name}'")
        return self.domains[name]

    def find(self, uuid: str) -> FakeDomain | None:
        return next((domain for domain in self.domains.values() if domain.uuid == uuid), None)

    def __iter__(self) -> Iterator[FakeDomain]:
        return iter(list(self.domains.values()))

    def __len__(self) -> int:
        return len(self.domains)


class FakeHypervisor:
    """Domains and events, and who let go of what it owned."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths.root(folder)
        self.emulators = None
        self.user = None
        self.domains = FakeRegistry()
        self.events = EventBus()
        self.dropped: list[object] = []

    async def drop_owner(self, owner: object) -> None:
        self.dropped.append(owner)


@dataclass
class Running:
    """A server under test."""

    server: Server
    hypervisor: FakeHypervisor
    folder: Path

    @contextlib.asynccontextmanager
    async def connect(self, *, ready: bool = True, readonly: bool = False) -> "AsyncIterator[RawClient]":
        """Connect; ready: authenticated and open."""
        path = self.folder / ("libvirt-sock-ro" if readonly else "libvirt-sock")
        client = await RawClient.connect(path)
        try:
            if ready:
                await client.call("AUTH_LIST")
                await client.call("CONNECT_OPEN", "qemu:///system", 0)
            yield client
        finally:
            client.close()


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    config: Config | None = None,
    limits: Limits | None = None,
    kind: type[Server] = Server,
) -> AsyncIterator[Running]:
    """Run a server over fakes in this loop."""
    hypervisor = FakeHypervisor(folder)
    real = cast(Hypervisor, hypervisor)
    loop = asyncio.get_running_loop()
    hub = EventHub(hypervisor.events)
    instance = Instance(real, Node(real), hub, privileged=True)
    settings = config or Config()
    server = kind(loop, instance, settings, limits)
    server.serve(listen(folder, settings, privileged=True, private=True))
    try:
        yield Running(server, hypervisor, folder)
    finally:
        await server.close()
        hub.close()


class RawClient:
    """Sends packets as they are told to be, and gives back what comes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.serial = 0
        self._framer = Framer()
        self._packets: list[Packet] = []
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, path: Path) -> "RawClient":
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(path))
        return cls(sock)

    def close(self) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def receive(self) -> Packet | None:
        """Give the next packet, None when the server has closed."""
        async with asyncio.timeout(PATIENCE):
            while not self._packets:
                try:
                    data = await self._loop.sock_recv(self.sock, 1 << 16)
                except ConnectionResetError:
                    return None
                if not data:
                    return None
                self._packets += self._framer.feed(data)
        return self._packets.pop(0)

    async def get(self) -> Packet:
        """Give the next packet; it must come."""
        received = await self.receive()
        assert received is not None, "the server closed the connection"
        return received

    async def start(self, name: str, *arguments: Any, program: int = protocol.REMOTE) -> int:
        """Send a call; gives its serial."""
        procedure = protocol.program(program).by_name[name]
        self.serial += 1
        await self.send(packet.pack_call(procedure, self.serial, procedure.encode_args(arguments)))
        return self.serial

    async def call(self, name: str, *arguments: Any, program: int = protocol.REMOTE) -> tuple[Any, ...]:
        """Call and give the results; raises the error the server sent."""
        serial = await self.start(name, *arguments, program=program)
        reply = await self.get()
        assert reply.serial == serial
        return self.result(reply)

    def result(self, reply: Packet) -> tuple[Any, ...]:
        """Read a reply; raises the error in it."""
        if reply.status == packet.ERROR:
            raise packet.decode_error(reply.payload)
        return protocol.program(reply.program).by_number[reply.procedure].decode_ret(reply.payload)

    async def eof(self) -> bool:
        """Wait for the server to close; False when it sends something instead."""
        return await self.receive() is None
