"""Networks on the host: bridges, addresses, dnsmasq, rules. The driver calls these and `reconnect`."""

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from qvirt.drivers.network import bandwidth, bridge, dnsmasq, dnsmasq_config, floors, in_use
from qvirt.drivers.network.firewall import FIRST_PORT, LAST_PORT, Firewall, translated
from qvirt.drivers.network.network import Network, NetworkHost
from qvirt.errors import ConfigUnsupported, InternalError, QvirtError
from qvirt.host.persist import remove, write_atomic
from qvirt.model.network import BRIDGED_BY_US, ForwardAddress, ForwardInterface, ForwardMode, Nat, NatPort
from qvirt.model.network import Network as Document

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
#: seconds a dnsmasq has to live for the next one to come as soon as the first
_LIVELY = 60.0
_JOURNAL = ".begun"


class Keeper:
    """Watches a network's dnsmasq and starts it again when it dies, less and less soon."""

    def __init__(self, network: Network, process: dnsmasq.Process | None) -> None:
        self._network = network
        self.process = process
        self._pause = _FIRST_PAUSE
        self._since = time.monotonic()
        self._fd: int | None = None
        self._task: asyncio.Task[None] | None = None
        self.obstacles: asyncio.Task[None] | None = None
        self._watch()

    def _watch(self) -> None:
        if self.process is None:
            return
        self._since = time.monotonic()
        try:
            self._fd = os.pidfd_open(self.process.pid)
        except ProcessLookupError:
            self._died()
            return
        if not self.process.is_there:  # the number may have been given to another since
            self._died()
            return
        asyncio.get_running_loop().add_reader(self._fd, self._died)

    def _died(self) -> None:
        self._forget()
        if self.process is not None:
            dnsmasq.collect(self.process)
        if time.monotonic() - self._since > _LIVELY:
            self._pause = _FIRST_PAUSE
        log.error(
            "dnsmasq of network '%s' died; starting it again in %.1f s", self._network.name, self._pause
        )
        self._task = asyncio.get_running_loop().create_task(self._again())

    async def _again(self) -> None:
        network = self._network
        while network.live is not None:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            try:
                async with network.lock:
                    if network.live is None or network.keeper is not self:
                        return
                    self.process = await _serve(network, network.live)
            except QvirtError as error:
                log.error("dnsmasq of network '%s' does not start again: %s", network.name, error)
                continue
            self._watch()
            return

    def _forget(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        """Stop watching; dnsmasq stays."""
        self._stop(self.obstacles)
        self._leave()

    def _leave(self) -> None:
        self._forget()
        self._stop(self._task)

    @staticmethod
    def _stop(task: "asyncio.Task[None] | None") -> None:
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def replace(self, process: dnsmasq.Process | None) -> None:
        """Watch another process, whether the one before runs or was going to be started again."""
        self._leave()
        self.process = process
        self._watch()


def rules_of(host: NetworkHost) -> Firewall:
    """Return the rules of an instance's networks."""
    if host.rules is None:
        host.rules = Firewall(host.files)
    return host.rules


def _journal(host: NetworkHost, name: str) -> Path:
    return host.folders.run / (name + _JOURNAL)


async def start(network: Network, host: NetworkHost) -> None:
    """Bring ``network.live`` to life on the host; what it finds out is in it. Undoes itself on failure.

    Called with the network's lock held; ``network.live`` is set, the status file is written after it.
    """
    document = network.current
    _fill_ports(document)
    if document.mode not in BRIDGED_BY_US:
        await host.files.run(f"devices of '{network.name}'", partial(_fill_pool, document))
        return
    if not host.privileged:
        raise ConfigUnsupported(
            f"network '{network.name}' needs a bridge, which only a privileged daemon can make; use "
            "qemu:///system, or <interface type='user'> with passt"
        )
    await host.files.run(f"network '{network.name}'", partial(_check_host, document))
    name = document.bridge_name or ""
    await _write_mark(network, host)
    host.checkpoint("network marked")
    async with AsyncExitStack() as undo:
        undo.push_async_callback(_take_away, network, host, name)
        await _bring_up(network, host, document)
        undo.pop_all()


def _check_host(document: Document) -> None:
    in_use.check_free(document)
    in_use.check_forwarding(document)


async def _write_mark(network: Network, host: NetworkHost) -> None:
    """Note which bridge there may be, so that it is found even if nothing else is written."""
    mark, name = _journal(host, network.name), network.bridge or ""
    await host.files.run("network mark", partial(write_atomic, mark, name.encode(), sync=False))


async def _bring_up(network: Network, host: NetworkHost, document: Document) -> None:
    """Make what is missing: rules beside bridge and dnsmasq, which do not need each other."""
    rules = rules_of(host)

    async def link_and_server() -> dnsmasq.Process | None:
        await host.files.run(f"bridge of '{network.name}'", partial(_link, document))
        await rules.enter_zone(document)
        host.checkpoint("bridge made")
        process = await _serve(network, document)
        host.checkpoint("dnsmasq started")
        return process

    async def add_rules() -> None:
        await rules.add(document)
        host.checkpoint("rules added")

    network.floors = {}
    results = await asyncio.gather(add_rules(), link_and_server(), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    for failure in floors.take_up(network):
        log.error("%s", failure)
    await floors.settle(network)
    # last, since it cannot be undone
    await host.files.run(f"forwarding of '{network.name}'", partial(bridge.forward_packets, document))
    process = results[1]
    network.keeper = Keeper(network, process if isinstance(process, dnsmasq.Process) else None)
    network.keeper.obstacles = asyncio.create_task(_warn(network, rules, document))


def _link(document: Document) -> None:
    bridge.make(document)
    limits = document.bandwidth
    if limits is not None:
        bandwidth.set_bridge(document.bridge_name or "", limits.inbound, limits.outbound)


async def _serve(network: Network, document: Document) -> dnsmasq.Process | None:
    """Start dnsmasq, or take up the one there is; one that serves nobody is ended."""
    host = network.host

    def work() -> dnsmasq.Process | None:
        if dnsmasq_config.wanted(document):
            return dnsmasq.take_up(host.folders, document)
        if dnsmasq.running(host.folders, network.name) is not None:
            dnsmasq.stop(host.folders, network.name)
        return None

    return await host.files.run(f"dnsmasq of '{network.name}'", work)


async def _warn(network: Network, rules: Firewall, document: Document) -> None:
    try:
        for obstacle in await rules.obstacles(document):
            log.warning("network '%s': %s", network.name, obstacle)
    except (QvirtError, ValueError) as error:
        log.warning("network '%s': cannot look for rules in the way: %s", network.name, error)


async def stop(network: Network) -> None:
    """Take everything of an active network away; harmless for what is gone already."""
    document = network.current
    if document.mode in BRIDGED_BY_US:
        await _take_away(network, network.host, document.bridge_name or "")


async def _take_away(network: Network, host: NetworkHost, name: str) -> None:
    if network.keeper is not None:
        network.keeper.close()
        network.keeper = None
    await _remove(host, network.name, name)


async def _remove(host: NetworkHost, network: str, name: str) -> None:
    def link_and_server() -> None:
        dnsmasq.stop(host.folders, network)
        host.checkpoint("dnsmasq stopped")
        bridge.remove(name)
        host.checkpoint("bridge removed")

    async def remove_rules() -> None:
        await rules_of(host).remove(name)
        host.checkpoint("rules removed")

    results = await asyncio.gather(
        remove_rules(),
        host.files.run(f"network '{network}'", link_and_server),
        return_exceptions=True,
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result
    await host.files.run("network mark", partial(remove, _journal(host, network)))
    host.checkpoint("mark removed")


async def refresh(network: Network, old: Document, new: Document) -> None:
    """Bring the host to a changed document; on failure the host is as ``old`` says."""
    if new.mode not in BRIDGED_BY_US:
        return
    try:
        await _apply(network, old, new)
    except QvirtError:
        try:
            await _apply(network, new, old)
        except QvirtError as error:
            log.error("network '%s' cannot be brought back to what it was: %s", network.name, error)
        raise


async def _apply(network: Network, old: Document, new: Document) -> None:
    host, keeper = network.host, network.keeper
    process = keeper.process if keeper is not None else None
    if process is not None and dnsmasq_config.wanted(new) and not dnsmasq_config.needs_restart(old, new):
        await host.files.run(
            f"dnsmasq of '{network.name}'", partial(dnsmasq.reload, host.folders, new, process)
        )
    elif dnsmasq_config.needs_restart(old, new):
        if keeper is not None:
            keeper.replace(None)
        await host.files.run(
            # one that was killed just now has no words any more, but its sockets
            f"dnsmasq of '{network.name}'",
            partial(dnsmasq.stop, host.folders, network.name, process),
        )
        process = await _serve(network, new)
        if keeper is not None:
            keeper.replace(process)
    host.checkpoint("dnsmasq told")
    await rules_of(host).add(new)


async def reconnect(network: Network, host: NetworkHost) -> None:
    """Take up an active network again after a restart of the daemon: what is missing is made anew.

    Raises QvirtError when it is not alive any more, and cannot be.
    """
    document = network.current
    if document.mode not in BRIDGED_BY_US:
        return
    await _write_mark(network, host)
    try:
        await _bring_up(network, host, document)
    except QvirtError:
        await _take_away(network, host, document.bridge_name or "")
        raise


async def sweep(host: NetworkHost, active: frozenset[str]) -> list[str]:
    """Take away what a daemon that was killed while it started a network has left; returns what it did."""
    reports = []
    for path in await host.files.run("network marks", lambda: sorted(host.folders.run.glob("*" + _JOURNAL))):
        name = path.name.removesuffix(_JOURNAL)
        if name in active:
            continue
        try:
            device = (await host.files.run("network mark", path.read_bytes)).decode("ascii", "replace")
            await _remove(host, name, device)
        except (QvirtError, OSError) as error:
            reports.append(f"network '{name}' was half started and cannot be taken away: {error}")
        else:
            reports.append(f"network '{name}' was half started and has been taken away")
    return reports


def _fill_ports(document: Document) -> None:
    """Note the ports that translated connections come from, as libvirt shows them of an active network."""
    forward = document.forward
    if forward is None or not any(translated(document, ip) for ip in document.ips):
        return
    forward.nat = forward.nat or Nat()
    forward.nat.port = forward.nat.port or NatPort(start=FIRST_PORT, end=LAST_PORT)


def _fill_pool(document: Document) -> None:
    """Find the virtual functions of a physical one, whose names were not known before. Blocking."""
    forward = document.forward
    if forward is None or forward.pf is None or not forward.pf.dev:
        return
    folder = Path(f"/sys/class/net/{forward.pf.dev}/device")
    if forward.mode == ForwardMode.HOSTDEV:
        forward.addresses = virtual_functions(folder)
        if not forward.addresses:
            raise InternalError(f"No usable Vf's present on SRIOV PF {forward.pf.dev}")
        return
    found = sorted(path.name for path in folder.glob("virtfn*/net/*"))
    if not found:
        raise InternalError(
            f"No Vf's present on SRIOV PF {forward.pf.dev}: network '{document.name}' has nothing to give out"
        )
    forward.interfaces = [ForwardInterface(dev=name) for name in found]


def virtual_functions(folder: Path) -> list[ForwardAddress]:
    """Return the virtual functions of a physical one, in the order of their numbers. Blocking."""
    links = sorted(folder.glob("virtfn[0-9]*"), key=lambda link: int(link.name.removeprefix("virtfn")))
    found = []
    for link in links:
        domain, bus, rest = link.readlink().name.split(":")
        slot, _, function = rest.partition(".")
        words = [int(word, 16) for word in (domain, bus, slot, function)]
        found.append(
            ForwardAddress(type="pci", domain=words[0], bus=words[1], slot=words[2], function=words[3])
        )
    return found


async def close(host: NetworkHost, networks: list[Network]) -> None:
    """Stop watching; the networks go on."""
    for network in networks:
        if network.keeper is not None:
            network.keeper.close()
            network.keeper = None
    if host.rules is not None:
        await host.rules.close()
