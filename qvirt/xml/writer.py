"""Writes documents that are only ever read by others (capabilities), in libvirt's layout."""

from collections.abc import Iterator
from contextlib import contextmanager

from qvirt.xml.fields import escape, quoted


class Writer:
    """Collects lines: two spaces per level, attributes in single quotes, empty elements closed at once."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def leaf(self, name: str, text: str | int | None = None, /, **attributes: str | int | None) -> None:
        """Write an element without children; attributes that are None are left out."""
        start = self._start(name, attributes)
        self._line(f"{start}/>" if text is None else f"{start}>{escape(str(text))}</{name}>")

    @contextmanager
    def element(self, name: str, /, **attributes: str | int | None) -> Iterator[None]:
        """Write an element around what is written inside the block; `<name/>` when that is nothing."""
        start = self._start(name, attributes)
        self._line(f"{start}>")
        opened = len(self._lines)
        self._depth += 1
        yield
        self._depth -= 1
        if len(self._lines) == opened:
            self._lines.pop()
            self._line(f"{start}/>")
        else:
            self._line(f"</{name}>")

    def blank(self) -> None:
        """Write an empty line."""
        self._lines.append("")

    def text(self) -> str:
        """Return the document."""
        return "\n".join(self._lines) + "\n"

    def _start(self, name: str, attributes: dict[str, str | int | None]) -> str:
        said = "".join(f" {key}='{quoted(str(v))}'" for key, v in attributes.items() if v is not None)
        return f"<{name}{said}"

    def _line(self, text: str) -> None:
        self._lines.append("  " * self._depth + text)
