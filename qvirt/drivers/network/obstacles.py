"""What in the host's own firewall is in a network's way: which chain, and the rule to add. Pure.

A packet that one base chain drops is gone, whatever ours accepts. ``nft -j list ruleset`` tells of all rules
but those of iptables-legacy, which `from_legacy` brings into the same form.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, TypeAlias

from qvirt.drivers.network import dnsmasq_config
from qvirt.model.network import ForwardMode, Network
from qvirt.record import Record

Item: TypeAlias = Mapping[str, Any]
"""An element of nft's list: ``{"chain": {...}}`` or ``{"rule": {...}}``."""

_VERSIONS: Final = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_DNS, _DHCP, _DHCP6, _TFTP = 53, 67, 547, 69
_DEVICES: Final = {"iif": "in", "iifname": "in", "oif": "out", "oifname": "out"}
#: parts of a rule that decide nothing; what kind of packet has a port is settled by the port
_NEUTRAL: Final = frozenset({"counter", "log", "comment"})
_LEGACY_HOOKS: Final = {"INPUT": "input", "FORWARD": "forward"}
_LEGACY_VERDICTS: Final = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}


class _Rule(Record):
    """A rule as far as it matters here.

    verdict: accept, drop, jump or "". chain: where it jumps. devices: the only ones it is about, None is any;
    ports: likewise. conditions: it asks for more than that.
    """

    verdict: str
    handle: str
    chain: str = ""
    devices: tuple[str, ...] | None = None
    ports: tuple[tuple[int, int], ...] | None = None
    conditions: bool = False

    def is_about(self, bridge: str) -> bool:
        """Tell whether a packet from or to a bridge can meet it."""
        return self.devices is None or any(fnmatchcase(bridge, device) for device in self.devices)

    def lets_port(self, port: int | None) -> bool:
        """Tell whether it names a port; None stands for all of them."""
        if self.ports is None:
            return True
        return port is not None and any(first <= port <= last for first, last in self.ports)

    def accepts(self, bridge: str, port: int | None) -> bool:
        """Tell whether it lets a bridge's packets through: all, or those it names by device or port."""
        if self.verdict != "accept" or not self.is_about(bridge) or not self.lets_port(port):
            return False
        named = self.devices is not None or self.ports is not None
        return named or not self.conditions

    def drops(self, bridge: str) -> bool:
        """Tell whether it drops all that is a bridge's."""
        return self.verdict == "drop" and self.is_about(bridge) and self.ports is None and not self.conditions


def find(ruleset: Iterable[Item], network: Network) -> list[str]:
    """Return, in a sentence each, the chains of others that drop what a network needs, with the remedy."""
    items = list(ruleset)
    bridge = network.bridge_name or ""
    rules: dict[tuple[str, str, str], list[_Rule]] = {}
    for said in (item["rule"] for item in items if "rule" in item):
        rules.setdefault((said["family"], said["table"], said["chain"]), []).append(_read(said))
    found = []
    for chain in (item["chain"] for item in items if "chain" in item):
        hook, key = chain.get("hook"), (chain["family"], chain["table"], chain["name"])
        versions = [
            version
            for version in _VERSIONS.get(chain["family"], ())
            if any(ip.version == version for ip in network.ips)
        ]
        if hook not in ("forward", "input") or not versions:
            continue
        why = f"policy {chain['policy']}" if chain.get("policy") == "drop" else ""
        for rule in rules.get(key, ()):
            if rule.drops(bridge):
                why = f"rule with handle {rule.handle}"
        if not why:
            continue
        there = list(_reachable(rules, key, bridge))
        if hook == "forward":
            if forwards(network) and not any(rule.accepts(bridge, None) for rule in there):
                found.append(_forward(network, chain, bridge, why))
            continue
        missing = [
            port
            for port in _served(network, versions)
            if not any(rule.accepts(bridge, port) for rule in there)
        ]
        if missing:
            found.append(_input(chain, bridge, missing, why))
    return found


def forwards(network: Network) -> bool:
    """Tell whether we see to it that a network's packets are forwarded."""
    return network.mode in (ForwardMode.NAT, ForwardMode.ROUTE)


def needs(network: Network) -> bool:
    """Tell whether a network can be hindered by the host's firewall."""
    return bool(network.bridge_name) and (forwards(network) or dnsmasq_config.wanted(network))


def _served(network: Network, versions: Iterable[int]) -> list[int]:
    """Return the UDP ports at which the guests find the host's dnsmasq."""
    if not dnsmasq_config.wanted(network):
        return []
    ports = {_DNS} if network.dns.enable is not False else set[int]()
    for version, port in ((4, _DHCP), (6, _DHCP6)):
        if version in versions and dnsmasq_config.served(network, version) is not None:
            ports.add(port)
    if 4 in versions and any(ip.tftp.root for ip in network.ips):
        ports.add(_TFTP)
    return sorted(ports)


def _reachable(
    rules: Mapping[tuple[str, str, str], list[_Rule]], key: tuple[str, str, str], bridge: str
) -> Iterator[_Rule]:
    """Yield the rules that a bridge's packet may meet from a chain on."""
    seen, waiting = set[tuple[str, str, str]](), [key]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        for rule in rules.get(at, ()):
            yield rule
            if rule.verdict == "jump" and rule.is_about(bridge):
                waiting.append((*key[:2], rule.chain))


def _forward(network: Network, chain: Mapping[str, Any], bridge: str, why: str) -> str:
    where, program = _where(chain), chain.get("program")
    answers = "" if network.mode == ForwardMode.ROUTE else "ct state established,related "
    remedy = (
        f"nft insert rule {where} iifname {bridge} accept; nft insert rule {where} oifname {bridge} {answers}"
        "accept"
    )
    if program:
        answers = answers and "-m conntrack --ctstate ESTABLISHED,RELATED "
        head = f"{program} -I {chain['name']}"
        remedy = f"{head} -i {bridge} -j ACCEPT; {head} -o {bridge} {answers}-j ACCEPT"
    return (
        f"the host's own chain '{where}' drops what is forwarded for bridge '{bridge}' ({why}); to let "
        f"it through: {remedy}"
    )


def _input(chain: Mapping[str, Any], bridge: str, ports: list[int], why: str) -> str:
    where, program = _where(chain), chain.get("program")
    listed = [str(port) for port in ports]
    if program:
        match = f"-i {bridge} -p udp -m multiport --dports {','.join(listed)}"
        remedy = f"{program} -I {chain['name']} {match} -j ACCEPT"
    else:
        remedy = f"nft 'insert rule {where} iifname {bridge} udp dport {{ {', '.join(listed)} }} accept'"
    return (
        f"the host's own chain '{where}' drops what guests ask at UDP port {' and '.join(listed)} of bridge "
        f"'{bridge}' ({why}): they get no addresses or names; to let it in: {remedy}"
    )


def _where(chain: Mapping[str, Any]) -> str:
    if chain.get("program"):
        return f"{chain['program']} {chain['name']}"
    return f"{chain['family']} {chain['table']} {chain['name']}"


# ------------------------------------------------------------------------- nft's words


def _read(said: Mapping[str, Any]) -> _Rule:
    verdict, chain, conditions = "", "", False
    devices: tuple[str, ...] | None = None
    ports: tuple[tuple[int, int], ...] | None = None
    for part in said.get("expr", ()):
        ((kind, what),) = part.items()
        if kind == "xt" and what is not None and what.get("name") in _LEGACY_VERDICTS:
            kind = _LEGACY_VERDICTS[what["name"]]
        if kind in _NEUTRAL:
            continue
        if kind in ("accept", "drop", "reject"):
            verdict = "accept" if kind == "accept" else "drop"
        elif kind in ("jump", "goto"):
            verdict, chain = "jump", what["target"]
        elif kind == "match" and what["op"] in ("==", "in") and _device(what["left"]):
            devices = tuple(str(name) for name in _values(what["right"]))
        elif kind == "match" and what["op"] in ("==", "in") and _field(what["left"]) == "dport":
            ports = tuple(_range(value) for value in _values(what["right"]) if isinstance(value, int | dict))
        elif kind == "match" and _field(what["left"]) in ("l4proto", "protocol", "nexthdr"):
            continue
        else:
            conditions = True
    return _Rule(verdict, str(said.get("handle")), chain, devices, ports, conditions)


def _field(left: Any) -> str | None:
    """Return what a match looks at: the key of ``meta``, the field of ``payload``."""
    if not isinstance(left, dict):
        return None
    found = left.get("meta", {}).get("key") or left.get("payload", {}).get("field")
    return str(found) if found else None


def _device(left: Any) -> bool:
    return _field(left) in _DEVICES


def _values(right: Any) -> list[Any]:
    if isinstance(right, dict) and "set" in right:
        return list(right["set"])
    return [right]


def _range(value: Any) -> tuple[int, int]:
    if isinstance(value, dict) and "range" in value:
        first, last = value["range"]
        return int(first), int(last)
    return (value, value) if isinstance(value, int) else (0, -1)


# ------------------------------------------------------------------- iptables-legacy's


def from_legacy(text: str, family: str, program: str) -> list[Item]:
    """Return what ``iptables-legacy -S`` says in nft's form. family: ``ip`` or ``ip6``."""
    items: list[Item] = []
    base = {"family": family, "table": "filter", "program": program}
    for number, line in enumerate(text.splitlines(), 1):
        words = shlex.split(line)
        if words[:1] == ["-P"]:
            hook, policy = _LEGACY_HOOKS.get(words[1], ""), words[2].lower()
            items.append({"chain": {**base, "name": words[1], "hook": hook, "policy": policy}})
        elif words[:1] == ["-A"]:
            rule = {**base, "chain": words[1], "handle": number, "expr": list(_legacy(words[2:]))}
            items.append({"rule": rule})
    return items


def _legacy(words: list[str]) -> Iterator[Item]:
    """Yield the parts of a rule; what is not known is a condition."""
    given = iter(words)
    for word in given:
        match word:
            case "-i" | "-o":
                device = next(given, "")
                right = device[:-1] + "*" if device.endswith("+") else device
                yield _match({"meta": {"key": "iifname" if word == "-i" else "oifname"}}, right)
            case "--dport" | "--dports":
                ports = [part.partition(":") for part in next(given, "").split(",")]
                yield _match(
                    {"payload": {"field": "dport"}},
                    {"set": [{"range": [int(first), int(last or first)]} for first, _, last in ports]},
                )
            case "-p" | "--comment" | "--reject-with" | "--log-prefix" | "--log-level":
                next(given, None)
            case "!":
                next(given, None)
                next(given, None)
                yield {"condition": None}
            case "-m":
                if next(given, None) not in ("tcp", "udp", "multiport", "comment"):
                    yield {"condition": None}
            case "-j" | "-g":
                target = next(given, "")
                if target in _LEGACY_VERDICTS:
                    yield {_LEGACY_VERDICTS[target]: None}
                elif target != "LOG":
                    yield {"jump": {"target": target}}
            case _:
                yield {"condition": None}


def _match(left: Item, right: Any) -> Item:
    return {"match": {"op": "==", "left": left, "right": right}}
