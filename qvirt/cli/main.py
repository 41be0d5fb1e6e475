"""The entry point of `qvirt`: global options, the command, its end."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from getpass import getpass
from typing import TYPE_CHECKING, Final

import qvirt
from qvirt.cli.command import (
    Command,
    CommandError,
    ConnectError,
    Context,
    Parser,
    add_arguments,
    settle_arguments,
)
from qvirt.cli.commands import COMMANDS
from qvirt.cli.output import Output
from qvirt.client.aio import KEEPALIVE, Connection
from qvirt.errors import QvirtError

if TYPE_CHECKING:
    from qvirt.net.sasl import Prompt

_BY_NAME: Final = {command.name: command for command in COMMANDS}
INTERRUPTED: Final = 130


def global_parser() -> Parser:
    """Make the parser of what comes before the command."""
    parser = Parser(prog="qvirt", description="Manage virtual machines.", allow_abbrev=False, add_help=False)
    parser.add_argument("-c", "--connect", metavar="URI", help="hypervisor connection URI")
    parser.add_argument("-r", "--readonly", action="store_true", help="connect readonly")
    parser.add_argument("-q", "--quiet", action="store_true", help="quiet mode")
    parser.add_argument(
        "-e", "--escape", metavar="CHAR", default="^]", help="set escape sequence for console"
    )
    parser.add_argument("-k", "--keepalive-interval", metavar="NUM", type=float, default=KEEPALIVE[0],
                        help="keepalive interval in seconds, 0 for disable")  # fmt: skip
    parser.add_argument("-K", "--keepalive-count", metavar="NUM", type=int, default=KEEPALIVE[1],
                        help="number of possible missed keepalive messages")  # fmt: skip
    parser.add_argument("-v", "--version", action="version", version=qvirt.__version__, help="short version")
    parser.add_argument("-h", "--help", action="store_true", help="this help")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def command_parser(command: Command) -> Parser:
    """Make the parser of one command's arguments."""
    parser = Parser(prog=f"qvirt {command.name}", description=command.help, allow_abbrev=False)
    add_arguments(parser, command)
    return parser


def help_text(parser: Parser) -> str:
    """Give the help of the whole command."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.help}" for command in COMMANDS]
    usage = "usage: qvirt [options]... <command> [arguments]...\n\noptions:\n"
    options = parser.format_help().partition("options:\n")[2]
    return usage + options + "\ncommands (qvirt help <command> tells more):\n" + "\n".join(lines) + "\n"


def parse(argv: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """Parse a command line; prints and leaves where there is nothing to run."""
    parser = global_parser()
    given = parser.parse_args(argv)
    name, rest = given.command, given.rest
    if name == "help" or given.help or name is None:
        wanted = rest[0] if name == "help" and rest else None
        if wanted is None:
            sys.stdout.write(help_text(parser))
            parser.exit(0 if given.help or name else 1)
        name, rest = wanted, ["--help"]
    command = _BY_NAME.get(name)
    if command is None:
        parser.error(f"unknown command: '{name}'")
    own = command_parser(command)
    args, unknown = own.parse_known_args(rest)
    for word in unknown:
        own.error(f"command '{name}' doesn't support option {word}" if word.startswith("-")
                  else f"unexpected data '{word}'")  # fmt: skip
    settle_arguments(own, command, args)
    for key in ("connect", "readonly", "quiet", "escape", "keepalive_interval", "keepalive_count"):
        setattr(args, key, getattr(given, key))
    return command, args


def ask(prompt: "Prompt") -> str | None:
    """Ask whoever sits at the terminal for a name or a password; None when nobody does."""
    if not os.isatty(0):
        return None
    text = (prompt.text or f"Enter {prompt.name}").rstrip(": ") + ": "
    try:
        return getpass(text) if prompt.secret else input(text)
    except EOFError:
        return None


async def run(command: Command, args: argparse.Namespace, output: Output) -> int:
    """Run a command; gives the exit code."""

    async def connect() -> Connection:
        address = args.connect or os.environ.get("VIRSH_DEFAULT_CONNECT_URI") or None
        keepalive = (args.keepalive_interval, args.keepalive_count)
        return await Connection.open(address, readonly=args.readonly, keepalive=keepalive, ask=ask)

    task = asyncio.current_task()
    if task is not None:
        # So that a terminal made raw is put back.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    context = Context(args, output, connect)
    code = 0
    try:
        await command.run(context)
    except CommandError as error:
        code = 1
        for line in error.lines:
            if line:
                output.error(line)
        if isinstance(error, ConnectError):
            return code
    except QvirtError as error:
        code = 1
        output.error(str(error))
    finally:
        await context.close()
    output.notice()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 for an error, 130 when interrupted."""
    command, args = parse(sys.argv[1:] if argv is None else argv)
    output = Output(quiet=args.quiet)
    try:
        code = asyncio.run(run(command, args, output))
        output.flush()
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BrokenPipeError:
        output.abandon()
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
