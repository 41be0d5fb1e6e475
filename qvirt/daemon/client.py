"""One client: its packets, how many calls it may have running, its streams, its keepalive, its end."""

import asyncio
import logging
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from qvirt.api.events import Message, Subscriptions
from qvirt.api.session import Identity, Session
from qvirt.constants.common import ConnectCloseReason
from qvirt.daemon.channel import Channel
from qvirt.daemon.dispatch import Entry
from qvirt.daemon.encode_events import connection_closed, encode
from qvirt.daemon.network import own_address, peer_address
from qvirt.errors import RpcError
from qvirt.net.layer import Layer
from qvirt.rpc import protocol
from qvirt.rpc.keepalive import Keepalive
from qvirt.rpc.packet import (
    CALL,
    CALL_WITH_FDS,
    PACKET_MAX,
    PING,
    PING_PROCEDURE,
    PONG,
    STREAM,
    STREAM_HOLE,
    Framer,
    Packet,
    pack_error_reply,
)

if TYPE_CHECKING:
    from qvirt.daemon.listen import Service
    from qvirt.daemon.server import Server
    from qvirt.daemon.stream import ServerStream

log = logging.getLogger(__name__)

_SO_PEERGROUPS = 59
_GROUPS_MAX = 256


class Client:
    """A connection: what it sent, what runs for it, what it is owed."""

    def __init__(self, server: "Server", service: "Service", sock: socket.socket) -> None:
        self.server = server
        self.service = service
        self.number = server.next_number()
        """Which of the server's clients it is, from 1."""
        self.since = time.time()
        """When it came, in seconds since 1970."""
        self.loop = server.loop
        identity = peer_identity(sock)
        guard = server.guard
        self.identity = identity if guard is None else guard.identify(identity)
        self.address = peer_address(sock)
        """Where it came from, "" for a local socket."""
        self.local_address = own_address(sock)
        self.cipher_bits = 0
        """The strength of its TLS session's cipher."""
        self.after_reply: Callable[[], None] | None = None
        """What to do when the reply to the running call is out, once."""
        self.session = Session(
            server.instance,
            Subscriptions(server.instance.hub, self.send_event if guard is None else guard.sink(self)),
            self.identity,
            readonly=service.readonly,
            number=self.number,
        )
        self.session.start_keepalive = self.start_keepalive
        self.session.end = self._end_after_reply
        self.authentication = self.session.authentication = server.authentication_for(self)
        self.authenticated = False
        self.closed = False
        self.connected_at = self.loop.time()
        self.streams: dict[int, ServerStream] = {}
        self.channel = Channel(self.loop, sock, self._received, self._gone, self._drained)
        self.write = self.channel.write
        self._dispatcher = server.dispatcher
        self._limits = server.limits
        self._touch = server.busy_poll.touch
        self._framer = Framer(server.limits.untrusted_packet)
        self._waiting: deque[tuple[Entry | None, Packet, list[int]]] = deque()
        self._waiting_bytes = 0
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._throttling: set[ServerStream] = set()
        self._keepalive: Keepalive | None = None
        self._keepalive_timer: asyncio.TimerHandle | None = None
        self._ending = False
        if service.transport == "tls":
            assert server.tls is not None  # noqa: S101 - there is no such service without
            self.channel.put_on(server.tls.layer(self))
        self.channel.resume_reading()

    def __repr__(self) -> str:
        if self.service.is_remote:
            return f"<Client {self.service.transport} {self.address}>"
        return f"<Client pid {self.identity.pid} uid {self.identity.uid}>"

    # ------------------------------------------------------------------ what the daemon's other parts use

    @property
    def host(self) -> str:
        """The address it came from without the port, "" for a local socket."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def unsent(self) -> int:
        """Bytes of output the client has not taken yet."""
        return self.channel.unsent

    @property
    def calls_waiting(self) -> int:
        """How many of its calls wait for their turn."""
        return len(self._waiting)

    @property
    def authenticating(self) -> bool:
        """Tell whether a call that may authenticate it is running."""
        return bool(self._tasks)

    def trust(self) -> None:
        """The client has authenticated."""
        if not self.authenticated:
            self.authenticated = True
            if self.service.readonly:
                self._framer.limit = self._limits.readonly_packet
            else:
                self._framer.limit = PACKET_MAX
                self.channel.takes_fds = True  # no call that only reads has any
            self.server.authenticated(self)

    def secured(self, cipher_bits: int) -> None:
        """The handshake of TLS is done."""
        self.cipher_bits = cipher_bits
        self.server.secured(self)

    def put_on(self, layer: Layer) -> None:
        """Wrap the connection; a client that has sent more in clear already is dropped.

        Whoever put bytes into the connection on their way must not have them taken for the client's.
        """
        if self._framer.pending or self._waiting:
            self.refuse("it sent data in clear behind the end of its authentication")
        else:
            self.channel.put_on(layer)

    def refuse(self, reason: str) -> None:
        """Drop a client that has not come in, and say so in the log."""
        log.warning("%s is refused: %s", self, reason)
        self.channel.close(reason)

    def send_event(self, message: Message, callback_id: int | None) -> None:
        """Send an event; a client that has stopped reading is dropped."""
        self.write(encode(message, callback_id))
        if self.channel.unsent > self._limits.output_max:
            self.close("it does not read its events")

    def throttle(self, stream: "ServerStream", on: bool) -> None:
        """Leave the socket unread while a stream's descriptor takes no more data."""
        if on:
            self._throttling.add(stream)
        else:
            self._throttling.discard(stream)
        self._regulate()

    def start_keepalive(self) -> None:
        """Ping the client when it is silent, and give it up when it does not answer."""
        interval = self.server.config.keepalive_interval
        if self._keepalive is None and interval > 0:
            self._keepalive = Keepalive(interval, self.server.config.keepalive_count, self.loop.time())
            self._keepalive_timer = self.loop.call_at(self._keepalive.due, self._tick)

    def close(self, reason: str) -> None:
        """Drop the connection."""
        self.channel.close(reason)

    def say_goodbye(self, reason: int = ConnectCloseReason.EOF) -> None:
        """Tell a client that asked for it that the daemon closes, then close."""
        if self.session.close_callback:
            self.write(connection_closed(reason))
        self.channel.end()

    # ----------------------------------------------------------------------------------- from the socket

    def _received(self, data: bytes) -> None:
        channel = self.channel
        try:
            packets = self._framer.feed(data)
        except RpcError as error:
            log.warning("%s broke the protocol: %s", self, error)
            channel.close(str(error))
            return
        keepalive = self._keepalive
        if keepalive is not None:
            keepalive.received(self.loop.time())
        if not packets:
            return
        self._touch()
        channel.cork()
        for packet in packets:
            type_ = packet.type
            if type_ == CALL and not self._waiting and channel.unsent < self._limits.output_high:
                self._start(packet)
            elif not self._route(packet):
                return
        channel.uncork()
        if channel.unsent > self._limits.output_high or self._waiting:
            self._regulate()

    def _start(self, packet: Packet) -> None:
        """Serve a call without descriptors when none waits before it."""
        if packet.program == protocol.KEEPALIVE:
            self._answer_keepalive(packet)
            return
        try:
            entry = self._dispatcher.entry(packet)
        except RpcError as error:
            self.write(pack_error_reply(packet, error))
            return
        if self._running >= self.server.config.max_client_requests and not entry.high:
            self._wait(entry, packet, [])
            return
        waiting = self._dispatcher.call(self, entry, packet, [])
        if waiting is not None:
            self._run(entry, waiting)

    def _route(self, packet: Packet) -> bool:
        """Bring any packet where it belongs; False when the connection was dropped for it."""
        fds = self.channel.take_fds(packet.fds) if packet.fds else []
        if len(fds) < packet.fds:
            _close_all(fds)
            self.close("a packet came without its descriptors")
            return False
        if packet.program == protocol.KEEPALIVE:
            _close_all(fds)
            self._answer_keepalive(packet)
        elif packet.type in (CALL, CALL_WITH_FDS):
            self._route_call(packet, fds)
        elif packet.type in (STREAM, STREAM_HOLE):
            stream = self.streams.get(packet.serial)
            # Data may still be under way when a stream has ended here: it goes nowhere.
            if stream is not None:
                try:
                    stream.received(packet)
                except RpcError as error:
                    self.close(str(error))
                    return False
        else:
            _close_all(fds)
            self.write(pack_error_reply(packet, RpcError(f"Unexpected message type {packet.type}")))
        return not self.closed

    def _route_call(self, packet: Packet, fds: list[int]) -> None:
        try:
            entry = self._dispatcher.entry(packet)
        except RpcError as error:
            _close_all(fds)
            self.write(pack_error_reply(packet, error))
            return
        congested = self.channel.unsent >= self._limits.output_high
        full = self._running >= self.server.config.max_client_requests or bool(self._waiting)
        if congested or (full and not entry.high):
            self._wait(entry, packet, fds)
            return
        waiting = self._dispatcher.call(self, entry, packet, fds)
        if waiting is not None:
            self._run(entry, waiting)

    def _answer_keepalive(self, packet: Packet) -> None:
        if packet.procedure == PING_PROCEDURE:
            self.write(PONG)

    # ---------------------------------------------------------------------------------- calls that wait

    def _wait(self, entry: Entry, packet: Packet, fds: list[int]) -> None:
        self._waiting.append((entry, packet, fds))
        self._waiting_bytes += len(packet.payload)

    def _run(self, entry: Entry, waiting: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(waiting)
        self._tasks.add(task)
        self.server.calls.add(task)
        if entry.high:
            task.add_done_callback(self._high_done)
        else:
            self._running += 1
            task.add_done_callback(self._ordinary_done)

    def _high_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.server.call_done(task)
        if self.closed and not self._tasks:
            # What it has started in the meantime was to end with it, too.
            self.server.drop_owned(self)

    def _ordinary_done(self, task: asyncio.Task[None]) -> None:
        self._high_done(task)
        self._running -= 1
        self._next()

    def _next(self) -> None:
        """Serve what waits, as far as the limits allow."""
        waiting = self._waiting
        limit = self.server.config.max_client_requests
        while (
            waiting
            and self._running < limit
            and self.channel.unsent < self._limits.output_high
            and not self.closed
        ):
            entry, packet, fds = waiting.popleft()
            self._waiting_bytes -= len(packet.payload)
            assert entry is not None  # noqa: S101
            coroutine = self._dispatcher.call(self, entry, packet, fds)
            if coroutine is not None:
                self._run(entry, coroutine)
        self._regulate()

    def _regulate(self) -> None:
        """Read the socket, or leave it unread while too much is owed on either side."""
        if self.closed:
            return
        if (
            self._throttling
            or len(self._waiting) >= self._limits.waiting_calls
            or self._waiting_bytes >= self._limits.waiting_bytes
            or self.channel.unsent >= self._limits.output_high
        ):
            self.channel.pause_reading()
        else:
            self.channel.resume_reading()

    def _drained(self) -> None:
        for stream in list(self.streams.values()):
            stream.drained()
        self._next()

    # ----------------------------------------------------------------------------------- time and the end

    def _tick(self) -> None:
        keepalive = self._keepalive
        if keepalive is None or self.closed:
            return
        action = keepalive.tick(self.loop.time())
        if action == "dead":
            log.info("%s does not answer keepalive, dropped", self)
            self.close("keepalive timeout")
            return
        if action == "ping":
            self.write(PING)
        self._keepalive_timer = self.loop.call_at(keepalive.due, self._tick)

    def _end_after_reply(self) -> None:
        if not self._ending:
            self._ending = True
            # The reply to this very call is written after the call returns.
            self.loop.call_soon(self.channel.end)

    def _gone(self, reason: str) -> None:
        self.closed = True
        if self.channel.fault:
            log.warning("%s is refused: %s", self, reason)
        else:
            log.debug("%s is gone: %s", self, reason)
        if self._keepalive_timer:
            self._keepalive_timer.cancel()
        self.session.subscriptions.close()
        for stream in list(self.streams.values()):
            stream.end()
        for _, _, fds in self._waiting:
            _close_all(fds)
        self._waiting.clear()
        self.server.client_gone(self)


def peer_identity(sock: socket.socket) -> Identity:
    """Ask the kernel who is at the other end."""
    if sock.family != socket.AF_UNIX:
        return Identity()
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", credentials)
    return Identity(pid, uid, gid, _peer_groups(sock))


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
    except OSError:
        # more than a policy would want to read, or a kernel before 4.13
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
