"""Commands about QEMU's own command lines: domxml-from-native, import."""

from pathlib import PurePath
from typing import Final
from xml.sax.saxutils import escape

from qvirt.cli.command import Command, CommandError, Context, flag, place
from qvirt.cli.commands.lifecycle import read_file
from qvirt.errors import QvirtError

_UNNAMED: Final = "  <name>unnamed</name>\n"


async def domxml_from_native(context: Context) -> None:
    """Print the document of a command line."""
    args = context.args
    connection = await context.connection()
    context.output.text(await connection.domain_xml_from_native(read_file(args.config), args.format))


async def import_(context: Context) -> None:
    """Print the documents of command lines, or define them; with a report, what became of each argument."""
    args = context.args
    connection = await context.connection()
    for path in args.file:
        text = read_file(path)
        try:
            if args.report:
                context.output.text(await connection.domain_xml_from_native(text, report=True))
            if args.report and not args.define:
                continue
            xml = _named(await connection.domain_xml_from_native(text), path)
            if args.define:
                domain = await connection.define_xml(xml)
                context.output.line(f"Domain '{domain.name}' defined from {path}")
            else:
                context.output.text(xml)
        except QvirtError as error:
            raise CommandError(f"failed to import {path}", error) from error


def _named(xml: str, path: str) -> str:
    """Give a domain without a name that of its file."""
    stem = PurePath(path).stem
    return xml if path == "-" or not stem else xml.replace(_UNNAMED, f"  <name>{escape(stem)}</name>\n", 1)


COMMANDS: Final = (
    Command(
        "domxml-from-native",
        "convert native config to domain XML",
        domxml_from_native,
        (place("format", "source config data format"), place("config", "config data file to import from")),
    ),
    Command(
        "import",
        "turn QEMU command lines and start scripts into domain XML",
        import_,
        (
            place("file", "a command line or shell script, - for standard input", several=True),
            flag("report", "print what became of each argument"),
            flag("define", "define the domains"),
        ),
    ),
)
