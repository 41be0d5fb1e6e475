"""The documents speak of what there is: links, files, modules, commands and options."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvirt.cli.commands import COMMANDS
from qvirt.cli.main import global_parser, parse
from qvirt.daemon.main import parse_arguments as parse_daemon
from tests.support import proof

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")), key=str)
#: where a file may be that a document names: seen from the project, or from the package
BASES = (
    ROOT,
    ROOT / "qvirt",
    ROOT / "packaging",
    ROOT / "tests/functional",
    ROOT / "tests/functional/security",
)
#: the parts of the project that documents name files of
OURS = {path.name for path in (*ROOT.iterdir(), *(ROOT / "qvirt").iterdir()) if path.is_dir()}

_BLOCK = re.compile(r"(?:^    .*\n|^```.*\n(?:(?!```).*\n)*)+", re.M)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def _spans(document: Path) -> Iterator[str]:
    for span in _SPAN.findall(_BLOCK.sub("", document.read_text())):
        yield re.sub(r"\s+", " ", span)


def _lines(document: Path) -> Iterator[str]:
    """Give what is typed: the lines of blocks, joined where they go on."""
    for block in _BLOCK.findall(document.read_text()):
        yield from block.replace("\\\n", " ").splitlines()


def _calls(text: str, program: str) -> Iterator[list[str]]:
    """Give the arguments of each call of a program in a line of shell."""
    for part in re.split(r"&&|\|\||[|;]", re.sub(r" #.*| >.*", "", text).strip()):
        try:
            words = shlex.split(part)
        except ValueError:
            continue
        while words and (words[0] == "sudo" or re.match(r"[A-Z_]+=", words[0])):
            words = words[1:]
        if words and words[0] == program:
            yield words[1:]


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    links = [link for link in _LINK.findall(document.read_text()) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


@each_document
def test_files_are_there(document: Path) -> None:
    named = {
        re.sub(r"\b[A-Z]{4,}\b", "*", span)
        for span in _spans(document)
        if re.fullmatch(r"[\w./*-]+", span) and (span.partition("/")[0] in OURS or span.startswith("test_"))
    }
    assert sorted(name for name in named if not any([*base.glob(name)] for base in BASES)) == []


@each_document
def test_modules_are_there(document: Path) -> None:
    named = re.findall(r"python -m\s+([\w.]+)", document.read_text())
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


@each_document
def test_commands_that_are_shown_would_run(document: Path) -> None:
    for line in _lines(document):
        for words in _calls(line, "qvirt"):
            parse(words)  # leaves the test where there is no such command or option
        for words in _calls(line, "qvirtd"):
            parse_daemon(words)


@each_document
def test_commands_that_are_named_are_there(document: Path) -> None:
    known = {command.name: {f"--{one.name}" for one in command.arguments} for command in COMMANDS}
    general = set(global_parser()._option_string_actions)
    for span in _spans(document):
        for words in _calls(span, "qvirt"):
            name = words[0] if words and not words[0].startswith("-") else None
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert name is None or name in known or name in ("help", "COMMAND"), span
            assert options <= general | known.get(name or "", set()), span
        for words in _calls(span, "qvirtd"):
            parse_daemon(words)


def test_what_stops_what_is_what_the_tests_go_by() -> None:
    assert proof.table() in (ROOT / "docs/security.md").read_text()
