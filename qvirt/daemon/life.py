"""The life of the daemon, from the sockets' making to SIGTERM."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import uvloop

from qvirt.api.events import EventHub
from qvirt.api.node import Node
from qvirt.api.session import Instance
from qvirt.daemon import call_log
from qvirt.daemon.admin import ADMIN as ADMIN_SERVER
from qvirt.daemon.admin import MAIN_NAMES, AdminServer, admin_config, listen_admin, take_admin_services
from qvirt.daemon.audit import open_audit
from qvirt.daemon.config import Config, read_config
from qvirt.daemon.dispatch import ADMIN
from qvirt.daemon.guard import Guard
from qvirt.daemon.listen import Service, activated, close_all, listen
from qvirt.daemon.logs import Logging, default_outputs, from_environment
from qvirt.daemon.network import listen_network
from qvirt.daemon.policy import Policy
from qvirt.daemon.polkit import Polkit
from qvirt.daemon.server import Server
from qvirt.daemon.service import Notifier, PidFile
from qvirt.daemon.tls import TlsServer
from qvirt.errors import QvirtError
from qvirt.host.proc import start_time
from qvirt.runtime.events import DomainEvent
from qvirt.runtime.hypervisor import Hypervisor
from qvirt.runtime.paths import Paths, check_whose

log = logging.getLogger(__name__)

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
        if name == "polkit":
            policies.append(polkit)
        else:
            # few have a file of rules, and reading one takes more than a start should
            from qvirt.daemon import rules

            policies.append(rules.Rules(etc / rules.FILE))
    return Guard(policies, start_time) if policies else None


class Daemon:
    """One run of qvirtd."""

    def __init__(self, options: argparse.Namespace, ready: int | None) -> None:
        """ready: where to say that clients may come, when somebody waits for it."""
        self.options = options
        self.paths = instance_paths(options.root)
        check_whose(self.paths)
        self.privileged = os.geteuid() == 0
        self._ready = ready
        self.logging = Logging()
        self.servers: dict[str, Server] = {}
        self.config = self._read_config()
        self._set_up_logging(self.config)
        self._server: Server | None = None
        self._timeout: float = options.timeout or 0
        self._guard: Guard | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reloading: asyncio.Task[None] | None = None

    def serve(self) -> None:
        """Run until the end; raises QvirtError when it cannot start."""
        os.umask(0o022)
        _raise_limits()
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        self.logging.start()
        try:
            loop.run_until_complete(self.run(loop))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            self.logging.stop()

    async def run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve until a signal, or until nobody needs us; raises QvirtError when it cannot start."""
        self._loop = loop
        self._stop = asyncio.Event()
        self._notifier = Notifier(loop)
        self._serving = asyncio.Event()
        # Before there are sockets to find us by: an unhandled SIGHUP would be our end.
        for number, action in (
            (signal.SIGTERM, self._stop.set),
            (signal.SIGINT, self._stop.set),
            (signal.SIGHUP, self._reload),
        ):
            loop.add_signal_handler(number, action)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._end_reload)
            self._write_pid_file(stack)
            # Clients that come while the domains are read wait in the queue instead of failing.
            services = self._listen()
            stack.callback(close_all, services)
            tls = self._tls_for(services)
            admin_services = take_admin_services(services)
            stack.callback(close_all, admin_services)
            hypervisor = await Hypervisor.open(self.paths, default_network=self.options.default_network)
            stack.push_async_callback(hypervisor.close)
            audit = open_audit(self.config, hypervisor)
            if audit is not None:
                stack.push_async_callback(audit.close)
            networks = hypervisor.networks
            secrets = hypervisor.secrets
            hub = EventHub(
                hypervisor.events,
                networks.events if networks is not None else None,
                secrets.events if secrets is not None else None,
            )
            stack.callback(hub.close)
            instance = Instance(hypervisor, Node(hypervisor, **self._host_uuid()), hub, self.privileged)
            polkit = Polkit()
            stack.push_async_callback(polkit.close)
            self._guard = guard = make_guard(self.config, self.paths.etc, polkit)
            if guard is not None:
                stack.callback(guard.close)
            self._server = server = Server(loop, instance, self.config, guard=guard, polkit=polkit)
            server.tls = tls
            if self.paths.kind == "root":
                server.sasl_folder = self.paths.etc.parent / "sasl2"
            stack.push_async_callback(server.close)
            admin = AdminServer(loop, instance, admin_config(self.config), programs=ADMIN)
            admin.administered = self
            stack.push_async_callback(admin.close)
            self.servers = {MAIN_NAMES[0]: server, ADMIN_SERVER: admin}
            self.logging_changed()
            self._watch_idle(stack)
            gc.freeze()
            gc.enable()
            server.serve(services)
            admin.serve(admin_services)
            self._serving.set()
            self._tell_ready()
            await self._stop.wait()
            await self._end_reload()
            self._notifier.stopping()

    def _read_config(self) -> Config:
        return read_config(self.options.config, self.paths.etc)

    def _set_up_logging(self, config: Config) -> None:
        """Log as the command line says, or else the environment, or else the settings. Raises QvirtError."""
        level, filters, outputs = from_environment(os.environ)
        level = config.log_level if level is None else level
        if self.options.verbose:
            level = min(level, 2)
        folder = self.paths.log.parent if self.paths.kind != "session" else self.paths.cache.parent
        background = self._ready is not None
        self.logging.configure(
            level,
            config.log_filters if filters is None else filters,
            config.log_outputs if outputs is None else outputs,
            defaults=default_outputs(level, background=background, privileged=self.privileged, folder=folder),
        )
        for report in config.reports:
            log.warning("%s", report)

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
            services += listen_admin(folder, self.config, privileged=self.privileged, program=program)
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
        self._reloading = self._loop.create_task(self._reload_all(self._reloading))

    async def _reload_all(self, before: asyncio.Task[None] | None) -> None:
        """Read settings, rules and certificates again; those that are wrong stay as they were."""
        # A start goes by the settings it began with.
        await self._serving.wait()
        if before is not None:
            # Never two at once: what the older one has read must not win.
            await asyncio.wait([before])
        self._notifier.reloading()
        server = self.servers[MAIN_NAMES[0]]
        try:
            # Files may hang, and so may whoever knows the users that rules name.
            self.config = await asyncio.to_thread(self._read_again)
        except QvirtError as error:
            log.error("the settings stay as they were: %s", error)
        else:
            server.set_config(self.config)
            self.servers[ADMIN_SERVER].set_config(admin_config(self.config))
            self.logging_changed()
        if server.tls is not None:
            try:
                await server.reload_tls()
                log.info("certificates were read again")
            except QvirtError as error:
                log.error("the certificates stay as they were: %s", error)
        self._notifier.ready()

    def _read_again(self) -> Config:
        config = self._read_config()
        if self._guard is not None:
            self._guard.reload()
        self._set_up_logging(config)
        return config

    async def _end_reload(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.wait([self._reloading])

    def _write_pid_file(self, stack: contextlib.AsyncExitStack) -> None:
        if self.options.pid_file is not None:
            stack.callback(PidFile(self.options.pid_file).close)

    def _tell_ready(self) -> None:
        self._notifier.ready()
        if self._ready is not None:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.close(null)
            os.write(self._ready, b"r")
            os.close(self._ready)

    # -------------------------------------------------------------------------- what administrators change

    def logging_changed(self) -> None:
        """Go by the log's new filters: calls are logged only where somebody wants them."""
        traced = self.logging.level_of(call_log.__name__) <= logging.DEBUG
        for server in self.servers.values():
            server.dispatcher.trace(traced)

    def set_timeout(self, seconds: int) -> None:
        """End after so long without clients and guests; 0 for never."""
        self._timeout = seconds
        self._idle_changed()

    def shut_down(self) -> None:
        """End; guests stay."""
        self._stop.set()

    # ---------------------------------------------------------------------------------------- nobody there

    def _watch_idle(self, stack: contextlib.AsyncExitStack) -> None:
        for server in self.servers.values():
            server.idle_changed = self._idle_changed
        if self._server is not None:
            stack.callback(self._server.instance.hypervisor.events.subscribe(self._domain_event))
        self._idle_changed()

    def _domain_event(self, _: DomainEvent) -> None:
        self._idle_changed()

    def _idle_changed(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._timeout and self._needless():
            self._timer = self._loop.call_later(self._timeout, self._end_if_needless)

    def _needless(self) -> bool:
        server = self._server
        if server is None:
            return False
        domains = server.instance.hypervisor.domains
        return all(each.idle for each in self.servers.values()) and not any(
            domain.active for domain in domains
        )

    def _end_if_needless(self) -> None:
        if self._needless():
            log.info("no client and no guest for %d s, ending", self._timeout)
            self._stop.set()
        else:
            self._idle_changed()
