"""The life of the daemon, from the sockets' making to SIGTERM."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import uvloop

from qvirt.api.events import EventHub
from qvirt.api.node import Node
from qvirt.api.session import Instance
from qvirt.daemon.auth import process_start_time
from qvirt.daemon.config import Config, read_config
from qvirt.daemon.guard import Guard
from qvirt.daemon.listen import Service, activated, close_all, listen
from qvirt.daemon.network import listen_network
from qvirt.daemon.policy import Policy
from qvirt.daemon.polkit import Polkit
from qvirt.daemon.rules import FILE as RULES_FILE
from qvirt.daemon.rules import Rules
from qvirt.daemon.server import Server
from qvirt.daemon.tls import TlsServer
from qvirt.errors import QvirtError
from qvirt.runtime.events import DomainEvent
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths

log = logging.getLogger(__name__)

_LOG_LEVELS: Final = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}

_DESCRIPTORS: Final = 8192
"""Open files the daemon wants to be allowed: clients, monitors, consoles."""


def instance_paths(root: Path | None) -> Paths:
    """Give where this daemon keeps its files."""
    if root is not None:
        return Paths.root(root)
    return Paths.system() if os.geteuid() == 0 else Paths.session(os.environ, os.geteuid())


def _raise_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_guard(config: Config, etc: Path, polkit: Polkit) -> Guard | None:
    """Make who is asked what clients may do, as `access_drivers` says; raises ConfigSyntax."""
    policies: list[Policy] = []
    for name in config.access_drivers:
        policies.append(polkit if name == "polkit" else Rules(etc / RULES_FILE))
    return Guard(policies, process_start_time) if policies else None


class Daemon:
    """One run of qvirtd."""

    def __init__(self, options: argparse.Namespace, ready: int | None) -> None:
        """ready: where to say that clients may come, when somebody waits for it."""
        self.options = options
        self.paths = instance_paths(options.root)
        self.privileged = os.geteuid() == 0
        self.config = self._read_config()
        self._ready = ready
        self._server: Server | None = None
        self._guard: Guard | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reloading: asyncio.Task[None] | None = None

    def serve(self) -> None:
        """Run until the end; raises QvirtError when it cannot start."""
        os.umask(0o022)
        _raise_limits()
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self.run(loop))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve until a signal, or until nobody needs us; raises QvirtError when it cannot start."""
        self._loop = loop
        self._stop = asyncio.Event()
        # Before there are sockets to find us by: an unhandled SIGHUP would be our end.
        for number, action in (
            (signal.SIGTERM, self._stop.set),
            (signal.SIGINT, self._stop.set),
            (signal.SIGHUP, self._reload),
        ):
            loop.add_signal_handler(number, action)
        async with contextlib.AsyncExitStack() as stack:
            # Clients that come while the domains are read wait in the queue instead of failing.
            services = self._listen()
            stack.callback(close_all, services)
            tls = self._tls_for(services)
            hypervisor = await Hypervisor.open(self.paths, default_network=self.options.default_network)
            stack.push_async_callback(hypervisor.close)
            networks = hypervisor.networks
            hub = EventHub(hypervisor.events, networks.events if networks is not None else None)
            stack.callback(hub.close)
            instance = Instance(hypervisor, Node(hypervisor, **self._host_uuid()), hub, self.privileged)
            polkit = Polkit()
            stack.push_async_callback(polkit.close)
            self._guard = guard = make_guard(self.config, self.paths.etc, polkit)
            self._server = server = Server(loop, instance, self.config, guard=guard, polkit=polkit)
            server.tls = tls
            if self.paths.kind == "root":
                server.sasl_folder = self.paths.etc.parent / "sasl2"
            stack.push_async_callback(server.close)
            self._watch_idle(server, stack)
            self._write_pid_file(stack)
            gc.freeze()
            gc.enable()
            server.serve(services)
            self._tell_ready()
            await self._stop.wait()
            _notify("STOPPING=1")

    def _read_config(self) -> Config:
        config = read_config(self.options.config, self.paths.etc)
        level = logging.INFO if self.options.verbose else _LOG_LEVELS.get(config.log_level, logging.WARNING)
        logging.getLogger().setLevel(level)
        return config

    def _listen(self) -> list[Service]:
        private = self.paths.kind != "system"
        passed = activated(self.config, privileged=self.privileged, private=private)
        if passed:
            return passed
        folder = Path(self.config.unix_sock_dir) if self.config.unix_sock_dir else self.paths.sockets
        program = os.path.basename(sys.argv[0])
        # The local sockets come last: whoever can connect there finds the others, too.
        services = listen_network(self.config.remote) if self.options.listen else []
        try:
            services += listen(
                folder, self.config, privileged=self.privileged, private=private, program=program
            )
        except BaseException:
            close_all(services)
            raise
        return services

    def _tls_for(self, services: list[Service]) -> TlsServer | None:
        if not any(service.transport == "tls" for service in services):
            return None
        own = Path.home() / ".pki"
        pki = own if self.paths.kind == "session" and own.exists() else self.paths.etc.parent / "pki"
        return TlsServer(self.config.remote, pki)

    def _host_uuid(self) -> dict[str, str]:
        unused = self.config.unused
        names = {"host_uuid_source": "uuid_source", "host_uuid": "uuid"}
        return {names[key]: str(value) for key, value in unused.items() if key in names}

    def _reload(self) -> None:
        try:
            self.config = self._read_config()
            if self._guard is not None:
                self._guard.reload()
        except QvirtError as error:
            log.error("the settings stay as they were: %s", error)
            return
        server = self._server
        if server is not None:
            server.config = self.config
            if server.tls is not None:
                self._reloading = self._loop.create_task(self._reload_tls(server, self._reloading))

    async def _reload_tls(self, server: Server, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            # Never two at once: the older one's certificates must not win.
            await before
        try:
            await server.reload_tls()
            log.info("certificates were read again")
        except QvirtError as error:
            log.error("the certificates stay as they were: %s", error)

    def _write_pid_file(self, stack: contextlib.AsyncExitStack) -> None:
        path: Path | None = self.options.pid_file
        if path is None:
            return
        try:
            path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise QvirtError(f"cannot write pid file '{path}': {error.strerror}") from error
        stack.callback(path.unlink, missing_ok=True)

    def _tell_ready(self) -> None:
        _notify("READY=1")
        if self._ready is not None:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.close(null)
            os.write(self._ready, b"r")
            os.close(self._ready)

    # ---------------------------------------------------------------------------------------- nobody there

    def _watch_idle(self, server: Server, stack: contextlib.AsyncExitStack) -> None:
        if self.options.timeout is None:
            return
        server.idle_changed = self._idle_changed
        stack.callback(server.instance.hypervisor.events.subscribe(self._domain_event))
        self._idle_changed()

    def _domain_event(self, _: DomainEvent) -> None:
        self._idle_changed()

    def _idle_changed(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._needless():
            self._timer = self._loop.call_later(self.options.timeout, self._end_if_needless)

    def _needless(self) -> bool:
        server = self._server
        if server is None:
            return False
        domains = server.instance.hypervisor.domains
        return server.idle and not any(domain.active for domain in domains)

    def _end_if_needless(self) -> None:
        if self._needless():
            log.info("no client and no guest for %d s, ending", self.options.timeout)
            self._stop.set()
        else:
            self._idle_changed()


def _notify(state: str) -> None:
    """Tell systemd, when it listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.send(state.encode())
        except OSError as error:
            log.warning("cannot tell systemd '%s': %s", state, error.strerror)
