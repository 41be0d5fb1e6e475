"""Network documents: the order of output, and what reading refuses."""

import pytest

from qvirt.errors import QvirtError
from qvirt.model.network import parse_network

EVERYTHING = """<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0' ipv6='yes' \
trustGuestRxFilters='no'>
  <name>all</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <forward dev='eth0' mode='nat'>
    <nat ipv6='yes'>
      <address start='1.2.3.4' end='1.2.3.10'/>
      <port start='500' end='1000'/>
    </nat>
    <interface dev='eth0'/>
  </forward>
  <bridge name='virbr9' zone='public' stp='on' delay='0' macTableManager='libvirt'/>
  <mtu size='9000'/>
  <mac address='52:54:00:11:22:33'/>
  <domain name='a.b' localOnly='yes'/>
  <dns enable='yes' forwardPlainNames='no'>
    <forwarder domain='d' addr='1.1.1.1'/>
    <txt name='n' value='v'/>
    <srv service='ldap' protocol='tcp' domain='x' target='y' port='3' priority='4' weight='5'/>
    <host ip='10.0.0.1'>
      <hostname>a</hostname>
      <hostname>b</hostname>
    </host>
  </dns>
  <bandwidth>
    <inbound average='1000' peak='5000' burst='1024'/>
  </bandwidth>
  <port isolated='yes'/>
  <ip address='10.9.1.1' netmask='255.255.255.0' localPtr='yes'>
    <tftp root='/t'/>
    <dhcp>
      <range start='10.9.1.2' end='10.9.1.254'>
        <lease expiry='1' unit='hours'/>
      </range>
      <host mac='52:54:00:01:02:03' name='a' ip='10.9.1.9'>
        <lease expiry='0'/>
      </host>
      <bootp file='pxe' server='1.2.3.4'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='fc00::1' prefix='64'>
  </ip>
  <route address='10.8.0.0' prefix='24' gateway='10.9.1.9' metric='3'/>
  <portgroup name='a' default='yes'>
    <bandwidth>
      <inbound average='1'/>
    </bandwidth>
  </portgroup>
  <portgroup name='b'>
  </portgroup>
  <dnsmasq:options>
    <dnsmasq:option value='a=b'/>
  </dnsmasq:options>
</network>
"""


def test_everything_is_written_as_libvirt_writes_it() -> None:
    assert parse_network(EVERYTHING).to_xml() == EVERYTHING


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("<forward mode='x'/>", "unknown forwarding type 'x'"),
        ("<bridge delay='x'/>", "Invalid delay value in network 'n'"),
        ("<mtu size='x'/>", "Invalid mtu size 'x' in network 'n'"),
        ("<forward mode='hostdev'><pf dev='a'/><pf dev='b'/></forward>", "Only one <pf> element is allowed"),
        ("<route prefix='3'/>", "n: Missing required address attribute in route definition"),
        (
            "<ip address='1.2.3.4'><dhcp><range start='a' end='b'><lease expiry='20' unit='seconds'/></range>"
            "</dhcp></ip>",
            "The minimum lease time should be greater than 2 minutes",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(body: str, sentence: str) -> None:
    with pytest.raises(QvirtError) as caught:
        parse_network(f"<network><name>n</name>{body}</network>")
    assert sentence in caught.value.message


def test_the_subnet_of_an_address() -> None:
    network = parse_network(EVERYTHING)
    assert [str(ip.subnet) for ip in network.ips] == ["10.9.1.0/24", "fc00::/64"]
