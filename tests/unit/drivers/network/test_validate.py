"""What libvirt's network driver refuses, in its words, and what a document gets from it."""

import pytest

from qvirt.constants.network import NetworkUpdateCommand as Command
from qvirt.constants.network import NetworkUpdateSection as Section
from qvirt.drivers.network import update, validate
from qvirt.errors import QvirtError
from qvirt.model.network import Network, parse_network

IP = "<ip address='10.9.1.1' netmask='255.255.255.0'/>"


def read(body: str) -> Network:
    network = parse_network(f"<network><name>t1</name>{body}</network>")
    validate.fill_in(network, lambda: "11111111-2222-3333-4444-555555555555", lambda: "52:54:00:00:00:01")
    validate.check(network)
    return network


def dhcp(inner: str, attributes: str = "address='10.9.1.1' prefix='24'") -> str:
    return f"<ip {attributes}><dhcp>{inner}</dhcp></ip>"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("<forward mode='nat'/>", "nat forwarding requested, but no IP address provided for network 't1'"),
        (
            f"<forward mode='open' dev='eth0'/>{IP}",
            "forward dev not allowed for network 't1' with forward mode='open'",
        ),
        (
            "<forward mode='vepa'/><bridge name='b'/>",
            "bridge name not allowed in vepa mode (network 't1')",
        ),
        (
            "<forward mode='bridge'/><bridge name='b' stp='on'/>",
            "bridge delay/stp/zone options only allowed in route, nat, and isolated mode, not in bridge",
        ),
        (
            f"<forward mode='bridge'/>{IP}",
            "Unsupported <ip> element in network t1 with forward mode='bridge'",
        ),
        (dhcp("<range start='10.9.1.9' end='10.9.1.4'/>"), "range 10.9.1.9 - 10.9.1.4 is reversed"),
        (
            dhcp("<range start='10.9.1.3' end='10.9.1.255'/>"),
            "end of range 10.9.1.3 - 10.9.1.255 in network 10.9.1.1/24 is the broadcast address",
        ),
        (
            dhcp("<range start='10.9.2.3' end='10.9.2.5'/>"),
            "range 10.9.2.3 - 10.9.2.5 is not entirely within network 10.9.1.1/24",
        ),
        (
            dhcp("<range start='10.0.0.2' end='10.255.255.254'/>", "address='10.9.1.1' prefix='8'"),
            "is too large (> 65535)",
        ),
        (dhcp("<host/>"), "Static host definition in IPv4 network 't1' must have mac or name attribute"),
        ("<ip address='fc00::1' prefix='64'/>", "no family specified for non-IPv4 address 'fc00::1'"),
        (
            f"<dns enable='no'><txt name='a' value='b'/></dns>{IP}",
            "Extra data in disabled network 't1'",
        ),
        (
            "<portgroup name='a'/><portgroup name='a'/>",
            "multiple <portgroup> elements with the same name (a)",
        ),
        (
            f"{IP}<route address='10.8.0.0' prefix='24' gateway='10.7.1.9'/>",
            "unreachable static route gateway '10.7.1.9' specified for network 't1'",
        ),
        ("<bridge name='a23456789012345678'/>", "at most 15 characters"),
    ],
)
def test_refusals(body: str, sentence: str) -> None:
    with pytest.raises(QvirtError) as caught:
        read(body)
    assert sentence in caught.value.message


def test_a_bare_network_gets_bridge_settings_and_a_mac() -> None:
    network = read("")
    validate.name_bridge(network, {"virbr0", "virbr1"})
    assert network.bridge is not None
    assert (network.bridge.stp, network.bridge.delay) == ("on", 0)
    assert network.bridge.name not in (None, "virbr0", "virbr1")
    assert network.mac.address == "52:54:00:00:00:01"


def test_a_taken_bridge_name_is_refused() -> None:
    network = read("<bridge name='virbr7'/>")
    with pytest.raises(QvirtError, match="bridge name 'virbr7' already in use"):
        validate.name_bridge(network, {"virbr7"})


def test_an_update_goes_first_or_last_and_only_once() -> None:
    network = read(dhcp("<range start='10.9.1.10' end='10.9.1.20'/>"))
    for command, start in ((Command.ADD_LAST, 30), (Command.ADD_FIRST, 50)):
        update.apply(
            network,
            command,
            Section.IP_DHCP_RANGE,
            -1,
            f"<range start='10.9.1.{start}' end='10.9.1.{start + 5}'/>",
        )
    assert [r.start for r in network.ips[0].ranges] == ["10.9.1.50", "10.9.1.10", "10.9.1.30"]
    with pytest.raises(QvirtError, match="there is an existing dhcp range entry"):
        update.apply(
            network,
            Command.ADD_LAST,
            Section.IP_DHCP_RANGE,
            0,
            "<range start='10.9.1.30' end='10.9.1.35'/>",
        )


def test_metadata_is_set_replaced_and_removed() -> None:
    network = read("")
    update.set_metadata(network, 2, "<x a='1'>y</x>", "p", "http://p")
    assert '<p:x xmlns:p="http://p" a="1">y</p:x>' in network.to_xml()
    assert update.get_metadata(network, 2, "http://p") == '<x a="1">y</x>'
    update.set_metadata(network, 2, None, None, "http://p")
    with pytest.raises(QvirtError, match="metadata not found"):
        update.get_metadata(network, 2, "http://p")


@pytest.mark.parametrize("name", [".", "..", "x" * 242, "ü" * 121])
def test_a_name_under_which_nothing_can_be_kept(name: str) -> None:
    with pytest.raises(QvirtError, match=r"means a folder|is too long"):
        validate.check(parse_network(f"<network><name>{name}</name></network>"))


@pytest.mark.parametrize(
    "name", ["a-name-of-a-brid", "a:b", "a b", "x%s", "x%d%d", "abcdefghijklmno%d", ".."]
)
def test_a_bridge_name_no_device_can_have(name: str) -> None:
    with pytest.raises(QvirtError, match=f"bridge name '{name}' in network 't1' cannot be"):
        read(f"<bridge name='{name}'/>")


def test_names_of_bridges_run_out() -> None:
    network = read("<bridge name='abcdefghijklmn%d'/>")
    with pytest.raises(
        QvirtError, match="no name is left for the bridge of network 't1' by 'abcdefghijklmn%d'"
    ):
        validate.name_bridge(network, {f"abcdefghijklmn{number}" for number in range(10)})
