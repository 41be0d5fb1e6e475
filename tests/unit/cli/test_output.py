"""Tables and lines as virsh prints them."""

import io

from qvirt.cli.output import Output, columns_of


def printed(quiet: bool, *rows: tuple[str, ...]) -> str:
    out = io.StringIO()
    Output(quiet=quiet, out=out).table(("Id", "Name", "State"), rows)
    return out.getvalue()


def test_table() -> None:
    assert printed(False, ("1", "vm", "running"), ("-", "other", "shut off")) == (
        " Id   Name    State\n"
        "------------------------\n"
        " 1    vm      running\n"
        " -    other   shut off\n"
    )  # fmt: skip
    assert printed(False) == " Id   Name   State\n--------------------\n"


def test_quiet_table_has_rows_only() -> None:
    assert printed(True, ("1", "vm", "running")) == " 1   vm   running\n"
    assert printed(True) == ""


def test_wide_and_unprintable_characters() -> None:
    assert columns_of("日本") == 4
    assert columns_of("e\u0301") == 1
    assert "\\x1b[31m" in printed(True, ("1", "\x1b[31m", ""))


def test_fields_stand_in_a_column() -> None:
    out = io.StringIO()
    Output(out=out).fields((("Id", 1), ("Security model", "none")))
    assert out.getvalue() == "Id:             1\nSecurity model: none\n"
