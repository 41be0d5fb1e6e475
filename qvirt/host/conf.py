"""The grammar of libvirt's configuration files: ``name = value``, with where each setting stands."""

import re

from qvirt.errors import ConfigSyntax

ConfValue = int | str | list[str]

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:\#[^\n]*\n?[ \t\r\n]*)*
        (?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[-+]?[0-9]+)
          |\"""(?P<long>.*?)\"""|"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)'|(?P<mark>[=\[\],]))""",
    re.VERBOSE | re.DOTALL,
)


#: what ends a setting; a comment is left to what comes next
_END = re.compile(r"[ \t]*(?:;|\r?\n|(?=\#)|$)")

_REST = re.compile(r"(?:[ \t\r\n]|\#[^\n]*(?:\n|$))*$")


class Conf(dict[str, ConfValue]):
    """The settings of a file. source: its name; lines: where each setting begins.

    reports: a sentence for each setting that is there once more; the first counts, as with libvirt.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.lines: dict[str, int] = {}
        self.reports: list[str] = []

    def where(self, name: str) -> str:
        """Return ``FILE:LINE`` of a setting."""
        return f"{self.source}:{self.lines[name]}" if name in self.lines else self.source


def parse_conf(text: str, source: str) -> Conf:
    """Read ``key = value`` lines: numbers, quoted strings, lists of strings; ``#`` starts a comment,
    ``;`` ends a line.

    Raises ConfigSyntax with file and line.
    """
    values = Conf(source)
    position = 0

    def line() -> int:
        return text.count("\n", 0, position) + 1

    def fail(expected: str) -> ConfigSyntax:
        return ConfigSyntax(f"{source}:{line()}: expecting {expected}")

    def token(expected: str) -> re.Match[str]:
        nonlocal position
        match = _TOKEN.match(text, position)
        if match is None:
            raise fail(expected)
        position = match.end()
        return match

    def quoted(match: re.Match[str]) -> str | None:
        return next((match[kind] for kind in ("long", "double", "single") if match[kind] is not None), None)

    def items() -> list[str]:
        found: list[str] = []
        while True:
            match = token("a value or ']'")
            if match["mark"] == "]":
                return found
            value = quoted(match)
            if value is None:
                raise fail("a string or ']'")
            found.append(value)
            match = token("',' or ']'")
            if match["mark"] == "]":
                return found
            if match["mark"] != ",":
                raise fail("',' or ']'")

    def value() -> ConfValue:
        match = token("a value")
        if match["mark"] == "[":
            return items()
        if match["number"] is not None:
            return int(match["number"])
        text = quoted(match)
        if text is None:
            raise fail("a value")
        return text

    while _REST.match(text, position) is None:
        match = token("a name")
        name, where = match["name"], line()
        if name is None:
            raise fail("a name")
        if token("an assignment")["mark"] != "=":
            raise fail("an assignment")
        found = value()
        end = _END.match(text, position)
        if end is None:
            raise fail("the end of the line")
        position = end.end()
        if name in values:
            values.reports.append(
                f"{source}:{where}: '{name}' is ignored: it is set in line {values.lines[name]} already"
            )
            continue
        values[name], values.lines[name] = found, where
    return values
