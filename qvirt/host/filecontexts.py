"""Which label a policy gives a path: its ``file_contexts``, as selabel_file(5) reads them. Blocking."""

import re
import stat
from functools import lru_cache
from pathlib import Path

from qvirt.host.sysfs import read_text
from qvirt.record import Record

#: the words for a kind of file, and its bits of a mode
_KINDS = {
    "-b": stat.S_IFBLK,
    "-c": stat.S_IFCHR,
    "-d": stat.S_IFDIR,
    "-p": stat.S_IFIFO,
    "-l": stat.S_IFLNK,
    "-s": stat.S_IFSOCK,
    "--": stat.S_IFREG,
}

#: what may stand between a pattern and its label
_WORDS = ([], *([word] for word in _KINDS))

#: one character of a pattern that stands for itself
_PIECE = re.compile(r"\\(.)|[^.^$?*+|\[({\\]")

#: in this order, later ones win
_FILES = ("file_contexts", "file_contexts.homedirs", "file_contexts.local")
_ALIASES = ("file_contexts.subs", "file_contexts.subs_dist")


class _Line(Record):
    """One line. stem: what a path begins with that the pattern matches; is_plain: the stem is all of it."""

    pattern: str
    stem: str
    is_plain: bool
    kind: int | None
    label: str


def usual_label(policy: Path, path: str, mode: int) -> str | None:
    """Return the label the policy in a folder gives a path; None where it gives none, or leaves it alone.

    mode: of the file, whose kind counts. A pattern without wildcards wins over one with; else the last one.
    """
    folder = policy / "contexts/files"
    path = _aliased(folder, path)
    plain = wild = None
    for name in _FILES:
        for line in _lines(folder / name):
            if not path.startswith(line.stem) or line.kind not in (None, stat.S_IFMT(mode)):
                continue
            if line.is_plain:
                plain = line if path == line.stem else plain
            elif _matches(line.pattern, path):
                wild = line
    found = plain or wild
    return found.label if found is not None and found.label != "<<none>>" else None


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error:  # the policy's words are another library's, which knows a few more
        return False


def _lines(path: Path) -> tuple[_Line, ...]:
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=len(_FILES))
def _read(path: Path, changed: int) -> tuple[_Line, ...]:
    found: list[_Line] = []
    for text in (read_text(path) or "").splitlines():
        words = text.split()
        if len(words) not in (2, 3) or words[0].startswith("#") or words[1:-1] not in _WORDS:
            continue
        kind = _KINDS[words[1]] if len(words) == 3 else None
        found.append(_Line(words[0], *_stem(words[0]), kind, words[-1]))
    return tuple(found)


def _stem(pattern: str) -> tuple[str, bool]:
    """Return what a pattern begins with that stands for itself, and whether that is all."""
    stem = ""
    rest = pattern
    while (match := _PIECE.match(rest)) is not None:
        stem += match[1] or match[0]
        rest = rest[match.end() :]
    if rest[:1] in ("?", "*", "{") or "|" in rest.partition("(")[0]:
        return stem[:-1] if rest[:1] != "|" else "", False
    return stem, not rest


def _aliased(folder: Path, path: str) -> str:
    """Return a path by the name the policy knows it under: /var/run/x is /run/x."""
    for name in _ALIASES:
        for line in (read_text(folder / name) or "").splitlines():
            words = line.split()
            if len(words) == 2 and not words[0].startswith("#"):
                alias, real = words
                if path == alias or path.startswith(f"{alias}/"):
                    return real.rstrip("/") + path[len(alias) :]
    return path
