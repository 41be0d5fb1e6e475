"""Printing as virsh prints: tables, `Name: value` lines, and the empty line behind every command."""

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO


class Output:
    """Where a command prints; quiet leaves out what is only for eyes."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.quiet = quiet
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def line(self, text: str = "") -> None:
        """Print a line."""
        self._out.write(text + "\n")

    def notice(self, text: str = "") -> None:
        """Print a line unless quiet."""
        if not self.quiet:
            self.line(text)

    def text(self, text: str) -> None:
        """Print a document as it is; where no empty line follows, it is ended by a newline at least."""
        self._out.write(text if text.endswith("\n") or not self.quiet else text + "\n")

    def fields(self, rows: Iterable[tuple[str, object]], width: int = 15) -> None:
        """Print `Name: value` lines, values in one column."""
        for name, value in rows:
            self.line(f"{name + ':':<{width}} {value}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; quiet leaves out its head."""
        shown = [[printable(cell) for cell in row] for row in (rows if self.quiet else (header, *rows))]
        widths = [max((columns_of(row[at]) for row in shown), default=0) for at in range(len(header))]
        for number, row in enumerate(shown):
            cells = [
                f" {cell}" + (" " * (width - columns_of(cell) + 2) if at < len(row) - 1 else "")
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.line("".join(cells))
            if number == 0 and not self.quiet:
                self.line("-" * sum(width + 3 for width in widths))

    def error(self, text: str) -> None:
        """Print an error."""
        self.flush()
        self._err.write(f"error: {text}\n")

    def flush(self) -> None:
        """Bring what was printed out, so that it stands before what others print."""
        self._out.flush()

    def abandon(self) -> None:
        """Forget about a reader that went away, so that the interpreter's own last flush is silent."""
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._out.fileno())
        os.close(devnull)


def columns_of(text: str) -> int:
    """Give the width of a text on a terminal, in columns."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def printable(text: str) -> str:
    """Replace what a terminal would not print by its escape."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )
