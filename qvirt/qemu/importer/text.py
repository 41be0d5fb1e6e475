"""The text of a command line, or of a shell script that has one: words, variables, environment.

Nothing is ever run. What a script does besides (making folders, choosing) is passed over; a variable set
above counts, whichever branch set it last. What only running would tell (``$(nproc)``) is refused where it is
used.
"""

import os.path
import re
from collections.abc import Iterator, Mapping, Sequence

from qvirt.errors import InvalidArg
from qvirt.qemu.importer.shell import (
    OPERATORS,
    Script,
    Unknown,
    assign,
    end_line,
    is_process,
    read_word,
    redirect,
    skip_blank,
)
from qvirt.qemu.importer.wrappers import KEYWORDS, unwrap
from qvirt.record import Record

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_EMULATOR = re.compile(r"(?:.*/)?(?:qemu|qemu-kvm|kvm|kvm-spice|qemu-system-[\w-]+)(?:\.exe)?$")
_DECLARE = frozenset({"export", "local", "declare", "readonly", "typeset"})
#: shells that run the text behind ``-c``
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "su", "script"})


#: letters of a text
_LONGEST = 1 << 20


class Command(Record):
    """One command: the variables set in front of it, its words, the line it begins on."""

    env: Mapping[str, str]
    argv: tuple[str, ...]
    line: int = 1


def parse_commands(text: str) -> list[Command]:
    """Return the emulator's commands of a text, in order; without a known name, the first with options.

    Raises InvalidArg, with the line, for quotes that do not end, for a command that depends on what only
    running the script would tell, and for a text without any command, or that is too long or nested too deep.
    """
    if len(text) > _LONGEST:
        raise InvalidArg(f"the text has {len(text)} letters, the limit is {_LONGEST}")
    try:
        commands = list(_commands(Script(text)))
    except RecursionError:
        raise InvalidArg("the text's quotes, scripts or parameters are nested too deep") from None
    found = [command for command in commands if _EMULATOR.match(command.argv[0])]
    if found:
        return found
    with_options = [command for command in commands if any(word.startswith("-") for word in command.argv[1:])]
    if not with_options:
        raise InvalidArg("no QEMU command line in the text: expected an emulator's name and its arguments")
    return with_options[:1]


def _commands(script: Script) -> Iterator[Command]:
    while script.at < len(script.text):
        yield from _command(script)


def _command(script: Script) -> Iterator[Command]:
    """Read one simple command; set the variables it sets."""
    env: dict[str, str] = {}
    words: list[str] = []
    unknown: dict[int, str] = {}
    line = script.line
    declares = False
    while True:
        skip_blank(script)
        if script.at >= len(script.text):
            break
        char = script.text[script.at]
        if char in OPERATORS and not is_process(script):
            if char in "<>" or (char == "&" and script.text[script.at + 1 : script.at + 2] == ">"):
                redirect(script)
                continue
            end_line(script)
            break
        if not words:
            assigned = _ASSIGNMENT.match(script.text, script.at)
            if assigned is not None:
                assign(script, assigned, env)
                continue
            line = script.line
        began = script.at
        try:
            more = read_word(script)
        except Unknown as problem:
            unknown[len(words)] = str(problem)
            more = [script.text[began : script.at]]
        if not words and more and (more[0] in KEYWORDS or (declares and more[0].startswith("-"))):
            continue
        if not words and more and more[0] in _DECLARE:
            declares = True
            continue  # what follows are options and assignments
        if len(more) == 1 and more[0].isdigit() and script.text[script.at : script.at + 1] in ("<", ">"):
            continue  # the number of a descriptor that is redirected
        words.extend(more)
    if not words or declares:
        for name, value in env.items():
            script.variables[name] = [value]
        return
    yield from _run(script, env, words, unknown, line)


def _run(
    script: Script, env: dict[str, str], words: list[str], unknown: Mapping[int, str], line: int
) -> Iterator[Command]:
    """Yield what a command's words run: the command behind other programs, or those of a text they are given.

    unknown: places of words that only running the script would tell, and why.
    """
    more, argv = unwrap(words)
    env = env | more
    problems = [why for at, why in unknown.items() if at >= len(words) - len(argv)]
    inner = _inner(argv)
    if inner is not None and not problems:
        within = script.within(inner)
        within.line = line
        yield from _commands(within)
        return
    if not argv:
        return
    if problems and _EMULATOR.match(argv[0]):
        raise InvalidArg(
            f"line {line}: the command depends on {problems[0]}, which only running the script would tell; "
            "write its value instead"
        )
    settled, argv = emulator_first(env, argv)
    yield Command(settled, tuple(argv), line)


def _inner(words: Sequence[str]) -> str | None:
    """Return the text that a command runs as a shell would, if it does."""
    if not words:
        return None
    name = os.path.basename(words[0])
    if name == "eval":
        return " ".join(words[1:])
    if name in _SHELLS:
        at = next((at for at, word in enumerate(words) if re.fullmatch(r"-[a-z]*c", word)), None)
        return words[at + 1] if at is not None and at + 1 < len(words) else None
    if name == "tmux" and words[1:2] and words[1] in ("new", "new-session", "neww", "new-window"):
        return words[-1] if " " in words[-1] else None
    return None


def emulator_first(env: Mapping[str, str], words: Sequence[str]) -> tuple[Mapping[str, str], list[str]]:
    """Return environment and words with the emulator as the first word.

    Assignments in front become variables; words between them and the emulator belong to the last one's value,
    which libvirt wrote without quotes.
    """
    made, left = dict(env), list(words)
    place = next((at for at, word in enumerate(left) if _EMULATOR.match(word)), 0)
    last = next(reversed(made), None)
    for word in left[:place]:
        assigned = _ASSIGNMENT.match(word)
        if assigned is not None:
            last = assigned[1]
            made[last] = word[assigned.end() :]
        elif last is not None:
            made[last] += f" {word}"
        else:
            return env, left
    return made, left[place:]
