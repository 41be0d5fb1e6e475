"""Connections that a command carries: the system's ssh, or whatever `command=` names for transport ext.

The command's standard input and output are one end of a socket pair; its words on standard error become part
of the error when the connection does not come about. ssh means whatever its own configuration says: keys,
agents, jump hosts, known hosts.
"""

import asyncio
import shlex
import socket
from collections.abc import Sequence
from typing import Final

from qvirt.client.channel import Lost, Received, SocketChannel
from qvirt.client.config import ClientConfig
from qvirt.client.uri import Uri, sub_uri
from qvirt.constants.error import ErrorDomain
from qvirt.errors import InvalidArg, NoSupport, SystemError_

PROXIES: Final = ("auto", "netcat", "native")
SOCKET: Final = "/var/run/libvirt/libvirt-sock"
"""Where every daemon's socket is found by netcat, whatever the daemon's own is."""

FAREWELL: Final = 2.0
"""Seconds for a command to end once its input has."""
_WORDS: Final = 4096
"""Bytes of what a command complains that are kept."""

_KNOWN_HOSTS: Final = {"normal": "ask", "auto": "accept-new", "ignore": "no"}
_METHODS: Final = {
    "agent": "publickey",
    "privkey": "publickey",
    "password": "password",
    "keyboard-interactive": "keyboard-interactive",
}


class CommandChannel(SocketChannel):
    """One end of a socket pair whose other end a command has for input and output."""

    def __init__(self, sock: socket.socket, process: asyncio.subprocess.Process, command: str) -> None:
        super().__init__(sock, is_local=False, passes_fds=False)
        self._process = process
        self._command = command
        self._words = bytearray()
        self._listener = asyncio.ensure_future(self._listen())
        self._over: asyncio.Task[None] | None = None

    def start(self, received: Received, lost: Lost) -> None:
        """Begin to read; an end that the command explains is an error with its explanation."""

        def explained(error: Exception | None) -> None:
            self._over = asyncio.ensure_future(self._explain(error, lost))

        super().start(received, explained)

    def close(self) -> None:
        """Close, and see the command off."""
        super().close()
        if self._over is None:
            self._over = asyncio.ensure_future(self._see_off())

    async def wait_closed(self) -> None:
        """Wait until the command is gone."""
        if self._over is not None:
            await asyncio.shield(self._over)

    async def _listen(self) -> None:
        stream = self._process.stderr
        assert stream is not None  # noqa: S101 - asked for
        while data := await stream.read(_WORDS):
            self._words += data
            del self._words[:-_WORDS]

    async def _explain(self, error: Exception | None, lost: Lost) -> None:
        await self._see_off()
        words = self._words.decode(errors="replace").strip()
        if not words and self._process.returncode:
            words = f"'{self._command}' ended with status {self._process.returncode}"
        if words:
            error = SystemError_(
                f"Cannot recv data: {words}: Connection reset by peer", domain=ErrorDomain.RPC
            )
        lost(error)

    async def _see_off(self) -> None:
        try:
            async with asyncio.timeout(FAREWELL):
                await self._process.wait()
        except TimeoutError:
            self._process.terminate()
            try:
                async with asyncio.timeout(FAREWELL):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        # Its children may keep its standard error open for ever.
        await asyncio.wait([self._listener], timeout=0.2)
        self._listener.cancel()


async def run(argv: Sequence[str]) -> CommandChannel:
    """Start a command as a channel; raises SystemError_ when it cannot be started."""
    ours, theirs = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        ours.close()
        raise SystemError_(f"Cannot run '{argv[0]}'", error, domain=ErrorDomain.RPC) from error
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return CommandChannel(ours, process, argv[0])


def external_argv(uri: Uri) -> list[str]:
    """Give the command of transport ext; raises InvalidArg."""
    command = uri.parameter("command")
    if not command:
        raise InvalidArg("remote_open: for 'ext' transport, command is required", domain=ErrorDomain.REMOTE)
    return [command]


def ssh_argv(uri: Uri, *, readonly: bool, config: ClientConfig) -> list[str]:
    """Give the ssh command for a URI; raises InvalidArg, NoSupport for what cannot be."""
    argv = [uri.parameter("command") or "ssh"]
    if uri.port is not None:
        argv += ["-p", str(uri.port)]
    if uri.user is not None:
        argv += ["-l", uri.user]
    if uri.parameter("keyfile"):
        argv += ["-i", str(uri.parameter("keyfile"))]
    argv += ["-T", "-e", "none"]
    if uri.is_set("no_tty"):
        argv += ["-o", "BatchMode=yes"]
    if uri.is_set("no_verify"):
        argv += ["-o", "StrictHostKeyChecking=no"]
    if uri.transport != "ssh":
        argv += _library_options(uri)
    host = uri.host or "localhost"
    return [*argv, "--", host, f"sh -c {shlex.quote(remote_script(uri, readonly=readonly, config=config))}"]


def _library_options(uri: Uri) -> list[str]:
    """Give ssh's options for the parameters of libssh and libssh2, whose place it takes here."""
    options = []
    if uri.parameter("known_hosts"):
        options += ["-o", f"UserKnownHostsFile={uri.parameter('known_hosts')}"]
    verify = uri.parameter("known_hosts_verify")
    if verify is not None:
        if verify not in _KNOWN_HOSTS:
            raise InvalidArg(
                f"Invalid host key verification method '{verify}', expected one of {', '.join(_KNOWN_HOSTS)}",
                domain=ErrorDomain.REMOTE,
            )
        options += ["-o", f"StrictHostKeyChecking={_KNOWN_HOSTS[verify]}"]
    methods = uri.parameter("sshauth")
    if methods:
        unknown = [method for method in methods.split(",") if method not in _METHODS]
        if unknown:
            raise InvalidArg(
                f"Invalid authentication method: '{unknown[0]}', expected some of {', '.join(_METHODS)}",
                domain=ErrorDomain.REMOTE,
            )
        preferred = dict.fromkeys(_METHODS[method] for method in methods.split(","))
        options += ["-o", f"PreferredAuthentications={','.join(preferred)}"]
    return options


def remote_script(uri: Uri, *, readonly: bool, config: ClientConfig) -> str:
    """Give the shell script that reaches the daemon on its host; raises InvalidArg, NoSupport."""
    proxy = uri.parameter("proxy") or config.remote_proxy or "auto"
    if proxy not in PROXIES:
        raise InvalidArg(
            f"Unable to parse proxy value '{proxy}', expected one of {', '.join(PROXIES)}",
            domain=ErrorDomain.REMOTE,
        )
    netcat, path = uri.parameter("netcat"), uri.parameter("socket")
    if proxy == "native" and netcat:
        raise InvalidArg("netcat path not valid with native proxy mode", domain=ErrorDomain.REMOTE)
    session = uri.path == "/session"
    if proxy == "auto" and (netcat or path):
        proxy = "netcat"
    if proxy == "auto" and session:
        # Only the helper knows where a user's own daemon is, and starts it.
        proxy = "native"
    if proxy == "netcat" and session and not path:
        raise NoSupport(
            "Connecting to session instance without socket path is not supported by the netcat proxy",
            domain=ErrorDomain.REMOTE,
        )
    helper = f"virt-ssh-helper {'-r ' if readonly else ''}{shlex.quote(sub_uri(uri))}"
    if proxy == "native":
        return f"exec {helper}"
    place = path or SOCKET + ("-ro" if readonly else "")
    program = shlex.quote(netcat or "nc")
    # Some netcats end with their input only when told to, and others do not know the option.
    by_netcat = (
        f'q=; if {program} -q </dev/null 2>&1 | grep -q "requires an argument"; then q=-q0; fi; '
        f"exec {program} $q -U {shlex.quote(place)}"
    )
    if proxy == "netcat":
        return by_netcat
    return f"if command -v virt-ssh-helper >/dev/null 2>&1; then exec {helper}; fi; {by_netcat}"
