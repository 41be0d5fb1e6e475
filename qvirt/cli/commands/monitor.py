"""Commands that look: list, dominfo, domstate, dumpxml."""

import asyncio
from typing import Final
from uuid import UUID

from qvirt.cli.command import DOMAIN, Command, CommandError, Context, flag
from qvirt.cli.words import reason_word, state_word, yes_no
from qvirt.client.aio import Connection
from qvirt.client.domain import Domain
from qvirt.constants.domain import ConnectListAllDomainsFlags as Filter
from qvirt.constants.domain import DomainMetadataType, DomainXMLFlags
from qvirt.errors import NoDomain, NoDomainMetadata, NoSupport

_FILTERS: Final = (
    ("transient", "list transient domains", Filter.TRANSIENT),
    ("persistent", "list persistent domains", Filter.PERSISTENT),
    ("with-snapshot", "list domains with existing snapshot", Filter.HAS_SNAPSHOT),
    ("without-snapshot", "list domains without a snapshot", Filter.NO_SNAPSHOT),
    ("with-checkpoint", "list domains with existing checkpoint", Filter.HAS_CHECKPOINT),
    ("without-checkpoint", "list domains without a checkpoint", Filter.NO_CHECKPOINT),
    ("state-running", "list domains in running state", Filter.RUNNING),
    ("state-paused", "list domains in paused state", Filter.PAUSED),
    ("state-shutoff", "list domains in shutoff state", Filter.SHUTOFF),
    ("state-other", "list domains in other states", Filter.OTHER),
    ("autostart", "list domains with autostart enabled", Filter.AUTOSTART),
    ("no-autostart", "list domains with autostart disabled", Filter.NO_AUTOSTART),
    ("with-managed-save", "list domains with managed save state", Filter.MANAGEDSAVE),
    ("without-managed-save", "list domains without managed save", Filter.NO_MANAGEDSAVE),
)
_STATE_FILTERS: Final = ("state_running", "state_paused", "state_shutoff", "state_other")


async def list_(context: Context) -> None:
    """Print the domains, running ones first by id, then the others by name."""
    args = context.args
    if sum((args.uuid or args.name or args.id, args.table)) > 1:
        raise CommandError("Only one argument from --table and --name, --uuid, --id may be specified.")
    flags = Filter.INACTIVE if args.inactive else Filter.ACTIVE
    if args.all or (any(getattr(args, name) for name in _STATE_FILTERS) and not args.inactive):
        flags = Filter.ACTIVE | Filter.INACTIVE
    for name, _, bit in _FILTERS:
        if getattr(args, name.replace("-", "_")):
            flags |= bit
    connection = await context.connection()
    domains = sorted(
        await connection.list_all_domains(flags), key=lambda it: (it.id < 0, it.id, it.name.casefold())
    )
    if args.uuid or args.name or args.id:
        _print_names(context, domains)
        return
    rows = await asyncio.gather(*(_row(domain, args.title, args.managed_save) for domain in domains))
    header = ("Id", "Name", "State", "Title") if args.title else ("Id", "Name", "State")
    context.output.table(header, [row for row in rows if row])


def _print_names(context: Context, domains: list[Domain]) -> None:
    args = context.args
    for domain in domains:
        parts = []
        if args.id:
            parts.append("-" if domain.id < 0 else str(domain.id))
        if args.uuid:
            parts.append(str(domain.uuid))
        if args.name:
            parts.append(domain.name)
        context.output.line(" ".join(parts))


async def _row(domain: Domain, title: bool, managed_save: bool) -> list[str] | None:
    try:
        state = state_word((await domain.state())[0])
        if managed_save and domain.id < 0 and await domain.has_managed_save_image():
            state = "saved"
        row = ["-" if domain.id < 0 else str(domain.id), domain.name, state]
        if title:
            row.append(await _title(domain))
    except NoDomain:
        # Gone between the list and the question.
        return None
    return row


async def _title(domain: Domain) -> str:
    try:
        answer = await domain.call("DOMAIN_GET_METADATA", type=DomainMetadataType.TITLE, uri=None)
    except NoDomainMetadata:
        return ""
    return str(answer.metadata)


async def dominfo(context: Context) -> None:
    """Print what a domain is and uses."""
    domain = await context.domain()
    connection = await context.connection()
    info = await domain.info()
    rows: list[tuple[str, object]] = [
        ("Id", "-" if domain.id < 0 else domain.id),
        ("Name", domain.name),
        ("UUID", domain.uuid),
        ("OS Type", await domain.os_type()),
        ("State", state_word(info.state)),
        ("CPU(s)", info.vcpus),
    ]
    if info.cpu_time:
        rows.append(("CPU time", f"{info.cpu_time / 1e9:.1f}s"))
    rows += [
        ("Max memory", f"{info.max_memory} KiB"),
        ("Used memory", f"{info.memory} KiB"),
        ("Persistent", yes_no(await domain.is_persistent())),
        ("Autostart", "enable" if await domain.autostart() else "disable"),
        ("Managed save", yes_no(await domain.has_managed_save_image())),
        *await _security(connection, domain),
        *await _messages(domain),
    ]
    context.output.fields(rows)


async def _security(connection: Connection, domain: Domain) -> list[tuple[str, object]]:
    try:
        model, doi = await connection.security_model()
        if not model:
            return []
        label, enforcing = await domain.security_label()
    except NoSupport:
        return []
    rows: list[tuple[str, object]] = [("Security model", model), ("Security DOI", doi)]
    if label:
        rows.append(("Security label", f"{label} ({'enforcing' if enforcing else 'permissive'})"))
    return rows


async def _messages(domain: Domain) -> list[tuple[str, object]]:
    try:
        messages = await domain.messages()
    except NoSupport:
        return []
    return [("Messages" if at == 0 else "", message) for at, message in enumerate(messages)]


async def domstate(context: Context) -> None:
    """Print a domain's state."""
    state, reason = await (await context.domain()).state()
    text = state_word(state)
    context.output.line(f"{text} ({reason_word(state, reason)})" if context.args.reason else text)


async def dumpxml(context: Context) -> None:
    """Print a domain's XML."""
    args = context.args
    flags = (
        (DomainXMLFlags.INACTIVE if args.inactive else 0)
        | (DomainXMLFlags.SECURE if args.security_info else 0)
        | (DomainXMLFlags.UPDATE_CPU if args.update_cpu else 0)
        | (DomainXMLFlags.MIGRATABLE if args.migratable else 0)
    )
    context.output.text(await (await context.domain()).xml_desc(flags))


async def domid(context: Context) -> None:
    """Print a domain's id."""
    domain = await context.domain()
    context.output.line("-" if domain.id < 0 else str(domain.id))


async def domuuid(context: Context) -> None:
    """Print a domain's UUID."""
    uuid: UUID = (await context.domain()).uuid
    context.output.line(str(uuid))


async def domname(context: Context) -> None:
    """Print a domain's name."""
    context.output.line((await context.domain()).name)


COMMANDS: Final = (
    Command(
        "list",
        "list domains",
        list_,
        (
            flag("inactive", "list inactive domains"),
            flag("all", "list inactive & active domains"),
            *(flag(name, text) for name, text, _ in _FILTERS),
            flag("uuid", "list uuid's only"),
            flag("name", "list domain names only"),
            flag("id", "list domain IDs only"),
            flag("table", "list table (default)"),
            flag("managed-save", "mark inactive domains with managed save state"),
            flag("title", "show domain title"),
        ),
    ),
    Command("dominfo", "domain information", dominfo, (DOMAIN,)),
    Command(
        "domstate", "domain state", domstate, (DOMAIN, flag("reason", "also print reason for the state"))
    ),
    Command("domid", "convert a domain name or UUID to domain id", domid, (DOMAIN,)),
    Command("domuuid", "convert a domain name or id to domain UUID", domuuid, (DOMAIN,)),
    Command("domname", "convert a domain id or UUID to domain name", domname, (DOMAIN,)),
    Command(
        "dumpxml",
        "domain information in XML",
        dumpxml,
        (
            DOMAIN,
            flag("inactive", "show inactive defined XML"),
            flag("security-info", "include security sensitive information in XML dump"),
            flag("update-cpu", "update guest CPU according to host CPU"),
            flag("migratable", "provide XML suitable for migrations"),
        ),
    ),
)
