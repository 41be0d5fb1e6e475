"""`virt-ssh-helper`: copies standard input and output to the daemon's local socket.

Clients of `qemu+ssh://` run it on the daemon's host; it chooses the socket as a local client would,
starting the user's own daemon where a session URI asks for it.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from socket import socket
from typing import Final

import qvirt
from qvirt.cli.command import Parser
from qvirt.cli.console import Input, write_all
from qvirt.client import config, uri
from qvirt.client.sockets import Host, choose
from qvirt.client.transports import open_socket
from qvirt.errors import InvalidArg, QvirtError

_CHUNK: Final = 65536


async def serve(address: str, *, readonly: bool, fd_in: int = 0, fd_out: int = 1) -> None:
    """Copy both ways until either side ends; raises QvirtError when there is no daemon."""
    target = uri.parse(address)
    if target.transport != "unix":
        raise InvalidArg(f"the URI {address} is not local: only a local daemon can be reached from here")
    choice = choose(target, readonly=readonly, config=config.load(), host=Host.here())
    with await open_socket(choice) as sock:
        tasks = (
            asyncio.create_task(_upwards(Input(fd_in), sock)),
            asyncio.create_task(_downwards(sock, fd_out)),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


async def _upwards(source: Input, sock: socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await source.read():
        await loop.sock_sendall(sock, data)


async def _downwards(sock: socket, fd: int) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, _CHUNK):
        await asyncio.to_thread(write_all, fd, data)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the helper; the exit code is 0 when a side ended, 1 for an error."""
    parser = Parser(prog="virt-ssh-helper", description="Internal tool to handle connections over ssh.")
    parser.add_argument("-r", "--readonly", action="store_true", help="connect to the read-only socket")
    parser.add_argument(
        "-V", "--version", action="version", version=f"virt-ssh-helper (qvirt) {qvirt.__version__}"
    )
    parser.add_argument("uri", metavar="URI", help="local URI of the daemon")
    args = parser.parse_args(argv)
    try:
        asyncio.run(serve(args.uri, readonly=args.readonly))
    except QvirtError as error:
        sys.stderr.write(f"virt-ssh-helper: {error}\n")
        return 1
    except (BrokenPipeError, ConnectionResetError):
        # The other side left first: the end, not a failure. Nothing may be written at exit any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
