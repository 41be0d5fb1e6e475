"""The binding engine on a small vocabulary of its own."""

from enum import StrEnum

import pytest

from qvirt.errors import XmlDetail, XmlError, XmlInvalidSchema
from qvirt.xml.codecs import cpuset, hex2, mac, on_off, one_of, string, uint, uuid
from qvirt.xml.document import MAX_LENGTH, parse
from qvirt.xml.fields import attr, child, children, choice, content, flag, opaque, part, text, texts
from qvirt.xml.node import Node


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Driver(Node, tag="driver"):
    queues: int | None = attr(uint)
    copy_on_read: bool | None = attr(on_off)


class Near(Node, tag="place"):
    type: str = attr(string, default="near")
    steps: int | None = attr(hex2)


class Far(Node, tag="place"):
    type: str = attr(string, default="far")
    name: str | None = attr(string)


class Size(Node, tag="size"):
    unit: str | None = attr(string)
    value: int = content(uint, required=True)


class Thing(Node, tag="thing"):
    colour: Colour = attr(one_of(Colour), "colourName", default=Colour.RED)
    driver: Driver = part(Driver)
    size: Size | None = child(Size)
    place: Near | Far | None = choice({"near": Near, "far": Far}, "place")  # type: ignore[assignment]
    lonely: bool = flag()
    note: str | None = text(string)
    words: list[str] = texts(string, "word")
    inner: "list[Thing]" = children(lambda: Thing, "thing")
    metadata: list = opaque("metadata")  # type: ignore[type-arg]


def read(body: str, validate: bool = False) -> Thing:
    return parse(body, Thing, "(thing)", validate=validate)


FULL = """<thing colourName='blue'>
  <driver queues='4' copy_on_read='on'/>
  <size unit='KiB'>12</size>
  <place type='near' steps='0x0a'/>
  <lonely/>
  <note>a &amp; b</note>
  <word>one</word>
  <word>two</word>
  <thing colourName='red'>
    <lonely/>
  </thing>
  <metadata xmlns:x="urn:x">
    <x:kept a="1">as it is</x:kept>
  </metadata>
</thing>
"""


def test_what_is_read_is_written() -> None:
    assert read(FULL).to_xml() == FULL


def test_values_are_typed() -> None:
    thing = read(FULL)
    assert thing.driver.queues == 4
    assert thing.driver.copy_on_read is True
    assert thing.size is not None
    assert thing.size.value == 12
    assert isinstance(thing.place, Near)
    assert thing.place.steps == 10
    assert thing.inner[0].colour is Colour.RED
    assert thing.words == ["one", "two"]


def test_every_node_knows_its_line() -> None:
    thing = read(FULL)
    assert thing.line == 1
    assert thing.driver.line == 2
    assert thing.inner[0].line == 9


def test_a_part_that_says_nothing_is_not_written() -> None:
    assert read("<thing><driver/></thing>").to_xml() == "<thing colourName='red'/>\n"


def test_a_copy_shares_nothing() -> None:
    thing = read(FULL)
    twin = thing.copy()
    assert twin == thing
    twin.driver.queues = 8
    twin.inner[0].lonely = False
    twin.words.append("three")
    assert thing.to_xml() == FULL


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "<thing\ncolourName='green'/>",
            "XML error: Invalid value for attribute 'colourName' in element 'thing': 'green'.",
        ),
        (
            "<thing><driver queues='-1'/></thing>",
            "Invalid value for attribute 'queues' in element 'driver': '-1'.",
        ),
        (
            "<thing><driver queues=''/></thing>",
            "Invalid value for attribute 'queues' in element 'driver': ''.",
        ),
        ("<thing><size>many</size></thing>", "Invalid value for element 'size': 'many'."),
        ("<thing><size/></thing>", "Missing required element 'value' in element 'size'"),
        ("<thing><place/></thing>", "Missing required attribute 'type' in element 'place'"),
        (
            "<thing><place type='here'/></thing>",
            "Invalid value for attribute 'type' in element 'place': 'here'.",
        ),
        ("<other/>", "expecting root element of 'thing', not 'other'"),
    ],
)
def test_bad_values_are_named(body: str, message: str) -> None:
    with pytest.raises(XmlError) as caught:
        read(body)
    assert message in caught.value.message


def test_a_bad_value_says_where_and_what_is_right() -> None:
    with pytest.raises(XmlError) as caught:
        read("<thing>\n  <driver copy_on_read='yes'/>\n</thing>")
    assert "(line 2; expected 'on' or 'off')" in caught.value.message


def test_unknown_content_is_left_out() -> None:
    assert read("<thing><strange/><driver queue='4'/></thing>").to_xml() == "<thing colourName='red'/>\n"


def test_unknown_content_is_named_under_validation() -> None:
    with pytest.raises(XmlInvalidSchema) as caught:
        read("<thing>\n  <driver queue='4'/>\n</thing>", validate=True)
    assert "unknown attribute 'queue' in element 'driver' (line 2, column 11), did you mean 'queues'?" in str(
        caught.value
    )
    with pytest.raises(
        XmlInvalidSchema, match=r"unknown element 'lonley' in element 'thing' \(line 1, column 9\)"
    ):
        read("<thing><lonley/></thing>", validate=True)


def test_text_that_is_not_xml_says_line_and_column() -> None:
    with pytest.raises(XmlDetail) as caught:
        read("<thing>\n  <note>x</thing>")
    assert caught.value.message.startswith("(thing):2: Opening and ending tag mismatch: note")
    assert caught.value.message.splitlines()[1] == "  <note>x</thing>"


def test_entities_are_refused() -> None:
    bomb = (
        "<!DOCTYPE a ["
        + "".join(f'<!ENTITY e{i} "&e{i - 1};&e{i - 1};">' for i in range(1, 30))
        + "]><thing/>"
    )
    with pytest.raises(XmlError, match="entities"):
        read(bomb)


def test_external_entities_are_not_read() -> None:
    with pytest.raises(XmlError):
        read('<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><thing><note>&e;</note></thing>')


def test_depth_and_length_are_bounded() -> None:
    with pytest.raises(XmlDetail):
        read("<thing>" * 5000 + "</thing>" * 5000)
    with pytest.raises(XmlError, match="the limit is"):
        read(f"<thing><note>{'x' * MAX_LENGTH}</note></thing>")


@pytest.mark.parametrize(
    ("text_", "cpus", "shown"),
    [("0-3,^2,8", {0, 1, 3, 8}, "0-1,3,8"), ("5", {5}, "5"), ("1, 2 ,3", {1, 2, 3}, "1-3")],
)
def test_cpu_lists(text_: str, cpus: set[int], shown: str) -> None:
    assert cpuset.parse(text_) == cpus
    assert cpuset.format(frozenset(cpus)) == shown


@pytest.mark.parametrize("text_", ["", "a", "3-1", "1--2", "^1-2", "0-99999999"])
def test_bad_cpu_lists(text_: str) -> None:
    with pytest.raises(ValueError):
        cpuset.parse(text_)


def test_identifiers_are_normalised() -> None:
    assert uuid.parse(" C7A5FDBDcdaf9455926ad65c16db1809") == "c7a5fdbd-cdaf-9455-926a-d65c16db1809"
    assert mac.parse("52:54:0:AB:1:2") == "52:54:00:ab:01:02"
    for bad in ("52:54:00:ab:01", "52-54-00-ab-01-02", "zz:54:00:ab:01:02"):
        with pytest.raises(ValueError):
            mac.parse(bad)
