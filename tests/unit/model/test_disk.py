"""Disks as documents: order, what a source of each type keeps, chains, drive names."""

import pytest
from lxml import etree

from qvirt.model.devices import Devices
from qvirt.model.devices.disk import Disk, drive_index


def disk(text: str) -> Disk:
    return Disk.from_xml(etree.fromstring(text))


def written(text: str) -> str:
    return disk(text).to_xml().replace("\n", "").replace("  ", "")


def test_a_source_keeps_only_what_its_type_has() -> None:
    text = (
        "<disk type='{}'><source file='/f' dev='/d' dir='/r' protocol='nbd' name='n' query='q' pool='p' "
        "volume='v' path='/s' type='unix'><host name='h'/><identity user='u'/></source>"
        "<target dev='vda'/></disk>"
    )
    kept = {
        "file": "<source file='/f'/>",
        "block": "<source dev='/d'/>",
        "dir": "<source dir='/r'/>",
        "network": "<source protocol='nbd' name='n'><host name='h' port='10809'/></source>",
        "volume": "<source pool='p' volume='v'/>",
        "vhostuser": "<source type='unix' path='/s'/>",
    }
    for kind, source in kept.items():
        assert source in written(text.format(kind)), kind


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("protocol='iscsi' name='iqn.x'", "protocol='iscsi' name='iqn.x/0'"),
        ("protocol='https' name='a' query='b'", "protocol='https' name='a' query='b'"),
        ("protocol='ftp' name='a' query='b'", "protocol='ftp' name='a'"),
        ("protocol='nbd' tlsHostname='h'", "protocol='nbd' tlsHostname='h'"),
        ("protocol='nbd' tls='yes' tlsHostname='h'", "protocol='nbd' tls='yes' tlsHostname='h'"),
    ],
)
def test_network_names(source: str, kept: str) -> None:
    assert f"<source {kept}/>" in written(
        f"<disk type='network'><source {source}/><target dev='vda'/></disk>"
    )


def test_an_empty_drive_is_a_file_without_a_name() -> None:
    for kind in ("file", "block", "dir", "network", "volume", "nvme"):
        drive = disk(f"<disk type='{kind}' device='cdrom'><target dev='hda'/></disk>")
        assert (drive.type, drive.top, drive.has_medium) == ("file", None, False)
    assert written("<disk device='cdrom'><source file='' /><target dev='hda'/></disk>").count("source") == 0
    kept = written("<disk device='cdrom'><source startupPolicy='optional'/><target dev='hda'/></disk>")
    assert "<source startupPolicy='optional'/>" in kept


CHAIN = (
    "<disk><driver type='qcow2'/><source file='/top'/><backingStore type='block' index='3'>"
    "<format type='qcow2'/><source dev='/middle'/><backingStore type='network'><format type='raw'/>"
    "<source protocol='nbd'><host name='h'/></source>{}</backingStore></backingStore>"
    "<target dev='vda'/></disk>"
)


def test_images_are_the_whole_chain_from_the_top() -> None:
    images = list(disk(CHAIN.format("<backingStore/>")).images())
    assert [(image.type, image.format, image.readonly, image.depth) for image in images] == [
        ("file", "qcow2", False, 0),
        ("block", "qcow2", True, 1),
        ("network", "raw", True, 2),
    ]
    assert images[1].index == 3
    assert images[-1].below is not None
    assert images[-1].below.is_end
    assert list(disk(CHAIN.format("")).images())[-1].below is None


def test_an_index_lands_where_the_document_shows_it() -> None:
    known = disk(CHAIN.format(""))
    for number, image in enumerate(known.images(), 7):
        image.index = number
    text = known.to_xml()
    assert "<source file='/top' index='7'/>" in text
    assert "<backingStore type='block' index='8'>" in text
    assert "<backingStore type='network' index='9'>" in text


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("vda", 0),
        ("hdz", 25),
        ("sdaa", 26),
        ("xvdb", 1),
        ("sdzz", 701),
        ("vda1", 0),
        ("nvme0", -1),
        ("vd", -1),
    ],
)
def test_drive_index(name: str, index: int) -> None:
    assert drive_index(name) == index


def test_disks_are_kept_in_libvirts_order() -> None:
    names = (
        ("vdb", None),
        ("hda", None),
        ("vda", "virtio"),
        ("vdd", None),
        ("vdc", "virtio"),
        ("hdc", "ide"),
    )
    text = "".join(
        f"<disk><source file='/x'/><target dev='{name}'" + (f" bus='{bus}'" if bus else "") + "/></disk>"
        for name, bus in names
    )
    devices = Devices.from_xml(etree.fromstring(f"<devices>{text}</devices>"))
    # a bus that is not said is one of its own while the document is read
    assert [disk.name for disk in devices.disks] == ["hda", "vdb", "vdd", "vda", "vdc", "hdc"]


def test_a_size_is_written_in_bytes() -> None:
    text = written(
        "<disk><driver type='qcow2'><metadata_cache><max_size unit='MiB'>2</max_size></metadata_cache>"
        "</driver>"
        "<source file='/x'/><target dev='vda'/></disk>"
    )
    assert "<max_size unit='bytes'>2097152</max_size>" in text
