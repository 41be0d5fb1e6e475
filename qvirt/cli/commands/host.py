"""Commands about the host and the daemon: capabilities, nodeinfo, version, uri, domxml-to-native."""

from typing import Final

import qvirt
from qvirt.cli.command import Command, CommandError, Context, flag, option, place
from qvirt.cli.commands.lifecycle import read_file
from qvirt.cli.words import version_text
from qvirt.constants.domain import DomainXMLFlags
from qvirt.errors import QvirtError


async def capabilities(context: Context) -> None:
    """Print the capabilities XML."""
    context.output.line(await (await context.connection()).capabilities())


async def domcapabilities(context: Context) -> None:
    """Print the domain capabilities XML."""
    args = context.args
    connection = await context.connection()
    try:
        xml = await connection.domain_capabilities(args.emulatorbin, args.arch, args.machine, args.virttype)
    except QvirtError as error:
        raise CommandError("failed to get emulator capabilities", error) from error
    context.output.line(xml)


async def nodeinfo(context: Context) -> None:
    """Print the host's CPUs and memory."""
    info = await (await context.connection()).node_info()
    context.output.fields(
        (
            ("CPU model", info.model),
            ("CPU(s)", info.cpus),
            ("CPU frequency", f"{info.mhz} MHz"),
            ("CPU socket(s)", info.sockets),
            ("Core(s) per socket", info.cores),
            ("Thread(s) per core", info.threads),
            ("NUMA cell(s)", info.nodes),
            ("Memory size", f"{info.memory} KiB"),
        ),
        width=20,
    )


async def version(context: Context) -> None:
    """Print versions: ours, the daemon's API, the emulator's."""
    context.output.line(f"Using library: qvirt {qvirt.__version__}")
    connection = await context.connection()
    kind, api, emulator = await connection.type(), await connection.lib_version(), await connection.version()
    context.output.line(f"Using API: {kind} {version_text(api)}")
    if emulator:
        context.output.line(f"Running hypervisor: {kind} {version_text(emulator)}")
    else:
        context.output.line(f"Cannot extract running {kind} hypervisor version")
    if context.args.daemon:
        context.output.line(f"Running against daemon: {version_text(api)}")


async def uri(context: Context) -> None:
    """Print the connection's URI."""
    context.output.line((await context.connection()).uri)


async def hostname(context: Context) -> None:
    """Print the daemon's host name."""
    context.output.line(await (await context.connection()).hostname())


async def domxml_to_native(context: Context) -> None:
    """Print the command line QEMU would be started with."""
    args = context.args
    if (args.domain is None) == (args.xml is None):
        raise CommandError("need either domain or domain XML")
    if args.xml is not None:
        xml = read_file(args.xml)
    else:
        xml = await (await context.domain(args.domain)).xml_desc(DomainXMLFlags.SECURE)
    connection = await context.connection()
    context.output.text(await connection.domain_xml_to_native(xml, args.format))


COMMANDS: Final = (
    Command("capabilities", "capabilities", capabilities),
    Command(
        "domcapabilities",
        "domain capabilities",
        domcapabilities,
        (
            option("virttype", "virtualization type (/domain/@type)"),
            option("emulatorbin", "path to emulator binary (/domain/devices/emulator)"),
            option("arch", "domain architecture (/domain/os/type/@arch)"),
            option("machine", "machine type (/domain/os/type/@machine)"),
        ),
    ),
    Command(
        "domxml-to-native",
        "convert domain XML to native config",
        domxml_to_native,
        (
            place("format", "target config data type format"),
            option("domain", "domain name, id or uuid"),
            place("xml", "xml data file to export from", required=False),
        ),
    ),
    Command("nodeinfo", "node information", nodeinfo),
    Command("version", "show version", version, (flag("daemon", "report daemon version too"),)),
    Command("uri", "print the hypervisor canonical URI", uri),
    Command("hostname", "print the hypervisor hostname", hostname),
)
