"""What a network gives its guests' interfaces, in libvirt's words, and the book of it."""

from pathlib import Path

import pytest
from lxml import etree

from qvirt.drivers.network.ports import allocate, plug_in, port_of
from qvirt.drivers.network.running import virtual_functions
from qvirt.errors import QvirtError
from qvirt.model.devices.address import pci_name
from qvirt.model.devices.interface import Interface
from qvirt.model.network import parse_network
from qvirt.model.network_port import NetworkPort, PortPlug

MAC = "52:54:00:4e:ac:8f"
UUID = "7383710e-a294-4b93-9fc6-e640c6f3a2cf"
OWNER = ("t", "fc2c7b23-9eca-4323-af09-62ad94b06edb")


FUNCTION = "<address type='pci' domain='0' bus='2' slot='16' function='1'/>"


def interface(inside: str = "", source: str = "<source network='n'/>") -> Interface:
    return Interface.from_xml(
        etree.fromstring(f"<interface type='network'><mac address='{MAC}'/>{source}{inside}</interface>")
    )


def give(network: str, asked: Interface, used: dict[str, int] | None = None) -> NetworkPort:
    document = parse_network(f"<network><name>n</name>{network}</network>")
    counted = used or {}
    return allocate(document, asked, UUID, OWNER, lambda dev: counted.get(dev, 0))


def plug(port: NetworkPort) -> PortPlug:
    assert port.plug is not None
    return port.plug


def shown(xml: str) -> str:
    return xml.replace("\n", "").replace("  ", "")


def test_a_port_on_the_networks_own_bridge() -> None:
    port = give("<forward mode='nat'/><bridge name='virbr0'/>", interface())
    # as libvirt 9.0's net-port-dumpxml has it
    assert port.to_xml() == (
        "<networkport>\n"
        f"  <uuid>{UUID}</uuid>\n"
        "  <owner>\n"
        "    <name>t</name>\n"
        f"    <uuid>{OWNER[1]}</uuid>\n"
        "  </owner>\n"
        f"  <mac address='{MAC}'/>\n"
        "  <plug type='network' bridge='virbr0'/>\n"
        "</networkport>\n"
    )


@pytest.mark.parametrize(
    ("network", "status", "live"),
    [
        (
            "<forward mode='nat'/><bridge name='virbr0'/>",
            f"<source network='n' portid='{UUID}'/><actual type='network'><source bridge='virbr0'/></actual>",
            f"<interface type='network'><mac address='{MAC}'/>"
            f"<source network='n' portid='{UUID}' bridge='virbr0'/></interface>",
        ),
        (
            "<forward mode='bridge'/><bridge name='br0'/>",
            f"<source network='n' portid='{UUID}'/><actual type='bridge'><source bridge='br0'/></actual>",
            f"<interface type='bridge'><mac address='{MAC}'/>"
            f"<source network='n' portid='{UUID}' bridge='br0'/></interface>",
        ),
        (
            "<forward mode='private'><interface dev='up0'/></forward>",
            f"<source network='n' portid='{UUID}'/>"
            "<actual type='direct'><source dev='up0' mode='private'/></actual>",
            f"<interface type='direct'><mac address='{MAC}'/>"
            f"<source network='n' portid='{UUID}' dev='up0' mode='private'/></interface>",
        ),
    ],
)
def test_what_was_given_shows_as_in_libvirt(network: str, status: str, live: str) -> None:
    asked = interface()
    port = give(network, asked)
    plug_in(asked, port)
    assert shown(asked.to_xml()) == f"<interface type='network'><mac address='{MAC}'/>{status}</interface>"
    assert shown(asked.plugged().to_xml()) == live
    assert port_of(asked, OWNER).to_xml() == port.to_xml()
    asked.unplug()
    assert asked.to_xml() == interface().to_xml()


def test_the_interface_goes_before_the_group_and_the_group_before_the_network() -> None:
    network = (
        "<forward mode='bridge'/><bridge name='br0'/><virtualport type='openvswitch'/>"
        "<vlan><tag id='1'/></vlan>"
        "<portgroup name='slow' default='yes' trustGuestRxFilters='yes'><vlan><tag id='2'/></vlan>"
        "<bandwidth><inbound average='10'/></bandwidth></portgroup>"
        "<portgroup name='fast'><bandwidth><inbound average='99'/></bandwidth></portgroup>"
    )

    def given(asked: Interface) -> tuple[int, int, bool | None]:
        port = give(network, asked)
        assert port.vlan is not None
        assert port.bandwidth is not None
        assert port.bandwidth.inbound is not None
        assert port.bandwidth.inbound.average is not None
        return port.vlan.tags[0].id, port.bandwidth.inbound.average, port.rxfilters.trust_guest

    assert given(interface()) == (2, 10, True)
    assert given(interface(source="<source network='n' portgroup='fast'/>")) == (1, 99, None)
    own = "<vlan><tag id='3'/></vlan><bandwidth><inbound average='7'/></bandwidth>"
    assert given(interface(own)) == (3, 7, True)


def test_of_a_pool_the_device_with_the_fewest_guests() -> None:
    pool = "<forward mode='{}'><interface dev='a'/><interface dev='b'/></forward>"
    assert plug(give(pool.format("vepa"), interface())).dev == "a"
    assert plug(give(pool.format("vepa"), interface(), {"a": 2, "b": 1})).dev == "b"
    assert plug(give(pool.format("passthrough"), interface(), {"a": 1})).dev == "b"
    with pytest.raises(QvirtError, match="requires exclusive access to interfaces, but none are available"):
        give(pool.format("passthrough"), interface(), {"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("network", "inside", "message"),
    [
        (
            "<forward mode='bridge'/><bridge name='b'/>",
            "<vlan><tag id='4'/></vlan>",
            f"interface {MAC} - vlan tag not supported for this connection type",
        ),
        (
            "<forward mode='private'><interface dev='up0'/></forward>",
            "<bandwidth><inbound average='5' floor='3'/></bandwidth>",
            f"Invalid use of 'floor' on interface with MAC address {MAC} - 'floor' is only supported for "
            "interface type 'network' with forward type 'nat', 'route', 'open' or none",
        ),
        (
            "<bridge name='b'/>",
            "<bandwidth><inbound average='5' floor='3'/></bandwidth>",
            "network 'n' has no inbound QoS set",
        ),
        (
            "<forward mode='private'><interface dev='up0'/></forward>",
            "<virtualport type='openvswitch'/>",
            "<virtualport type='openvswitch'> not supported for network 'n' which uses a macvtap device",
        ),
        (
            "<forward mode='bridge'/><bridge name='b'/>",
            "<virtualport type='802.1Qbh'><parameters profileid='x'/></virtualport>",
            "<virtualport type='802.1Qbh'> not supported for network 'n' which uses a bridge device",
        ),
        ("<forward mode='vepa'/>", "", "network 'n' uses a direct mode, but has no forward dev"),
        (
            "<forward mode='hostdev'><pf dev='x'/></forward>",
            "",
            "uses a hostdev mode, but has no forward dev",
        ),
        (
            f"<forward mode='hostdev'>{FUNCTION}</forward>",
            "<virtualport type='openvswitch'/>",
            "<virtualport type='openvswitch'> not supported for network 'n' which uses an SR-IOV",
        ),
        (
            f"<forward mode='hostdev'>{FUNCTION}</forward>",
            "<bandwidth><inbound average='1'/></bandwidth>",
            f"interface {MAC} - bandwidth settings are not supported for hostdev interfaces",
        ),
    ],
)
def test_what_cannot_be_given(network: str, inside: str, message: str) -> None:
    with pytest.raises(QvirtError) as caught:
        give(network, interface(inside))
    assert message in str(caught.value)


POOL = (
    "<forward mode='hostdev' managed='yes'><driver name='vfio'/>"
    f"{FUNCTION}<address type='pci' domain='0' bus='2' slot='16' function='3'/></forward>"
)


def test_a_function_of_the_host_is_one_guests() -> None:
    port = give(POOL, interface("<vlan><tag id='42'/></vlan>"))
    assert port.to_xml().endswith(
        "  <plug type='hostdev-pci' managed='yes'>\n"
        "    <driver name='vfio'/>\n"
        "    <address domain='0x0000' bus='0x02' slot='0x10' function='0x1'/>\n"
        "  </plug>\n"
        "</networkport>\n"
    )
    assert NetworkPort.from_xml(etree.fromstring(port.to_xml())).to_xml() == port.to_xml()
    assert plug(port).of_host == "0000:02:10.1"
    asked = interface("<vlan><tag id='42'/></vlan>")
    plug_in(asked, port)
    assert port_of(asked, OWNER).to_xml() == port.to_xml()
    again = Interface.from_xml(etree.fromstring(asked.to_xml()))
    assert port_of(again, OWNER).to_xml() == port.to_xml()
    # as libvirt shows it: the function, and no network
    assert shown(again.plugged().to_xml()) == (
        f"<interface type='hostdev' managed='yes'><mac address='{MAC}'/><driver name='vfio'/>"
        "<source><address type='pci' domain='0x0000' bus='0x02' slot='0x10' function='0x1'/></source>"
        "<vlan><tag id='42'/></vlan></interface>"
    )
    other = give(POOL, interface(), {"0000:02:10.1": 1})
    assert plug(other).of_host == "0000:02:10.3"
    with pytest.raises(
        QvirtError, match=r"requires exclusive access .* \(0000:02:10.1, 0000:02:10.3 are all"
    ):
        give(POOL, interface(), {"0000:02:10.1": 1, "0000:02:10.3": 1})


def test_a_pool_is_what_a_physical_function_has(tmp_path: Path) -> None:
    for number, place in ((10, "0000:02:11.2"), (2, "0000:02:10.5"), (0, "0000:02:10.1")):
        (tmp_path / f"virtfn{number}").symlink_to(tmp_path / place)
    found = [pci_name(address) for address in virtual_functions(tmp_path)]
    assert found == ["0000:02:10.1", "0000:02:10.5", "0000:02:11.2"]
    assert virtual_functions(tmp_path / "nowhere") == []
