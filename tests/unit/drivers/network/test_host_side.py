"""What dnsmasq and nft are told, what leases say; the first is libvirt 9.0's own text."""

import pytest

from qvirt.drivers.network import dnsmasq_config, firewall, leases
from qvirt.model.network import parse_network

ISOLATED = """<network><name>iso</name><bridge name='virbr8'/>
<ip address='192.168.78.1' prefix='24'><dhcp><range start='192.168.78.10' end='192.168.78.100'/></dhcp></ip>
<ip family='ipv6' address='2001:db8:ca2:3::1' prefix='64'/></network>"""

SAID = """strict-order
pid-file=/p
except-interface=lo
bind-dynamic
interface=virbr8
dhcp-option=3
no-resolv
ra-param=*,0,0
dhcp-range=192.168.78.10,192.168.78.100,255.255.255.0
dhcp-no-override
dhcp-authoritative
dhcp-lease-max=91
dhcp-hostsfile=/h
addn-hosts=/n
dhcp-range=2001:db8:ca2:3::1,ra-only
"""


def test_configuration() -> None:
    text = dnsmasq_config.config(parse_network(ISOLATED), pid_file="/p", hosts_file="/h", names_file="/n")
    assert text.partition("created by libvirt\n")[2] == SAID


def test_hosts() -> None:
    network = parse_network(
        "<network><name>n</name><bridge name='b'/><ip address='192.168.77.1' prefix='24'><dhcp>"
        "<host mac='52:54:00:00:00:01' name='bob' ip='192.168.77.5'><lease expiry='1' unit='hours'/></host>"
        "</dhcp></ip><ip family='ipv6' address='2001:db8:ca2:2::1' prefix='64'><dhcp>"
        "<host id='0:1:0:1' name='p' ip='2001:db8:ca2:2:3::2'/></dhcp></ip></network>"
    )
    assert dnsmasq_config.hosts(network) == (
        "52:54:00:00:00:01,192.168.77.5,bob,1h\nid:0:1:0:1,p,[2001:db8:ca2:2:3::2]\n"
    )


def test_leases() -> None:
    text = (
        "2000000000 52:54:00:aa:bb:cc 192.168.78.11 guest 01:52:54:00:aa:bb:cc\n"
        "100 52:54:00:aa:bb:cd 192.168.78.12 * *\n"
        "duid 00:01:00:01:2c:11\n"
        "0 123 2001:db8:ca2:3::9 * 00:03:00:01:52:54:00:aa:bb:cc\n"
    )
    first, second = leases.parse(text, parse_network(ISOLATED), 1000)
    assert (first.mac, first.address, first.prefix, first.hostname) == (
        "52:54:00:aa:bb:cc",
        "192.168.78.11",
        24,
        "guest",
    )
    assert (second.mac, second.type, second.iaid, second.expiry) == ("52:54:00:aa:bb:cc", 1, "123", 0)


def test_rules_of_one_network_leave_the_others() -> None:
    network = parse_network(
        "<network><name>n</name><forward mode='nat' dev='eth9'><nat>"
        "<address start='10.0.0.1' end='10.0.0.2'/>"
        "<port start='500' end='600'/></nat></forward><bridge name='b'/><ip address='10.1.0.1' prefix='24'/>"
        "</network>"
    )
    text = firewall.additions(network)
    assert (
        'oifname "eth9" ip saddr 10.1.0.0/24 ip daddr != 10.1.0.0/24 meta l4proto { tcp, udp } '
        "snat ip to 10.0.0.1-10.0.0.2:500-600"
    ) in text
    gone = firewall.removals("other", [network])
    assert "delete chain inet qvirt_network nat-b\n" not in gone
    assert "jump nat-b\n" in gone


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/var/lib/libvirt/dnsmasq/n.hostsfile", "/var/lib/libvirt/dnsmasq/n.hostsfile"),
        ("/a #b", '"/a #b"'),
        ('/quo"te', '"/quo\\"te"'),
        ("/tab\tback\\slash", '"/tab\\tback\\\\slash"'),
    ],
)
def test_paths_that_dnsmasq_would_take_apart(path: str, said: str) -> None:
    text = dnsmasq_config.config(parse_network(ISOLATED), pid_file="/p", hosts_file=path, names_file="/n")
    assert f"\ndhcp-hostsfile={said}\n" in text
