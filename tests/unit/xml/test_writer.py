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
