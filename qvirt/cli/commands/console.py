"""The command console: the guest's console on this terminal."""

import os
from typing import Final

from qvirt.cli import console
from qvirt.cli.command import DOMAIN, Command, CommandError, Context, flag, option
from qvirt.client.domain import Domain
from qvirt.constants.domain import DomainConsoleFlags
from qvirt.errors import QvirtError


async def attach(context: Context, domain: Domain, *, resume: bool = False) -> None:
    """Tie a domain's console to standard input and output; then let a domain started for it run."""
    args = context.args
    flags = (DomainConsoleFlags.FORCE if getattr(args, "force", False) else 0) | (
        DomainConsoleFlags.SAFE if getattr(args, "safe", False) else 0
    )
    if not await domain.is_active():
        raise CommandError("The domain is not running")
    escape = escape_byte(args.escape)
    try:
        stream = await domain.open_console(getattr(args, "devname", None), flags)
    except QvirtError as error:
        raise CommandError(f"Failed to open the console of domain '{domain.name}'", error) from error
    name = f"^{chr(escape[0] ^ 0x40)}"
    async with stream:
        if resume:
            await domain.resume()
        with console.raw_terminal(0):
            # Said when it is true: from here on keys go to the guest. A pipe gets the guest's bytes and
            # nothing else; a raw terminal does not return the carriage by itself.
            if os.isatty(1):
                context.output.notice(f"Connected to domain '{domain.name}'\r")
                context.output.notice(f"Escape character is {name} (Ctrl + {name[1]})\r")
            context.output.flush()
            await console.run(stream, 0, 1, escape=escape, idle=getattr(args, "idle", None))


def escape_byte(text: str) -> bytes:
    """Parse the escape key: a character, or `^` and a letter; raises CommandError."""
    if len(text) == 1 and text.isascii():
        return text.encode()
    if len(text) == 2 and text[0] == "^" and text[1].isascii():
        code = ord(text[1].upper()) ^ 0x40
        if code < 0x20:
            return bytes([code])
    raise CommandError(f"Invalid string '{text}' for escape sequence")


async def run(context: Context) -> None:
    """Attach to a domain's console."""
    await attach(context, await context.domain())


COMMANDS: Final = (
    Command(
        "console",
        "connect to the guest console",
        run,
        (
            DOMAIN,
            option("devname", "character device name"),
            flag("force", "force console connection (disconnect already connected sessions)"),
            flag("safe", "only connect if safe console handling is supported"),
            option("idle", "after the end of input, leave after so many seconds without output", float),
        ),
    ),
)
