"""Documents made to hurt: each is refused in a clear sentence, long before it costs time or memory."""

import pytest

from qvirt.errors import QvirtError
from qvirt.model.devices import MAX_DEVICES, parse_device
from qvirt.model.domain import parse_domain
from qvirt.xml.codecs import parse_cpuset
from qvirt.xml.document import MAX_ATTRIBUTES, MAX_LENGTH
from tests.support.pure import completed

EMULATOR = "<emulator>/usr/bin/qemu-system-x86_64</emulator>"
LAUGHS = "".join(f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 10}'>" for i in range(9))

PIN = "<vcpupin vcpu='{0}' cpuset='0-16383'/>"
CELL = "<cell cpus='0-9999,^5' memory='1'/>"


def document(elements: str = "", devices: str = "", memory: str = "219100") -> str:
    return (
        f"<domain type='qemu'><name>t</name><memory>{memory}</memory><os><type arch='x86_64' machine='pc'>hvm"
        f"</type></os>{elements}<devices>{EMULATOR}{devices}</devices></domain>"
    )


def entities(declared: str, use: str) -> str:
    return f"<!DOCTYPE d [{declared}]>" + document(f"<title>{use}</title>")


def numbered(pattern: str, count: int) -> str:
    return "".join(pattern.format(i) for i in range(count))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (entities(f"<!ENTITY a 'aaaaaaaaaa'>{LAUGHS}", "&j;"), "defines entities, which are not taken"),
        (entities(f"<!ENTITY a '{'a' * 50000}'>", "&a;" * 20000), "defines entities, which are not taken"),
        (entities("<!ENTITY x SYSTEM 'file:///etc/passwd'>", "&x;"), "defines entities, which are not taken"),
        (entities("<!ENTITY % p SYSTEM 'file:///x'> %p;", ""), "defines entities, which are not taken"),
        (document("<description>" + "a" * MAX_LENGTH + "</description>"), f"the limit is {MAX_LENGTH}"),
        ("<domain>" + "<a>" * 100000 + "</a>" * 100000 + "</domain>", "Excessive depth in document: 256"),
        (document("<metadata>" + "<x:b xmlns:x='urn:x'>" * 300 + "</x:b>" * 300 + "</metadata>"), "depth"),
        (document("<title>a&#0;b</title>"), "invalid xmlChar value 0"),
        (document("<title>a\0b</title>"), "(domain_definition):1:"),
        ("<?xml version='1.0' encoding='UTF-16'?>" + document(), "(domain_definition):1:"),
        ("<?xml version='1.0' encoding='FROB'?>" + document(), "Unsupported encoding: FROB"),
        ("", "Document is empty"),
        ("<domain", "Couldn't find end of Start Tag"),
        ("<network/>", "expecting root element of 'domain', not 'network'"),
        (document(devices="<disk " + numbered("a{}='1' ", 20000) + "/>"), f"limit is {MAX_ATTRIBUTES}"),
        (document(devices="<input type='tablet'/>" * (MAX_DEVICES + 1)), f"more than the {MAX_DEVICES}"),
        (document("<vcpu cpuset='0-99999999999'>1</vcpu>"), "Failed to parse bitmap"),
        (document(f"<vcpu>{'9' * 5000}</vcpu>"), "maximum vcpus count must be an integer"),
        (
            document(f"<cputune>{numbered(PIN, 20000)}</cputune>"),
            "have more than 1048576 numbers",
        ),
        (document(f"<cpu><numa>{CELL * 20000}</numa></cpu>"), "have more than 1048576 numbers"),
        (document("<iothreads>4294967295</iothreads>"), "invalid iothreads count '4294967295'"),
        (document(memory="18446744073709551615"), "value too large"),
        (document(memory="-1"), "Invalid value '-1' for element or attribute './memory[1]'"),
    ],
)  # fmt: skip
def test_documents_that_are_not_read(text: str, sentence: str) -> None:
    with pytest.raises(QvirtError) as refused:
        parse_domain(text)
    assert sentence in refused.value.message
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        ("<controller type='pci' index='2147483647' model='pci-bridge'/>", "too high, maximum is 255"),
        ("<disk type='file'><source file='/x'/><target dev='sda' bus='scsi'/>"
         "<address type='drive' controller='4294967295'/></disk>", "names scsi controller 4294967295"),
        ("<disk type='file'><source file='/x'/><target dev='sdzzzzzzzzzzz' bus='scsi'/></disk>",
         "a device names scsi controller"),
        ("<smartcard mode='host'><address type='ccid' controller='4000000000' slot='0'/></smartcard>",
         "a device names ccid controller 4000000000"),
        ("<channel type='pty'><target type='virtio'/>"
         "<address type='virtio-serial' controller='4000000000' bus='0' port='4000000000'/></channel>",
         "virtio serial controller 4000000000 does not have port 4000000000"),
        ("<input type='tablet' bus='usb'/>" * 1500, "No free USB ports"),
        ("<sound model='ac97'/>" * MAX_DEVICES, "a PCI slot is needed"),
        ("<input type='tablet' bus='usb'><address type='usb' bus='4000000000' port='1'/></input>",
         "Missing USB bus 4000000000"),
    ],
)  # fmt: skip
def test_numbers_no_machine_has(devices: str, sentence: str) -> None:
    with pytest.raises(QvirtError) as refused:
        completed(document(devices=devices))
    assert sentence in refused.value.message


def test_a_device_of_its_own_is_read_as_carefully() -> None:
    with pytest.raises(QvirtError, match="defines entities"):
        parse_device(
            "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><disk><serial>&x;</serial></disk>"
        )


def test_a_list_that_names_the_same_range_again_and_again() -> None:
    assert parse_cpuset("0-16000," * 20000 + "^5") == frozenset(range(16001)) - {5}
    assert parse_cpuset("16384,3,7-9,^8") == {3, 7, 9, 16384}
    assert parse_cpuset("3,^3") == frozenset()
