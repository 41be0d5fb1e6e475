"""``qvirt doctor DOMAIN``: all that keeps QEMU's user from a domain's files, at once, with the remedies."""

from typing import Final

from qvirt.cli import beside
from qvirt.cli.command import DOMAIN, Command, CommandError, Context
from qvirt.constants.domain import DomainXMLFlags


async def doctor(context: Context) -> None:
    """Look at the files of a domain as QEMU's user would. Fails when something is in its way."""
    domain = await context.domain()
    connection = await context.connection()
    await beside.need_files_here(connection)
    label = _label(await connection.capabilities())
    if label is None:
        context.output.line("QEMU runs as the daemon's own user here: nothing to examine.")
        return
    xml = (await domain.call("DOMAIN_GET_XML_DESC", flags=DomainXMLFlags.INACTIVE)).xml
    words = "qvirt.runtime.doctor", label, beside.settings_of(connection.uri)
    answer = await beside.ask(*words, text=xml, late="a file system did not answer")
    label = _own_label(xml) or label
    found = [line for line in answer.out.splitlines() if line]
    if answer.said and found != [answer.said]:
        context.output.line(answer.said)
    for line in found:
        context.output.line(line)
    if answer.status and not found:
        raise CommandError(answer.said or "the files cannot be examined")
    if found:
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


def _own_label(xml: str) -> str | None:
    """Return the label a domain asks for itself."""
    from qvirt.xml.document import parse_element

    for label in parse_element(xml, "domain").iterfind("seclabel"):
        if (label.get("model"), label.get("type")) == ("dac", "static"):
            return label.findtext("label")
    return None


COMMANDS: Final = (Command("doctor", "examine a domain's files: doctor DOMAIN", doctor, (DOMAIN,)),)
