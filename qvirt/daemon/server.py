"""All clients of the daemon: taking them in, how many there may be, when nobody needs us any more."""

import asyncio
import errno
import itertools
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from qvirt.api.registry import ProgramName
from qvirt.api.session import Instance
from qvirt.constants.common import ConnectCloseReason
from qvirt.daemon.auth import Authentication
from qvirt.daemon.busypoll import BusyPoll
from qvirt.daemon.client import Client, peer_identity
from qvirt.daemon.config import Config, Limits
from qvirt.daemon.dispatch import MAIN, Dispatcher
from qvirt.daemon.guard import Guard
from qvirt.daemon.listen import Service, close_all
from qvirt.daemon.lobby import STALE, Lobby
from qvirt.daemon.network import set_up
from qvirt.daemon.polkit import Polkit
from qvirt.daemon.tls import TlsServer
from qvirt.errors import OperationInvalid

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
        programs: Mapping[int, ProgramName] = MAIN,
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
        self.dispatcher = Dispatcher(guard, programs)
        self._numbers = itertools.count(1)
        self.busy_poll = BusyPoll(loop)
        self.clients: set[Client] = set()
        self.calls: set[asyncio.Task[None]] = set()
        self.idle_changed: Callable[[], None] = lambda: None
        self._anonymous: dict[Client, None] = {}
        self._lobby = Lobby()
        """Of the anonymous those who must prove who they are; others are here by the socket's permissions."""
        self.tls: TlsServer | None = None
        """Certificates for the clients of TLS, where there are any."""
        self.sasl_folder: Path | None = None
        """Where SASL's libvirt.conf is, None for the system's folder."""
        self._services: list[Service] = []
        self._accepting: set[Service] = set()
        self._held = False
        self._closing = False
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._orphans: set[asyncio.Task[None]] = set()

    def serve(self, services: list[Service]) -> None:
        """Take clients from these sockets, which are ours to close."""
        self._services += services
        self._accept_or_not()

    async def reload_tls(self) -> None:
        """Read certificates and revocation lists again, for clients that come from now on.

        Raises QvirtError when they are not fit for use; those in use stay then.
        """
        if self.tls is None:
            raise OperationInvalid("this daemon does not listen for TLS: there is nothing to reload")
        config, pki = self.config.remote, self.tls.pki
        self.tls = await asyncio.to_thread(TlsServer, config, pki)

    def next_number(self) -> int:
        """Give the number of the next client."""
        return next(self._numbers)

    def set_config(self, config: Config) -> None:
        """Go by other settings from now on; clients who are in stay."""
        self.config = config
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
        authentication = Authentication(client, client.service.auth)
        if authentication.mode == "sasl":
            # Few need it, and it brings the means to call a C library.
            from qvirt.daemon.sasl import SaslServer

            authentication.sasl = SaslServer(client, self.sasl_folder)
        return authentication

    def authenticated(self, client: Client) -> None:
        """A client has proved who it is."""
        self._anonymous.pop(client, None)
        self._known(client)

    def secured(self, client: Client) -> None:
        """A client's handshake is done; where nothing more is asked for, it is no stranger any more."""
        if client.authentication.mode == "none":
            self._known(client)

    def _known(self, client: Client) -> None:
        self._lobby.leave(client)
        self._accept_or_not()

    def client_gone(self, client: Client) -> None:
        """A connection has ended."""
        self.clients.discard(client)
        self._anonymous.pop(client, None)
        self._known(client)
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
        open_ = not self._held and not self._closing and len(self.clients) < self.config.max_clients
        for service in self._services:
            wanted = open_ and not self._lobby.is_full(service.is_remote, self.config.max_anonymous_clients)
            if wanted == (service in self._accepting):
                continue
            if wanted:
                self._accepting.add(service)
                self.loop.add_reader(service.sock.fileno(), self._accept, service)
                continue
            self._accepting.discard(service)
            self.loop.remove_reader(service.sock.fileno())
            if open_:
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
            if service not in self._accepting:
                return

    def _take(self, service: Service, sock: socket.socket) -> None:
        if not service.is_remote and os.geteuid() != 0:
            uid = peer_identity(sock).uid
            if uid not in (0, os.geteuid()):
                log.warning("user %s may not use this daemon: only root and its own user may", uid)
                sock.close()
                return
        if service.is_remote:
            try:
                set_up(sock)
            except OSError as error:
                log.info("a client was gone before it was let in: %s", error.strerror)
                sock.close()
                return
        client = Client(self, service, sock)
        self.clients.add(client)
        self._anonymous[client] = None
        if client.authentication.mode != "none" or service.transport == "tls":
            self._lobby.enter(client)
            self._drop(self._lobby.displaced_by(client, self.config.max_anonymous_clients))
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(STALE, self._sweep)
        self._accept_or_not()
        self.idle_changed()

    def _drop(self, clients: list[Client]) -> None:
        for client in clients:
            self._lobby.note_dropped(client.host)
            client.close("others of its host did not authenticate in time either")

    def _hold(self) -> None:
        self._held = True
        self._accept_or_not()
        self.loop.call_later(RETRY_ACCEPT, self._release)

    def _release(self) -> None:
        self._held = False
        self._accept_or_not()

    def _sweep(self) -> None:
        """Drop clients that have not authenticated for too long."""
        now, limit = self.loop.time(), self.config.max_anonymous_clients
        self._drop(self._lobby.excess(limit, now))
        self._lobby.report()
        for client in list(self._anonymous):
            age = now - client.connected_at
            if age < self.limits.auth_crowded:
                break
            crowded = client in self._lobby and self._lobby.is_full(client.service.is_remote, limit)
            allowed = self.limits.auth_crowded if crowded else self.limits.auth
            if age >= allowed and not client.authenticating:
                client.refuse("it did not authenticate in time")
        if self._sweep_timer:
            self._sweep_timer.cancel()
        self._sweep_timer = self.loop.call_later(STALE, self._sweep) if self._anonymous else None
