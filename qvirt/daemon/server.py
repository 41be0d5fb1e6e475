"""All clients of the daemon: taking them in, how many there may be, when nobody needs us any more."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from qvirt.api.session import Instance
from qvirt.constants import ConnectCloseReason
from qvirt.daemon.auth import Authentication
from qvirt.daemon.busypoll import BusyPoll
from qvirt.daemon.client import Client
from qvirt.daemon.config import Config, Limits
from qvirt.daemon.dispatch import Dispatcher
from qvirt.daemon.guard import Guard
from qvirt.daemon.listen import Service, close_all
from qvirt.daemon.polkit import Polkit

log = logging.getLogger(__name__)

ACCEPT_BURST: Final = 32
"""Connections taken per turn of the loop, so that a flood does not starve those who are in."""

RETRY_ACCEPT: Final = 0.5


class Server:
    """The clients, and the sockets they come by."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        instance: Instance,
        config: Config,
        limits: Limits | None = None,
        guard: Guard | None = None,
        polkit: Polkit | None = None,
    ) -> None:
        """guard: who is asked what clients may do, None where nobody is. polkit: who is asked who may come
        in.
        """
        self.loop = loop
        self.instance = instance
        self.config = config
        self.limits = limits or Limits()
        self.guard = guard
        self.polkit = polkit or Polkit()
        self.dispatcher = Dispatcher(guard)
        self.busy_poll = BusyPoll(loop)
        self.clients: set[Client] = set()
        self.calls: set[asyncio.Task[None]] = set()
        self.idle_changed: Callable[[], None] = lambda: None
        self._anonymous: dict[Client, None] = {}
        self._strangers: set[Client] = set()
        """Of the anonymous those who must prove who they are; others are here by the socket's permissions."""
        self._services: list[Service] = []
        self._accepting = False
        self._held = False
        self._closing = False
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._orphans: set[asyncio.Task[None]] = set()

    def serve(self, services: list[Service]) -> None:
        """Take clients from these sockets, which are ours to close."""
        self._services += services
        self._accept_or_not()

    @property
    def idle(self) -> bool:
        """Tell whether no client is connected and nothing runs for one that was."""
        return not self.clients and not self.calls and not self._orphans

    async def close(self) -> None:
        """Say goodbye to all clients, give running calls a moment, then cut what is left."""
        self._closing = True
        self._accept_or_not()
        close_all(self._services)
        if self._sweep_timer:
            self._sweep_timer.cancel()
        for client in list(self.clients):
            client.say_goodbye(ConnectCloseReason.EOF)
        waiting = self.calls | self._orphans
        if waiting:
            await asyncio.wait(waiting, timeout=self.limits.calls)
        for task in self.calls:
            task.cancel()
        if self.calls:
            await asyncio.wait(self.calls, timeout=self.limits.calls)
        for client in list(self.clients):
            client.close("the daemon ends")
        if self._orphans:
            await asyncio.wait(self._orphans, timeout=self.limits.calls)

    # --------------------------------------------------------------------------------- what clients tell

    def authentication_for(self, client: Client) -> Authentication:
        """Give how a client must authenticate."""
        return Authentication(client, client.service.auth)

    def authenticated(self, client: Client) -> None:
        """A client has proved who it is."""
        self._anonymous.pop(client, None)
        self._strangers.discard(client)
        self._accept_or_not()

    def client_gone(self, client: Client) -> None:
        """A connection has ended."""
        self.clients.discard(client)
        self._anonymous.pop(client, None)
        self._strangers.discard(client)
        self._accept_or_not()
        self.drop_owned(client)
        self.idle_changed()

    def drop_owned(self, client: Client) -> None:
        """Destroy the domains that a client that is gone has started to end with it."""
        if client.session.owns_domains:
            task = self.loop.create_task(self.instance.hypervisor.drop_owner(client.session))
            self._orphans.add(task)
            task.add_done_callback(self._owner_dropped)

    def call_done(self, task: asyncio.Task[None]) -> None:
        """A call that waited is over."""
        self.calls.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a call ended in an unexpected way", exc_info=error)
        if not self.clients:
            self.idle_changed()

    def _owner_dropped(self, task: asyncio.Task[None]) -> None:
        self._orphans.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("cannot destroy the domains of a client that is gone", exc_info=error)
        self.idle_changed()

    # ------------------------------------------------------------------------------------------ accepting

    def _accept_or_not(self) -> None:
        wanted = (
            not self._held
            and not self._closing
            and len(self.clients) < self.config.max_clients
            and len(self._strangers) < self.config.max_anonymous_clients
        )
        if wanted == self._accepting:
            return
        self._accepting = wanted
        for service in self._services:
            if wanted:
                self.loop.add_reader(service.sock.fileno(), self._accept, service)
            else:
                self.loop.remove_reader(service.sock.fileno())
        if not wanted and not self._held and not self._closing:
            self._sweep()

    def _accept(self, service: Service) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                sock, _ = service.sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory: the kernel would wake us for ever.
                log.error("cannot take a client: %s", error.strerror)
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._hold()
                return
            self._take(service, sock)
            if not self._accepting:
                return

    def _take(self, service: Service, sock: socket.socket) -> None:
        client = Client(self, service, sock)
        self.clients.add(client)
        self._anonymous[client] = None
        if client.authentication.mode != "none":
            self._strangers.add(client)
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(self.limits.auth_crowded, self._sweep)
        self._accept_or_not()
        self.idle_changed()

    def _hold(self) -> None:
        self._held = True
        self._accept_or_not()
        self.loop.call_later(RETRY_ACCEPT, self._release)

    def _release(self) -> None:
        self._held = False
        self._accept_or_not()

    def _sweep(self) -> None:
        """Drop clients that have not authenticated for too long."""
        crowded = len(self._strangers) >= self.config.max_anonymous_clients
        oldest = self.loop.time() - (self.limits.auth_crowded if crowded else self.limits.auth)
        for client in list(self._anonymous):
            if client.connected_at > oldest:
                break
            if not client.authenticating:
                client.close("it did not authenticate in time")
        if self._sweep_timer:
            self._sweep_timer.cancel()
        self._sweep_timer = (
            self.loop.call_later(self.limits.auth_crowded, self._sweep) if self._anonymous else None
        )
