"""Interfaces as documents: order, what a source of each type keeps, what only virtio cards say."""

import pytest
from lxml import etree

from qvirt.model.devices.interface import Interface


def interface(text: str) -> Interface:
    return Interface.from_xml(etree.fromstring(text))


def written(text: str) -> str:
    return interface(text).to_xml().replace("\n", "").replace("  ", "")


SOURCES = {
    "network": "<source network='n' portgroup='g' portid='p' bridge='b'/>",
    "bridge": "<source bridge='b'/>",
    "direct": "<source dev='d' mode='bridge'/>",
    "internal": "<source name='x'/>",
    "vdpa": "<source dev='d'/>",
    "mcast": "<source address='a' port='5'/>",
    "server": "<source address='a' port='5'/>",
    "user": "",
    "null": "",
}


@pytest.mark.parametrize("kind", list(SOURCES))
def test_a_source_keeps_only_what_its_type_has(kind: str) -> None:
    text = (
        f"<interface type='{kind}'>"
        "<source network='n' portgroup='g' bridge='b' dev='d' mode='bridge' name='x' "
        "address='a' port='5' portid='p'/></interface>"
    )
    source = SOURCES[kind]
    kept = f"<interface type='{kind}'>{source}</interface>" if source else f"<interface type='{kind}'/>"
    assert written(text) == kept


def test_other_cards_say_nothing_of_virtio() -> None:
    text = (
        "<interface><model type='{}'/><driver name='vhost' queues='4' ats='on'/>"
        "<backend tap='/t' vhost='/v'/></interface>"
    )
    assert "<driver name='vhost' queues='4' ats='on'/><backend tap='/t' vhost='/v'/>" in written(
        text.format("virtio")
    )
    assert "<driver ats='on'/><backend tap='/t'/>" in written(text.format("e1000"))


def test_the_driver_of_a_passed_through_card_stands_before_its_source() -> None:
    text = (
        "<interface type='hostdev' managed='yes'><mac address='52:54:0:0:0:1'/><driver name='vfio'/><source>"
        "<address type='pci' domain='0x0000' bus='0x01' slot='0x02' function='0x3'/></source></interface>"
    )
    assert written(text) == text.replace("52:54:0:0:0:1", "52:54:00:00:00:01")


def test_a_filter_is_kept_where_there_is_a_tap_to_filter() -> None:
    text = (
        "<interface type='{}'><source network='n'/><filterref filter='f'><parameter name='B' value='2'/>"
        "<parameter name='A' value='1'/></filterref></interface>"
    )
    assert (
        "<filterref filter='f'><parameter name='A' value='1'/><parameter name='B' value='2'/></filterref>"
        in written(text.format("network"))
    )
    assert "filterref" not in written(text.format("user"))


def test_several_vlans_make_a_trunk() -> None:
    text = "<interface type='network'><source network='n'/><vlan>{}</vlan></interface>"
    assert "<vlan><tag id='1'/></vlan>" in written(text.format("<tag id='1'/>"))
    assert "<vlan trunk='yes'>" in written(text.format("<tag id='1'/><tag id='2'/>"))
    assert "<vlan trunk='yes'>" in written(text.format("<tag id='1' nativeMode='tagged'/>"))


def test_what_means_nothing_is_not_written() -> None:
    text = (
        "<interface><source/><mtu size='0'/><coalesce><rx><frames max='0'/></rx></coalesce><driver/>"
        "<script path=''/><target/><link/></interface>"
    )
    assert written(text) == "<interface type='user'/>"
