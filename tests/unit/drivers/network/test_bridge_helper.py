"""What a bridge helper hands over that is no tap."""

import os
from pathlib import Path

import pytest

from qvirt.drivers.network import bridge_helper
from qvirt.errors import SystemError_
from qvirt.model.devices.interface import Interface, InterfaceSource

_GIVES = """#!/usr/bin/env python3
import os, socket, sys
fd = int(next(word for word in sys.argv if word.startswith("--fd=")).removeprefix("--fd="))
with socket.socket(fileno=fd) as line:
    socket.send_fds(line, [b"\\0"], [os.open("/dev/null", os.O_RDONLY)])
"""


def test_it_is_closed_again(tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    helper.write_text(_GIVES)
    helper.chmod(0o755)
    plugged = Interface(type="bridge", source=InterfaceSource(bridge="br0"))
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(SystemError_, match="no tap"):
        bridge_helper.make_tap(str(helper), plugged, 1)
    assert sorted(os.listdir("/proc/self/fd")) == before
