"""``qvirt security explain DOMAIN``: what the guest's QEMU may touch, and the device that is the reason."""

import asyncio
import socket
import sys
from typing import Final

from qvirt.cli.command import DOMAIN, Command, CommandError, Context, place

#: seconds for looking at all files
DEADLINE: Final = 60.0


async def security(context: Context) -> None:
    """Explain a domain's confinement."""
    if context.args.action != "explain":
        raise CommandError(f"unknown action '{context.args.action}', there is: explain")
    domain = await context.domain()
    connection = await context.connection()
    if await connection.hostname() not in (socket.gethostname(), socket.getfqdn()):
        raise CommandError("the files are on another machine: run this there")
    models = _models(await connection.capabilities())
    xml = (await domain.call("DOMAIN_GET_XML_DESC", flags=0)).xml
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qvirt.runtime.explain", models),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            out, said = await child.communicate(xml.encode("utf-8", "surrogateescape"))
    except TimeoutError:
        child.kill()
        await child.wait()
        raise CommandError(f"a file system did not answer within {DEADLINE:g} s") from None
    for line in out.decode(errors="replace").splitlines():
        context.output.line(line)
    if child.returncode:
        raise CommandError(said.decode(errors="replace").strip() or "the document cannot be explained")


def _models(capabilities: str) -> str:
    """Return the models in use with their base labels, as the explainer takes them."""
    # the command line starts without an XML library, as most commands need none
    from qvirt.xml.document import parse_element

    found = []
    for model in parse_element(capabilities, "capabilities").iterfind("host/secmodel"):
        label = model.findtext("baselabel")
        found.append(f"{model.findtext('model')}={label}" if label else str(model.findtext("model")))
    return ",".join(found)


COMMANDS: Final = (
    Command(
        "security",
        "say what a domain may touch, and why: security explain DOMAIN",
        security,
        (place("action", "explain"), DOMAIN),
    ),
)
