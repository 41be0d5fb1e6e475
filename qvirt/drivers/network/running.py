"""Networks on the host: bridges, addresses, dnsmasq, rules. The driver calls these three and `reconnect`."""

from qvirt.drivers.network.network import Network, NetworkHost
from qvirt.errors import ConfigUnsupported
from qvirt.model.network import Network as Document


async def start(network: Network, host: NetworkHost) -> None:
    """Bring ``network.live`` to life on the host; what it finds out it writes there. Undoes itself on failure.

    Called with the network's lock held; ``network.live`` is set, the status file is written after it.
    """
    raise ConfigUnsupported(f"network '{network.name}' cannot be started: this host makes no bridges yet")


async def stop(network: Network) -> None:
    """Take everything of an active network away; harmless for what is gone already."""
    raise ConfigUnsupported(f"network '{network.name}' cannot be stopped")


async def refresh(network: Network, old: Document, new: Document) -> None:
    """Bring the host to a changed document; on failure the host is as ``old`` says."""
    raise ConfigUnsupported(f"network '{network.name}' cannot be changed while it is active")


async def reconnect(network: Network, host: NetworkHost) -> None:
    """Take up an active network again after a restart of the daemon: what is missing is made anew.

    Raises QvirtError when it is not alive any more, and cannot be.
    """
    raise ConfigUnsupported(f"network '{network.name}' cannot be taken up again")
