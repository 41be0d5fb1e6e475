"""``qvirt acl why USER CALL [OBJECT]``: which permissions a call needs, and which rule decides each."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from qvirt.cli.command import Command, CommandError, Context, option, place

#: seconds for reading settings and rules
DEADLINE: Final = 60.0


async def acl(context: Context) -> None:
    """Explain a decision of access control. Fails where the user may not."""
    args = context.args
    if args.action != "why":
        raise CommandError(f"unknown action '{args.action}': use acl why USER CALL [OBJECT]")
    words = [_settings(args.settings), args.user, args.call, *(args.object or ())]
    # the daemon's own reading of its settings, in a process of its own
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qvirt.daemon.why", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            out, complaints = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise CommandError(f"the settings could not be read within {DEADLINE:g} s") from None
    if out:
        context.output.text(out.decode(errors="replace"))
    if child.returncode == 1 and out:
        raise CommandError(f"{args.user} may not")
    if child.returncode:
        raise CommandError(complaints.decode(errors="replace").removeprefix("error: ").strip())


def _settings(given: str | None) -> str:
    if given is not None:
        return given
    if os.geteuid() == 0:
        return "/etc/libvirt"
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return f"{home}/libvirt"


COMMANDS: Final = (
    Command(
        "acl",
        "explain access control: acl why USER CALL [OBJECT]",
        acl,
        (
            place("action", "why"),
            place("user", "name or uid, sasl=NAME or dn=NAME"),
            place("call", "virDomainCreate, DOMAIN_CREATE, ..."),
            place("object", "the object's name, or ATTRIBUTE=VALUE", required=False, several=True),
            option("settings", "folder with libvirtd.conf and access.rules"),
        ),
    ),
)
