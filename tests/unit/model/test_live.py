from qvirt.constants.domain import DomainXMLFlags
from qvirt.model.domain import Domain, parse_domain
from qvirt.model.live import format_domain

RUNNING = """<domain type='qemu' id='7'>
  <name>a</name>
  <os>
    <type>hvm</type>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/a' index='1'/>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
    </disk>
    <interface type='user'>
      <mac address='52:54:00:00:00:01'/>
      <target dev='vnet3'/>
      <alias name='ua-mine'/>
    </interface>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
      <alias name='channel0'/>
    </channel>
    <graphics type='vnc' port='5903' autoport='yes' passwd='secret' connected='keep'/>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'>
    <label>+64055:+64055</label>
    <imagelabel>+64055:+64055</imagelabel>
  </seclabel>
  <seclabel type='dynamic' model='selinux' relabel='yes'>
    <label>system_u:system_r:svirt_t:s0:c1,c2</label>
    <baselabel>system_u:system_r:svirt_t:s0</baselabel>
  </seclabel>
</domain>
"""


def running() -> Domain:
    return parse_domain(RUNNING)


def test_a_live_document_shows_all_but_passwords() -> None:
    domain = running()
    text = format_domain(domain)
    assert "id='7'" in text
    assert "<alias name='virtio-disk0'/>" in text
    assert "port='5903'" in text
    assert "secret" not in text
    assert "connected='keep'" not in text
    assert domain.devices.graphics[0].passwd == "secret"  # noqa: S105


def test_secure_data_is_shown_when_asked_for() -> None:
    assert "passwd='secret'" in format_domain(running(), DomainXMLFlags.SECURE)


def test_an_inactive_document_forgets_the_run() -> None:
    domain = running()
    text = format_domain(domain, DomainXMLFlags.INACTIVE | DomainXMLFlags.SECURE)
    for gone in ("id='7'", "virtio-disk0", "vnet3", "index='1'", "channel0", "connected'", "5903", "64055"):
        assert gone not in text, gone
    for kept in ("ua-mine", "port='-1'", "passwd='secret'", "<baselabel>"):
        assert kept in text, kept
    assert "svirt_t:s0:c1,c2" not in text
    assert domain.to_xml() == running().to_xml()


def test_a_definition_is_written_as_it_is() -> None:
    domain = running()
    domain.id = None
    assert format_domain(domain, DomainXMLFlags.INACTIVE | DomainXMLFlags.SECURE) == domain.to_xml()
