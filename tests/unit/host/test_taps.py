"""Taps: made, dressed, gone with their last descriptor."""

import os
from pathlib import Path

import pytest

from qvirt.errors import SystemError_
from qvirt.host import taps

pytestmark = pytest.mark.root


def test_tap_lives_as_long_as_its_descriptor() -> None:
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("no /dev/net/tun")
    try:
        name, fds = taps.create_tap("qvt%d", 2)
    except SystemError_ as error:
        pytest.skip(f"taps cannot be made here: {error}")
    try:
        assert len(fds) == 2
        taps.set_mac(name, taps.tap_mac("52:54:00:11:22:33"))
        taps.set_mtu(name, 1400)
        taps.set_up(name, True)
        folder = Path("/sys/class/net") / name
        assert (folder / "address").read_text().strip() == "fe:54:00:11:22:33"
        assert taps.mtu(name) == 1400
        assert int((folder / "flags").read_text(), 16) & 1
    finally:
        for fd in fds:
            os.close(fd)
    assert not folder.exists()


def test_absent_bridge_in_libvirts_words() -> None:
    with pytest.raises(SystemError_, match="Cannot get interface MTU on 'qvnobridge': No such device"):
        taps.add_to_bridge("qvnobridge", "lo")
