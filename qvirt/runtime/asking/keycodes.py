"""Key codes: libvirt's code sets, translated to QEMU's key numbers ("qnum").

The tables are data, in keycodes.json: code set -> first code of a run -> key numbers of that run.
"""

import json
from functools import cache
from importlib import resources

from qvirt.constants.domain import KeycodeSet

#: libvirt's words for the code sets
NAMES = {
    KeycodeSet.LINUX: "linux",
    KeycodeSet.XT: "xt",
    KeycodeSet.ATSET1: "atset1",
    KeycodeSet.ATSET2: "atset2",
    KeycodeSet.ATSET3: "atset3",
    KeycodeSet.OSX: "os_x",
    KeycodeSet.XT_KBD: "xt_kbd",
    KeycodeSet.USB: "usb",
    KeycodeSet.WIN32: "win32",
    KeycodeSet.QNUM: "qnum",
}


@cache
def _table(name: str) -> dict[int, int]:
    text = resources.files("qvirt.runtime.asking").joinpath("keycodes.json").read_text(encoding="ascii")
    runs: dict[str, list[int]] = json.loads(text).get(name, {})
    return {int(first) + i: number for first, numbers in runs.items() for i, number in enumerate(numbers)}


def to_qnum(codeset: int, code: int) -> int | None:
    """Translate a key code; None when the set has no such key."""
    return _table(NAMES.get(codeset, "")).get(code)
