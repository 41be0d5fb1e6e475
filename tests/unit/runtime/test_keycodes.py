"""Key codes of every set end in QEMU's numbers."""

import pytest

from qvirt.constants.domain import KeycodeSet
from qvirt.runtime.asking.keycodes import to_qnum


@pytest.mark.parametrize(
    ("codeset", "code", "number"),
    [
        (KeycodeSet.LINUX, 30, 30),  # KEY_A
        (KeycodeSet.LINUX, 103, 200),  # KEY_UP: 0x48 with the extension bit
        (KeycodeSet.XT, 30, 30),
        (KeycodeSet.ATSET1, 57416, 200),
        (KeycodeSet.ATSET2, 28, 30),
        (KeycodeSet.USB, 4, 30),
        (KeycodeSet.WIN32, 65, 30),
        (KeycodeSet.XT_KBD, 30, 30),
        (KeycodeSet.OSX, 0, 30),
        (KeycodeSet.LINUX, 9999, None),
        (99, 1, None),
    ],
)
def test_translation(codeset: int, code: int, number: int | None) -> None:
    assert to_qnum(codeset, code) == number
