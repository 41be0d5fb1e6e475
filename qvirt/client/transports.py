"""From a URI to a connected channel: by the local socket, starting the user's daemon where nobody listens, or
over a network."""

import asyncio
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from qvirt.client import config as client_config
from qvirt.client import ssh, tcp, tls
from qvirt.client.channel import Channel, SocketChannel
from qvirt.client.sockets import MODES, Host, SocketChoice, choose
from qvirt.client.uri import Uri
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InternalError, InvalidArg, SystemError_

START_TIMEOUT: Final = 5.0
"""Seconds to wait for a started daemon's socket, as long as libvirt does."""
RETRY: Final = 0.01
IDLE_EXIT: Final = 120
"""Seconds after which a daemon started here may leave when nobody uses it."""

_ABSENT: Final = (errno.ENOENT, errno.ECONNREFUSED)


async def connect(uri: Uri, *, readonly: bool, config: client_config.ClientConfig) -> Channel:
    """Open the channel a URI asks for; raises SystemError_ when nobody answers, or another QvirtError."""
    check_parameters(uri)
    if uri.transport == "tls":
        credentials = await asyncio.to_thread(tls.prepare, uri, config.tls_priority)
        return await tls.secure(await tcp.connect(uri), uri, *credentials)
    if uri.transport == "tcp":
        return SocketChannel(await tcp.connect(uri), is_local=False, is_secure=False, passes_fds=False)
    if uri.transport == "ext":
        return await ssh.run(ssh.external_argv(uri))
    if uri.transport != "unix":
        return await ssh.run(ssh.ssh_argv(uri, readonly=readonly, config=config))
    choice = choose(uri, readonly=readonly, config=config, host=Host.here())
    return SocketChannel(await open_socket(choice))


def check_parameters(uri: Uri) -> None:
    """Refuse parameters that make no sense, before anything is done; raises InvalidArg."""
    for name in ("no_sanity", "no_verify", "no_tty"):
        uri.is_set(name)
    mode = uri.parameter("mode")
    if mode is not None and mode not in MODES:
        raise InvalidArg(
            f"Unknown remote mode '{mode}', expected {', '.join(MODES)}", domain=ErrorDomain.REMOTE
        )


async def open_socket(choice: SocketChoice) -> socket.socket:
    """Connect to a socket, starting its daemon when nobody listens and one may be started."""
    try:
        return await _connect(choice.path)
    except SystemError_ as error:
        if error.errno not in _ABSENT or choice.lock is None:
            raise
        if choice.daemon is None:
            raise InternalError(
                f"Unable to find a daemon to serve '{choice.path}'; set VIRTD_PATH to its path",
                domain=ErrorDomain.RPC,
            ) from error
    return await _start(choice)


async def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, path)
    except OSError as error:
        sock.close()
        # asyncio words a refused connection its own way; clients match the system's sentence.
        plain = (
            OSError(error.errno, os.strerror(error.errno))
            if error.errno
            else OSError(errno.EINVAL, str(error))
        )
        raise SystemError_(f"Failed to connect socket to '{path}'", plain, domain=ErrorDomain.RPC) from error
    except BaseException:
        sock.close()
        raise
    return sock


async def _start(choice: SocketChoice) -> socket.socket:
    """Start the daemon under its lock, so that many clients at once start only one, and connect."""
    assert choice.daemon is not None and choice.lock is not None  # noqa: S101, PT018 - the caller looked
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT
    Path(choice.lock).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(choice.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        started = False
        while True:
            if not started and _try_lock(lock):
                # The one who held the lock before may have started it meanwhile.
                try:
                    return await _connect(choice.path)
                except SystemError_ as error:
                    if error.errno not in _ABSENT:
                        raise
                await _spawn(choice.daemon)
                started = True
            try:
                return await _connect(choice.path)
            except SystemError_ as error:
                if error.errno not in _ABSENT or loop.time() > deadline:
                    raise
            await asyncio.sleep(RETRY)
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    # Of the open file, not of the process: two loops of one process must exclude each other as well as
    # libvirt's clients, whose process-wide locks conflict with these.
    flock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, flock)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


async def _spawn(daemon: str) -> None:
    """Start a daemon that outlives us: a shell in a session of its own leaves it behind to init."""
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        f'umask 077; "$0" --timeout={IDLE_EXIT} </dev/null >/dev/null 2>&1 &',
        daemon,
        start_new_session=True,
        cwd="/",
    )
    await asyncio.wait_for(shell.wait(), START_TIMEOUT)
