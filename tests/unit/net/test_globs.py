"""Patterns of allowed names."""

import pytest

from qvirt.net.globs import matches


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        ("*", "", True),
        ("", "", True),
        ("", "x", False),
        ("*@EXAMPLE.COM", "joe@EXAMPLE.COM", True),
        ("*@EXAMPLE.COM", "joe@EXAMPLE.COM.evil", False),
        ("joe@EXAMPLE?COM", "joe@EXAMPLE.COM", True),
        ("j[o]e", "joe", False),
        ("j[o]e", "j[o]e", True),
        ("C=GB,O=Red Hat,CN=*", "C=GB,O=Red Hat,CN=a,b", True),
        ("CN=a\\b", "CN=a\\b", True),
        ("line*", "line\nbreak", True),
    ],
)
def test_patterns(pattern: str, text: str, answer: bool) -> None:
    assert matches(pattern, text) is answer


def test_many_stars_do_not_take_for_ever() -> None:
    # A matcher that tries all divisions would not come back from this.
    assert not matches("*" * 200 + "b", "a" * 2000)
    assert not matches("*a" * 30, "a" * 400 + "b")
