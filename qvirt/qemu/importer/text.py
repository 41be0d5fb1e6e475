"""The text of a command line, or of a shell script that has one: words, variables, environment.

Nothing is ever run. What a script does besides (making folders, choosing) is passed over; a variable set
above counts, whichever branch set it last. What only running would tell (``$(nproc)``) is refused where it is
used.
"""

import re
from collections.abc import Mapping, Sequence

from qvirt.errors import InvalidArg
from qvirt.record import Record, field

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_EMULATOR = re.compile(r"(?:.*/)?(?:qemu|qemu-kvm|kvm|qemu-system-[\w-]+)$")
#: commands that run the rest of their words
_PREFIXES = frozenset({"exec", "sudo", "nohup", "time", "env", "command", "then", "else", "do", "!", "{"})
_BLANK = " \t\r"
_OPERATORS = frozenset(";&|()<>\n")


class Command(Record):
    """One command: the variables set in front of it, its words, the line it begins on."""

    env: Mapping[str, str]
    argv: tuple[str, ...]
    line: int = 1


class _Unknown(Exception):
    """A value that only running the script would tell."""


class _Script(Record, frozen=False):
    """Where the reading stands."""

    text: str
    at: int = 0
    line: int = 1
    variables: dict[str, list[str] | None] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


def parse_commands(text: str) -> list[Command]:
    """Return the emulator's commands of a text, in order; without a known name, the first with options.

    Raises InvalidArg, with the line, for quotes that do not end, for a command that depends on what only
    running the script would tell, and for a text without any command.
    """
    script = _Script(text)
    found: list[Command] = []
    others: list[Command] = []
    while script.at < len(text):
        made = _command(script)
        if made is None:
            continue
        (found if _EMULATOR.match(made.argv[0]) else others).append(made)
    if found:
        return found
    with_options = [command for command in others if any(word.startswith("-") for word in command.argv[1:])]
    if not with_options:
        raise InvalidArg("no QEMU command line in the text: expected an emulator's name and its arguments")
    return with_options[:1]


def _command(script: _Script) -> Command | None:
    """Read one simple command; set the variables it sets."""
    env: dict[str, str] = {}
    words: list[str] = []
    line = script.line
    problem: str | None = None
    while True:
        _skip_blank(script)
        if script.at >= len(script.text):
            break
        char = script.text[script.at]
        if char in _OPERATORS:
            if char in "<>" or (char == "&" and script.text[script.at + 1 : script.at + 2] == ">"):
                _redirection(script)
                continue
            _advance(script)
            break
        if not words:
            assigned = _ASSIGNMENT.match(script.text, script.at)
            if assigned is not None:
                _assign(script, assigned, env)
                continue
            line = script.line
        began = script.at
        try:
            more = _word(script)
        except _Unknown as unknown:
            problem = problem or str(unknown)
            more = [script.text[began : script.at]]
        if not words and more and more[0] in _PREFIXES:
            continue
        if not words and more[:1] in (["export"], ["local"], ["declare"], ["readonly"]):
            continue  # what follows are assignments
        if len(more) == 1 and more[0].isdigit() and script.text[script.at : script.at + 1] in ("<", ">"):
            continue  # the number of a descriptor that is redirected
        words.extend(more)
    if not words:
        for name, value in env.items():
            script.variables[name] = [value]
        return None
    if problem is not None and _EMULATOR.match(words[0]):
        raise InvalidArg(
            f"line {line}: the command depends on {problem}, which only running the script would tell; "
            "write its value instead"
        )
    settled, argv = emulator_first(env, words)
    return Command(settled, tuple(argv), line)


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


def _advance(script: _Script, count: int = 1) -> None:
    script.line += script.text.count("\n", script.at, script.at + count)
    script.at += count


def _skip_blank(script: _Script) -> None:
    text = script.text
    while script.at < len(text):
        char = text[script.at]
        if char in _BLANK:
            script.at += 1
        elif char == "\\" and text[script.at + 1 : script.at + 2] == "\n":
            _advance(script, 2)
        elif char == "\\" and text[script.at + 1 : script.at + 3] == "\r\n":
            _advance(script, 3)
        elif char == "#":
            end = text.find("\n", script.at)
            script.at = len(text) if end < 0 else end
        else:
            return


def _redirection(script: _Script) -> None:
    """Pass over ``>file``, ``2>&1`` and their kin."""
    while script.at < len(script.text) and script.text[script.at] in "<>&|":
        script.at += 1
    _skip_blank(script)
    if script.at < len(script.text) and script.text[script.at] not in _OPERATORS:
        try:
            _word(script)
        except _Unknown:
            return


def _assign(script: _Script, assigned: "re.Match[str]", env: dict[str, str]) -> None:
    """Read ``NAME=value``, ``NAME+=value`` or an array; it counts for what follows."""
    name, more = assigned[1], bool(assigned[2])
    _advance(script, assigned.end() - script.at)
    began = script.at
    before = script.variables.get(name) if more else None
    try:
        if script.text[script.at : script.at + 1] == "(":
            _advance(script)
            items = list(before or [])
            items.extend(_array(script))
            script.variables[name] = items
            script.unknown.pop(name, None)
            return
        value = "" if _ends_word(script) else " ".join(_word(script, split=False))
    except _Unknown:
        script.variables[name] = None
        script.unknown[name] = script.text[began : script.at]
        return
    value = ("".join(before) if before else "") + value
    script.unknown.pop(name, None)
    env[name] = value
    if more or name in script.variables:
        script.variables[name] = [value]


def _array(script: _Script) -> list[str]:
    items: list[str] = []
    while True:
        _skip_blank(script)
        if script.at >= len(script.text):
            raise InvalidArg(f"line {script.line}: an array does not end")
        if script.text[script.at] == "\n":
            _advance(script)
        elif script.text[script.at] == ")":
            _advance(script)
            return items
        else:
            items.extend(_word(script))


def _ends_word(script: _Script) -> bool:
    return (
        script.at >= len(script.text)
        or script.text[script.at] in _BLANK
        or (script.text[script.at] in _OPERATORS)
    )


def _word(script: _Script, *, split: bool = True) -> list[str]:
    """Read one word, and return what it becomes: none, one or, by an unquoted variable, several."""
    text = script.text
    done: list[str] = []
    current = ""
    is_there = False  # an empty pair of quotes is a word, an empty variable is none
    unknown: str | None = None
    while script.at < len(text):
        char = text[script.at]
        if char in _BLANK or char in _OPERATORS:
            break
        if char == "'":
            end = text.find("'", script.at + 1)
            if end < 0:
                raise InvalidArg(f"line {script.line}: a quote ' does not end")
            current += text[script.at + 1 : end]
            is_there = True
            _advance(script, end + 1 - script.at)
        elif char == '"':
            try:
                parts = _double_quoted(script)
            except _Unknown as problem:
                unknown = unknown or str(problem)
                continue
            if parts:
                is_there = True
                current += parts[0]
                for part in parts[1:]:
                    done.append(current)
                    current = part
        elif char == "\\":
            if text[script.at + 1 : script.at + 2] != "\n":
                current += text[script.at + 1 : script.at + 2]
                is_there = True
            _advance(script, 2)
        elif char in "$`":
            try:
                value = _expansion(script)
            except _Unknown as problem:
                unknown = unknown or str(problem)
                continue
            fields = [piece for item in value for piece in (item.split() if split else [item])]
            for number, piece in enumerate(fields):
                if number:
                    done.append(current)
                    current = ""
                current += piece
                is_there = True
        else:
            current += char
            is_there = True
            script.at += 1
    if unknown is not None:
        raise _Unknown(unknown)
    return [*done, current] if is_there else done


def _double_quoted(script: _Script) -> list[str]:
    text = script.text
    start = script.line
    script.at += 1
    parts: list[str] = [""]
    unknown: str | None = None
    only_list = False
    while True:
        if script.at >= len(text):
            raise InvalidArg(f'line {start}: a quote " does not end')
        char = text[script.at]
        if char == '"':
            script.at += 1
            break
        if char == "\\" and text[script.at + 1 : script.at + 2] in ("$", "`", '"', "\\", "\n"):
            if text[script.at + 1] != "\n":
                parts[-1] += text[script.at + 1]
            _advance(script, 2)
        elif char in "$`":
            is_list = re.match(r"\$(?:@|\{@\}|\{[A-Za-z_]\w*\[@\][^}]*\})", text[script.at :]) is not None
            try:
                value = _expansion(script)
            except _Unknown as problem:
                unknown = unknown or str(problem)
                continue
            if is_list:
                only_list = only_list or not value
                for number, item in enumerate(value):
                    if number:
                        parts.append("")
                    parts[-1] += item
            else:
                parts[-1] += " ".join(value)
        else:
            parts[-1] += char
            _advance(script)
    if unknown is not None:
        raise _Unknown(unknown)
    return [] if only_list and parts == [""] else parts


def _expansion(script: _Script) -> list[str]:
    """Read ``$name``, ``${name…}`` or a substitution; return the values. Raises _Unknown."""
    text, began = script.text, script.at
    if text.startswith("$(", began) or text[began] == "`":
        _skip_substitution(script)
        raise _Unknown(text[began : script.at])
    if text.startswith("${", began):
        end = text.find("}", began)
        if end < 0:
            raise InvalidArg(f"line {script.line}: ${{ does not end")
        script.at = end + 1
        return _parameter(script, text[began + 2 : end])
    name = _NAME.match(text, began + 1)
    if name is not None:
        script.at = name.end()
        return _value(script, name[0])
    following = text[began + 1 : began + 2]
    if following in ("@", "*"):
        script.at += 2
        return []
    if following and following in "0123456789#?$!-":
        script.at += 2
        raise _Unknown(f"${following}")
    script.at += 1
    return ["$"]


def _parameter(script: _Script, inside: str) -> list[str]:
    matched = re.fullmatch(r"([A-Za-z_]\w*|[0-9@*#]+)(\[[@*]\])?(?:(:?[-=+?])(.*))?", inside, re.S)
    if matched is None:
        raise _Unknown(f"${{{inside}}}")
    name, _, operator, word = matched.groups()
    if name in ("@", "*"):
        return []
    known = script.variables.get(name)
    if operator is not None and operator.endswith("+"):
        return [word] if known and any(known) else []
    if operator is not None and not operator.endswith("?") and name not in script.unknown:
        is_missing = known is None or (operator.startswith(":") and not any(known))
        if is_missing:
            quoted = '"' + word.replace('"', "") + '"'
            return _word(_Script(quoted, 0, script.line, script.variables, script.unknown)) if word else []
    return _value(script, name)


def _value(script: _Script, name: str) -> list[str]:
    if name in script.variables and script.variables[name] is not None:
        return script.variables[name] or []
    if name in script.unknown:
        raise _Unknown(f"${name} ({script.unknown[name]})")
    raise _Unknown(f"${name}, which is set nowhere above")


def _skip_substitution(script: _Script) -> None:
    text = script.text
    if text[script.at] == "`":
        end = text.find("`", script.at + 1)
        _advance(script, (len(text) if end < 0 else end + 1) - script.at)
        return
    depth = 0
    while script.at < len(text):
        char = text[script.at]
        depth += {"(": 1, ")": -1}.get(char, 0)
        _advance(script)
        if char == ")" and not depth:
            return
