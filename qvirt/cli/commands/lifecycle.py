"""Commands that change a domain's life: define, create, start, shutdown, destroy, undefine and their like."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from qvirt.cli.command import DOMAIN, Argument, Command, CommandError, Context, flag, option, place
from qvirt.cli.commands.console import attach
from qvirt.client.domain import Domain
from qvirt.constants.domain import (
    DomainCreateFlags,
    DomainDefineFlags,
    DomainDestroyFlags,
    DomainShutdownFlags,
    DomainUndefineFlags,
)
from qvirt.errors import QvirtError

_FILE: Final = place("file", "file containing an XML domain description")
_VALIDATE: Final = flag("validate", "validate the XML against the schema")
_START_FLAGS: Final = (
    ("paused", "leave the guest paused after creation", DomainCreateFlags.START_PAUSED),
    (
        "autodestroy",
        "automatically destroy the guest when qvirt disconnects",
        DomainCreateFlags.START_AUTODESTROY,
    ),
    ("reset-nvram", "re-initialize NVRAM from its pristine template", DomainCreateFlags.START_RESET_NVRAM),
)
_BOOT_FLAGS: Final = (
    ("bypass-cache", "avoid file system cache when loading", DomainCreateFlags.START_BYPASS_CACHE),
    ("force-boot", "force fresh boot by discarding any managed save", DomainCreateFlags.START_FORCE_BOOT),
)
_UNDEFINE_FLAGS: Final = (
    ("managed-save", "remove domain managed state file", DomainUndefineFlags.MANAGED_SAVE),
    (
        "snapshots-metadata",
        "remove all domain snapshot metadata (vm must be inactive)",
        DomainUndefineFlags.SNAPSHOTS_METADATA,
    ),
    (
        "checkpoints-metadata",
        "remove all domain checkpoint metadata (vm must be inactive)",
        DomainUndefineFlags.CHECKPOINTS_METADATA,
    ),
    ("nvram", "remove nvram file", DomainUndefineFlags.NVRAM),
    ("keep-nvram", "keep nvram file", DomainUndefineFlags.KEEP_NVRAM),
    ("tpm", "remove TPM state", DomainUndefineFlags.TPM),
    ("keep-tpm", "keep TPM state", DomainUndefineFlags.KEEP_TPM),
)
_MODES: Final = {
    "acpi": DomainShutdownFlags.ACPI_POWER_BTN,
    "agent": DomainShutdownFlags.GUEST_AGENT,
    "initctl": DomainShutdownFlags.INITCTL,
    "signal": DomainShutdownFlags.SIGNAL,
    "paravirt": DomainShutdownFlags.PARAVIRT,
}

_FlagTable = tuple[tuple[str, str, int], ...]


def _flags(context: Context, table: _FlagTable) -> int:
    flags = 0
    for name, _, bit in table:
        if getattr(context.args, name.replace("-", "_")):
            flags |= bit
    return flags


def _start_flags(context: Context, table: _FlagTable) -> int:
    """Give the flags of a start; with a console it starts paused, for nobody keeps what it says before."""
    return _flags(context, table) | (DomainCreateFlags.START_PAUSED if context.args.console else 0)


def _arguments(table: _FlagTable) -> tuple[Argument, ...]:
    return tuple(flag(name, text) for name, text, _ in table)


def read_file(path: str) -> str:
    """Read a document, `-` is standard input; raises CommandError."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"Failed to open file '{path}': {error.strerror}") from error
    return data.decode("utf-8", "surrogateescape")


async def define(context: Context) -> None:
    """Define a domain from a file."""
    path = context.args.file
    xml = read_file(path)
    connection = await context.connection()
    try:
        domain = await connection.define_xml(xml, DomainDefineFlags.VALIDATE if context.args.validate else 0)
    except QvirtError as error:
        raise CommandError(f"Failed to define domain from {path}", error) from error
    context.output.notice(f"Domain '{domain.name}' defined from {path}")


async def create(context: Context) -> None:
    """Start a transient domain from a file."""
    path = context.args.file
    xml = read_file(path)
    flags = _start_flags(context, _START_FLAGS) | (
        DomainCreateFlags.START_VALIDATE if context.args.validate else 0
    )
    connection = await context.connection()
    try:
        domain = await connection.create_xml(xml, flags)
    except QvirtError as error:
        raise CommandError(f"Failed to create domain from {path}", error) from error
    context.output.notice(f"Domain '{domain.name}' created from {path}")
    if context.args.console:
        await attach(context, domain, resume=not context.args.paused)


async def start(context: Context) -> None:
    """Start a defined domain."""
    domain = await context.domain()
    if domain.id >= 0:
        raise CommandError("Domain is already active")
    try:
        await domain.create(_start_flags(context, _START_FLAGS + _BOOT_FLAGS))
    except QvirtError as error:
        raise CommandError(f"Failed to start domain '{domain.name}'", error) from error
    context.output.notice(f"Domain '{domain.name}' started")
    if context.args.console:
        await attach(context, domain, resume=not context.args.paused)


async def shutdown(context: Context) -> None:
    """Ask a domain to shut down."""
    domain = await context.domain()
    flags = 0
    for mode in (context.args.mode or "").split(","):
        if mode and mode not in _MODES:
            raise CommandError(
                f"Unknown mode {mode} value, expecting 'acpi', 'agent', 'initctl', 'signal', or 'paravirt'"
            )
        flags |= _MODES.get(mode, 0)
    try:
        await domain.shutdown(flags)
    except QvirtError as error:
        raise CommandError(f"Failed to shutdown domain '{domain.name}'", error) from error
    context.output.notice(f"Domain '{domain.name}' is being shutdown")


async def destroy(context: Context) -> None:
    """Stop a domain at once."""
    domain = await context.domain()
    try:
        await domain.destroy(DomainDestroyFlags.GRACEFUL if context.args.graceful else 0)
    except QvirtError as error:
        raise CommandError(f"Failed to destroy domain '{domain.name}'", error) from error
    context.output.notice(f"Domain '{domain.name}' destroyed")


async def undefine(context: Context) -> None:
    """Remove a domain's definition."""
    domain = await context.domain()
    try:
        await domain.undefine(_flags(context, _UNDEFINE_FLAGS))
    except QvirtError as error:
        raise CommandError(f"Failed to undefine domain '{domain.name}'", error) from error
    context.output.notice(f"Domain '{domain.name}' has been undefined")


def _simple(name: str, done: str, act: Callable[[Domain], Awaitable[None]]) -> Command:
    async def run(context: Context) -> None:
        domain = await context.domain()
        try:
            await act(domain)
        except QvirtError as error:
            raise CommandError(f"Failed to {name} domain '{domain.name}'", error) from error
        context.output.notice(f"Domain '{domain.name}' {done}")

    return Command(name, f"{name} a domain", run, (DOMAIN,))


async def autostart(context: Context) -> None:
    """Let a domain start with its host, or no more."""
    domain = await context.domain()
    off = context.args.disable
    try:
        await domain.set_autostart(not off)
    except QvirtError as error:
        verb = "unmark" if off else "mark"
        raise CommandError(f"Failed to {verb} domain '{domain.name}' as autostarted", error) from error
    context.output.notice(f"Domain '{domain.name}' {'unmarked' if off else 'marked'} as autostarted")


COMMANDS: Final = (
    Command("define", "define (but don't start) a domain from an XML file", define, (_FILE, _VALIDATE)),
    Command(
        "create",
        "create a domain from an XML file",
        create,
        (_FILE, flag("console", "attach to console after creation"), *_arguments(_START_FLAGS), _VALIDATE),
    ),
    Command(
        "start",
        "start a (previously defined) inactive domain",
        start,
        (
            DOMAIN,
            flag("console", "attach to console after creation"),
            *_arguments(_START_FLAGS + _BOOT_FLAGS),
        ),
    ),
    Command(
        "shutdown",
        "gracefully shutdown a domain",
        shutdown,
        (DOMAIN, option("mode", "shutdown mode: acpi|agent|initctl|signal|paravirt")),
    ),
    _simple("reboot", "is being rebooted", Domain.reboot),
    _simple("reset", "was reset", Domain.reset),
    _simple("suspend", "suspended", Domain.suspend),
    _simple("resume", "resumed", Domain.resume),
    Command("autostart", "autostart a domain", autostart, (DOMAIN, flag("disable", "disable autostarting"))),
    Command(
        "destroy",
        "destroy (stop) a domain",
        destroy,
        (DOMAIN, flag("graceful", "terminate gracefully")),
    ),
    Command("undefine", "undefine a domain", undefine, (DOMAIN, *_arguments(_UNDEFINE_FLAGS))),
)
