import re
import time

import pytest

from qvirt.errors import (
    ConfigUnsupported,
    InternalError,
    NoName,
    QvirtError,
    XmlDetail,
    XmlError,
    XmlInvalidSchema,
)
from qvirt.model.domain import Domain, parse_domain

OS = "<os><type>hvm</type></os>"


def read(inner: str, attributes: str = "type='qemu'") -> Domain:
    return parse_domain(f"<domain {attributes}><name>a</name>{inner}{OS}</domain>")


def test_children_come_in_libvirts_order() -> None:
    text = (
        "<domain type='kvm'>"
        "<seclabel type='none' model='none'/><pm><suspend-to-mem enabled='no'/></pm>"
        "<on_crash>destroy</on_crash>"
        "<clock offset='utc'/><features><acpi/></features><os><type>hvm</type></os>"
        "<resource><partition>/x</partition></resource>"
        "<numatune><memory mode='strict' nodeset='0'/></numatune><cputune><shares>5</shares></cputune>"
        "<iothreads>1</iothreads><vcpu>1</vcpu><memoryBacking><locked/></memoryBacking>"
        "<memtune><hard_limit>5</hard_limit></memtune><blkiotune><weight>500</weight></blkiotune>"
        "<currentMemory>5</currentMemory><memory>5</memory><title>t</title><name>a</name>"
        "<uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid></domain>"
    )
    tags = re.findall(r"(?m)^  <(\w+)", parse_domain(text).to_xml())
    assert tags == [
        "name", "uuid", "title", "memory", "currentMemory", "blkiotune", "memtune", "memoryBacking", "vcpu",
        "iothreads", "cputune", "numatune", "resource", "os", "features", "clock", "on_crash", "pm",
        "seclabel",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("<domain type='qemu'/>", NoName, "missing name information"),
        ("<domain type='qemu'><name/></domain>", XmlError, "an os <type> must be specified"),
        (f"<domain type='qemu'><name/>{OS}</domain>", NoName, "missing name information"),
        (f"<domain type='qemu'><name>a/b</name>{OS}</domain>", XmlError, "name a/b cannot contain '/'"),
        (f"<domain type='qemu'><name>a\nb</name>{OS}</domain>", XmlDetail, "invalid char in name"),
        (f"<domain><name>a</name>{OS}</domain>", InternalError, "missing domain type attribute"),
        (f"<domain type='x'><name>a</name>{OS}</domain>", ConfigUnsupported, "invalid domain type x"),
        ("<network/>", XmlError, "expecting root element of 'domain', not 'network'"),
    ],
)
def test_what_is_no_domain(text: str, error: type[QvirtError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        parse_domain(text)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("<uuid>x</uuid>", "malformed uuid element"),
        ("<on_reboot>explode</on_reboot>", "unknown on_reboot action: explode"),
        ("<features><flying/></features>", "unexpected feature 'flying'"),
        ("<vcpu cpuset='3-1'>1</vcpu>", "Failed to parse bitmap '3-1'"),
        ("<cpu mode='x'/>", "Invalid mode attribute 'x'"),
        ("<clock offset='x'/>", "unknown clock offset 'x'"),
        ("<title>a\nb</title>", "Domain title can't contain newlines"),
        ("<iothreadids><iothread id='0'/></iothreadids>", "Zero is not permitted"),
        ("<cputune><shares>x</shares></cputune>", "can't parse cputune shares value"),
        ("<cpu><numa/></cpu>", "NUMA topology defined without NUMA cells"),
    ],
)
def test_libvirts_sentences(inner: str, message: str) -> None:
    with pytest.raises(QvirtError, match=re.escape(message)):
        read(inner)


def test_unknown_names_are_left_out_or_shown() -> None:
    text = f"<domain type='qemu'>\n<name>a</name>\n<vcpus_>3</vcpus_>{OS}</domain>"
    assert "vcpus_" not in parse_domain(text).to_xml()
    with pytest.raises(
        XmlInvalidSchema, match=r"'vcpus_' in element 'domain' \(line 3.*did you mean 'vcpus'"
    ):
        parse_domain(text, validate=True)


def test_metadata_keeps_one_element_of_each_namespace() -> None:
    domain = read(
        "<metadata><a xmlns='urn:1'>x<b/>y</a><!-- gone --><c xmlns='urn:1'/><p:d xmlns:p='urn:2' k='&lt;'/>"
        "<bare/></metadata>"
    )
    inner = domain.to_xml().partition("<metadata>")[2].partition("</metadata>")[0]
    assert inner.split("\n")[1:-1] == [
        '    <a xmlns="urn:1">x<b/>y</a>',
        '    <p:d xmlns:p="urn:2" k="&lt;"/>',
    ]


def test_an_adjusted_clock_is_a_variable_one() -> None:
    clock = read("<clock offset='localtime' adjustment='-7'/>").clock
    assert clock is not None
    assert (clock.offset, clock.adjustment, clock.basis) == ("variable", "-7", "localtime")
    reset = read("<clock offset='utc' adjustment='reset'/>").clock
    assert reset is not None
    assert reset.to_xml() == "<clock offset='utc' adjustment='reset'/>\n"


def test_distances_hold_both_ways() -> None:
    domain = read(
        "<cpu><numa><cell memory='1'><distances><sibling id='1' value='30'/></distances></cell>"
        "<cell memory='1'/><cell memory='1'/></numa></cpu>"
    )
    assert domain.cpu is not None
    assert domain.cpu.numa is not None
    one, two, three = domain.cpu.numa.cells
    assert one.distances is not None
    assert two.distances is not None
    assert [(x.id, x.value) for x in one.distances.siblings] == [(0, 10), (1, 30)]
    assert [(x.id, x.value) for x in two.distances.siblings] == [(0, 30), (1, 10)]
    assert three.distances is None


def test_threads_policies_are_written_one_by_one() -> None:
    domain = read(
        "<cputune><vcpusched vcpus='0-1' scheduler='rr' priority='3'/>"
        "<vcpusched vcpus='2' scheduler='idle' priority='9'/></cputune>"
    )
    lines = re.findall(r"<vcpusched.*", domain.to_xml())
    assert lines == [
        "<vcpusched vcpus='0' scheduler='rr' priority='3'/>",
        "<vcpusched vcpus='1' scheduler='rr' priority='3'/>",
        "<vcpusched vcpus='2' scheduler='idle'/>",
    ]


def test_the_qemu_namespace_has_its_own_prefix() -> None:
    domain = read(
        "<x:commandline><x:arg value='-foo'/></x:commandline>",
        "type='qemu' xmlns:x='http://libvirt.org/schemas/domain/qemu/1.0'",
    )
    text = domain.to_xml()
    assert text.startswith("<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>")
    assert "    <qemu:arg value='-foo'/>\n" in text
    assert parse_domain(text).to_xml() == text
    bare = read("<x:commandline/>", "type='qemu' xmlns:x='http://libvirt.org/schemas/domain/qemu/1.0'")
    assert "qemu:" not in bare.to_xml()


def test_what_says_nothing_is_not_kept() -> None:
    inner = "<title/><description/><memtune/><cputune/><numatune/><keywrap/><perf/><pm/><idmap/><vcpus/>"
    assert read(inner).to_xml() == read("").to_xml()


def test_a_thousand_features_are_read_in_time() -> None:
    features = "".join(f"<feature policy='require' name='f{i}'/>" for i in range(5000))
    begin = time.process_time()
    read(f"<cpu><model>qemu64</model>{features}</cpu>")
    assert time.process_time() - begin < 2
