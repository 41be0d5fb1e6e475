"""A daemon of a few lines on a unix socket, which answers as a test tells it to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qvirt.errors import QvirtError, RpcError
from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Framer, Packet

Handler = Callable[..., Any]


class Peer:
    """One connection as the daemon sees it."""

    def __init__(
        self, daemon: "FakeDaemon", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.daemon = daemon
        self.received: list[Packet] = []
        self.arrived = asyncio.Condition()
        self._reader = reader
        self._writer = writer

    async def serve(self) -> None:
        """Answer calls until the client leaves."""
        framer = Framer()
        while data := await self._reader.read(65536):
            for item in framer.feed(data):
                async with self.arrived:
                    self.received.append(item)
                    self.arrived.notify_all()
                if item.type == packet.CALL:
                    await self._answer(item)

    async def _answer(self, call: Packet) -> None:
        procedure = protocol.program(call.program).by_number[call.procedure]
        self.daemon.calls.append((procedure.name, procedure.decode_args(call.payload)))
        handler = self.daemon.handlers.get(procedure.name)
        try:
            if handler is None:
                raise RpcError(f"unknown procedure: {call.procedure}")
            result = handler(self, call, *procedure.decode_args(call.payload))
            if isinstance(result, Awaitable):
                result = await result
        except QvirtError as error:
            self.send(packet.pack_error_reply(call, error))
            return
        if result is not None:
            self.send(packet.pack_reply(call, procedure.encode_ret(result)))

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    def hang_up(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def until(self, wanted: Callable[[Packet], bool]) -> Packet:
        """Wait for a packet of the client."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: any(map(wanted, self.received)))
        return next(filter(wanted, self.received))


class FakeDaemon:
    """Handlers by procedure name: (peer, call, *args) -> reply values, or None to send nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.peers: list[Peer] = []
        self.features = {8: 1, 10: 1, 14: 1, 15: 1}
        self.handlers: dict[str, Handler] = {
            "AUTH_LIST": lambda peer, call: ([0],),
            "CONNECT_SUPPORTS_FEATURE": lambda peer, call, feature: (self.features.get(feature, 0),),
            "CONNECT_OPEN": lambda peer, call, name, flags: (),
            "CONNECT_GET_URI": lambda peer, call: ("qemu:///system",),
            "CONNECT_CLOSE": lambda peer, call: (),
        }

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection."""
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        try:
            await peer.serve()
        except ConnectionError:
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self, directory: Path) -> AsyncIterator[str]:
        """Listen below a directory; gives the URI."""
        path = directory / "sock"
        server = await asyncio.start_unix_server(self.accept, path)
        async with server:
            yield f"qemu:///system?socket={path}"
            for peer in self.peers:
                peer.hang_up()


def pair() -> tuple[socket.socket, socket.socket]:
    """Make two connected unix sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
