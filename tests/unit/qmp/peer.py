"""A scripted peer for monitor and agent tests: one end of a socketpair in the hands of the test."""

import array
import asyncio
import json
import socket
from typing import Any

GREETING = {
    "QMP": {
        "version": {"qemu": {"major": 7, "minor": 2, "micro": 9}, "package": "(Debian 7.2)"},
        "capabilities": ["oob"],
    }
}
PATIENCE = 10.0


class Peer:
    """The far end: reads commands, writes what the test says."""

    def __init__(self) -> None:
        self.near, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.buffer = b""
        self.fds: list[int] = []

    async def greet(self) -> None:
        """Greet and accept the negotiation."""
        self.say(GREETING)
        command = await self.hear()
        assert command["execute"] == "qmp_capabilities"
        self.answer(command)

    def say(self, message: Any) -> None:
        """Write one message as QEMU does."""
        self.say_bytes(json.dumps(message).encode() + b"\r\n")

    def say_bytes(self, data: bytes) -> None:
        """Write bytes; small ones, which the socket takes at once."""
        assert self.sock.send(data) == len(data)

    def answer(self, command: dict[str, Any], value: Any = None) -> None:
        """Answer a command with success."""
        self.say({"return": {} if value is None else value, "id": command["id"]})

    async def hear(self) -> dict[str, Any]:
        """Read one command, whatever stands before its brace."""
        return json.loads((await self.hear_line()).lstrip(b"\xff"))  # type: ignore[no-any-return]

    async def hear_line(self) -> bytes:
        """Read one line, and the descriptors that came with it."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while b"\n" not in self.buffer:
                readable = loop.create_future()
                loop.add_reader(self.sock, readable.set_result, None)
                try:
                    await readable
                finally:
                    loop.remove_reader(self.sock)
                data, ancillary, _, _ = self.sock.recvmsg(65536, 1024)
                assert data, "the client closed the connection"
                for _, _, part in ancillary:
                    fds = array.array("i")
                    fds.frombytes(part)
                    self.fds.extend(fds)
                self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def close(self) -> None:
        """End the connection."""
        self.sock.close()
