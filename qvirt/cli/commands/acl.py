"""``qvirt acl why USER CALL [OBJECT]``: which permissions a call needs, and which rule decides each."""

import os
from pathlib import Path
from typing import Final

from qvirt.cli import beside
from qvirt.cli.command import Command, CommandError, Context, option, place


async def acl(context: Context) -> None:
    """Explain a decision of access control. Fails where the user may not."""
    args = context.args
    if args.action != "why":
        raise CommandError(f"unknown action '{args.action}': use acl why USER CALL [OBJECT]")
    words = [_settings(args.settings), args.user, args.call, *(args.object or ())]
    answer = await beside.ask("qvirt.daemon.why", *words, late="the settings could not be read")
    if answer.out:
        context.output.text(answer.out)
    if answer.status == 1 and answer.out:
        raise CommandError(f"{args.user} may not")
    if answer.status:
        raise CommandError(answer.said.removeprefix("error: "))


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
