"""Where each argument of an imported command line went. Nothing is left out: a test asks ``is_complete``."""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from qvirt.qemu.importer.options import Argument
from qvirt.record import Record, field


class Outcome(StrEnum):
    """What became of an argument."""

    XML = "xml"
    OVERRIDE = "override"
    COMMANDLINE = "commandline"
    DROPPED = "dropped"
    NOTE = "note"


class Entry(Record):
    """One fate. argument: None for what QEMU adds by itself, and for the text as a whole."""

    argument: Argument | None
    outcome: Outcome
    text: str


class Account(Record, frozen=False):
    """Every argument and environment variable of one command line, and what became of each.

    known: what the entries say, by the arguments' places.
    """

    arguments: list[Argument] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    known: set[tuple[int | None, Outcome, str]] = field(default_factory=set)

    def add(self, given: Iterable[Argument], outcome: Outcome, text: str) -> None:
        """Say what became of some arguments; of none: of something QEMU adds by itself."""
        listed = list(given)
        for argument in listed or (None,):
            key = (argument.number if argument is not None else None, outcome, text)
            if key not in self.known:
                self.known.add(key)
                self.entries.append(Entry(argument, outcome, text))

    def note(self, text: str, given: Iterable[Argument] = ()) -> None:
        """Say something that the user should know; it settles no argument."""
        self.add(given, Outcome.NOTE, text)

    def unaccounted(self) -> list[Argument]:
        """Return the arguments nothing became of; there are none when all is well."""
        settled = {
            entry.argument.number
            for entry in self.entries
            if entry.argument is not None and entry.outcome is not Outcome.NOTE
        }
        return [argument for argument in self.arguments if argument.number not in settled]

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        return [entry.text for entry in self.entries if entry.outcome is Outcome.NOTE]

    def dropped(self) -> list[Entry]:
        """Return what has no meaning under management, with the reason."""
        return [entry for entry in self.entries if entry.outcome is Outcome.DROPPED]

    def lines(self) -> Iterator[str]:
        """Yield the report: each argument in order and its fates, then what QEMU adds, then notes."""
        fates: dict[int, list[Entry]] = {}
        for entry in self.entries:
            if entry.argument is not None:
                fates.setdefault(entry.argument.number, []).append(entry)
        for argument in self.arguments:
            yield argument.text
            for entry in fates.get(argument.number, ()):
                yield f"    {_WORDS[entry.outcome]}{entry.text}"
        added = [entry for entry in self.entries if entry.argument is None]
        if added:
            yield "(not on the command line)"
            for entry in added:
                yield f"    {_WORDS[entry.outcome]}{entry.text}"


_WORDS = {
    Outcome.XML: "-> ",
    Outcome.OVERRIDE: "-> <qemu:override> ",
    Outcome.COMMANDLINE: "-> <qemu:commandline> ",
    Outcome.DROPPED: "dropped: ",
    Outcome.NOTE: "note: ",
}
