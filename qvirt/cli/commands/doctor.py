"""``qvirt doctor DOMAIN``: all that keeps QEMU's user from a domain's files, at once, with the remedies."""

import asyncio
import socket
import sys
from typing import Final

from qvirt.cli.command import DOMAIN, Command, CommandError, Context
from qvirt.constants.domain import DomainXMLFlags

#: seconds for looking at all files
DEADLINE: Final = 60.0


async def doctor(context: Context) -> None:
    """Look at the files of a domain as QEMU's user would. Fails when something is in its way."""
    domain = await context.domain()
    connection = await context.connection()
    if await connection.hostname() not in (socket.gethostname(), socket.getfqdn()):
        raise CommandError("the files are on another machine: run this there")
    label = _label(await connection.capabilities())
    if label is None:
        context.output.line("QEMU runs as the daemon's own user here: nothing to examine.")
        return
    xml = (await domain.call("DOMAIN_GET_XML_DESC", flags=DomainXMLFlags.INACTIVE)).xml
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qvirt.runtime.doctor", label),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            out, _ = await child.communicate(xml.encode("utf-8", "surrogateescape"))
    except TimeoutError:
        child.kill()
        await child.wait()
        raise CommandError(f"a file system did not answer within {DEADLINE:g} s") from None
    found = [line for line in out.decode(errors="replace").splitlines() if line]
    for line in found:
        context.output.line(line)
    if found or child.returncode:
        raise CommandError(f"{len(found)} obstacle(s) for QEMU's user ({label})")
    context.output.line(f"QEMU's user ({label}) can get at all files.")


def _label(capabilities: str) -> str | None:
    """Return the label QEMU runs under, of the model dac."""
    # the command line starts without an XML library, as most commands need none
    from qvirt.xml.document import parse_element

    for model in parse_element(capabilities, "capabilities").iterfind("host/secmodel"):
        if model.findtext("model") == "dac":
            return model.findtext("baselabel")
    return None


COMMANDS: Final = (Command("doctor", "examine a domain's files: doctor DOMAIN", doctor, (DOMAIN,)),)
