"""The kernel's small files: /proc and /sys, below a root that tests move.

They are read and written by descriptor where many are: Python's own files ask eight times where two do.
"""

import os
from pathlib import Path


def load(path: str | os.PathLike[str]) -> str:
    """Return a file's text. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
    finally:
        os.close(fd)
    return os.fsdecode(b"".join(parts))


def store(path: str | os.PathLike[str], *texts: str) -> None:
    """Write texts into a file that is there, each for itself. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        for text in texts:
            os.write(fd, os.fsencode(text))
    finally:
        os.close(fd)


def read_text(path: Path) -> str | None:
    """Return a file's text without the white space around it; None when it is missing or refuses."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None


def read_int(path: Path, base: int = 10) -> int | None:
    """Return a file's number; None when it is missing, refuses or holds something else."""
    text = read_text(path)
    try:
        return int(text, base) if text else None
    except ValueError:
        return None


def parse_list(text: str | None) -> list[int]:
    """Read a list of CPUs or nodes as the kernel writes it: "0-3,8"."""
    numbers: list[int] = []
    for part in (text or "").split(","):
        first, dash, last = part.strip().partition("-")
        if first:
            numbers.extend(range(int(first), int(last if dash else first) + 1))
    return numbers


def format_list(numbers: list[int]) -> str:
    """Write a list of CPUs or nodes: "0-3,8"."""
    parts: list[str] = []
    i = 0
    while i < len(numbers):
        j = i
        while j + 1 < len(numbers) and numbers[j + 1] == numbers[j] + 1:
            j += 1
        parts.append(str(numbers[i]) if i == j else f"{numbers[i]}-{numbers[j]}")
        i = j + 1
    return ",".join(parts)


def numbered(directory: Path, prefix: str) -> dict[int, Path]:
    """Map N to the entry PREFIXN of a directory ("cpu0", "node1"), by number."""
    try:
        entries = [(entry.name.removeprefix(prefix), entry) for entry in directory.glob(f"{prefix}[0-9]*")]
    except OSError:
        return {}
    return dict(sorted((int(n), entry) for n, entry in entries if n.isdigit()))
