"""What a command is: name, arguments as a table, and what it does; how its arguments become argparse's."""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

from qvirt.cli.output import Output
from qvirt.client.aio import Connection
from qvirt.client.domain import Domain
from qvirt.errors import NoDomain, QvirtError
from qvirt.record import Record, field


class CommandError(Exception):
    """The command cannot go on; the lines to print, the cause's message last."""

    def __init__(self, message: str, cause: QvirtError | None = None) -> None:
        super().__init__(message)
        self.lines = [message] if cause is None else [message, str(cause)]


class ConnectError(CommandError):
    """There is no daemon to talk to."""


class Argument(Record):
    """One argument; `position` ones may be given by place or by `--name`, flags have no value.

    several: it takes all places that are left, and is a list.
    """

    name: str
    help: str
    position: bool = False
    required: bool = False
    flag: bool = False
    several: bool = False
    type: Callable[[str], Any] = str

    @property
    def key(self) -> str:
        """The attribute of the parsed arguments."""
        return self.name.replace("-", "_")


def flag(name: str, help_: str) -> Argument:
    """Make an option without value."""
    return Argument(name, help_, flag=True)


def option(name: str, help_: str, type_: Callable[[str], Any] = str) -> Argument:
    """Make an option with a value."""
    return Argument(name, help_, type=type_)


def place(name: str, help_: str, *, required: bool = True, several: bool = False) -> Argument:
    """Make an argument that is given by its place or by `--name`."""
    return Argument(name, help_, position=True, required=required, several=several)


DOMAIN: Final = place("domain", "domain name, id or uuid")


class Context(Record, frozen=False):
    """What a command works with: its arguments, the output, and the connection when it needs one."""

    args: Any
    output: Output
    open: Callable[[], Awaitable[Connection]]
    _connection: Connection | None = None

    async def connection(self) -> Connection:
        """Give the connection, opening it at first; raises CommandError."""
        if self._connection is None:
            try:
                self._connection = await self.open()
            except QvirtError as error:
                raise ConnectError("failed to connect to the hypervisor", error) from error
        return self._connection

    async def close(self) -> None:
        """Close the connection if there is one."""
        if self._connection is not None:
            await self._connection.close()

    async def domain(self, text: str | None = None) -> Domain:
        """Find a domain, the argument `domain`'s by default, by id, UUID or name; raises CommandError."""
        text = str(self.args.domain) if text is None else text
        connection = await self.connection()
        try:
            if text.isascii() and text.isdigit() and len(text) < 10:
                try:
                    return await connection.lookup_by_id(int(text))
                except NoDomain:
                    pass  # a name may be a number too
            if len(text) in (32, 36):
                try:
                    return await connection.lookup_by_uuid(text)
                except (NoDomain, ValueError):
                    pass  # a name may look like a UUID too
            return await connection.lookup_by_name(text)
        except NoDomain as error:
            raise CommandError(f"failed to get domain '{text}'") from error
        except QvirtError as error:
            raise CommandError(f"failed to get domain '{text}'", error) from error


Run = Callable[[Context], Awaitable[None]]


class Command(Record):
    """A command of the table."""

    name: str
    help: str
    run: Run
    arguments: tuple[Argument, ...] = field(default=())


class Parser(argparse.ArgumentParser):
    """argparse with virsh's way to complain: `error: ...`, exit code 1."""

    def error(self, message: str) -> NoReturn:
        """Print and leave."""
        self.exit(1, f"error: {message}\n")


def add_arguments(parser: Parser, command: Command) -> None:
    """Add a command's arguments to its parser."""
    for argument in command.arguments:
        if argument.flag:
            parser.add_argument(
                f"--{argument.name}", action="store_true", help=argument.help, dest=argument.key
            )
            continue
        kind: dict[str, Any] = {"help": argument.help, "type": argument.type, "metavar": f"<{argument.name}>"}
        if argument.position:
            parser.add_argument(f"at_{argument.key}", nargs="*" if argument.several else "?", **kind)
            kind["help"] = argparse.SUPPRESS
        if argument.several:
            kind["action"] = "append"
        parser.add_argument(f"--{argument.name}", dest=argument.key, **kind)


def settle_arguments(parser: Parser, command: Command, args: argparse.Namespace) -> None:
    """Join what was given by place with what was given by name; leaves when a required one is missing.

    What was given by name does not take a place: in `start --paused --domain vm` nothing is left over.
    """
    positions = [argument for argument in command.arguments if argument.position]
    given: list[Any] = []
    for argument in positions:
        value = vars(args).pop(f"at_{argument.key}")
        if argument.several:
            given.extend(value)
        elif value is not None:
            given.append(value)
    for argument in positions:
        if argument.several:
            setattr(args, argument.key, [*(getattr(args, argument.key) or ()), *given] or None)
            given.clear()
        elif getattr(args, argument.key) is None and given:
            setattr(args, argument.key, given.pop(0))
    if given:
        parser.error(f"unexpected data '{given[0]}'")
    for argument in positions:
        if argument.required and getattr(args, argument.key) is None:
            parser.error(f"command '{command.name}' requires <{argument.name}> option")
