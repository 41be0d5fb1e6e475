"""The administration program: servers, their clients and limits, logging and the daemon's end.

It has sockets of its own, and only root and the daemon's user may come in: the kernel says who connects,
nothing is negotiated.
"""

import asyncio
import grp
import logging
import os
import pwd
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from qvirt.api.connect import LIB_VERSION
from qvirt.api.flags import check_flags
from qvirt.api.registry import admin, admin_early
from qvirt.api.session import Identity, Session
from qvirt.api.typed_params import WireParam, decode
from qvirt.constants.common import TypedParameterType
from qvirt.constants.error import ErrorDomain
from qvirt.daemon.client import Client, peer_identity
from qvirt.daemon.config import Config
from qvirt.daemon.listen import Service, close_all, listen_unix, make_folder
from qvirt.daemon.logs import Logging
from qvirt.daemon.server import Server
from qvirt.errors import InternalError, InvalidArg, NoClient, NoServer
from qvirt.record import replace

log = logging.getLogger(__name__)

SOCKETS: Final = {"libvirtd": "libvirt-admin-sock", "virtqemud": "virtqemud-admin-sock"}
"""The sockets of this program, by the daemon whose place they take."""

ADMIN: Final = "admin"
"""The name of the server that serves this program."""

MAIN_NAMES: Final = ("libvirtd", "virtqemud")
"""What the main server is called: by the name of the socket a client has come by."""

TRANSPORTS: Final = {"unix": 0, "tcp": 1, "tls": 2}

_UINT: Final = TypedParameterType.UINT
_CLIENT_LIMITS: Final = {"nclients_max": "max_clients", "nclients_unauth_max": "max_anonymous_clients"}
_WORKERS: Final = {"minWorkers": "min_workers", "maxWorkers": "max_workers", "prioWorkers": "prio_workers"}


class Administered(Protocol):
    """The daemon, as far as it can be administered."""

    logging: Logging
    servers: dict[str, Server]
    """Main and admin server, the main one under its first name."""

    def logging_changed(self) -> None:
        """Go by the log's new filters."""
        ...

    def set_timeout(self, seconds: int) -> None:
        """End the daemon after so long without clients and guests; 0 for never."""
        ...

    def shut_down(self) -> None:
        """End the daemon; guests stay."""
        ...


class AdminServer(Server):
    """The server of the administration program."""

    administered: Administered

    def _take(self, service: Service, sock: socket.socket) -> None:
        uid = peer_identity(sock).uid
        if uid not in (0, os.geteuid()):
            log.warning("user %s may not administer this daemon: only root and its own user may", uid)
            sock.close()
            return
        before = set(self.clients)
        super()._take(service, sock)
        for client in self.clients - before:
            client.session.authentication = AdminDoor(client, self.administered)
            client.trust()


def listen_admin(folder: Path, config: Config, *, privileged: bool, program: str) -> list[Service]:
    """Make the sockets of this program; a user's daemon has the one that goes with the name it runs under.

    Raises OperationFailed when another daemon answers on one, SystemError_.
    """
    mode = 0o700 if config.unix_sock_admin_perms is None else config.unix_sock_admin_perms
    names = list(SOCKETS.values()) if privileged or program not in SOCKETS else [SOCKETS[program]]
    services: list[Service] = []
    try:
        make_folder(folder, privileged=privileged)
        for name in names:
            sock = listen_unix(folder / name, mode, config.socket_gid)
            services.append(Service(sock, folder / name, False, "none", admin=True))
    except BaseException:
        close_all(services)
        raise
    return services


def take_admin_services(services: list[Service]) -> list[Service]:
    """Take the sockets of this program out of a list."""
    found = [service for service in services if service.admin]
    for service in found:
        services.remove(service)
    return found


def admin_config(config: Config) -> Config:
    """Give the settings of the server of this program."""
    return replace(
        config,
        max_clients=config.admin_max_clients,
        max_anonymous_clients=0,
        max_client_requests=config.admin_max_client_requests,
        min_workers=config.admin_min_workers,
        max_workers=config.admin_max_workers,
        prio_workers=0,
        keepalive_interval=config.admin_keepalive_interval,
        keepalive_count=config.admin_keepalive_count,
    )


class AdminDoor:
    """What calls of this program reach from their session."""

    def __init__(self, client: Client, daemon: Administered) -> None:
        self.daemon = daemon
        self.main = "virtqemud" if "virtqemud" in str(client.service.path) else "libvirtd"

    def server(self, name: str) -> tuple[str, Server]:
        """Find a server; raises NoServer."""
        found = self.daemon.servers.get("libvirtd" if name in MAIN_NAMES else name)
        if found is None:
            raise NoServer(f"No server named '{name}'")
        return name, found

    def client(self, handle: Any) -> Client:
        """Find a client by its handle; raises NoServer, NoClient."""
        _, server = self.server(handle.srv.name)
        return find_client(server, handle.id)


def find_client(server: Server, number: int) -> Client:
    """Find a client by its number; raises NoClient."""
    for client in server.clients:
        if client.number == number:
            return client
    raise NoClient(f"No client with matching ID '{number}'")


def _door(session: Session) -> AdminDoor:
    door = session.authentication
    if not isinstance(door, AdminDoor):
        raise InternalError("this connection does not administer anything")
    return door


def _handle(server: str, client: Client) -> tuple[Any, ...]:
    return (server,), client.number, int(client.since), TRANSPORTS[client.service.transport]


# ------------------------------------------------------------------------------------------- connection


@admin_early
def connect_open(session: Session, flags: int) -> None:
    """Open the connection."""
    check_flags(flags, 0, "virAdmConnectOpen")
    if session.driver:
        raise InternalError("connection already open", domain=ErrorDomain.RPC)
    session.driver = ADMIN


@admin_early
def connect_close(session: Session) -> None:
    """Close the connection once this is answered."""
    session.end()


@admin
def connect_get_lib_version(session: Session) -> int:
    """Give the release of libvirt this behaves as."""
    return LIB_VERSION


@admin
def connect_list_servers(session: Session, need_results: int, flags: int) -> tuple[list[tuple[str]], int]:
    """List the servers: the one for guests and this one."""
    check_flags(flags, 0, "adminConnectListServers")
    names = [_door(session).main, ADMIN]
    return ([(name,) for name in names] if need_results else []), len(names)


@admin
def connect_lookup_server(session: Session, name: str, flags: int) -> tuple[str]:
    """Find a server by name."""
    check_flags(flags, 0, "adminConnectLookupServer")
    return (_door(session).server(name)[0],)


@admin
def connect_set_daemon_timeout(session: Session, timeout: int, flags: int) -> None:
    """End the daemon after so many seconds without clients and guests, 0 for never."""
    check_flags(flags, 0, "adminConnectSetDaemonTimeout")
    _door(session).daemon.set_timeout(timeout)


@admin
def connect_daemon_shutdown(session: Session, flags: int) -> None:
    """End the daemon; guests stay, with or without PRESERVE."""
    check_flags(flags, 1, "adminConnectDaemonShutdown")
    _door(session).daemon.shut_down()


# ---------------------------------------------------------------------------------------------- servers


@admin
def server_get_threadpool_parameters(session: Session, srv: Any, flags: int) -> list[WireParam]:
    """Give the limits as set, and calls that run as busy workers."""
    check_flags(flags, 0, "adminServerGetThreadPoolParameters")
    _, server = _door(session).server(srv.name)
    config, running = server.config, len(server.calls)
    workers = max(config.min_workers, running)
    values = {
        "minWorkers": config.min_workers,
        "maxWorkers": config.max_workers,
        "nWorkers": workers,
        "freeWorkers": workers - running,
        "prioWorkers": config.prio_workers,
        "jobQueueDepth": sum(client.calls_waiting for client in server.clients),
    }
    return [(name, (_UINT, value)) for name, value in values.items()]


@admin
def server_set_threadpool_parameters(
    session: Session, srv: Any, params: Sequence[WireParam], flags: int
) -> None:
    """Set the limits that are shown; no call ever waits for a worker."""
    check_flags(flags, 0, "adminServerSetThreadPoolParameters")
    _, server = _door(session).server(srv.name)
    values = decode(params, dict.fromkeys(_WORKERS, _UINT))
    config = replace(server.config, **{_WORKERS[name]: value for name, value in values.items()})
    if config.min_workers > config.max_workers:
        raise InvalidArg("minWorkers cannot be larger than maxWorkers", domain=ErrorDomain.THREAD)
    server.config = config


@admin
def server_get_client_limits(session: Session, srv: Any, flags: int) -> list[WireParam]:
    """Give how many clients there may be and are, and of them such as have not authenticated."""
    check_flags(flags, 0, "adminServerGetClientLimits")
    _, server = _door(session).server(srv.name)
    values = {
        "nclients_max": server.config.max_clients,
        "nclients": len(server.clients),
        "nclients_unauth_max": server.config.max_anonymous_clients,
        "nclients_unauth": sum(not client.authenticated for client in server.clients),
    }
    return [(name, (_UINT, value)) for name, value in values.items()]


@admin
def server_set_client_limits(session: Session, srv: Any, params: Sequence[WireParam], flags: int) -> None:
    """Set how many clients there may be, and such as have not authenticated; those who are in stay."""
    check_flags(flags, 0, "adminServerSetClientLimits")
    _, server = _door(session).server(srv.name)
    values = decode(params, dict.fromkeys(_CLIENT_LIMITS, _UINT))
    config = replace(server.config, **{_CLIENT_LIMITS[name]: value for name, value in values.items()})
    if config.max_clients < config.max_anonymous_clients:
        raise InvalidArg(
            "The overall maximum number of clients must not be less than the number of clients waiting for "
            "authentication",
            domain=ErrorDomain.RPC,
        )
    server.set_config(config)


@admin
async def server_update_tls_files(session: Session, srv: Any, flags: int) -> None:
    """Read certificates again, for clients that come from now on."""
    check_flags(flags, 0, "adminServerUpdateTlsFiles")
    _, server = _door(session).server(srv.name)
    await server.reload_tls()


# ---------------------------------------------------------------------------------------------- clients


@admin
def server_list_clients(
    session: Session, srv: Any, need_results: int, flags: int
) -> tuple[list[tuple[Any, ...]], int]:
    """List a server's clients, in the order they came."""
    check_flags(flags, 0, "adminServerListClients")
    name, server = _door(session).server(srv.name)
    found = sorted(server.clients, key=lambda client: client.number)
    return ([_handle(name, client) for client in found] if need_results else []), len(found)


@admin
def server_lookup_client(session: Session, srv: Any, id: int, flags: int) -> tuple[Any, ...]:
    """Find a client by its number."""
    check_flags(flags, 0, "adminServerLookupClient")
    name, server = _door(session).server(srv.name)
    return _handle(name, find_client(server, id))


@admin
async def client_get_info(session: Session, clnt: Any, flags: int) -> list[WireParam]:
    """Give who a client is."""
    check_flags(flags, 0, "adminClientGetInfo")
    client = _door(session).client(clnt)
    who = client.identity
    text = TypedParameterType.STRING
    found: list[WireParam] = [
        ("readonly", (TypedParameterType.BOOLEAN, int(client.session.readonly))),
    ]
    # names may come from a server far away
    found += await asyncio.to_thread(_unix_words, who)
    others = {
        "sock_addr": client.address or None,
        "sasl_user_name": who.sasl_user,
        "tls_x509_dname": who.x509_dn,
    }
    return found + [(name, (text, value)) for name, value in others.items() if value is not None]


def _unix_words(who: Identity) -> list[WireParam]:
    integer, text = TypedParameterType.INT, TypedParameterType.STRING
    found: list[WireParam] = []
    for word, number, name_of in (
        ("user", who.uid, _user_name),
        ("group", who.gid, _group_name),
    ):
        if number is not None:
            found += [
                (f"unix_{word}_id", (integer, number)),
                (f"unix_{word}_name", (text, _name(name_of, number))),
            ]
    if who.pid is not None:
        found.append(("unix_process_id", (integer, who.pid)))
    return found


def _user_name(number: int) -> str:
    return pwd.getpwuid(number).pw_name


def _group_name(number: int) -> str:
    return grp.getgrgid(number).gr_name


def _name(find: Callable[[int], str], number: int) -> str:
    try:
        return find(number)
    except KeyError:
        return str(number)


@admin
def client_close(session: Session, clnt: Any, flags: int) -> None:
    """Close a client's connection."""
    check_flags(flags, 0, "adminClientClose")
    client = _door(session).client(clnt)
    log.info("%s is disconnected by an administrator", client)
    # by the loop: it may be the one that asks
    client.loop.call_soon(client.close, "disconnected by an administrator")


# ---------------------------------------------------------------------------------------------- logging


@admin
def connect_get_logging_outputs(session: Session, flags: int) -> tuple[str, int]:
    """Give where is logged to, and how many places these are."""
    check_flags(flags, 0, "adminConnectGetLoggingOutputs")
    logging_ = _door(session).daemon.logging
    return logging_.outputs_text, len(logging_.outputs)


@admin
def connect_get_logging_filters(session: Session, flags: int) -> tuple[str | None, int]:
    """Give the filters, and how many there are."""
    check_flags(flags, 0, "adminConnectGetLoggingFilters")
    logging_ = _door(session).daemon.logging
    return logging_.filters_text or None, len(logging_.filters)


@admin
async def connect_set_logging_outputs(session: Session, outputs: str | None, flags: int) -> None:
    """Log to other places from now on; none means the usual ones."""
    check_flags(flags, 0, "adminConnectSetLoggingOutputs")
    # opening a file may block
    await asyncio.to_thread(_door(session).daemon.logging.set_outputs, outputs or "")


@admin
def connect_set_logging_filters(session: Session, filters: str | None, flags: int) -> None:
    """Use other filters from now on."""
    check_flags(flags, 0, "adminConnectSetLoggingFilters")
    daemon = _door(session).daemon
    daemon.logging.set_filters(filters or "")
    daemon.logging_changed()
