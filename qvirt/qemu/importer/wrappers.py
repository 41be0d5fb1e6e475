"""Programs that run another: which of their words are theirs, and where the other's begin."""

import os.path
import re
from collections.abc import Sequence
from itertools import pairwise

from qvirt.record import Record

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


class Wrapper(Record):
    """valued: options whose value is a word of its own; words: how many more come before the command."""

    valued: frozenset[str] = frozenset()
    words: int = 0


def _wrapper(valued: str = "", words: int = 0) -> Wrapper:
    return Wrapper(frozenset(valued.split()), words)


#: words in front of a command that are no command of their own; $ and % are prompts
KEYWORDS = frozenset({"if", "elif", "while", "until", "then", "else", "do", "!", "{", "$", "%"})

_PLAIN = _wrapper()
_WRAPPERS: dict[str, Wrapper] = {
    **dict.fromkeys(
        (
            "nohup",
            "setsid",
            "eatmydata",
            "catchsegv",
            "prime-run",
            "optirun",
            "primusrun",
            "gamemoderun",
            "mangohud",
            "chronic",
            "unbuffer",
            "dbus-run-session",
            "pkexec",
            "unshare",
            "fakeroot",
            "builtin",
            *KEYWORDS,
        ),
        _PLAIN,
    ),
    "exec": _wrapper("-a"),
    "command": _PLAIN,
    "time": _wrapper("-f -o --format --output"),
    "env": _wrapper("-u -C --unset --chdir"),
    "sudo": _wrapper("-u -g -h -p -C -U -r -t -T -D -R --user --group --host --prompt --chdir"),
    "doas": _wrapper("-u -C"),
    "nice": _wrapper("-n --adjustment"),
    "ionice": _wrapper("-c -n -p --class --classdata"),
    "chrt": _wrapper("-T -P -D", 1),
    "taskset": _wrapper("", 1),
    "numactl": _wrapper("-N -m -C -i -P -w --cpunodebind --membind --physcpubind --interleave --preferred"),
    "timeout": _wrapper("-k -s --kill-after --signal", 1),
    "stdbuf": _wrapper("-i -o -e --input --output --error"),
    "strace": _wrapper("-o -e -p -s -a -u -E -b -I -O -S"),
    "ltrace": _wrapper("-o -e -p -s -a -u -l -n -A -F"),
    "gdb": _wrapper("-ex -x -iex -ix -p --command --pid"),
    "valgrind": _PLAIN,
    "nsenter": _wrapper("-t -S -G --target --setuid --setgid"),
    "setpriv": _wrapper("--reuid --regid --groups --inh-caps --ambient-caps --bounding-set --securebits"),
    "capsh": _PLAIN,
    "cgexec": _wrapper("-g"),
    "systemd-run": _wrapper("-p -u -E -M -H --property --unit --slice --uid --gid --setenv --description"),
    "systemd-inhibit": _wrapper("--what --who --why --mode"),
    "screen": _wrapper("-S -t -c -e -h -p -s -T"),
    "xvfb-run": _wrapper("-e -f -n -p -s -w --server-args --server-num"),
    "firejail": _PLAIN,
    "proxychains": _wrapper("-f"),
    "xterm": _wrapper("-T -title -geometry -fn -fa -fs -bg -fg -name -class -xrm -e"),
}
#: arguments of ``command`` that ask where a program is, and run none
_ASKS = frozenset({"-v", "-V"})
#: an emulator by a name that nothing else has
_SURE = re.compile(r"(?:.*/)?(?:qemu-kvm|qemu-system-[\w-]+)(?:\.exe)?$")


def unwrap(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that programs in front set, and the words of the command they run."""
    env: dict[str, str] = {}
    left = list(words)
    while left:
        name = os.path.basename(left[0])
        wrapper = _WRAPPERS.get(name)
        if name == "ip" and left[1:3] == ["netns", "exec"]:
            left = left[4:]
        elif name == "start-stop-daemon":
            return env, _service(left)
        elif wrapper is None or (name == "command" and left[1:2] and left[1] in _ASKS):
            return env, left
        else:
            left = _skip(left[1:], wrapper)
            while left and _ASSIGNMENT.match(left[0]):
                key, _, value = left.pop(0).partition("=")
                env[key] = value
    return env, left


def _skip(words: list[str], wrapper: Wrapper) -> list[str]:
    """Return the words behind a wrapper's own."""
    at = 0
    while at < len(words) and words[at].startswith("-") and len(words[at]) > 1:
        word = words[at]
        at += 1
        if word == "--":
            break
        is_cluster = not word.startswith("--") and len(word) > 2 and f"-{word[-1]}" in wrapper.valued
        takes = word in wrapper.valued or (is_cluster and word[:2] not in wrapper.valued)
        if takes and at < len(words) and not _SURE.match(words[at]):
            at += 1
    rest = words[at:]
    for _ in range(wrapper.words):
        if rest and not _SURE.match(rest[0]):
            rest = rest[1:]
    return rest


def _service(words: list[str]) -> list[str]:
    """Return the command that ``start-stop-daemon`` starts."""
    program = ""
    for word, value in pairwise(words):
        if word in ("--exec", "-x", "--startas", "-a"):
            program = value
        elif word == "--":
            break
    rest = words[words.index("--") + 1 :] if "--" in words else []
    return [program, *rest] if program else words
