"""Networks: all virtual networks of an instance; what clients do to them, short of the host's links.

Lookups are from memory. Whatever changes a network holds its lock, works in the file worker and on the host
through `running`, and publishes what happened.
"""

import asyncio
import logging
import random
import uuid as _uuid
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

from qvirt.constants.network import NetworkEventLifecycleType as Event
from qvirt.constants.network import NetworkMetadataType, NetworkUpdateFlags
from qvirt.drivers.network import default, dnsmasq, floors, leases, ports, running, store, update, validate
from qvirt.drivers.network.events import NetworkEvents, NetworkLifecycle, NetworkMetadataChange
from qvirt.drivers.network.network import Network, NetworkFolders, NetworkHost
from qvirt.errors import (
    InternalError,
    NetworkPortExists,
    NoNetwork,
    NoNetworkPort,
    OperationFailed,
    OperationInvalid,
    QvirtError,
)
from qvirt.host.persist import FileWorker
from qvirt.model.netdev import Bandwidth
from qvirt.model.network import BRIDGED_BY_US, parse_network
from qvirt.model.network import Network as Document
from qvirt.model.network_port import NetworkPort, parse_network_port

log = logging.getLogger(__name__)


class Networks:
    """The networks, by uuid and name."""

    def __init__(self, host: NetworkHost) -> None:
        """Use `open`."""
        self.host = host
        self.events = NetworkEvents()
        self.reports: list[str] = []
        self._by_uuid: dict[str, Network] = {}
        self._by_name: dict[str, Network] = {}
        self._random = random.SystemRandom()
        #: bridges of documents that are on their way in, by the network's name
        self._named: dict[str, str] = {}
        self._naming = asyncio.Lock()

    @classmethod
    async def open(
        cls, folders: NetworkFolders, files: FileWorker, *, privileged: bool, with_default: bool
    ) -> Self:
        """Read the networks, take up those that are active.

        with_default: define the network called default once, where nobody has done so. Raises SystemError_.
        """
        self = cls(NetworkHost(folders, files, privileged))
        await files.run("folders of networks", partial(store.make_folders, folders))
        loaded = await files.run("network definitions", partial(store.load, folders))
        self.reports += loaded.reports
        await self._take_in(loaded.definitions)
        for name, (document, known) in loaded.active.items():
            network = self._by_name.get(name) or self._adopt(document)
            network.live = document
            network.ports = {port.uuid: port for port in known if port.uuid}
        self.reports += await running.sweep(self.host, frozenset(loaded.active))
        for network in self:
            network.autostart = network.persistent and network.name in loaded.autostart
        await asyncio.gather(*(self._reconnect(network) for network in self if network.active))
        active = frozenset(network.name for network in self if network.active)
        self.reports += await running.sweep(self.host, active)
        if with_default:
            await self._define_default()
        return self

    def _adopt(self, document: Document) -> Network:
        validate.fill_in(document, self.make_uuid, self.make_mac)
        network = Network(self.host, document.name, document.uuid or "")
        self._add(network)
        return network

    async def _take_in(self, documents: Iterable[Document]) -> None:
        """Take definitions in that were found on disk.

        What one lacks, as it was written by hand, it gets once and for all: uuid, MAC address, bridge.
        """
        lacking: list[Document] = []
        for document in documents:
            twin = self._by_uuid.get(document.uuid or "")
            if twin is not None:
                path = self.host.folders.definition(document.name)
                why = f"network '{twin.name}' has its uuid {twin.uuid}"
                self.reports.append(f"network definition '{path}' was left alone: {why}")
                continue
            whole = document.uuid, document.mac.address
            self._adopt(document).definition = document
            unnamed = document.mode in BRIDGED_BY_US and not document.bridge_name
            if unnamed or whole != (document.uuid, document.mac.address):
                lacking.append(document)
        for document in lacking:
            taken = {network.bridge for network in self if network.bridge and network.name != document.name}
            try:
                if not document.bridge_name:
                    await self.host.files.run("bridge names", partial(validate.name_bridge, document, taken))
                await self._save(document)
            except QvirtError as error:
                self.reports.append(f"network '{document.name}': {error}")

    async def _reconnect(self, network: Network) -> None:
        try:
            await running.reconnect(network, self.host)
        except QvirtError as error:
            self.reports.append(f"network '{network.name}' is no longer active: {error}")
            await self._gone(network)

    async def _define_default(self) -> None:
        text = await self.host.files.run(
            "default network", partial(default.choose, self.host.folders, list(self))
        )
        if text is None:
            return
        if "default" not in self._by_name:
            await self.define(text)
            await self.set_autostart(self.by_name("default"), True)
        await self.host.files.run("default network", partial(default.note, self.host.folders))

    async def close(self) -> None:
        """Let go of the networks; those that are active go on without us."""
        await running.close(self.host, list(self))

    async def autostart(self) -> None:
        """Start what is marked, unless it was done since the machine was booted. @background."""
        folders, files = self.host.folders, self.host.files
        if await files.run("autostart mark", partial(default.autostarted, folders)):
            return
        for network in [network for network in self if network.autostart and not network.active]:
            try:
                await self.start(network)
            except QvirtError as error:
                report = f"Failed to autostart network '{network.name}': {error}"
                self.reports.append(report)
                log.error("%s", report)
        await files.run("autostart mark", partial(default.note_autostart, folders))

    # ------------------------------------------------------------------ lookups

    def __iter__(self) -> Iterator[Network]:
        return iter(list(self._by_uuid.values()))

    def __len__(self) -> int:
        return len(self._by_uuid)

    def by_name(self, name: str) -> Network:
        """Raises NoNetwork."""
        network = self._by_name.get(name)
        if network is None:
            raise NoNetwork(f"no network with matching name '{name}'")
        return network

    def by_uuid(self, uuid: str) -> Network:
        """Raises NoNetwork."""
        network = self._by_uuid.get(uuid)
        if network is None:
            raise NoNetwork(f"no network with matching uuid '{uuid}'")
        return network

    def find(self, uuid: str) -> Network | None:
        """Return the network of a uuid, or None."""
        return self._by_uuid.get(uuid)

    def port(self, network: Network, uuid: str) -> NetworkPort:
        """Return a port of a network. Raises NoNetworkPort."""
        port = network.ports.get(uuid)
        if port is None:
            raise NoNetworkPort(f"network port with UUID {uuid} does not exist")
        return port

    async def leased(self, network: Network, mac: str) -> Sequence[tuple[str, int]]:
        """Return the addresses, and the lengths of their networks, that a network has leased to a card."""
        return [
            (lease.address, lease.prefix)
            for lease in await self.leases(network)
            if lease.mac is not None and lease.mac.lower() == mac.lower()
        ]

    async def leases(self, network: Network) -> list[leases.Lease]:
        """Return the leases a network has given."""
        if not network.active or not network.bridge:
            return []
        return await leases.read(network)

    def _add(self, network: Network) -> None:
        self._by_uuid[network.uuid] = network
        self._by_name[network.name] = network

    async def _forget(self, network: Network) -> None:
        """Forget a network that is neither active nor defined, with the leases it had given."""
        self._remove(network)
        await self.host.files.run(
            f"leases of '{network.name}'", partial(dnsmasq.forget, self.host.folders, network.name)
        )

    def _remove(self, network: Network) -> None:
        if self._by_uuid.get(network.uuid) is network:
            del self._by_uuid[network.uuid]
        if self._by_name.get(network.name) is network:
            del self._by_name[network.name]

    # --------------------------------------------------------------- definitions

    def make_uuid(self) -> str:
        return str(_uuid.UUID(int=self._random.getrandbits(128), version=4))

    def make_mac(self) -> str:
        return "52:54:00:" + ":".join(f"{self._random.randrange(256):02x}" for _ in range(3))

    async def _read(self, xml: str, *, validated: bool) -> Document:
        document = parse_network(xml, validate=validated)
        validate.fill_in(document, self.make_uuid, self.make_mac)
        validate.check(document)
        async with self._naming:
            others = {network.bridge for network in self if network.name != document.name and network.bridge}
            others |= {bridge for name, bridge in self._named.items() if name != document.name}
            await self.host.files.run("bridge names", partial(validate.name_bridge, document, others))
            if document.bridge_name:
                self._named[document.name] = document.bridge_name
        return document

    def _claim(self, document: Document) -> Network | None:
        """Return the network a document is about, None when it is new. Raises OperationFailed."""
        same_uuid = self._by_uuid.get(document.uuid or "")
        if same_uuid is not None:
            if same_uuid.name != document.name:
                raise OperationFailed(
                    f"network '{same_uuid.name}' is already defined with uuid {same_uuid.uuid}"
                )
            return same_uuid
        same_name = self._by_name.get(document.name)
        if same_name is not None:
            raise OperationFailed(f"network '{document.name}' already exists with uuid {same_name.uuid}")
        return None

    @asynccontextmanager
    async def _claimed(self, document: Document) -> AsyncIterator[Network]:
        """Give, locked, the network a document is about; a new one that came to nothing is forgotten."""
        try:
            network, is_new = None, False
            while network is None or self._by_uuid.get(network.uuid) is not network:
                if network is not None:
                    network.lock.release()  # it was undefined while we waited for it
                network, is_new = self._claim(document), False
                if network is None:
                    network, is_new = Network(self.host, document.name, document.uuid or ""), True
                    self._add(network)  # from here on nobody else can take the name
                await network.lock.acquire()
            try:
                yield network
            except BaseException:
                if is_new and not network.persistent and not network.active:
                    await asyncio.shield(self._forget(network))
                raise
            finally:
                network.lock.release()
        finally:
            self._named.pop(document.name, None)

    async def define(self, xml: str, *, validated: bool = False) -> Network:
        """Keep a definition (virNetworkDefineXMLFlags); an existing one is replaced."""
        document = await self._read(xml, validated=validated)
        async with self._claimed(document) as network:
            await self._save(document)
            network.definition = document
            self._add(network)
            self._tell(network, Event.DEFINED)
        return network

    async def undefine(self, network: Network) -> None:
        """Forget a definition; an active network goes on until it is destroyed. Raises OperationInvalid."""
        async with network.lock:
            if not network.persistent:
                raise OperationInvalid("can't undefine transient network")
            await self.host.files.run(
                f"definition of '{network.name}'",
                partial(store.erase_definition, self.host.folders, network.name),
            )
            network.definition, network.autostart = None, False
            self._tell(network, Event.UNDEFINED)
            if not network.active:
                await self._forget(network)

    async def set_autostart(self, network: Network, wanted: bool) -> None:
        """Start it with the daemon, or not. Raises OperationInvalid."""
        async with network.lock:
            if not network.persistent:
                raise OperationInvalid("cannot set autostart for transient network")
            if network.autostart != wanted:
                await self.host.files.run(
                    f"autostart of '{network.name}'",
                    partial(store.set_autostart, self.host.folders, network.name, wanted),
                )
                network.autostart = wanted

    async def _save(self, document: Document) -> None:
        await self.host.files.run(
            f"definition of '{document.name}'", partial(store.write_definition, self.host.folders, document)
        )

    async def save_status(self, network: Network) -> None:
        """Write the status file of an active network."""
        await self.host.files.run(f"status of '{network.name}'", partial(store.write_status, network))

    # --------------------------------------------------------------- start and stop

    async def create(self, xml: str, *, validated: bool = False) -> Network:
        """Start a transient network (virNetworkCreateXMLFlags), or a defined one with this document."""
        document = await self._read(xml, validated=validated)
        async with self._claimed(document) as network:
            if network.active:
                raise OperationInvalid(f"network is already active as '{network.name}'")
            self._add(network)
            await self._start(network, document)
        return network

    async def start(self, network: Network) -> None:
        """Start a defined network. Raises OperationInvalid and what the host refuses."""
        async with network.lock:
            if network.active:
                raise OperationInvalid("network is already active")
            if network.definition is None:
                raise NoNetwork(f"no network with matching uuid '{network.uuid}' ({network.name})")
            await self._start(network, network.definition.copy())

    async def _start(self, network: Network, document: Document) -> None:
        network.live, network.ports = document, {}
        try:
            await running.start(network, self.host)
        except BaseException:
            network.live = None
            raise
        try:
            await self.save_status(network)
        except BaseException:
            await asyncio.shield(running.stop(network))
            network.live = None
            raise
        self._tell(network, Event.STARTED)

    async def destroy(self, network: Network) -> None:
        """Stop a network; a transient one is gone then. Raises OperationInvalid."""
        async with network.lock:
            if not network.active:
                raise OperationInvalid(f"network '{network.name}' is not active")
            await running.stop(network)
            await self._gone(network)
            self._tell(network, Event.STOPPED)

    async def _gone(self, network: Network) -> None:
        await self.host.files.run(
            f"status of '{network.name}'", partial(store.erase_status, self.host.folders, network.name)
        )
        network.live, network.ports = None, {}
        if not network.persistent:
            await self._forget(network)

    # ------------------------------------------------------------------- changes

    def _impact(self, network: Network, flags: int) -> int:
        """Return what a change is about: LIVE, CONFIG or both. Raises OperationInvalid."""
        impact = flags & (NetworkUpdateFlags.LIVE | NetworkUpdateFlags.CONFIG)
        if not impact:
            impact = NetworkUpdateFlags.LIVE if network.active else NetworkUpdateFlags.CONFIG
        if impact & NetworkUpdateFlags.LIVE and not network.active:
            raise OperationInvalid("network is not running")
        if impact & NetworkUpdateFlags.CONFIG and not network.persistent:
            raise OperationInvalid("cannot change persistent config of a transient network")
        return impact

    async def update(
        self, network: Network, command: int, section: int, parent: int, xml: str, flags: int
    ) -> None:
        """Change one section of the definition, the active network or both (virNetworkUpdate).

        Nothing is changed where one of the two cannot be. Raises OperationInvalid, NoSupport, XmlError.
        """
        async with network.lock:
            impact = self._impact(network, flags)
            config, live = network.definition, network.live
            if impact & NetworkUpdateFlags.CONFIG and config is not None:
                config = config.copy()
                update.apply(config, command, section, parent, xml)
                validate.check(config)
            if impact & NetworkUpdateFlags.LIVE and network.live is not None:
                live = network.live.copy()
                update.apply(live, command, section, parent, xml, used=network.connections)
                validate.check(live)
            await self._change(network, config, live)

    async def _change(
        self, network: Network, config: Document | None, live: Document | None, *, refresh: bool = True
    ) -> None:
        """Put changed documents in place, host first; on failure everything is as it was.

        refresh: the host has to be brought to what the live one says.
        """
        old_config, old_live = network.definition, network.live
        if config is not None and config is not old_config:
            await self._save(config)
            self.host.checkpoint("definition written")
        try:
            if live is not None and old_live is not None and live is not old_live:
                network.live = live
                try:
                    if refresh:
                        await running.refresh(network, old_live, live)
                        self.host.checkpoint("host refreshed")
                    await self.save_status(network)
                    self.host.checkpoint("status written")
                except BaseException:
                    network.live = old_live
                    raise
        except BaseException:
            if config is not None and config is not old_config and old_config is not None:
                await asyncio.shield(self._save(old_config))
            raise
        network.definition = config

    async def set_metadata(
        self, network: Network, kind: int, text: str | None, key: str | None, uri: str | None, flags: int
    ) -> None:
        """Set title, description or one application's element (virNetworkSetMetadata)."""
        async with network.lock:
            impact = self._impact(network, flags)
            config, live = network.definition, network.live
            if impact & NetworkUpdateFlags.CONFIG and config is not None:
                config = config.copy()
                update.set_metadata(config, kind, text, key, uri)
            if impact & NetworkUpdateFlags.LIVE and live is not None:
                live = live.copy()
                update.set_metadata(live, kind, text, key, uri)
            await self._change(network, config, live, refresh=False)
            nsuri = uri if kind == NetworkMetadataType.ELEMENT else None
            self.events.publish(NetworkMetadataChange(network.name, network.uuid, kind, nsuri))

    def metadata(self, network: Network, kind: int, uri: str | None, flags: int) -> str:
        """Return title, description or an element. Raises NoNetworkMetadata, OperationInvalid."""
        impact = self._impact(network, flags)
        document = network.live if impact & NetworkUpdateFlags.LIVE else network.definition
        return update.get_metadata(document or network.current, kind, uri)

    # --------------------------------------------------------------------- ports

    async def create_port(self, network: Network, xml: str, *, reclaim: bool, validated: bool) -> NetworkPort:
        """Make a port (virNetworkPortCreateXML); reclaim: it is plugged in already, only noted again.

        Raises OperationInvalid when the network is not active, NetworkPortExists, InternalError where the
        bridge cannot have it; then there is none.
        """
        port = parse_network_port(xml, validate=validated)
        async with network.lock:
            if network.live is None:
                raise OperationInvalid(f"network '{network.name}' is not active")
            port.uuid = port.uuid or self.make_uuid()
            if port.uuid in network.ports:
                raise NetworkPortExists(port.uuid)
            if not reclaim:
                port = ports.complete(network.live, port, network.connections)
            floors.reserve(network, port)
            network.ports[str(port.uuid)] = port
            try:
                await self._keep_port(network, port)
                await floors.settle(network)
            except BaseException:
                network.ports.pop(str(port.uuid), None)
                await asyncio.shield(self._go_back(network, self._erase_port(network, str(port.uuid))))
                raise
        return port

    async def _keep_port(self, network: Network, port: NetworkPort) -> None:
        await self.host.files.run(f"network port {port.uuid}", partial(ports.write_port, network, port))

    async def _go_back(self, network: Network, on_disk: Awaitable[None]) -> None:
        """Undo a change of the book, in which it is undone already, on disk and at the bridge."""
        try:
            await on_disk
        finally:
            await floors.settle_again(network)

    async def _erase_port(self, network: Network, uuid: str) -> None:
        await self.host.files.run(f"network port {uuid}", partial(ports.erase_port, network, uuid))

    async def set_port_bandwidth(
        self, network: Network, port: NetworkPort, bandwidth: Bandwidth | None
    ) -> None:
        """Change what a port may send and receive; but for the floor from the next time it is plugged in.

        Raises OperationInvalid, OperationUnsupported, NoNetworkPort, InternalError; then all is as it was, or
        what is not is logged and done with the next change of a port.
        """
        async with network.lock:
            if not network.active:
                raise OperationInvalid(f"network '{network.name}' is not active")
            port = self.port(network, str(port.uuid))  # it may have been deleted or changed while we waited
            changed = port.copy()
            changed.bandwidth = bandwidth
            floors.reserve(network, changed)
            network.ports[str(port.uuid)] = changed
            try:
                await self._keep_port(network, changed)
                await floors.settle(network)
            except BaseException:
                network.ports[str(port.uuid)] = port
                await asyncio.shield(self._go_back(network, self._keep_port(network, port)))
                raise

    async def delete_port(self, network: Network, port: NetworkPort) -> None:
        """Remove a port (virNetworkPortDelete). Raises NoNetworkPort."""
        async with network.lock:
            uuid = str(self.port(network, str(port.uuid)).uuid)
            del network.ports[uuid]
            await self._erase_port(network, uuid)
            await floors.settle_again(network)

    def bridge_name(self, network: Network) -> str:
        """Return the name of its bridge. Raises InternalError."""
        if not network.bridge:
            raise InternalError(f"network '{network.name}' does not have a bridge name.")
        return network.bridge

    def _tell(self, network: Network, event: int) -> None:
        self.events.publish(NetworkLifecycle(network.name, network.uuid, event))
