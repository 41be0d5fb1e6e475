"""The addresses that a network's dnsmasq has given out, read from the file it keeps itself."""

import time
from functools import partial
from pathlib import Path

from qvirt.drivers.network import dnsmasq, dnsmasq_config
from qvirt.drivers.network.network import Network
from qvirt.model.network import Network as Document
from qvirt.record import Record

_TRIES = 5


class Lease(Record):
    """One lease (virNetworkDHCPLease). expiry: seconds since 1970, 0 is forever; type: 0 IPv4, 1 IPv6."""

    interface: str
    expiry: int
    type: int
    mac: str | None
    iaid: str | None
    address: str
    prefix: int
    hostname: str | None = None
    clientid: str | None = None


async def read(network: Network) -> list[Lease]:
    """Return the leases of an active network that have not expired."""
    document = network.live
    if document is None or not document.bridge_name:
        return []
    path = dnsmasq.lease_file(network.host.folders, network.name)
    text = await network.host.files.run(f"leases of '{network.name}'", partial(_text, path))
    return parse(text, document, time.time())


def _text(path: Path) -> str:
    """Read the file, whole: dnsmasq empties it before it writes it anew. Blocking."""
    text = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(0.002)
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return ""
        if text.endswith("\n"):
            break
    return text


def parse(text: str, document: Document, now: float) -> list[Lease]:
    """Read dnsmasq's lines: expiry, MAC or IAID, address, host name, client id; ``duid`` begins IPv6's."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5 or not words[0].isdigit():
            continue
        expiry, who, address, hostname, client = words
        if expiry != "0" and int(expiry) <= now:
            continue
        version6 = ":" in address
        found.append(
            Lease(
                interface=document.bridge_name or "",
                expiry=int(expiry),
                type=1 if version6 else 0,
                mac=_mac_of_duid(client) if version6 else who.rpartition("-")[2],
                iaid=who.lstrip("T") if version6 else None,
                address=address,
                prefix=dnsmasq_config.lease_prefix(document, address),
                hostname=None if hostname == "*" else hostname,
                clientid=None if client == "*" else client,
            )
        )
    return found


def _mac_of_duid(duid: str) -> str | None:
    """Return the MAC in an identifier made of one (DUID-LLT, DUID-LL over Ethernet: RFC 8415)."""
    parts = duid.lower().split(":")
    if parts[:4] == ["00", "01", "00", "01"] and len(parts) == 14:
        return ":".join(parts[8:])
    if parts[:4] == ["00", "03", "00", "01"] and len(parts) == 10:
        return ":".join(parts[4:])
    return None
