"""One network as the driver knows it, and what its host side is given to work with."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qvirt.host.persist import FileWorker
from qvirt.model.devices.address import pci_name
from qvirt.model.network import Network as Document
from qvirt.model.network_port import NetworkPort
from qvirt.record import Record

if TYPE_CHECKING:
    from qvirt.drivers.network.firewall import Firewall
    from qvirt.drivers.network.floors import Floor
    from qvirt.drivers.network.running import Keeper


class NetworkFolders(Record):
    """Where networks are kept, under libvirt's names.

    definitions: the persistent documents, with ``autostart/`` in it. run: what an active network needs until
    the next boot. lib: the driver's own notes. dnsmasq: configuration and leases of dnsmasq.
    """

    definitions: Path
    run: Path
    lib: Path
    dnsmasq: Path

    @property
    def autostart(self) -> Path:
        """The folder of the links that mark autostart."""
        return self.definitions / "autostart"

    def definition(self, name: str) -> Path:
        return self.definitions / f"{name}.xml"

    def autostart_link(self, name: str) -> Path:
        return self.autostart / f"{name}.xml"

    def status(self, name: str) -> Path:
        return self.run / f"{name}.xml"

    def ports(self, name: str) -> Path:
        """The folder of an active network's ports, a file each."""
        return self.run / name / "ports"


class NetworkHost(Record, frozen=False, eq=False):
    """What starting a network may use of the instance.

    privileged: we may make bridges. files: for work that blocks; nothing else may. rules: the networks' rules
    once a network was started. checkpoint: told of every step behind us, for tests that end there.
    """

    folders: NetworkFolders
    files: FileWorker
    privileged: bool
    rules: "Firewall | None" = None
    checkpoint: Callable[[str], None] = lambda step: None


class Network:
    """A network: its documents, whether it is active, and who holds it.

    definition: what it is started from; None for a transient network. live: what is running; None when it is
    not. ports: the guests' places, by uuid; empty when it is not active. keeper: what watches its
    dnsmasq while it is active.
    lock: whoever changes anything holds it. floors: the classes its bridge has for ports, None where one may
    be anything; settling: whoever changes them holds it.
    """

    def __init__(self, host: NetworkHost, name: str, uuid: str) -> None:
        self.host = host
        self.name = name
        self.uuid = uuid
        self.definition: Document | None = None
        self.live: Document | None = None
        self.autostart = False
        self.ports: dict[str, NetworkPort] = {}
        self.keeper: Keeper | None = None
        self.lock = asyncio.Lock()
        self.floors: dict[int, Floor | None] = {}
        self.settling = asyncio.Lock()

    @property
    def active(self) -> bool:
        """Tell whether it is started."""
        return self.live is not None

    @property
    def persistent(self) -> bool:
        """Tell whether it is kept when it is not active."""
        return self.definition is not None

    @property
    def current(self) -> Document:
        """What is running, else the definition."""
        document = self.live or self.definition
        if document is None:
            raise RuntimeError(f"network '{self.name}' has no document")
        return document

    @property
    def bridge(self) -> str | None:
        """The name of its bridge."""
        return self.current.bridge_name

    def connections(self, device: str | None = None) -> int:
        """Count its ports, or those plugged into one device of the host."""
        if device is None:
            return len(self.ports)
        return sum(port.plug is not None and port.plug.of_host == device for port in self.ports.values())

    def shown(self, *, inactive: bool) -> Document:
        """Return the document a client sees: ports counted in the live one, nothing counted in the other."""
        document = ((self.definition if inactive else None) or self.current).copy()
        document.connections = None if inactive else len(self.ports)
        if document.forward is not None:
            for interface in document.forward.interfaces:
                interface.connections = None if inactive else self.connections(interface.dev)
            for address in document.forward.addresses:
                address.connections = None if inactive else self.connections(pci_name(address))
            if inactive and document.forward.pf is not None:
                document.forward.interfaces = []
                document.forward.addresses = []
        return document
