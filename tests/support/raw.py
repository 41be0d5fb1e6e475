"""A client that sends what it likes."""

import socket

from qvirt.rpc import packet, protocol
from qvirt.rpc.packet import Framer, Packet


class Raw:
    """A connection by TCP; source: the address of the loopback it comes from."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))
        self._framer = Framer()
        self._packets: list[Packet] = []
        self._serial = 0

    def pack(self, name: str, *values: object) -> bytes:
        """Give the bytes of a call."""
        procedure = protocol.program(protocol.REMOTE).by_name[name]
        self._serial += 1
        return packet.pack_call(procedure, self._serial - 1, procedure.encode_args(values))

    def send(self, name: str, *values: object) -> None:
        """Send a call."""
        self.sock.sendall(self.pack(name, *values))

    def receive(self) -> Packet:
        """Wait for the next packet."""
        while not self._packets:
            data = self.sock.recv(65536)
            assert data, "the daemon has closed"
            self._packets += self._framer.feed(data)
        return self._packets.pop(0)

    def call(self, name: str, *values: object) -> Packet:
        """Call, and wait for the reply."""
        self.send(name, *values)
        return self.receive()

    def error(self, name: str, *values: object) -> str:
        """Call, and give the error's words."""
        answer = self.call(name, *values)
        assert answer.status == packet.ERROR
        return str(packet.decode_error(answer.payload))

    def is_closed(self) -> bool:
        """Read, and tell whether the daemon has closed."""
        try:
            return self.sock.recv(65536) == b""
        except ConnectionResetError:
            return True

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
