"""What a shell would make of a text's words: quotes, variables, arrays, as far as nothing has to be run."""

import re
from fnmatch import translate

from qvirt.errors import InvalidArg
from qvirt.record import Record, field

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BLANK = " \t\r"
OPERATORS = frozenset(";&|()<>\n")


#: letters that a script's variables may become, all in all, and those of one of which a part is taken away
_MOST_LETTERS = 4 << 20
_MOST_TAKEN = 4096


class Unknown(Exception):
    """A value that only running the script would tell."""


class Script(Record, frozen=False):
    """Where the reading stands.

    variables: the values of each, None for one that cannot be told, for which `unknown` has the text.
    bodies: the words that end the here-documents below the line, and whether tabs may stand before them.
    spent: letters that variables have become, also in the scripts within this one.
    """

    text: str
    at: int = 0
    line: int = 1
    variables: dict[str, list[str] | None] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    bodies: list[tuple[str, bool]] = field(default_factory=list)
    spent: list[int] = field(default_factory=lambda: [0])

    def within(self, text: str, at: int = 0) -> "Script":
        """Return a script that is part of this one."""
        return Script(text, at, self.line, self.variables, self.unknown, spent=self.spent)


def advance(script: Script, count: int = 1) -> None:
    script.line += script.text.count("\n", script.at, script.at + count)
    script.at += count


def skip_blank(script: Script) -> None:
    text = script.text
    while script.at < len(text):
        char = text[script.at]
        if char in BLANK:
            script.at += 1
        elif char == "\\" and text[script.at + 1 : script.at + 2] == "\n":
            advance(script, 2)
        elif char == "\\" and text[script.at + 1 : script.at + 3] == "\r\n":
            advance(script, 3)
        elif char == "#":
            end = text.find("\n", script.at)
            script.at = len(text) if end < 0 else end
        else:
            return


def is_process(script: Script) -> bool:
    """Tell whether ``<(…)`` or ``>(…)`` follows, which is a word."""
    return script.text[script.at : script.at + 2] in ("<(", ">(")


def end_line(script: Script) -> None:
    """Pass over the operator that ends a command, and over the here-documents that follow its line."""
    is_end = script.text[script.at] == "\n"
    advance(script)
    if not is_end:
        return
    for word, has_tabs in script.bodies:
        while script.at < len(script.text):
            end = script.text.find("\n", script.at)
            line = script.text[script.at : end if end >= 0 else len(script.text)].rstrip("\r")
            advance(script, (end + 1 if end >= 0 else len(script.text)) - script.at)
            if (line.lstrip("\t") if has_tabs else line) == word:
                break
    script.bodies.clear()


def redirect(script: Script) -> None:
    """Pass over ``>file``, ``2>&1`` and their kin; a here-document's text is passed over with its line."""
    began = script.at
    while script.at < len(script.text) and script.text[script.at] in "<>&|" and not is_process(script):
        script.at += 1
    operator = script.text[began : script.at]
    has_tabs = operator == "<<" and script.text.startswith("-", script.at)
    script.at += has_tabs
    skip_blank(script)
    if script.at < len(script.text) and (script.text[script.at] not in OPERATORS or is_process(script)):
        try:
            words = read_word(script, split=False)
        except Unknown:
            return
        if operator == "<<" and words:
            script.bodies.append((words[0], has_tabs))


def assign(script: Script, assigned: "re.Match[str]", env: dict[str, str]) -> None:
    """Read ``NAME=value``, ``NAME+=value`` or an array; it counts for what follows."""
    name, more = assigned[1], bool(assigned[2])
    advance(script, assigned.end() - script.at)
    began = script.at
    before = script.variables.get(name) if more else None
    try:
        if script.text[script.at : script.at + 1] == "(":
            advance(script)
            items = list(before or [])
            items.extend(_array(script))
            script.variables[name] = items
            script.unknown.pop(name, None)
            return
        value = "" if _ends_word(script) else " ".join(read_word(script, split=False))
    except Unknown:
        script.variables[name] = None
        script.unknown[name] = script.text[began : script.at]
        return
    value = ("".join(before) if before else "") + value
    script.unknown.pop(name, None)
    env[name] = value
    if more or name in script.variables:
        script.variables[name] = [value]


def _array(script: Script) -> list[str]:
    items: list[str] = []
    while True:
        skip_blank(script)
        if script.at >= len(script.text):
            raise InvalidArg(f"line {script.line}: an array does not end")
        if script.text[script.at] == "\n":
            advance(script)
        elif script.text[script.at] == ")":
            advance(script)
            return items
        else:
            items.extend(read_word(script))


def _ends_word(script: Script) -> bool:
    return (
        script.at >= len(script.text)
        or script.text[script.at] in BLANK
        or (script.text[script.at] in OPERATORS)
    )


def read_word(script: Script, *, split: bool = True) -> list[str]:
    """Read one word, and return what it becomes: none, one or, by an unquoted variable, several."""
    text = script.text
    done: list[str] = []
    current = ""
    is_there = False  # an empty pair of quotes is a word, an empty variable is none
    unknown: str | None = None
    while script.at < len(text):
        char = text[script.at]
        if is_process(script):
            began = script.at
            script.at += 1
            _skip_substitution(script)
            unknown = unknown or text[began : script.at]
            continue
        if char in BLANK or char in OPERATORS:
            break
        if char == "~" and (not is_there or _BEFORE.fullmatch(current)) and _HOME.match(text, script.at):
            script.at += 1
            unknown = unknown or "~, a home folder"
            continue
        if text.startswith("$'", script.at):
            current += _escaped(script)
            is_there = True
            continue
        if text.startswith('$"', script.at):
            script.at += 1
            continue
        if char == "'":
            end = text.find("'", script.at + 1)
            if end < 0:
                raise InvalidArg(f"line {script.line}: a quote ' does not end")
            current += text[script.at + 1 : end]
            is_there = True
            advance(script, end + 1 - script.at)
        elif char == '"':
            try:
                parts = _double_quoted(script)
            except Unknown as problem:
                unknown = unknown or str(problem)
                continue
            if parts:
                is_there = True
                current += parts[0]
                for part in parts[1:]:
                    done.append(current)
                    current = part
        elif char == "\\":
            if text.startswith("\r\n", script.at + 1):
                advance(script)
            elif text[script.at + 1 : script.at + 2] != "\n":
                current += text[script.at + 1 : script.at + 2]
                is_there = True
            advance(script, 2)
        elif char in "$`":
            try:
                value = _expansion(script)
            except Unknown as problem:
                unknown = unknown or str(problem)
                continue
            if not split:
                current += " ".join(value)
                is_there = True
                continue
            for piece in _FIELDS.findall(" ".join(value)):
                if not piece.isspace():
                    current += piece
                    is_there = True
                elif is_there:  # a word ends here
                    done.append(current)
                    current, is_there = "", False
        else:
            current += char
            is_there = True
            script.at += 1
    if unknown is not None:
        raise Unknown(unknown)
    return [*done, current] if is_there else done


_FIELDS = re.compile(r"\s+|\S+")
#: behind what a shell takes ~ for a home folder, beside the beginning of a word
_BEFORE = re.compile(r"[A-Za-z_]\w*=(?:.*:)?")
_HOME = re.compile(r"~(?:[/\s]|$)")
#: how ``$'…'`` writes what cannot be seen
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "e": "\x1b",
    "0": "\0",
}


def _escaped(script: Script) -> str:
    """Read ``$'…'``."""
    start = script.line
    advance(script, 2)
    made = ""
    while not script.text.startswith("'", script.at):
        if script.at >= len(script.text):
            raise InvalidArg(f"line {start}: a quote $' does not end")
        char = script.text[script.at]
        if char == "\\":
            advance(script)
            char = script.text[script.at : script.at + 1]
            char = _ESCAPES.get(char, char)
        made += char
        advance(script)
    advance(script)
    return made


def _double_quoted(script: Script) -> list[str]:
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
            advance(script, 2)
        elif char in "$`":
            is_list = re.match(r"\$(?:@|\{@\}|\{[A-Za-z_]\w*\[@\][^}]*\})", text[script.at :]) is not None
            try:
                value = _expansion(script)
            except Unknown as problem:
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
            advance(script)
    if unknown is not None:
        raise Unknown(unknown)
    return [] if only_list and parts == [""] else parts


#: a question where a program is; its name says enough
_WHICH = re.compile(
    r"(?:\$\(|`)\s*(?:which|command\s+-v|type\s+-[pP])\s+([\w./+-]+)\s*(?:2>\s*/dev/null\s*)?[)`]"
)


def _closing_brace(text: str, at: int) -> int:
    """Return where the brace is that ends ``${``; -1 where there is none."""
    depth = 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "'" and text.find("'", at + 1) >= 0:
            at = text.find("'", at + 1)
        elif text.startswith("${", at):
            depth, at = depth + 1, at + 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
        at += 1
    return -1


def _expansion(script: Script) -> list[str]:
    """Read ``$name``, ``${name…}`` or a substitution; return the values. Raises Unknown."""
    text, began = script.text, script.at
    if text.startswith("$(", began) or text[began] == "`":
        _skip_substitution(script)
        asked = _WHICH.fullmatch(text[began : script.at])
        if asked is not None:
            return [asked[1]]
        raise Unknown(text[began : script.at])
    if text.startswith("${", began):
        end = _closing_brace(text, began + 2)
        if end < 0:
            raise InvalidArg(f"line {script.line}: ${{ does not end")
        advance(script, end + 1 - script.at)
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
        raise Unknown(f"${following}")
    script.at += 1
    return ["$"]


def _parameter(script: Script, inside: str) -> list[str]:
    """Return what ``${inside}`` becomes. Raises Unknown."""
    matched = _PARAMETER.fullmatch(inside)
    if matched is None:
        raise Unknown(f"${{{inside}}}")
    name, _, operator, word = matched.groups()
    if name in ("@", "*"):
        return []
    known = script.variables.get(name)
    if operator is None or operator.endswith("?"):
        return _value(script, name)
    if operator in ("%", "%%", "#", "##"):
        pattern = "".join(_nested(script, word))
        return [_without(value, operator, pattern) for value in _value(script, name)]
    if operator.endswith("+"):
        return _nested(script, word) if known and any(known) else []
    if name not in script.unknown and (known is None or (operator.startswith(":") and not any(known))):
        return _nested(script, word)
    return _value(script, name)


_PARAMETER = re.compile(r"([A-Za-z_]\w*|[0-9@*#]+)(\[[@*]\])?(?:(:?[-=+?]|%%?|##?)(.*))?", re.S)


def _nested(script: Script, word: str) -> list[str]:
    """Read the word behind a parameter's operator."""
    if not word:
        return []
    quoted = '"' + word.replace('"', "") + '"'
    return read_word(script.within(quoted))


def _without(value: str, operator: str, pattern: str) -> str:
    """Return a value without the shortest or longest part at one of its ends that a pattern matches."""
    if len(value) > _MOST_TAKEN:
        raise Unknown("a part of a long value")
    matches = re.compile(translate(pattern)).match
    ends = range(len(value) + 1)
    if operator[0] == "#":
        found = [end for end in ends if matches(value[:end])]
        return value[(max if len(operator) > 1 else min)(found) :] if found else value
    found = [start for start in ends if matches(value[start:])]
    return value[: (min if len(operator) > 1 else max)(found)] if found else value


def _value(script: Script, name: str) -> list[str]:
    values = script.variables.get(name)
    if values is not None:
        script.spent[0] += sum(map(len, values)) + len(values)
        if script.spent[0] > _MOST_LETTERS:
            raise InvalidArg(f"line {script.line}: the script's variables become too long")
        return values
    if name in script.unknown:
        raise Unknown(f"${name} ({script.unknown[name]})")
    raise Unknown(f"${name}, which is set nowhere above")


def _skip_substitution(script: Script) -> None:
    """Pass over ``$(…)``, ``(…)`` or backticks, with the quotes in them."""
    text = script.text
    if text[script.at] == "`":
        end = text.find("`", script.at + 1)
        advance(script, (len(text) if end < 0 else end + 1) - script.at)
        return
    depth = 0
    while script.at < len(text):
        char = text[script.at]
        if char == "\\":
            advance(script)
        elif char in "'\"" and text.find(char, script.at + 1) >= 0:
            advance(script, text.find(char, script.at + 1) - script.at)
        depth += {"(": 1, ")": -1}.get(char, 0)
        advance(script)
        if char == ")" and not depth:
            return
