"""`qvirt export`: a domain as the command line of a QEMU of any age, or as a script that needs nobody."""

from pathlib import Path
from typing import Final

from qvirt.cli.command import Command, CommandError, Context, flag, option, place
from qvirt.cli.commands.lifecycle import read_file
from qvirt.constants.domain import DomainXMLFlags
from qvirt.errors import QvirtError


async def export(context: Context) -> None:
    """Print the command line or the script."""
    args = context.args
    xml = await _document(context, args.source)
    if args.emulator is not None:
        xml = _with_emulator(xml, args.emulator)
    kind = "qemu-sh" if args.standalone else "qemu-argv"
    connection = await context.connection()
    text = await connection.domain_xml_to_native(xml, f"{kind}/{args.dialect}" if args.dialect else kind)
    context.output.text(text if text.endswith("\n") else f"{text}\n")


async def _document(context: Context, source: str) -> str:
    """Return the document in a file, or of a domain: a word that names a file is that file."""
    if source == "-" or "/" in source or source.endswith(".xml") or Path(source).is_file():
        return read_file(source)
    return await (await context.domain(source)).xml_desc(DomainXMLFlags.SECURE | DomainXMLFlags.INACTIVE)


def _with_emulator(xml: str, path: str) -> str:
    # the model needs lxml, which the client does without
    from qvirt.model.domain import parse_domain

    try:
        domain = parse_domain(xml)
    except QvirtError as error:
        raise CommandError("cannot read the domain", error) from error
    domain.devices.emulator = path
    return domain.to_xml()


COMMANDS: Final = (
    Command(
        "export",
        "write a domain as a QEMU command line or a script",
        export,
        (
            place("source", "domain name, id or uuid, or a file with its XML (- for standard input)"),
            option("emulator", "the emulator to write for; an old one is asked by -help"),
            option("dialect", "write for a QEMU of this release, 0.9 to 2.12 or 2.x; plain: as one types it"),
            flag("standalone", "a POSIX shell script that prepares what a start needs, and undoes it"),
        ),
    ),
)
