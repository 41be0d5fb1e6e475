"""``qvirt domifaddr``: a guest's addresses from all who know some, and who says so."""

from typing import Final

from qvirt.cli.command import DOMAIN, Command, CommandError, Context, option
from qvirt.constants.domain import DomainInterfaceAddressesSource
from qvirt.errors import QvirtError

#: in the order in which they are believed
SOURCES: Final = {
    "lease": DomainInterfaceAddressesSource.LEASE,
    "agent": DomainInterfaceAddressesSource.AGENT,
    "arp": DomainInterfaceAddressesSource.ARP,
}


async def domifaddr(context: Context) -> None:
    """Print a guest's addresses, each once, with all sources that tell of it."""
    wanted = context.args.source
    if wanted is not None and wanted not in SOURCES:
        raise CommandError(f"Unknown data source '{wanted}', there are: {', '.join(SOURCES)}")
    domain = await context.domain()
    known: dict[tuple[str, str], list[str]] = {}
    names: dict[str, str] = {}
    prefixes: dict[tuple[str, str], int] = {}
    silent: list[str] = []
    for source, number in SOURCES.items():
        if wanted not in (None, source):
            continue
        try:
            answer = await domain.call("DOMAIN_INTERFACE_ADDRESSES", source=number, flags=0)
        except QvirtError as error:
            if wanted is not None:
                raise CommandError("Failed to query for interfaces addresses", error) from error
            silent.append(f"{source}: {error}")
            continue
        for interface in answer.ifaces:
            mac = interface.hwaddr or ""
            if source != "agent" or mac not in names:
                names[mac] = interface.name
            for address in interface.addrs:
                key = (mac, address.addr)
                known.setdefault(key, []).append(source)
                # the ARP table knows no lengths
                prefixes[key] = prefixes.get(key) or address.prefix
    rows = [
        (
            names[mac],
            mac or "-",
            "ipv6" if ":" in address else "ipv4",
            f"{address}/{prefixes[mac, address]}" if prefixes[mac, address] else address,
            ",".join(sources),
        )
        for (mac, address), sources in known.items()
    ]
    context.output.table(("Name", "MAC address", "Protocol", "Address", "Source"), rows)
    for line in silent:
        context.output.notice(f" ({line})")


COMMANDS: Final = (
    Command(
        "domifaddr",
        "show a guest's addresses and who knows them",
        domifaddr,
        (DOMAIN, option("source", "only this source: lease, agent or arp")),
    ),
)
