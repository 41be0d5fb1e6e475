"""``-readconfig``: the sections of QEMU's own configuration files, each of which is a switch."""

import re
from collections.abc import Callable, Sequence

from qvirt.errors import InvalidArg
from qvirt.qemu.importer.options import OPTS, Argument
from qvirt.qemu.keyval import JsonValue, format_pairs

#: the text of a configuration file, None where it cannot be read
ReadConfig = Callable[[str], str | None]

_SECTION = re.compile(r'\[\s*([\w-]+)(?:\s+"([^"]*)")?\s*\]')
_SETTING = re.compile(r'([\w.-]+)\s*=\s*"([^"]*)"')
#: the name of a ``-readconfig`` whose sections stand behind it
EXPANDED = "readconfig, read"
#: sections that are not called as the switch they stand for
_SWITCHES = {"smp-opts": "smp", "memory": "m", "boot-opts": "boot"}


def expand(arguments: Sequence[Argument], read: ReadConfig) -> list[Argument]:
    """Put the switches of configuration files behind the ``-readconfig`` that names each, and count anew.

    Raises InvalidArg for a file that QEMU would not understand.
    """
    made: list[Argument] = []
    for argument in arguments:
        text = read(argument.value) if argument.name == "readconfig" and argument.value else None
        name = argument.name if text is None else EXPANDED
        made.append(Argument(len(made), argument.words, name, argument.value))
        for name, value in _sections(text or "", argument.value or ""):
            made.append(Argument(len(made), (f"-{name}", value), name, value))
    return made


def _sections(text: str, path: str) -> list[tuple[str, str]]:
    """Return the switch and value of each section."""
    sections: list[tuple[str, list[tuple[str, JsonValue]]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        section, setting = _SECTION.fullmatch(line), _SETTING.fullmatch(line)
        if section is not None:
            name = _SWITCHES.get(section[1], section[1])
            if name != "global" and name not in OPTS:
                raise InvalidArg(f"{path}, line {number}: QEMU has no section '{section[1]}'")
            sections.append((name, [("id", section[2])] if section[2] is not None else []))
        elif setting is not None and sections:
            sections[-1][1].append((setting[1], setting[2]))
        else:
            # who asks may not be allowed to read the file: nothing of it is repeated
            raise InvalidArg(f'{path}, line {number}: expected [section] or key = "value"')
    return [(name, format_pairs(pairs, None)) for name, pairs in sections]
