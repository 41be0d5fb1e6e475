"""The networks' rules: one nftables table, dispatch by device name, chains of its own for each network.

A base chain looks a packet's device up in a verdict map and jumps to the network's chain; so a network comes
and goes in one transaction of ``nft`` that touches nothing of the others. The text is made by pure functions.
"""

import asyncio
import json
import logging
import shutil
import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from qvirt.drivers.network import obstacles, zones
from qvirt.drivers.network.obstacles import Item
from qvirt.errors import ConfigUnsupported, InternalError, QvirtError
from qvirt.host.persist import FileWorker
from qvirt.model.network import ForwardMode, Network
from qvirt.model.network_ip import NetworkIp

log = logging.getLogger(__name__)

TABLE = "qvirt_network"
#: the ports that translated connections come from, unless the network says which
FIRST_PORT, LAST_PORT = 1024, 65535
_DEADLINE = 10.0
#: seconds after a change of others until we look; and how often we set the rules again within a minute
_SETTLE, _PER_MINUTE = 0.02, 10

#: the kernel's numbers: NFNLGRP_NFTABLES, NFNL_SUBSYS_NFTABLES, what tells of a removal, NFTA_*_TABLE
_GROUP, _SUBSYSTEM, _REMOVALS, _TABLE_ATTRIBUTE = 7, 10, frozenset({2, 5, 8, 11, 14}), 1
#: NFT_MSG_NEWTABLE, and the table that firewalld makes when it starts or loads its settings again
_NEW_TABLE, _FIREWALLD = 0, "firewalld"
#: seconds between questions whether firewalld answers, the first and the longest, and how often we ask
_ASK_FIRST, _ASK_LONGEST, _ASK_TIMES = 0.05, 2.0, 25

#: the kernel's lists of tables that iptables-legacy has made, their family, and the program
_LEGACY = (
    ("ip_tables_names", "ip", "iptables-legacy"),
    ("ip6_tables_names", "ip6", "ip6tables-legacy"),
)

_BASE = f"""add table inet {TABLE}
add map inet {TABLE} to_host {{ type ifname : verdict; }}
add map inet {TABLE} to_guest {{ type ifname : verdict; }}
add map inet {TABLE} from_guest {{ type ifname : verdict; }}
add chain inet {TABLE} input {{ type filter hook input priority filter; policy accept; }}
add chain inet {TABLE} forward {{ type filter hook forward priority filter; policy accept; }}
add chain inet {TABLE} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain inet {TABLE} input
flush chain inet {TABLE} forward
add rule inet {TABLE} input iifname vmap @to_host
add rule inet {TABLE} forward oifname vmap @to_guest
add rule inet {TABLE} forward iifname vmap @from_guest
"""


def has_rules(network: Network) -> bool:
    """Tell whether a network has rules: an open one has none, nor have the host's own bridges."""
    return network.mode in (None, ForwardMode.NAT, ForwardMode.ROUTE)


def translated(network: Network, ip: NetworkIp) -> bool:
    """Tell whether the guests of one of a network's addresses reach the world as the host."""
    nat = network.forward.nat if network.forward is not None else None
    return network.mode == ForwardMode.NAT and (ip.version == 4 or (nat is not None and bool(nat.ipv6)))


def _names(bridge: str) -> dict[str, str]:
    # names of chains are words of letters, digits and few signs; a device may be called nearly anything
    word = "".join(char if char.isalnum() and char.isascii() else f"_{ord(char):x}_" for char in bridge)
    return {kind: f"{kind}-{word}" for kind in ("host", "to", "from", "nat")}


def additions(network: Network) -> str:
    """Return what adds a network's rules, or sets them anew."""
    bridge = network.bridge_name or ""
    names = _names(bridge)
    out: list[str] = []
    for name in names.values():
        out += [f"add chain inet {TABLE} {name}", f"flush chain inet {TABLE} {name}"]

    def rule(kind: str, text: str) -> None:
        out.append(f"add rule inet {TABLE} {names[kind]} {text}")

    rule("host", "meta l4proto { tcp, udp } th dport { 53, 67 } accept")
    rule("host", "udp dport 547 accept")
    if any(ip.tftp.root for ip in network.ips):
        rule("host", "udp dport 69 accept")
    rule("to", f'iifname "{bridge}" accept')
    rule("from", f'oifname "{bridge}" accept')
    device = network.forward.dev if network.forward is not None else None
    via_in = f'iifname "{device}" ' if device else ""
    via_out = f'oifname "{device}" ' if device else ""
    for ip in network.ips:
        word = "ip6" if ip.version == 6 else "ip"
        subnet = ip.subnet
        if network.mode is None:
            continue
        state = "ct state established,related " if translated(network, ip) else ""
        rule("to", f"{via_in}{word} daddr {subnet} {state}accept")
        rule("from", f"{via_out}{word} saddr {subnet} accept")
        if translated(network, ip):
            for text in _translation(network, word, str(subnet), via_out):
                rule("nat", text)
    rule("to", "reject")
    rule("from", "reject")
    for kind, chain in (("to_host", "host"), ("to_guest", "to"), ("from_guest", "from")):
        out.append(f'add element inet {TABLE} {kind} {{ "{bridge}" : jump {names[chain]} }}')
    if network.mode == ForwardMode.NAT:
        out.append(f"add rule inet {TABLE} postrouting jump {names['nat']}")
    return "\n".join(out) + "\n"


def _translation(network: Network, word: str, subnet: str, via: str) -> list[str]:
    """Return a subnet's translation; multicast of the link and broadcasts keep their addresses."""
    nat = network.forward.nat if network.forward is not None else None
    address = nat.address if nat is not None else None
    port = nat.port if nat is not None else None
    start, end = (port.start, port.end) if port is not None else (FIRST_PORT, LAST_PORT)
    source = ""
    if word == "ip" and address is not None and address.start:
        last = address.end or address.start
        source = address.start if address.start == last else f"{address.start}-{last}"
    local = ("224.0.0.0/24", "255.255.255.255") if word == "ip" else ("ff02::/16",)
    rules = [f"{word} saddr {subnet} {word} daddr {target} return" for target in local]
    base = f"{via}{word} saddr {subnet} {word} daddr != {subnet}"
    if source:
        ports = f":{start}-{end}" if port is not None else ""
        rules.append(f"{base} meta l4proto {{ tcp, udp }} snat {word} to {source}{ports}")
        rules.append(f"{base} snat {word} to {source}")
    else:
        rules.append(f"{base} meta l4proto {{ tcp, udp }} masquerade to :{start}-{end}")
        rules.append(f"{base} masquerade")
    return rules


def removals(bridge: str, others: Iterable[Network]) -> str:
    """Return what removes one network's rules; what is gone already does no harm."""
    names = _names(bridge)
    out = [_BASE]
    for name in names.values():
        out.append(f"add chain inet {TABLE} {name}\n")
    for kind, chain in (("to_host", "host"), ("to_guest", "to"), ("from_guest", "from")):
        element = f'{kind} {{ "{bridge}" : jump {names[chain]} }}'
        out.append(f"add element inet {TABLE} {element}\ndelete element inet {TABLE} {element}\n")
    out.append(_jumps(others))
    for name in names.values():
        out.append(f"flush chain inet {TABLE} {name}\ndelete chain inet {TABLE} {name}\n")
    return "".join(out)


def _jumps(networks: Iterable[Network]) -> str:
    out = [f"flush chain inet {TABLE} postrouting\n"]
    for network in networks:
        if network.mode == ForwardMode.NAT:
            name = _names(network.bridge_name or "")["nat"]
            out.append(f"add chain inet {TABLE} {name}\nadd rule inet {TABLE} postrouting jump {name}\n")
    return "".join(out)


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _nft() -> str:
    path = _program("nft")
    if path is None:
        raise ConfigUnsupported(
            "the program 'nft' is not installed, and networks with forward mode 'nat' or 'route' need its "
            "rules: install the package nftables, or use forward mode 'open' and rules of your own"
        )
    return path


class Firewall:
    """The rules of an instance's networks, kept in place. `network.NetworkHost` has one."""

    def __init__(self, files: FileWorker) -> None:
        self._files = files
        self._networks: dict[str, Network] = {}
        #: those whose bridges are in a zone of firewalld's, or would be
        self._zoned: dict[str, Network] = {}
        self._zones: asyncio.Task[None] | None = None
        self._own: deque[int] = deque(maxlen=64)
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._repairs: deque[float] = deque(maxlen=_PER_MINUTE)
        self._lock = asyncio.Lock()

    async def add(self, network: Network) -> None:
        """Put a network's rules in place. Raises ConfigUnsupported, InternalError."""
        if not has_rules(network) or not network.bridge_name:
            return
        bridge = network.bridge_name
        async with self._lock:
            others = [other for name, other in self._networks.items() if name != bridge]
            try:
                await self._run(_BASE + _jumps(others) + additions(network))
            except ConfigUnsupported:
                if obstacles.forwards(network):  # it is of no use without them
                    raise
                log.warning("network '%s' goes without rules: 'nft' is not installed", network.name)
                return
            self._networks[bridge] = network
            self._watch()

    async def enter_zone(self, network: Network) -> None:
        """Put a network's bridge into its zone of firewalld's, now and whenever that begins anew.

        Raises InternalError.
        """
        await self._files.run(f"zone of '{network.name}'", partial(zones.enter, network))
        self._zoned[network.bridge_name or ""] = network
        self._watch()

    async def remove(self, bridge: str) -> None:
        """Take a network's rules away. Raises InternalError."""
        self._zoned.pop(bridge, None)
        async with self._lock:
            if self._networks.pop(bridge, None) is None and _program("nft") is None:
                return
            if self._networks:
                await self._run(removals(bridge, self._networks.values()))
            else:
                await self._run(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")
                if not self._zoned:
                    self._unwatch()

    async def _run(self, text: str) -> bytes:
        def call() -> bytes:
            return self._call([_nft(), "-f", "-"], text)

        return await self._files.run("nft", call, _DEADLINE)

    def _call(self, words: list[str], text: str = "") -> bytes:
        """Run a program on the host's rules. Raises InternalError."""
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            self._own.append(process.pid)
            try:
                out, err = process.communicate(text.encode(), timeout=_DEADLINE - 1)
            except subprocess.TimeoutExpired:
                process.kill()
                raise InternalError(f"'{words[0]}' did not end within {_DEADLINE - 1:g} s") from None
        if process.returncode:
            raise InternalError(
                f"'{' '.join(words)}' refuses the rules of the networks: "
                f"{err.decode(errors='replace').strip()}"
            )
        return out

    # ------------------------------------------------------------------ watching

    def _watch(self) -> None:
        """Listen for what others do to the ruleset."""
        if self._socket is not None:
            return
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 12)
            sock.bind((0, 0))
            sock.setsockopt(270, 1, _GROUP)
        except OSError as error:
            log.warning("changes of the host's nftables rules are not noticed: %s", error)
            return
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._heard)

    def _unwatch(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _heard(self) -> None:
        sock = self._socket
        while sock is not None:
            try:
                data = sock.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError:
                self._repair_soon()  # more happened than the kernel keeps for us
                return
            for kind, table, pid in _changes(data):
                if kind in _REMOVALS and table == TABLE and pid not in self._own:
                    self._repair_soon()
                elif kind == _NEW_TABLE and table == _FIREWALLD:
                    self._enter_again_soon()

    def _enter_again_soon(self) -> None:
        if self._zoned and (self._zones is None or self._zones.done()):
            self._zones = asyncio.get_running_loop().create_task(self._enter_again())

    async def _enter_again(self) -> None:
        """Enter zones again: a firewalld that was started anew knows of no bridge.

        It answers a moment after its table is there.
        """
        pause = _ASK_FIRST
        for _ in range(_ASK_TIMES):
            await asyncio.sleep(pause)
            pause = min(pause * 2, _ASK_LONGEST)
            if await self._files.run("firewalld", zones.answers):
                break
        else:
            log.error("firewalld began anew and does not answer: the networks' bridges are in no zone of its")
            return
        for network in list(self._zoned.values()):
            try:
                await self._files.run(f"zone of '{network.name}'", partial(zones.enter, network))
            except QvirtError as error:
                log.error("network '%s': firewalld began anew: %s", network.name, error)
            else:
                log.info("network '%s': its bridge has its zone of firewalld's again", network.name)

    def _repair_soon(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._repair())

    async def _repair(self) -> None:
        await asyncio.sleep(_SETTLE)
        now = time.monotonic()
        if len(self._repairs) == _PER_MINUTE and now - self._repairs[0] < 60:
            pause = 60 - (now - self._repairs[0])
            log.error("something keeps removing the rules of the networks; trying again in %.0f s", pause)
            await asyncio.sleep(pause)
        self._repairs.append(now)
        async with self._lock:
            networks = list(self._networks.values())
            if not networks:
                return
            log.warning("another program removed the rules of the networks; setting them again")
            try:
                await self._run(_BASE + _jumps(()) + "".join(additions(network) for network in networks))
            except QvirtError as error:
                log.error("cannot set the rules of the networks again: %s", error)

    async def close(self) -> None:
        """Stop watching; the rules stay."""
        self._unwatch()
        for task in (self._task, self._zones):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    # ------------------------------------------------------------- other firewalls

    async def obstacles(self, network: Network) -> list[str]:
        """Return what in the host's own rules drops what a network needs, and the remedy.

        Raises InternalError, ValueError where the rules cannot be read.
        """
        if not obstacles.needs(network):
            return []
        others = await self._files.run("the host's rules", self._rules_of_others, 4 * _DEADLINE)
        return obstacles.find(others, network)

    def _rules_of_others(self) -> list[Item]:
        found: list[Item] = []
        if _program("nft") is not None:
            out = self._call([_nft(), "-j", "list", "ruleset"])
            items: list[dict[str, dict[str, Any]]] = json.loads(out or b"{}").get("nftables", [])
            found += [item for item in items if all(what.get("table") != TABLE for what in item.values())]
        for names, family, name in _LEGACY:
            if "filter" not in _legacy_tables(names):
                continue  # to list a table would make it
            program = _program(name)
            if program is None:
                log.warning("the host has rules of iptables-legacy, but no '%s' to look at them", name)
                continue
            out = self._call([program, "-w", "5", "-S"])
            found += obstacles.from_legacy(out.decode(errors="replace"), family, name)
        return found


def _changes(data: bytes) -> Iterator[tuple[int, str, int]]:
    """Yield what netlink tells of tables: kind of change, table's name, who did it."""
    at = 0
    while at + 24 <= len(data):
        size, kind, _flags, _seq, pid = struct.unpack_from("=IHHII", data, at)
        if kind >> 8 == _SUBSYSTEM:
            length, attribute = struct.unpack_from("=HH", data, at + 20)
            if attribute & 0x3FFF == _TABLE_ATTRIBUTE:
                name = data[at + 24 : at + 20 + length].rstrip(b"\0")
                yield kind & 0xFF, name.decode(errors="replace"), pid
        if size < 16:
            return
        at += (size + 3) & ~3


def _legacy_tables(names: str) -> list[str]:
    try:
        return Path(f"/proc/net/{names}").read_text(encoding="ascii").split()
    except OSError:
        return []  # the kernel has no such tables
