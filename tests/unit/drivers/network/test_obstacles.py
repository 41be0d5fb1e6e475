"""Firewalls of the host in a network's way: nft's list of them, and what iptables-legacy says."""

from collections.abc import Iterator
from typing import Any

import pytest

from qvirt.drivers.network import obstacles
from qvirt.model.network import Network, parse_network

RANGE = "<dhcp><range start='10.1.0.2' end='10.1.0.9'/></dhcp>"
IPV4 = f"<ip address='10.1.0.1' prefix='24'>{RANGE}</ip>"
IPV6 = "<ip family='ipv6' address='fd00::1' prefix='64'/>"


def network(forward: str = "<forward mode='nat'/>", ip: str = IPV4, more: str = "") -> Network:
    return parse_network(f"<network><name>n</name>{forward}<bridge name='virbr0'/>{more}{ip}</network>")


def chain(hook: str, family: str = "ip", policy: str = "drop", name: str = "C") -> dict[str, Any]:
    return {"chain": {"family": family, "table": "t", "name": name, "hook": hook, "policy": policy}}


def rule(*expr: Any, family: str = "ip", name: str = "C") -> dict[str, Any]:
    said = {"family": family, "table": "t", "chain": name, "handle": 7, "expr": [{"counter": {}}, *expr]}
    return {"rule": said}


def match(left: str, right: Any, op: str = "==") -> dict[str, Any]:
    kind = {"payload": {"protocol": "udp", "field": left}} if left == "dport" else {"meta": {"key": left}}
    return {"match": {"op": op, "left": kind, "right": right}}


ACCEPT, DROP = {"accept": None}, {"drop": None}


def test_a_chain_that_forwards_nothing() -> None:
    (said,) = obstacles.find([chain("forward")], network())
    assert "'ip t C' drops what is forwarded for bridge 'virbr0' (policy drop)" in said
    assert "nft insert rule ip t C iifname virbr0 accept" in said
    assert "oifname virbr0 ct state established,related accept" in said
    (said,) = obstacles.find([chain("forward")], network("<forward mode='route'/>"))
    assert said.endswith("nft insert rule ip t C oifname virbr0 accept")
    for other in ("", "<forward mode='open'/>"):
        assert obstacles.find([chain("forward")], network(other)) == []


@pytest.mark.parametrize(
    ("rules", "hindered"),
    [
        ([rule(match("iifname", "virbr0"), ACCEPT)], False),
        ([rule(match("iifname", "virbr*"), ACCEPT)], False),
        ([rule(match("oifname", {"set": ["eth0", "virbr0"]}), ACCEPT)], False),
        ([rule(ACCEPT)], False),
        ([rule(match("iifname", "eth0"), ACCEPT)], True),
        ([rule(match("iifname", "virbr0", "!="), ACCEPT)], True),
        (
            [rule({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}, ACCEPT)],
            True,
        ),
        ([rule({"jump": {"target": "U"}}), rule(match("iifname", "virbr0"), ACCEPT, name="U")], False),
        (
            [
                rule(match("iifname", "eth0"), {"jump": {"target": "U"}}),
                rule(match("iifname", "virbr0"), ACCEPT, name="U"),
            ],
            True,
        ),
        ([rule({"jump": {"target": "C"}})], True),
        ([rule(match("iifname", "virbr0"), ACCEPT, name="elsewhere")], True),
    ],
)
def test_what_lets_through(rules: list[dict[str, Any]], hindered: bool) -> None:
    assert bool(obstacles.find([chain("forward"), *rules], network())) == hindered


@pytest.mark.parametrize(
    ("last", "hinders"),
    [
        (rule(DROP), True),
        (rule({"reject": {"type": "icmpx", "expr": "admin-prohibited"}}), True),
        (rule({"xt": {"type": "target", "name": "REJECT"}}), True),
        (rule(match("iifname", "virbr0"), DROP), True),
        (rule(match("iifname", "eth0"), DROP), False),
        (rule({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, DROP), False),
    ],
)
def test_a_rule_that_drops(last: dict[str, Any], hinders: bool) -> None:
    found = obstacles.find([chain("forward", policy="accept"), last], network())
    assert bool(found) == hinders
    assert not found or "rule with handle 7" in found[0]


def test_families_count() -> None:
    six = network(ip=IPV6)
    assert obstacles.find([chain("forward", "ip")], six) == []
    assert len(obstacles.find([chain("forward", "ip6"), chain("forward", "inet")], six)) == 2
    assert obstacles.find([chain("forward", "bridge"), chain("forward", "ip6")], network()) == []


def test_what_guests_ask_of_the_host() -> None:
    for forward in ("", "<forward mode='open'/>", "<forward mode='nat'/>"):
        (said,) = obstacles.find([chain("input")], network(forward))
        assert "nft 'insert rule ip t C iifname virbr0 udp dport { 53, 67 } accept'" in said
    dhcp = rule(match("dport", {"range": [67, 68]}), ACCEPT)
    (said,) = obstacles.find([chain("input"), dhcp], network())
    assert "udp dport { 53 } accept" in said
    names = rule(match("l4proto", "udp"), match("dport", {"set": [53, 5353]}), ACCEPT)
    assert obstacles.find([chain("input"), dhcp, names], network()) == []
    assert obstacles.find([chain("input"), rule(match("iifname", "virbr0"), ACCEPT)], network()) == []
    silent = network(ip="<ip address='10.1.0.1' prefix='24'/>", more="<dns enable='no'/>")
    assert obstacles.find([chain("input")], silent) == []


LEGACY = """-P INPUT DROP
-P FORWARD DROP
-P OUTPUT ACCEPT
-N USER
-A FORWARD -j USER
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p udp -m udp --dport 67:68 -m comment --comment "a b" -j ACCEPT
"""


def test_iptables_legacy() -> None:
    def found(more: str = "") -> Iterator[str]:
        return iter(obstacles.find(obstacles.from_legacy(LEGACY + more, "ip", "iptables-legacy"), network()))

    names, through = found()
    assert names.endswith("iptables-legacy -I INPUT -i virbr0 -p udp -m multiport --dports 53 -j ACCEPT")
    assert "'iptables-legacy FORWARD' drops" in through
    assert "iptables-legacy -I FORWARD -i virbr0 -j ACCEPT; iptables-legacy -I FORWARD -o virbr0" in through
    more = "-A USER -i virbr+ -j ACCEPT\n-A INPUT -i virbr0 -p udp -m multiport --dports 53,67 -j ACCEPT\n"
    assert list(found(more)) == []
    assert len(list(found("-A USER ! -i virbr+ -j ACCEPT\n"))) == 2
    assert obstacles.find(obstacles.from_legacy(LEGACY, "ip6", "ip6tables-legacy"), network()) == []
