"""``qvirt takeover``: guests of a running libvirtd become ours, or libvirtd's again, and go on meanwhile."""

import asyncio
import sys
from typing import Final

from qvirt.cli.command import Command, CommandError, Context, flag, option


async def takeover(context: Context) -> None:
    """Change daemons, or say what would be in the way. Fails when something is."""
    args = context.args
    words = [f"--{name}" for name in ("check", "back", "leave") if getattr(args, name)]
    for name in ("root", "daemon"):
        value = getattr(args, name)
        words += [f"--{name}", value] if value else []
    # the files are the daemons' own, and neither is to be asked: this works beside them
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "qvirt.cli.changeover", *words)
    if await child.wait():
        raise CommandError("not all guests are ready" if args.check else "guests were not taken over")


COMMANDS: Final = (
    Command(
        "takeover",
        "take over libvirtd's running guests, or give them back",
        takeover,
        (
            flag("check", "only say for each guest whether it is ready, and what stands in the way"),
            flag("back", "give the guests to libvirtd"),
            flag("leave", "go on, and leave alone the guests that are not ready"),
            option("root", "the folder of a daemon that serves its own"),
            option("daemon", "the daemon to start, where it is not in its usual place"),
        ),
    ),
)
