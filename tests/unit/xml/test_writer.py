import pytest

from qvirt.model.domain import parse_domain
from qvirt.model.storage_source import StorageSource
from qvirt.xml.document import parse
from qvirt.xml.fields import escape
from qvirt.xml.writer import Writer


def test_layout() -> None:
    out = Writer()
    with out.element("a", num=2, none=None):
        out.leaf("b")
        out.leaf("c", "x < y & 'z'", d='it\'s "1"')
        with out.element("empty", of="all"):
            pass
        out.blank()
        with out.element("e"), out.element("f"):
            out.leaf("g", 0)
    assert out.text() == (
        "<a num='2'>\n"
        "  <b/>\n"
        "  <c d='it&apos;s &quot;1&quot;'>x &lt; y &amp; &apos;z&apos;</c>\n"
        "  <empty of='all'/>\n"
        "\n"
        "  <e>\n"
        "    <f>\n"
        "      <g>0</g>\n"
        "    </f>\n"
        "  </e>\n"
        "</a>\n"
    )


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\rb", "a 'b' \"c\" <&>"])
def test_what_is_written_is_read_again(text: str) -> None:
    """In an attribute a line or a tab would come back as a blank, another path; a return as a line."""
    source = StorageSource(file=text)
    assert parse(source.to_xml(), StorageSource, "(test)").file == text
    kept = parse_domain(
        f"<domain type='qemu'><name>x</name><description>{escape(text)}</description>"
        "<os><type>hvm</type></os></domain>"
    )
    assert parse_domain(kept.to_xml()).description == text
