"""QEMU's command-line switches of every age: which take a value, and how the value is spelled.

``read_arguments`` cuts an argv into arguments, ``to_props`` gives what an argument says, in either spelling.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from qvirt.errors import InvalidArg
from qvirt.qemu.keyval import JsonValue
from qvirt.record import Record

#: switches without a value
FLAGS = frozenset(
    [
        "S",
        "s",
        "nographic",
        "no-acpi",
        "no-hpet",
        "no-reboot",
        "no-shutdown",
        "snapshot",
        "enable-kvm",
        "usb",
        "daemonize",
        "nodefaults",
        "no-user-config",
        "nodefconfig",
        "full-screen",
        "localtime",
        "no-kqemu",
        "kernel-kqemu",
        "enable-kqemu",
        "no-kvm",
        "no-fd-bootchk",
        "portrait",
        "curses",
        "sdl",
        "alt-grab",
        "ctrl-grab",
        "no-frame",
        "no-quit",
        "mem-prealloc",
        "only-migratable",
        "semihosting",
        "win2k-hack",
        "rtc-td-hack",
        "show-cursor",
        "tdf",
        "no-kvm-irqchip",
        "no-kvm-pit",
        "no-kvm-pit-reinjection",
        "enable-fips",
        "singlestep",
        "one-insn-per-tick",
        "version",
        "preconfig",
        "old-param",
        "xen-attach",
        "xen-create",
        "std-vga",
        "enable-nesting",
        "h",
        "help",
        "no-rtc",
        "mem-lock",
        "smb-dummy",
        "no-tls",
        "cirrusvga",
        "no-code-copy",
        "vmwarevga",
        "async-teardown",
    ]
)

#: switches whose value is a word as it is
WORDS = frozenset(
    [
        "cpu",
        "m-raw",
        "k",
        "d",
        "D",
        "dfilter",
        "L",
        "append",
        "kernel",
        "initrd",
        "dtb",
        "bios",
        "pflash",
        "hda",
        "hdb",
        "hdc",
        "hdd",
        "cdrom",
        "fda",
        "fdb",
        "sd",
        "mtdblock",
        "serial",
        "parallel",
        "monitor",
        "qmp",
        "qmp-pretty",
        "debugcon",
        "vga",
        "pidfile",
        "loadvm",
        "runas",
        "chroot",
        "gdb",
        "trace",
        "plugin",
        "redir",
        "soundhw",
        "usbdevice",
        "uuid",
        "incoming",
        "bt",
        "clock",
        "startdate",
        "echr",
        "g",
        "prom-env",
        "option-rom",
        "watchdog",
        "watchdog-action",
        "readconfig",
        "writeconfig",
        "balloon",
        "smb",
        "tftp",
        "bootp",
        "vmchannel",
        "virtioconsole",
        "mem-path",
        "xen-domid",
        "hda-raw",
        "drive-raw",
        "cpu-pm",
        "pcidevice",
        "kvm-shadow-memory",
        "tb-size",
        "nvram",
        "acpitable-raw",
        "semihosting-config-raw",
        "rotate",
        "global",
        "cpu-throttle",
        "icount-raw",
        "qtest",
        "qtest-log",
        "accel-raw",
        "perfmap",
        "run-with-raw",
        "enable-sync-profile",
        "usbdevice",
    ]
)

#: switches whose value is ``key=value,…``; the key a first bare word stands for
OPTS: dict[str, str | None] = {
    "machine": "type",
    "M": "type",
    "accel": "accel",
    "smp": "cpus",
    "m": "size",
    "name": "guest",
    "boot": "order",
    "drive": None,
    "device": "driver",
    "blockdev": "driver",
    "netdev": "type",
    "net": "type",
    "nic": "type",
    "chardev": "backend",
    "mon": "chardev",
    "object": "qom-type",
    "fsdev": "fsdriver",
    "virtfs": "fsdriver",
    "audiodev": "driver",
    "audio": "driver",
    "tpmdev": "type",
    "rtc": None,
    "smbios": None,
    "fw_cfg": "name",
    "acpitable": None,
    "numa": "type",
    "vnc": "vnc",
    "spice": None,
    "display": "type",
    "sandbox": "enable",
    "msg": None,
    "overcommit": None,
    "realtime": None,
    "add-fd": None,
    "set": None,
    "action": None,
    "icount": "shift",
    "semihosting-config": "enable",
    "iscsi": None,
    "compat": None,
    "virtfs_synth": None,
    "run-with": None,
    "tcg": None,
}

#: switches whose value may be JSON
_JSON = frozenset(("device", "blockdev", "netdev", "object", "audiodev"))
_ALIASES = {"M": "machine", "qmp-pretty": "qmp"}


class Argument(Record):
    """One switch of a command line. name: without dashes; "" for a bare word, an image.

    number: its place, from 0; words: as they were written.
    """

    number: int
    words: tuple[str, ...]
    name: str
    value: str | None = None

    @property
    def text(self) -> str:
        """The words as one line, for messages."""
        return " ".join(self.words)


def is_known(name: str) -> bool:
    """Tell whether any QEMU has had the switch."""
    return name in FLAGS or name in WORDS or name in OPTS


def read_arguments(words: Sequence[str]) -> list[Argument]:
    """Cut the words after the emulator into arguments. Raises InvalidArg for a value that is missing."""
    found: list[Argument] = []
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("-") or word == "-":
            found.append(Argument(len(found), (word,), "", word))
            at += 1
            continue
        spelled = word[2:] if word.startswith("--") else word[1:]
        name = _ALIASES.get(spelled, spelled)
        takes = name not in FLAGS
        if takes and not is_known(name):
            # nobody knows: a word that does not look like a switch is taken for its value
            takes = at + 1 < len(words) and not words[at + 1].startswith("-")
        if not takes:
            found.append(Argument(len(found), (word,), name))
            at += 1
            continue
        if at + 1 >= len(words):
            raise InvalidArg(f"-{name}: a value is missing")
        found.append(Argument(len(found), (word, words[at + 1]), name, words[at + 1]))
        at += 2
    return found


def split_opts(text: str, implied: str | None = None) -> list[tuple[str, str]]:
    """Read ``a,b=c,nod`` by QEMU's oldest rule: a word alone is on, one that begins with "no" is off.

    Two commas stand for one in a value, not in a word alone. implied: what a first word without ``=`` is.
    """
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(text) or (not at and implied is not None):
        key = _KEY.match(text, at)[0]  # type: ignore[index]  # matches nothing, too
        after = at + len(key)
        if text.startswith("=", after):
            value, at = _value(text, after + 1)
            pairs.append((key, value))
        elif not at and implied is not None:
            value, at = _value(text, at)
            pairs.append((implied, value))
        else:
            at = after + 1
            if key.startswith("no") and len(key) > 2:
                pairs.append((key[2:], "off"))
            elif key:
                pairs.append((key, "on"))
    return pairs


_KEY = re.compile(r"[^=,]*")
_VALUE = re.compile(r"(?:[^,]|,,)*")


def _value(text: str, at: int) -> tuple[str, int]:
    """Return the value that begins somewhere, and where what follows it begins."""
    value = _VALUE.match(text, at)[0]  # type: ignore[index]  # matches nothing, too
    return value.replace(",,", ","), at + len(value) + 1


def split_commas(text: str) -> list[str]:
    """Cut at single commas; two stand for one."""
    if ",," not in text:
        return text.split(",")
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def read_json(text: str, name: str) -> dict[str, JsonValue]:
    """Read a JSON object. Raises InvalidArg."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArg(f"-{name}: bad JSON ({error}): {text}") from None
    if not isinstance(value, dict):
        raise InvalidArg(f"-{name}: expected a JSON object: {text}")
    return value


def to_props(argument: Argument) -> tuple[dict[str, JsonValue], bool]:
    """Return the properties of an argument, and whether it was JSON.

    Dotted keys stay as they are: ``nest`` makes a tree of them.
    """
    value = argument.value or ""
    if argument.name in _JSON and value.lstrip().startswith("{"):
        return read_json(value, argument.name), True
    return collect(split_opts(value, OPTS.get(argument.name))), False


#: keys whose values add up when they are given again; of any other the last value counts
_LISTS = frozenset(
    {"hostfwd", "guestfwd", "dnssearch", "host-nodes", "cpus", "cpu-affinity", "node-affinity", "channel",
     "tls-channel", "plaintext-channel"}
)  # fmt: skip


def collect(pairs: Iterable[tuple[str, str]]) -> dict[str, JsonValue]:
    """Gather pairs, by QEMU's rule for a key that is given again."""
    props: dict[str, JsonValue] = {}
    for key, value in pairs:
        known = props.get(key) if key in _LISTS else None
        if known is None:
            props[key] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            props[key] = [known, value]
    return props


def nest(props: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Turn dotted keys into a tree: ``file.driver`` is the driver of ``file``."""
    if not any("." in key for key in props):
        return dict(props)
    tree: dict[str, JsonValue] = {}
    for key, value in props.items():
        steps = key.split(".")
        place = tree
        for step in steps[:-1]:
            below = place.get(step)
            if not isinstance(below, dict):
                below = place[step] = {}
            place = below
        place[steps[-1]] = value
    return {key: _lists(value) for key, value in tree.items()}


def _lists(value: JsonValue) -> JsonValue:
    """Make lists of the parts that are numbered from 0."""
    if not isinstance(value, dict):
        return value
    inner = {key: _lists(item) for key, item in value.items()}
    if inner and all(key.isdigit() for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return cast("JsonValue", inner)
