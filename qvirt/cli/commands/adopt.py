"""QEMUs that somebody else started become domains: adopt, qemu-attach."""

import os
import re
import socket
import struct
from pathlib import Path
from typing import Final

from qvirt.cli.command import Command, CommandError, Context, flag, place
from qvirt.client.aio import Connection
from qvirt.constants.domain import DomainXMLFlags
from qvirt.errors import DomainExists, QvirtError
from qvirt.record import replace

_QEMU: Final = re.compile(r"qemu-(?:system-|kvm)|kvm$|qemu$")


async def qemu_attach(context: Context) -> None:
    """Make a domain of one QEMU."""
    connection = await context.connection()
    pid = context.args.pid
    try:
        domain = await connection.attach_qemu(pid)
    except QvirtError as error:
        raise CommandError(f"Failed to attach to pid {pid}", error) from error
    context.output.line(f"Domain '{domain.name}' attached to pid {pid}")


async def adopt(context: Context) -> None:
    """Make domains of QEMUs that run, given by process id or monitor socket, or of all there are."""
    args = context.args
    if bool(args.qemu) == bool(args.all):
        raise CommandError("which QEMU? Give process ids or monitor sockets, or --all")
    pids = all_pids() if args.all else [_pid_of(word) for word in args.qemu]
    connection = await context.connection()
    adopted = failed = 0
    for pid in pids:
        try:
            context.output.line(await _adopt(connection, pid, define=args.define))
            adopted += 1
        except DomainExists as error:
            if not args.all:
                raise CommandError(f"failed to adopt pid {pid}", error) from error
        except QvirtError as error:
            if not args.all:
                raise CommandError(f"failed to adopt pid {pid}", error) from error
            if not Path(f"/proc/{pid}").exists():
                continue  # it ended meanwhile
            failed += 1
            context.output.error(f"failed to adopt pid {pid}: {error}")
    if failed:
        raise CommandError(f"{failed} of {adopted + failed} QEMUs stay as they are")


async def _adopt(connection: Connection, pid: int, *, define: bool) -> str:
    domain = await connection.attach_qemu(pid)
    if define:
        await connection.define_xml(await domain.xml_desc(DomainXMLFlags.INACTIVE | DomainXMLFlags.SECURE))
        return f"Domain '{domain.name}' adopted from pid {pid} and defined"
    return f"Domain '{domain.name}' adopted from pid {pid}"


def _pid_of(word: str) -> int:
    """Return the process a word means: its id, or who listens on a socket. Raises CommandError."""
    if word.isascii() and word.isdigit():
        return int(word)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(word)
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except BlockingIOError:
            raise CommandError(f"'{word}': another program is connected to the monitor") from None
        except OSError as error:
            raise CommandError(f"'{word}' is no process id and no socket: {error.strerror}") from error
    return int(struct.unpack("3i", credentials)[0])


def all_pids() -> list[int]:
    """Return every QEMU on this machine that we may look at."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            program = os.path.basename(os.readlink(folder / "exe"))
        except OSError:
            continue  # a thread of the kernel, somebody else's, or gone
        if _QEMU.match(program):
            found.append(int(folder.name))
    return sorted(found)


COMMANDS: Final = (
    Command(
        "adopt",
        "make domains of running QEMUs that somebody else started",
        adopt,
        (
            place("qemu", "process id or QMP monitor socket", required=False, several=True),
            flag("all", "every QEMU on this machine that is no domain yet"),
            flag("define", "define them, too, for their next start"),
        ),
    ),
    Command("qemu-attach", "QEMU Attach", qemu_attach, (replace(place("pid", "pid"), type=int),)),
)
