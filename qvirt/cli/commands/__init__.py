"""All commands, in the order in which help shows them; each module holds a table of its own."""

from typing import Final

from qvirt.cli.command import Command
from qvirt.cli.commands import (
    acl,
    adopt,
    console,
    doctor,
    event,
    export,
    host,
    interfaces,
    lifecycle,
    monitor,
    native,
    network,
    pki,
    security,
    takeover,
)

COMMANDS: Final[tuple[Command, ...]] = (
    *monitor.COMMANDS,
    *lifecycle.COMMANDS,
    *console.COMMANDS,
    *event.COMMANDS,
    *host.COMMANDS,
    *export.COMMANDS,
    *native.COMMANDS,
    *adopt.COMMANDS,
    *interfaces.COMMANDS,
    *network.COMMANDS,
    *doctor.COMMANDS,
    *security.COMMANDS,
    *acl.COMMANDS,
    *takeover.COMMANDS,
    *pki.COMMANDS,
)
