"""Questions to the daemon's own code: a program in a process of its own, as the command loads none of it."""

import asyncio
import os
import posixpath
import socket
import sys
from typing import Final

from qvirt.cli.command import CommandError
from qvirt.client import uri
from qvirt.client.aio import Connection
from qvirt.record import Record

#: seconds for looking at all files
DEADLINE: Final = 60.0


class Answer(Record):
    """What a program said. status: its exit status; said: its complaints."""

    status: int
    out: str
    said: str


async def ask(module: str, *words: str, text: str = "", late: str) -> Answer:
    """Run a module with these words and this text to read.

    late: what could not be done in time. Raises CommandError when it takes too long.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            out, said = await child.communicate(text.encode("utf-8", "surrogateescape"))
    except TimeoutError:
        raise CommandError(f"{late} within {DEADLINE:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return Answer(child.returncode or 0, out.decode(errors="replace"), said.decode(errors="replace").strip())


def settings_of(address: str) -> str:
    """Return which qemu.conf the daemon reads that a local URI leads to; a user's has nothing of interest."""
    target = uri.parse(address)
    if target.path == "/session":
        return os.devnull
    folder = posixpath.dirname(target.parameter("socket") or "/run/libvirt/")
    root = folder.removesuffix("/run/libvirt") if folder.endswith("/run/libvirt") else ""
    return f"{'' if root == '/var' else root}/etc/libvirt/qemu.conf"


async def need_files_here(connection: Connection) -> None:
    """Raise CommandError when the daemon, and so the files, are on another machine."""
    if await connection.hostname() not in (socket.gethostname(), socket.getfqdn()):
        raise CommandError("the files are on another machine: run this there")
