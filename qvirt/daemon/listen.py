"""The sockets clients come to: made here, or handed over by systemd."""

import errno
import logging
import os
import socket
from pathlib import Path
from typing import Final, Literal

from qvirt.daemon import polkit
from qvirt.daemon.config import Config
from qvirt.daemon.remote_config import AuthMode
from qvirt.errors import OperationFailed, SystemError_
from qvirt.host.unix import clear_stale
from qvirt.record import Record

log = logging.getLogger(__name__)

NAMES: Final = ("libvirt-sock", "virtqemud-sock")
"""What clients look for; all lead here. Each has a read-only twin."""

_STARTED_AS: Final = {"libvirtd": ("libvirt-sock",), "virtqemud": ("virtqemud-sock",)}
"""The sockets of an ordinary user's daemon, by the name it was started under.

A client that starts one by a name looks for that socket, and for the other one whenever its file is there: a
file left by a daemon that was killed would keep it from ever starting one again.
"""

BACKLOG: Final = 1024
_FIRST_ACTIVATED_FD: Final = 3


Transport = Literal["unix", "tcp", "tls"]


class Service(Record, frozen=False, eq=False):
    """A listening socket and what a client gets that comes by it.

    path: None for a network's. ours: we made the file, so we remove it. admin: it is for administration.
    """

    sock: socket.socket
    path: Path | None
    readonly: bool
    auth: AuthMode
    ours: bool = True
    transport: Transport = "unix"
    admin: bool = False

    @property
    def is_remote(self) -> bool:
        """Tell whether its clients come over a network."""
        return self.transport != "unix"

    def close(self) -> None:
        """Stop listening; remove the file when it is still the one we made. Harmless when done before."""
        if self.sock.fileno() < 0:
            return
        if self.ours and self.path is not None:
            _unlink_own(self.sock, self.path)
        self.sock.close()


def auth_mode(config: Config, *, readonly: bool, privileged: bool, private: bool) -> AuthMode:
    """Give how clients authenticate; private: the daemon is a user's own, or a tree's."""
    said = config.auth_unix_ro if readonly else config.auth_unix_rw
    if said:
        return said
    if not privileged or private:
        return "none"
    why_not = polkit.missing()
    if why_not is None:
        return "polkit"
    log.info("%s: clients of the socket are let in by its permissions, not by polkit", why_not)
    return "none"


def permissions(config: Config, auth: AuthMode, *, readonly: bool) -> int:
    """Give a socket's mode: open to all where a policy decides, else the owner's (and group's) own.

    It is about root's daemon; one of an ordinary user is theirs alone, whatever the settings say.
    """
    said = config.unix_sock_ro_perms if readonly else config.unix_sock_rw_perms
    if said is not None:
        return said
    if readonly or auth == "polkit":
        return 0o777
    return 0o770 if config.unix_sock_group else 0o700


def listen(
    folder: Path, config: Config, *, privileged: bool, private: bool, program: str = "qvirtd"
) -> list[Service]:
    """Make all sockets in a folder; the sessions of ordinary users have no read-only ones.

    program: the name the daemon was started under.
    Raises OperationFailed when another daemon answers on one, SystemError_.
    """
    services: list[Service] = []
    try:
        make_folder(folder, privileged=privileged)
        for name in NAMES if privileged else _STARTED_AS.get(program, NAMES):
            for readonly in (False, True) if privileged else (False,):
                auth = auth_mode(config, readonly=readonly, privileged=privileged, private=private)
                path = folder / (name + "-ro" if readonly else name)
                mode = permissions(config, auth, readonly=readonly) if privileged else 0o700
                sock = listen_unix(path, mode, config.socket_gid if privileged else None)
                services.append(Service(sock, path, readonly, auth))
    except OSError as error:
        close_all(services)
        raise SystemError_(f"cannot make the sockets in '{folder}'", error) from error
    except BaseException:
        close_all(services)
        raise
    return services


def make_folder(folder: Path, *, privileged: bool) -> None:
    """Make the sockets' folder; raises SystemError_."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755 if privileged else 0o700)
    except OSError as error:
        raise SystemError_(f"cannot make the sockets in '{folder}'", error) from error


def close_all(services: list[Service]) -> None:
    """Stop listening everywhere."""
    for service in services:
        service.close()
    services.clear()


def listen_unix(path: Path, mode: int, gid: int | None) -> socket.socket:
    """Listen on a path, replacing a socket nobody answers on.

    Raises OperationFailed when somebody does, or when something else has the name; SystemError_.
    """
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    # Nobody may connect between bind and chmod.
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        if error.errno == errno.ENAMETOOLONG or "too long" in str(error):
            raise OperationFailed(
                f"socket path '{path}' is longer than the 107 bytes a socket may have"
            ) from None
        raise SystemError_(f"Failed to bind socket to '{path}'", error) from error
    finally:
        os.umask(before)
    try:
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
        sock.listen(BACKLOG)
    except OSError as error:
        _unlink_own(sock, path)
        sock.close()
        raise SystemError_(f"cannot listen on '{path}'", error) from error
    return sock


def _clear(path: Path) -> None:
    try:
        clear_stale(str(path))
    except FileExistsError:
        raise OperationFailed(
            f"'{path}' exists and is no socket; remove it, or name another folder"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OperationFailed(f"another daemon answers on '{path}'; stop it first") from None
        raise SystemError_(f"cannot look after socket '{path}'", error) from error


def _unlink_own(sock: socket.socket, path: Path) -> None:
    """Remove the file of a socket, unless somebody has put another in its place."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            # After shutdown our own socket refuses; one that still answers is a stranger's.
            sock.shutdown(socket.SHUT_RDWR)
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EAGAIN):
            log.warning("cannot look after socket '%s': %s", path, error.strerror)


def activated(config: Config, *, privileged: bool, private: bool) -> list[Service]:
    """Take the sockets systemd passes, ours or libvirt's units'; none when it did not start us.

    Raises OperationFailed for a socket that lets everybody in without a word.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS") or "0")
    names = dict(enumerate(os.environ.get("LISTEN_FDNAMES", "").split(":"), _FIRST_ACTIVATED_FD))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    services: list[Service] = []
    try:
        for fd in range(_FIRST_ACTIVATED_FD, _FIRST_ACTIVATED_FD + count):
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            name = names.get(fd, "")
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                services.append(_passed_by_network(sock, name, config))
                continue
            path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
            if not isinstance(path, str) or not path:
                log.warning("passed socket %r (%s) is of a kind not served", path, name or "without a name")
                sock.close()
                continue
            services.append(_passed_here(sock, Path(path), name, config, (privileged, private)))
    except BaseException:
        close_all(services)
        raise
    return services


def _passed_here(
    sock: socket.socket, path: Path, name: str, config: Config, whose: tuple[bool, bool]
) -> Service:
    """Take a local socket: what it is for is the end of the unit's name, else of the path."""
    ends = (name.removesuffix(".socket"), path.name.removesuffix("-sock"))
    if any(end.endswith("-admin") for end in ends):
        return Service(sock, path, False, "none", ours=False, admin=True)
    readonly = any(end.endswith("-ro") for end in ends)
    privileged, private = whose
    auth = auth_mode(config, readonly=readonly, privileged=privileged, private=private)
    said = config.auth_unix_ro if readonly else config.auth_unix_rw
    if auth == "none" and said is None and not readonly and path.stat().st_mode & 0o002:
        sock.close()
        raise OperationFailed(
            f"everybody may write to the passed socket '{path}', and nothing would be asked of them: let "
            "polkit be asked (auth_unix_rw), give the unit SocketMode=0660 and a SocketGroup, or say that "
            'this is meant: auth_unix_rw = "none"'
        )
    return Service(sock, path, readonly, auth, ours=False)


def _passed_by_network(sock: socket.socket, name: str, config: Config) -> Service:
    """Take a network's socket: TLS by the unit's name or the port, else plain TCP."""
    remote = config.remote
    is_tls = "tls" in name or ("tcp" not in name and str(sock.getsockname()[1]) == remote.tls_port)
    auth = remote.auth_tls if is_tls else remote.auth_tcp
    return Service(sock, None, False, auth, ours=False, transport="tls" if is_tls else "tcp")
